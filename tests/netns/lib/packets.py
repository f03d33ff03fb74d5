"""Single packets of any tuple, sent raw, and what arrives at the other end.

A probe carries a tag of eight octets; a sniffer tells with which addresses and ports it came in.
"""

import ipaddress
import select
import socket
import struct

UDP, TCP = 17, 6
_ETH_P_ALL, _OUTGOING = 3, 4
_SO_RCVBUFFORCE = 33


def _sum(data):
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def build(protocol, source, target, tag):
    """One IP packet: a UDP datagram or a TCP SYN. Ends are (address, port)."""
    src, dst = (ipaddress.ip_address(e[0]) for e in (source, target))
    ports = struct.pack("!HH", source[1], target[1])
    if protocol == UDP:
        head, at = ports + struct.pack("!HH", 8 + len(tag), 0), 6
    else:
        head, at = ports + struct.pack("!IIBBHHH", 1000, 0, 5 << 4, 2, 65535, 0, 0), 16
    body = head + tag
    pseudo = src.packed + dst.packed + struct.pack("!HH", protocol, len(body))
    check = _sum(pseudo + body) or 0xFFFF
    body = body[:at] + struct.pack("!H", check) + body[at + 2:]
    if src.version == 4:
        return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 0, 0, 64, protocol, 0) + \
            src.packed + dst.packed + body
    return struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + src.packed + dst.packed + body


def parse(packet):
    """(protocol, source, target, tag), or None for anything that is no probe."""
    if packet[:1] and packet[0] >> 4 == 4 and len(packet) >= 20:
        start, protocol, src, dst = (packet[0] & 15) * 4, packet[9], packet[12:16], packet[16:20]
    elif packet[:1] and packet[0] >> 4 == 6 and len(packet) >= 40:
        start, protocol, src, dst = 40, packet[6], packet[8:24], packet[24:40]
    else:
        return None
    head = {UDP: 8, TCP: 20}.get(protocol)
    if head is None or len(packet) < start + head + 8:
        return None
    sport, dport = struct.unpack_from("!HH", packet, start)
    src, dst = (str(ipaddress.ip_address(a)) for a in (src, dst))
    return protocol, (src, sport), (dst, dport), packet[start + head:start + head + 8]


class Host:
    """Sends raw packets from a namespace and sees what comes in at its interface."""

    def __init__(self, ns, dev="eth0"):
        with ns.enter():
            self.raw = {4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
                        6: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW)}
            self.seen = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM,
                                      socket.htons(_ETH_P_ALL))
        self.seen.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
        self.seen.bind((dev, _ETH_P_ALL))
        # The host itself answers nothing: only probes are on their way.
        ns.nft("add table inet silence; add chain inet silence input { type filter hook input "
               "priority filter; }; add rule inet silence input meta l4proto { tcp, udp } drop\n")

    def send(self, protocol, source, target, tag):
        packet = build(protocol, source, target, tag)
        self.raw[packet[0] >> 4].sendto(packet, (target[0], 0))

    def arrivals(self, quiet=0.3):
        """{tag: (protocol, source, target)} of what came until nothing does any more."""
        found = {}
        while select.select([self.seen], [], [], quiet)[0]:
            data, origin = self.seen.recvfrom(2048)
            probe = parse(data) if origin[2] != _OUTGOING else None
            if probe:
                found[probe[3]] = probe[:3]
        return found

    def close(self):
        for s in (*self.raw.values(), self.seen):
            s.close()
