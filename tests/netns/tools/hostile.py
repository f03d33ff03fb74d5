#!/usr/bin/python3
"""A peer that misbehaves towards a SIMCO server, as fast as it can.

    hostile.py KIND ADDRESS PORT SECONDS [OWN-ADDRESS]

garbage   random octets, connection after connection
fuzz      well-formed sessions that end in a broken request
halfopen  connections that never become a session, as many as the server takes
slow      a session that asks for long replies and never reads
refused   a session whose every request is refused
churn     sessions that are established and reset

Prints how often it did so.
"""

import os
import random
import select
import socket
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import simco_client as simco  # noqa: E402
from simco_client import Closed, Refused, Simco  # noqa: E402

MESSAGE = Simco.message


def garbage(dial, end):
    n = 0
    while time.monotonic() < end:
        with dial() as s:
            try:
                head = random.choice([b"", b"\x01\x01", b"\x01\x12\x00\x30", b"\x16\x03\x01"])
                s.sendall(head + random.randbytes(random.choice([1, 7, 8, 60, 5000])))
                s.settimeout(0.05)
                s.recv(4096)
            except OSError:
                pass
        n += 1
    return n


def fuzz(dial, end):
    n = 0
    good = Simco.per_request(("10.1.0.2", 5000), ("192.0.2.10", 6000))
    while time.monotonic() < end:
        with dial() as s:
            try:
                c = Simco(s).establish()
                for _ in range(50):
                    m = bytearray(MESSAGE(good[0], 1, good[1]))
                    for _ in range(random.randrange(1, 4)):
                        m[random.randrange(len(m))] = random.randrange(256)
                    c.raw(bytes(m))
                    n += 1
                s.settimeout(0.2)
                while s.recv(65536):
                    pass
            except (OSError, Closed, Refused):
                pass
    return n


def halfopen(dial, end):
    held, n = [], 0
    while time.monotonic() < end:
        try:
            s = dial(0.2)
            s.sendall(random.choice([b"", b"\x01", b"\x01\x01\x00\x10\x00\x00"]) or b"\x01")
            held.append(s)
            n += 1
        except OSError:
            time.sleep(0.05)
        if len(held) > 900:
            held.pop(0).close()
    return n


def slow(dial, end):
    """Keeps sending; what cannot be sent any more waits, like everything else."""
    n = 0
    while time.monotonic() < end:
        with dial() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            try:
                c = Simco(s).establish()
                for i in range(100):
                    try:
                        c.per(("10.1.0.2", 7000 + i), ("192.0.2.10", 7000), lifetime=600)
                    except Refused:
                        break
                s.setblocking(False)
                ask = MESSAGE(simco.PRL, 7) * 1000
                while time.monotonic() < end:
                    if select.select([], [s], [], 0.1)[1]:
                        n += s.send(ask) // 8
            except (OSError, Closed, Refused):
                n += 1
    return n


def refusals(first):
    """Requests that break one rule each; never what the kernel would have to find out."""
    a, b = ("10.1.0.2", 5000), ("192.0.2.10", 6000)
    return [Simco.per_request(("172.16.0.1", 5000), b),        # outside its networks
            Simco.per_request(a, ("0.0.0.0/0", 0), direction=simco.INBOUND),  # wildcards
            Simco.per_request(a, b, gid=0xfffffff0),           # no such group
            Simco.per_request(a, b, count=60000),              # too many ports
            Simco.pea_request(0xfffffff0, a, b),
            Simco.plc_request(0xfffffff0, 0),
            Simco.plc_request(first, 60),                      # another agent's rule
            Simco.pdr_request(a, b),                           # may not disable
            (simco.PRS, simco.number(5, 0xfffffff0))]


def refused(dial, end):
    """Always as much on the way as the sockets take."""
    with dial() as s:
        Simco(s).establish()
        asked = [MESSAGE(kind, 1, payload) for kind, payload in refusals(1)]
        block = b"".join(random.choice(asked) for _ in range(2000))
        s.setblocking(False)
        left, n, inbox = block, 0, b""
        while time.monotonic() < end:
            readable, writable, _ = select.select([s], [s], [], 0.5)
            if readable:
                inbox += s.recv(1 << 20)
                at = 0
                while at + 8 <= len(inbox):
                    kind, length, _ = struct.unpack_from("!HHI", inbox, at)
                    assert kind >> 8 == 3, hex(kind)
                    at += 8 + length
                    n += 1
                inbox = inbox[at:]
            if writable:
                left = left[s.send(left):] or block
        return n


def churn(dial, end):
    n = 0
    while time.monotonic() < end:
        with dial() as s:
            try:
                c = Simco(s).establish()
                for i in range(20):
                    c.send(*c.per_request(("10.1.0.2", 8000 + i), ("192.0.2.10", 8000),
                                          lifetime=1))
            except (OSError, Closed, Refused):
                pass
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        n += 1
    return n


KINDS = {f.__name__: f for f in (garbage, fuzz, halfopen, slow, refused, churn)}


def main():
    kind, address, port, seconds, *source = sys.argv[1:]
    source = (source[0], 0) if source else None

    def dial(timeout=5.0):
        return socket.create_connection((address, int(port)), timeout, source)

    print(KINDS[kind](dial, time.monotonic() + float(seconds)))


if __name__ == "__main__":
    main()
