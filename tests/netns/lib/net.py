"""Network namespaces joined by veth pairs. Everything carries one prefix and goes away."""

import contextlib
import ctypes
import ipaddress
import json
import os
import socket
import subprocess

from .proc import wait_until

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000

PREFIX = os.environ.get("SLUICE_PREFIX") or f"sl-{os.getpid()}-"


def sh(argv, check=True, stdin=None):
    """Runs a command and returns its output; the error output is part of the exception."""
    done = subprocess.run([str(a) for a in argv], input=stdin, text=True, capture_output=True)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(done.args)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


class Ns:
    """One namespace, lo up, duplicate address detection off."""

    def __init__(self, name):
        self.name = name
        sh(["ip", "netns", "add", name])
        self.sysctl("net.ipv6.conf.all.accept_dad=0", "net.ipv6.conf.default.accept_dad=0",
                    "net.ipv6.conf.default.dad_transmits=0")
        self.ip("link", "set", "dev", "lo", "up")

    def run(self, *argv, check=True, stdin=None):
        return sh(["ip", "netns", "exec", self.name, *argv], check, stdin)

    def ip(self, *argv):
        return sh(["ip", "-n", self.name, *argv])

    def sysctl(self, *settings):
        self.run("sysctl", "-qw", *settings)

    def address(self, dev, *addresses):
        for a in addresses:
            extra = ["nodad"] if ":" in a else []
            self.ip("address", "add", a, "dev", dev, *extra)

    def route(self, to, via):
        self.ip(*(["-6"] if ":" in via else []), "route", "add", to, "via", via)

    def forwarding(self):
        self.sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

    def nft(self, text):
        return self.run("nft", "-f", "-", stdin=text)

    def nft_json(self, *argv):
        return json.loads(self.run("nft", "-j", *argv))["nftables"]

    def counter(self, table, name):
        """Packets of a named counter of table inet `table`."""
        for item in self.nft_json("list", "counter", "inet", table, name):
            if "counter" in item:
                return item["counter"]["packets"]
        raise KeyError(name)

    def elements(self, table="sluice"):
        """Number of elements per set and map of table inet `table`; without it: {}."""
        try:
            items = self.nft_json("list", "table", "inet", table)
        except RuntimeError:
            return {}
        return {o["name"]: len(o.get("elem", [])) for i in items
                for kind in ("set", "map") if (o := i.get(kind))}

    def conntrack(self, *filters):
        """Connection tracking entries as lines of text."""
        out = self.run("conntrack", "-L", *filters, check=False)
        return [line for line in out.splitlines() if line.strip()]

    @contextlib.contextmanager
    def enter(self):
        """Inside `with`, sockets made by this thread belong to the namespace, for ever."""
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            if _libc.setns(there, _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
            try:
                yield self
            finally:
                _libc.setns(here, _CLONE_NEWNET)
        finally:
            os.close(here)
            os.close(there)

    def udp(self, address="", port=0, timeout=2.0):
        """A bound UDP socket in this namespace."""
        return self._socket(socket.SOCK_DGRAM, address, port, timeout)

    def tcp_listener(self, address, port=0):
        s = self._socket(socket.SOCK_STREAM, address, port, None)
        s.listen(512)
        return s

    def _socket(self, kind, address, port, timeout):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.enter():
            s = socket.socket(family, kind)
        if kind == socket.SOCK_STREAM:  # with UDP it would let two sockets share a port
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.settimeout(timeout)
        s.bind((address, port))
        return s

    def connect(self, address, port, timeout=5.0):
        """A TCP connection from this namespace."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with self.enter():
            s = socket.socket(family, socket.SOCK_STREAM)
        s.settimeout(timeout)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        s.connect((address, port))
        return s

    def forge_udp(self, source, target, payload):
        """Sends one datagram from any (address, port), also one that is in use (IPv4)."""
        length = 8 + len(payload)
        header = (source[1].to_bytes(2, "big") + target[1].to_bytes(2, "big")
                  + length.to_bytes(2, "big") + b"\0\0")
        ip = (b"\x45\0" + (20 + length).to_bytes(2, "big") + b"\0\0\0\0" + b"\x40\x11\0\0"
              + ipaddress.ip_address(source[0]).packed + ipaddress.ip_address(target[0]).packed)
        with self.enter():
            raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        with raw:
            raw.sendto(ip + header + payload, (target[0], 0))

    def pids(self):
        return [int(p) for p in sh(["ip", "netns", "pids", self.name], check=False).split()]


class Net:
    """All namespaces of one test."""

    def __init__(self, tag=""):
        self.tag = tag
        self.all = {}

    def ns(self, name):
        self.all[name] = Ns(f"{PREFIX}{self.tag}{name}")
        return self.all[name]

    def link(self, a, dev_a, b, dev_b):
        """A veth pair, up at both ends."""
        sh(["ip", "-n", a.name, "link", "add", dev_a, "type", "veth", "peer", "name", dev_b,
            "netns", b.name])
        a.ip("link", "set", "dev", dev_a, "up")
        b.ip("link", "set", "dev", dev_b, "up")

    def close(self):
        for ns in self.all.values():
            for pid in ns.pids():
                if pid != os.getpid():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, 9)
        for ns in self.all.values():
            with contextlib.suppress(TimeoutError):
                wait_until(lambda ns=ns: not ns.pids(), 2, "programs to end")
            sh(["ip", "netns", "del", ns.name], check=False)
        self.all.clear()
