"""Namespaces and a driver process for the tests of the nftables driver.

    client 10.1.0.2, neighbour 10.1.0.3 --- bridge "in" 10.1.0.1 [fw] 192.0.2.1 "out" --- server
    fd00:1::2, ::3                                      192.0.2.9 and .10, fd00:2::9 and ::10

Sockets are made inside a namespace and used from here: a socket stays where it was born.
"""
import ctypes
import os
import select
import socket
import subprocess
import time

TOP = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", "..", ".."))
BUILD = os.environ.get("BUILDDIR", os.path.join(TOP, "build"))
PREFIX = os.environ.get("SLUICE_PREFIX") or f"sl-{os.getpid()}-"
TOOL = os.path.join(BUILD, "tests", "netns", "fw", "fwtool")

DESTROY, UPDATE, BATCH_ACK, OWNER, TPROXY, LATE_DUMP, CT_FILE = 1, 2, 4, 8, 16, 32, 64
INPUT_DROP, POOL_GUARD, FORGET, DEFRAG, ICMP, SOURCE = 1, 2, 4, 8, 16, 32

CLIENT, NEIGHBOUR, SERVER, SERVER2 = "10.1.0.2", "10.1.0.3", "192.0.2.9", "192.0.2.10"
CLIENT6, NEIGHBOUR6, SERVER6, SERVER26 = "fd00:1::2", "fd00:1::3", "fd00:2::9", "fd00:2::10"
A1, A2 = "10.1.0.1", "192.0.2.1"
QUIET = 0.12  # seconds in which a packet that is not dropped would have come

_libc = ctypes.CDLL(None, use_errno=True)
_serial = [0]


def sh(*words, check=True):
    return subprocess.run(words, check=check, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT).stdout


def end(addr, port):
    return f"[{addr}]:{port}" if ":" in addr else f"{addr}:{port}"


