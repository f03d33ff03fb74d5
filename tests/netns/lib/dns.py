"""A name server (RFC 1035) with a few names, as slow and as wrong as a test wants it."""

import ipaddress
import socket
import struct
import threading
import time

A, AAAA = 1, 28
NXDOMAIN = 3


class Dns:
    """Answers A and AAAA questions over UDP. `names` maps a name to its addresses, in order.

    A name that stands for None gets no answer at all.
    """

    def __init__(self, ns, address, names, port=53, ttl=30):
        self.names, self.ttl, self.delay = dict(names), ttl, 0.0
        self.asked = []  # (name, type)
        self.sock = ns.udp(address, port, timeout=None)
        self.address, self.port = address, port
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def listen(self):
        """As a policy's `resolver` says it."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"

    def _serve(self):
        while True:
            try:
                query, peer = self.sock.recvfrom(4096)
            except OSError:
                return
            if not query:
                return
            reply = self._answer(query)
            if reply:
                time.sleep(self.delay)
                self.sock.sendto(reply, peer)

    def _answer(self, query):
        name, kind, end = self._question(query)
        self.asked.append((name, kind))
        if name in self.names and self.names[name] is None:
            return None
        found = [ipaddress.ip_address(a) for a in self.names.get(name, [])]
        found = [a for a in found if (a.version == 4) == (kind == A)] if kind in (A, AAAA) else []
        flags = 0x8180 | (0 if name in self.names else NXDOMAIN)
        reply = query[:2] + struct.pack(">HHHHH", flags, 1, len(found), 0, 0) + query[12:end]
        for a in found:
            reply += struct.pack(">HHHIH", 0xC00C, kind, 1, self.ttl, len(a.packed)) + a.packed
        return reply

    @staticmethod
    def _question(query):
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1:at + 1 + query[at]].decode("ascii").lower())
            at += 1 + query[at]
        return ".".join(labels), struct.unpack(">H", query[at + 1:at + 3])[0], at + 5

    def close(self):
        if self.sock.fileno() >= 0:
            try:
                self.sock.shutdown(socket.SHUT_RDWR)  # wakes recvfrom()
            except OSError:
                pass
            self.sock.close()
