"""Every shape of rule, protocol and direction, in every mode: what passes and what does not.

All rules of one mode are open at the same time, each with ports of its own. Single packets are
sent in both directions for every rule, with the right tuple and with each member wrong: before
the rules are there, while they are, and after they are closed. A test looks at one shape.
"""

import collections
import itertools
import os
import shutil
import struct
import tempfile

import pytest

import simco_client as simco
from lib import topo
from lib.packets import TCP, UDP, Host
from lib.proc import wait_until
from lib.sluice import Middlebox, PATIENCE, middlebox_policy
from simco_client import ANY, BOTH, INBOUND, OUTBOUND, TRADITIONAL, TWICE, Refused, Simco

POOL = range(16384, 32768)
MODES = {"firewall-v4": 4, "firewall-v6": 6, "mark-v4": 4, "mark-v6": 6, "napt-v4": 4,
         "napt-v6": 6, "twice-v4": 4}

NETS = {4: ("10.1.0.", "192.0.2."), 6: ("fd01::", "fd03::")}
EVERY = {4: "0.0.0.0/0", 6: "::/0"}
PREFIX = {4: "/31", 6: "/127"}

# An end of a shape: which hosts fit (of the three above) and whether any port does.
End = collections.namedtuple("End", "hosts any_port")
EXACT, PORT, PREFIXED = End((0,), False), End((0,), True), End((0, 1), False)
PREFIX_PORT, ADDRESS, ALL = End((0, 1), True), End((0, 1, 2), False), End((0, 1, 2), True)

Shape = collections.namedtuple("Shape", "internal external count")
SHAPES = {
    "exact": Shape(EXACT, EXACT, 1),
    "range": Shape(EXACT, EXACT, 3),
    "external-any-port": Shape(EXACT, PORT, 1),
    "external-any-port-range": Shape(EXACT, PORT, 3),
    "external-prefix": Shape(EXACT, PREFIXED, 1),
    "external-prefix-range": Shape(EXACT, PREFIXED, 3),
    "external-prefix-any-port": Shape(EXACT, PREFIX_PORT, 1),
    "external-any-address": Shape(EXACT, ADDRESS, 1),
    "external-any": Shape(EXACT, ALL, 1),
    "internal-any-port": Shape(PORT, EXACT, 1),
    "internal-prefix": Shape(PREFIXED, EXACT, 1),
    "internal-prefix-external-prefix": Shape(PREFIXED, PREFIXED, 1),
    "internal-any-address": Shape(ADDRESS, EXACT, 1),
}
# Any protocol means any port, too (RFC 4540 §8.3.1): only addresses tell such rules apart.
ANY_SHAPES = {name for name, s in SHAPES.items()
              if not s.internal.any_port and not s.external.any_port and s.count == 1}
NAMES = {UDP: "udp", TCP: "tcp", ANY: "any", INBOUND: "in", OUTBOUND: "out", BOTH: "both"}


def hosts_of(version, side, group):
    """The right host, its neighbour in the prefix, one outside of it; group 0 is shared."""
    return [NETS[version][side] + format(20 + 4 * group + i, "d" if version == 4 else "x")
            for i in range(3)]