class Namespace:
    def __init__(self, name):
        _serial[0] += 1
        self.name = f"{PREFIX}fw{_serial[0]}{name}"
        sh("ip", "netns", "add", self.name)
        self.sockets = []
        self.run("sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0",
                 "net.ipv6.conf.all.accept_dad=0")
        self.ip("link", "set", "lo", "up")

    def ip(self, *words):
        return sh("ip", "-n", self.name, *words)

    def run(self, *words, check=True):
        return sh("ip", "netns", "exec", self.name, *words, check=check)

    def nft(self, text, check=True):
        return self.run("nft", text, check=check)

    def conntrack(self):
        out = self.run("conntrack", "-L", check=False)
        return [line for line in out.splitlines() if "src=" in line]

    def socket(self, family, kind):
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        try:
            if _libc.setns(there, 0):
                raise OSError(ctypes.get_errno(), "setns")
            s = socket.socket(family, kind)
        finally:
            _libc.setns(here, 0)
            os.close(there)
            os.close(here)
        self.sockets.append(s)
        return s

    def udp(self, addr, port, peer=None):
        s = self.socket(socket.AF_INET6 if ":" in addr else socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((addr, port))
        if peer:
            s.connect(peer)
        return s

    def listen(self, addr, port):
        s = self.socket(socket.AF_INET6 if ":" in addr else socket.AF_INET, socket.SOCK_STREAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((addr, port))
        s.listen(8)
        return s

    def connect(self, addr, port, source=None, timeout=0.4):
        """A connected TCP socket, or None when nobody answered."""
        s = self.socket(socket.AF_INET6 if ":" in addr else socket.AF_INET, socket.SOCK_STREAM)
        s.settimeout(timeout)
        try:
            if source:
                s.bind(source)
            s.connect((addr, port))
        except OSError:
            s.close()
            return None
        return s

    def close(self):
        for s in self.sockets:
            s.close()
        sh("ip", "netns", "del", self.name, check=False)


def recv(s, wait=1.0):
    """(payload, (address, port)) or None."""
    if not select.select([s], [], [], wait)[0]:
        return None
    try:
        data, who = s.recvfrom(65536)
    except ConnectionRefusedError:
        return None
    return data, who[:2]


def drain(s):
    while recv(s, 0):
        pass


def passes(a, to, b, payload=b"media"):
    """Sends from a to `to`, expects it at b; gives the source that b saw."""
    drain(b)
    a.sendto(payload, to)
    got = recv(b)
    assert got, "nothing arrived"
    assert got[0] == payload
    return got[1]


def dropped(a, to, b, payload=b"stranger"):
    drain(b)
    a.sendto(payload, to)
    return recv(b, QUIET) is None


def refused(s, payload=b"closed?"):
    """True when a connected UDP socket hears an ICMP port unreachable."""
    s.settimeout(0.4)
    try:
        s.send(payload)
        s.recv(100)
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False


class Tool:
    def __init__(self, ns, *options):
        self.ns = ns
        self.p = subprocess.Popen(["ip", "netns", "exec", ns.name, TOOL, *map(str, options)],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, text=True, bufsize=1)
        self.code = 0
        self.ready = self._answer()

    def _answer(self):
        return self.p.stdout.readline().strip()

    def do(self, line):
        self.p.stdin.write(line + "\n")
        return self._answer()

    def good(self, line):
        got = self.do(line)
        assert got.startswith("ok"), f"{line}: {got}"
        return got[3:]

    def commit(self):
        return [int(x) for x in self.good("commit").split()]

    def run(self, *lines):
        for line in lines:
            self.good(line)
        results = self.commit()
        assert not any(results), results

    def stat(self, name):
        return int(dict(x.split("=") for x in self.good("stats").split())[name])

    def both(self, word, a, b, ms=60000, proto="udp"):
        tail = f" {ms}" if word == "open" else ""
        return [f"{word} {proto} {end(*a)} {end(*b)}{tail}",
                f"{word} {proto} {end(*b)} {end(*a)}{tail}"]

    def open(self, a, b, ms=60000, proto="udp"):
        self.run(*self.both("open", a, b, ms, proto))

    def shut(self, a, b, proto="udp"):
        self.run(*self.both("close", a, b, proto=proto), f"forget {proto} {end(*a)} {end(*b)}")

    def bind(self, a0, a2, a3, ms=60000, proto="udp"):
        self.run(f"bind {proto} {end(*a0)} {end(*a2)} {ms}", *self.both("open", a0, a3, ms, proto),
                 f"forget {proto} {end(*a0)} {end(*a3)} {end(*a0)} {end(*a2)}")

    def unbind(self, a0, a2, a3, proto="udp"):
        self.run(*self.both("close", a0, a3, proto=proto),
                 f"unbind {proto} {end(*a0)} {end(*a2)} 0",
                 f"forget {proto} {end(*a0)} {end(*a3)} {end(*a0)} {end(*a2)}")

    def kill(self):
        self.p.kill()
        self.p.wait()

    def close(self):
        if self.p.stdout.closed:
            return
        if self.p.poll() is None:
            self.p.stdin.close()
            try:
                self.p.wait(5)
            except subprocess.TimeoutExpired:
                self.kill()
            # 0, or a sanitizer spoke
            self.code = self.p.returncode
        self.p.stdout.close()


class Lab:
    """client, neighbour, fw, server; tools opened through it are checked for aborts at the end."""

    def __init__(self):
        self.spaces, self.tools = [], []
        self.aborts_expected = False
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _space(self, name):
        ns = Namespace(name)
        self.spaces.append(ns)
        return ns

    def _build(self):
        self.client, self.neighbour = self._space("c"), self._space("n")
        self.fw, self.server = self._space("f"), self._space("s")
        self.fw.ip("link", "add", "in", "type", "bridge", "mcast_snooping", "0")
        for ns, dev, a4, a6 in ((self.client, "in0", CLIENT, CLIENT6),
                                (self.neighbour, "in1", NEIGHBOUR, NEIGHBOUR6)):
            self.fw.ip("link", "add", dev, "type", "veth", "peer", "eth0", "netns", ns.name)
            self.fw.ip("link", "set", dev, "master", "in", "up")
            self._host(ns, [a4 + "/24"], [a6 + "/64"], A1, "fd00:1::1")
        self.fw.ip("link", "set", "in", "up")
        self._address(self.fw, "in", [A1 + "/24"], ["fd00:1::1/64"])
        self.fw.ip("link", "add", "out", "type", "veth", "peer", "eth0", "netns", self.server.name)
        self.fw.ip("link", "set", "out", "up")
        self._address(self.fw, "out", [A2 + "/24"], ["fd00:2::1/64"])
        self._host(self.server, [SERVER + "/24", SERVER2 + "/24"],
                   [SERVER6 + "/64", SERVER26 + "/64"], A2, "fd00:2::1")
        self.fw.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1",
                    "net.ipv4.icmp_ratelimit=0", "net.ipv4.icmp_msgs_per_sec=100000")
        for ns in self.spaces:
            ns.run("sysctl", "-qw", "net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0")
        # every neighbour known before the first test packet
        for ns in (self.client, self.neighbour):
            for a in (SERVER, SERVER2, SERVER6, SERVER26):
                assert wait_until(lambda: "1 received" in ns.run(
                    "ping", "-c1", "-W1", a, check=False)), f"{a} cannot be reached"

    @staticmethod
    def _address(ns, dev, v4, v6):
        for a in v4:
            ns.ip("addr", "add", a, "dev", dev)
        for a in v6:
            ns.ip("addr", "add", a, "dev", dev, "nodad")

    def _host(self, ns, v4, v6, gw4, gw6):
        ns.ip("link", "set", "eth0", "up")
        self._address(ns, "eth0", v4, v6)
        ns.ip("route", "add", "default", "via", gw4)
        ns.ip("-6", "route", "add", "default", "via", gw6, "dev", "eth0")

    def tool(self, *options):
        t = Tool(self.fw, *options)
        self.tools.append(t)
        assert t.ready == "ok ready", t.ready
        return t

    def napt(self, *options):
        return self.tool("--nat", "napt", "--pool", f"{A2},16384-32767", "--inside", "in",
                         "--outside", "out", *options)

    def site(self):
        """A site that masquerades and lets everybody out."""
        self.fw.nft("add table ip site; add chain ip site post "
                    "{ type nat hook postrouting priority 100; }; "
                    "add rule ip site post oifname out masquerade")

    def check(self):
        for t in self.tools:
            if t.p.poll() is None and not self.aborts_expected:
                assert t.stat("aborts") == 0, t.do("stats")
            t.close()
            assert t.code == 0

    def close(self):
        for t in self.tools:
            t.close()
        for ns in self.spaces:
            ns.close()


def wait_until(fn, seconds=2.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if fn():
            return True
        time.sleep(0.02)
    return fn()
