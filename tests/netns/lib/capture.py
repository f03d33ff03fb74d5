"""Packet captures by tcpdump, read back without further tools."""

import ipaddress
import re
import struct
from collections import namedtuple

from .proc import Proc, wait_until

# time: seconds, one clock for all namespaces. payload: of UDP or TCP.
Packet = namedtuple("Packet", "time protocol src sport dst dport payload fragment flags")

UDP, TCP = 17, 6


def _ipv4(data):
    header = (data[0] & 15) * 4
    fragment = struct.unpack(">H", data[6:8])[0] & 0x3FFF
    end = struct.unpack(">H", data[2:4])[0]
    return data[9], data[12:16], data[16:20], data[header:end], fragment


def _ipv6(data):
    end = 40 + struct.unpack(">H", data[4:6])[0]
    protocol, rest, fragment = data[6], data[40:end], 0
    if protocol == 44:  # fragment header
        protocol, fragment, rest = rest[0], struct.unpack(">H", rest[2:4])[0] & 0xFFF9, rest[8:]
    return protocol, data[8:24], data[24:40], rest, fragment


def _decode(time, data):
    kind = data[12:14]
    if kind == b"\x08\x00":
        protocol, src, dst, rest, fragment = _ipv4(data[14:])
    elif kind == b"\x86\xdd":
        protocol, src, dst, rest, fragment = _ipv6(data[14:])
    else:
        return None
    sport = dport = flags = 0
    if not fragment or fragment & 0x1FFF == 0:
        if protocol in (UDP, TCP) and len(rest) >= 8:
            sport, dport = struct.unpack(">HH", rest[:4])
        if protocol == UDP:
            rest = rest[8:]
        elif protocol == TCP and len(rest) >= 20:
            flags = rest[13]
            rest = rest[(rest[12] >> 4) * 4:]
    return Packet(time, protocol, str(ipaddress.ip_address(src)), sport,
                  str(ipaddress.ip_address(dst)), dport, rest, fragment, flags)


def read_pcap(path):
    """All IP packets of a file written by tcpdump on an Ethernet-like interface."""
    with open(path, "rb") as f:
        data = f.read()
    if len(data) < 24:
        return []
    order = "<" if data[:4] in (b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1") else ">"
    unit = 1e-9 if data[:4] in (b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d") else 1e-6
    packets, at = [], 24
    while at + 16 <= len(data):
        seconds, fraction, kept, _ = struct.unpack(order + "IIII", data[at:at + 16])
        at += 16
        if at + kept > len(data):
            break
        packet = _decode(seconds + fraction * unit, data[at:at + kept])
        at += kept
        if packet:
            packets.append(packet)
    return packets


class Capture:
    """tcpdump on one interface. A veth end shows what has passed the firewall of its namespace."""

    def __init__(self, ns, dev, path, expression=""):
        self.path = str(path)
        self.proc = Proc(["tcpdump", "-Z", "root", "-n", "-U", "--immediate-mode", "-B", "16384",
                          "-s", "0", "-i", dev, "-w", self.path, *expression.split()],
                         self.path + ".log", ns)
        self.proc.wait_line(r"listening on")

    def packets(self):
        """What was captured up to now; the capture goes on."""
        return read_pcap(self.path)

    def stop(self):
        """Ends the capture; all its packets."""
        self.proc.stop()
        lost = re.search(r"(\d+) packets? dropped by kernel", self.proc.text())
        assert not lost or lost.group(1) == "0", f"the capture lost packets: {lost.group(0)}"
        return self.packets()

    def wait(self, check, timeout=5.0, what="packet"):
        """Waits until check(packets) is true."""
        return wait_until(lambda: check(self.packets()), timeout, what, step=0.1)


def udp(packets, **fields):
    """The UDP packets whose fields have these values."""
    return [p for p in packets if p.protocol == UDP
            and all(getattr(p, k) == v for k, v in fields.items())]


def rtsp(packets, start):
    """The TCP packets whose payload begins with (or contains a line beginning with) `start`."""
    return [p for p in packets if p.protocol == TCP
            and (p.payload.startswith(start) or b"\r\n" + start in p.payload)]


def lost_sequence_numbers(packets):
    """Gaps in the RTP sequence numbers (RFC 3550 §5.1), summed over all sources."""
    last, lost = {}, 0
    for p in packets:
        if len(p.payload) < 12 or p.payload[0] >> 6 != 2 or 200 <= p.payload[1] <= 204:
            continue
        number, source = struct.unpack(">H", p.payload[2:4])[0], p.payload[8:12]
        if source in last:
            lost += max(0, (number - last[source] - 1) & 0xFFFF)
        last[source] = number
    return lost