class Case:
    """One rule: its ports, and every packet sent for it."""

    def __init__(self, mode, shape_name, protocol, direction, number):
        self.mode, self.version = mode, MODES[mode]
        self.protocol, self.direction = protocol, direction
        self.name = f"{shape_name} {NAMES[protocol]} {NAMES[direction]}"
        shape = SHAPES[shape_name]
        self.ends = [End(e.hosts, e.any_port or protocol == ANY)
                     for e in (shape.internal, shape.external)]
        self.count = shape.count
        self.wild = [e.any_port or len(e.hosts) > 1 for e in self.ends]
        group = number if protocol == ANY else 0
        self.hosts = [hosts_of(self.version, side, group) for side in (0, 1)]
        self.translated = self.version == 4 and mode.startswith(("napt", "twice"))
        # Ports that differ by 5 are wrong ones, and nobody else's.
        self.ports = (33000 + 10 * number, 50000 + 10 * number)
        self.rule = self.pid = None

    @property
    def twice(self):
        return self.mode.startswith("twice") and not self.wild[1]

    @property
    def reserves(self):
        return self.translated and (self.direction == INBOUND or
                                    self.mode.startswith("twice") and not self.twice)

    def request_end(self, side):
        end, hosts = self.ends[side], self.hosts[side]
        address = {1: hosts[0], 2: hosts[0] + PREFIX[self.version],
                   3: EVERY[self.version]}[len(end.hosts)]
        return address, 0 if end.any_port else self.ports[side]

    def open(self, session):
        """By PER what may begin inside, else by reservation and PEA."""
        ends = self.request_end(0), self.request_end(1)
        options = dict(protocol=self.protocol, direction=self.direction, count=self.count)
        if self.reserves:
            pid = session.prr(protocol=self.protocol, count=self.count,
                              nat=TWICE if self.twice else TRADITIONAL).pid
            try:
                self.rule = session.pea(pid, *ends, **options)
            except Refused:
                session.plc(pid, 0)
                raise
        else:
            self.rule = session.per(*ends, **options)
        self.pid = self.rule.pid

    def outside(self, internal):
        """Where the far end reaches that internal end: itself, or A2."""
        if not self.translated:
            return internal
        t = self.rule.outside
        return t.address, t.port + internal[1] - self.ports[0]

    def inside(self, external):
        """Where an inside host reaches that external end: itself, or A1."""
        if not self.twice:
            return external
        t = self.rule.inside
        wrong_host = external[0] != self.hosts[1][0]
        return t.address, t.port + external[1] - self.ports[1] + 7 * wrong_host

    def candidates(self, side):
        """Ends of that side, right and wrong, each with whether it fits."""
        end, hosts = self.ends[side], self.hosts[side]
        ports = [*range(self.count), self.count, 5]
        for host, offset in itertools.product(range(3), ports):
            fits = host in end.hosts and (end.any_port or offset < self.count)
            # One wrong member at a time says more than two.
            if host not in end.hosts and offset:
                continue
            yield (hosts[host], self.ports[side] + offset), offset, fits

    def pairs(self):
        """(internal, external, fits): ranges go port by port."""
        some = list(self.candidates(0)), list(self.candidates(1))
        for (internal, i, good), (external, e, right) in itertools.product(*some):
            if not good and not right:
                continue
            paired = i == e or any(end.any_port for end in self.ends)
            yield internal, external, good and right and paired

    def probes(self, free_port):
        """(from inside?, protocol, source, target, what arrives or None)."""
        for internal, external, fits in self.pairs():
            in_rule = fits and self.rule is not None
            for protocol in (UDP, TCP):
                fits_here = in_rule and self.protocol in (ANY, protocol)
                yield from self.outward(protocol, internal, external,
                                        fits_here and self.direction & OUTBOUND)
                yield from self.inward(protocol, internal, external,
                                       fits_here and self.direction & INBOUND, free_port)

    def outward(self, protocol, internal, external, passes):
        target = self.inside(external) if self.rule else external
        yield True, protocol, internal, target, (
            (protocol, self.outside(internal), external) if passes else None)

    def inward(self, protocol, internal, external, passes, free_port):
        if self.translated:
            # Only our own A2 stands for A0; a wrong internal end is an unused port.
            known = self.rule and internal in self.bound()
            target = self.outside(internal) if known else (topo.OUTSIDE, free_port)
        else:
            target = internal
        yield False, protocol, external, target, (
            (protocol, self.inside(external), internal) if passes else None)

    def bound(self):
        return {(self.hosts[0][0], self.ports[0] + i) for i in range(self.count)}


def cases_of(mode):
    number = {p: itertools.count(1) for p in (ANY, None)}
    for name, shape in SHAPES.items():
        for protocol in (UDP, TCP, ANY) if name in ANY_SHAPES else (UDP, TCP):
            for direction in (INBOUND, OUTBOUND, BOTH):
                if direction == BOTH and not shape.internal == shape.external == EXACT:
                    continue  # RFC 4540 §8.3.1: bi-directional is exact
                which = number[ANY if protocol == ANY else None]
                yield name, Case(mode, name, protocol, direction, next(which))


class World:
    """One mode: the network, the daemon, all rules, and what went wrong with each."""

    def __init__(self, mode):
        self.mode, self.version = mode, MODES[mode]
        self.directory = tempfile.mkdtemp(prefix="w", dir=os.environ.get("SLUICE_TMP") or None)
        self.net = topo.Line(tag="tup")
        self.hosts, self.daemon, self.serial = [], None, itertools.count(1)
        self.cases = collections.defaultdict(list)
        self.mistakes, self.refused = collections.defaultdict(list), {}
        try:
            self.build()
            self.run()
        except BaseException:
            self.close()
            raise

    def policy(self):
        nat = not self.mode.startswith(("firewall", "mark"))
        policy = middlebox_policy(self.net, self.directory, nat)
        agent = policy["agents"]["agent-1"]
        agent["permit"] = [{"internal": topo.CLIENT_NET, "external": "0.0.0.0/0"},
                           {"internal": topo.CLIENT_NET6, "external": "::/0"},
                           {"internal": "0.0.0.0/0", "external": "0.0.0.0/0"},
                           {"internal": "::/0", "external": "::/0"}]
        agent["wildcards"] = True
        policy["firewall"]["permit"] = []
        if self.mode.startswith("mark"):
            policy["firewall"]["mode"] = "mark"
        if self.mode.startswith("twice"):
            policy["nat"]["mode"] = "twice"
            policy["nat"]["inside"] = [{"address": topo.INSIDE, "ports": "16384-32767"}]
        return policy

    def build(self):
        n = self.net
        for name, case in cases_of(self.mode):
            self.cases[name].append(case)
        every = {a: side for some in self.cases.values() for c in some
                 for side in (0, 1) for a in c.hosts[side]}
        # One host on each side is all of them; its address is known, so no packet waits for it.
        for side, ns, router, dev in ((0, n.client, n.agent, "cl"), (1, n.server, n.fw, "out")):
            mac = ns.run("cat", "/sys/class/net/eth0/address").strip()
            router.run("ip", "-batch", "-", stdin="".join(
                f"neighbour replace {a} lladdr {mac} dev {dev} nud permanent\n"
                for a, where in every.items() if where == side))
        for ns, target in ((n.client, topo.OUTSIDE), (n.server, topo.OUTSIDE),
                           (n.client, topo.OUTSIDE6), (n.server, topo.OUTSIDE6),
                           (n.fw, topo.CLIENT), (n.fw, topo.CLIENT6)):
            wait_until(lambda ns=ns, a=target: " 0%" in ns.run(
                "ping", "-c1", "-W1", a, check=False), 10 * PATIENCE, f"{target} to answer")
        if self.mode.startswith("mark"):
            n.fw.nft("add table inet site; add chain inet site forward { type filter hook "
                     "forward priority filter; policy drop; }; "
                     "add rule inet site forward meta mark 0x51 accept\n")
        self.hosts = [Host(n.client), Host(n.server)]
        self.daemon = Middlebox(n.fw, self.directory, self.policy())
        self.daemon.wait_ready()
        self.installed = n.fw.elements()

    def run(self):
        session = Simco(self.net.agent.connect(topo.INSIDE, simco.PORT)).establish()
        every = [c for some in self.cases.values() for c in some]
        self.phase("before", every)
        for case in every:
            try:
                case.open(session)
            except Refused as refusal:
                self.refused[case] = refusal.message.type
        opened = [c for c in every if c.rule]
        self.phase("open", opened)
        for case in opened:
            session.plc(case.pid, 0)
        self.phase("after", opened, closed=True)
        session.close()
        self.status = self.daemon.rest.get("/v1/status")
        self.left = self.net.fw.elements()

    def free_port(self, cases):
        used = {c.rule.outside.port + i for c in cases if c.rule and c.translated
                for i in range(c.count)}
        return next(p for p in reversed(POOL) if p not in used)

    def phase(self, when, cases, closed=False):
        expected, free = {}, self.free_port(cases)
        for case in cases:
            for outward, protocol, source, target, arrives in case.probes(free):
                tag = struct.pack("!Q", next(self.serial))
                self.hosts[0 if outward else 1].send(protocol, source, target, tag)
                expected[tag] = (case, outward, (protocol, source, target),
                                 None if closed else arrives)
        seen = [h.arrivals() for h in self.hosts]
        for tag, (case, outward, sent, arrives) in expected.items():
            came = seen[1 if outward else 0].get(tag)
            if came != arrives:
                self.mistakes[case].append(f"{when}: sent {sent}, expected {arrives}, saw {came}")
        self.sent = len(expected)

    def close(self):
        for host in self.hosts:
            host.close()
        try:
            if self.daemon:
                self.daemon.finish()
        finally:
            self.net.close()
            shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture(scope="module", params=MODES)
def world(request):
    w = World(request.param)
    yield w
    w.close()


def refusal(case):
    """What a NAT cannot do: a binding has one A0, and a reserved port one protocol."""
    if not case.translated or not case.wild[0]:
        return None
    return 0x0354 if case.protocol == ANY and case.reserves else 0x034C


@pytest.mark.parametrize("shape", SHAPES)
def test_shape(world, shape):
    for case in world.cases[shape]:
        assert world.refused.get(case) == refusal(case), case.name
        wrong = world.mistakes.get(case, [])
        assert not wrong, f"{case.name}: {len(wrong)} wrong\n" + "\n".join(wrong[:8])


def test_nothing_stays(world):
    assert world.status["firewall"]["aborts"] == 0
    assert world.status["rules"]["present"] == 0
    assert {k: n for k, n in world.left.items() if n} == \
        {k: n for k, n in world.installed.items() if n}
