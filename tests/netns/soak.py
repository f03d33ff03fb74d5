"""The middlebox under random SIMCO agents, crashes, expiries and foreign flushes.

Several agents send random requests, pipelined; now and then a session is dropped, the middlebox is
killed and started again (with other kernel features), or somebody flushes the ruleset. At
checkpoints the kernel's sets and maps are compared, element by element, with what the daemon says
over REST; in the end everything must be gone. The seed is printed: the same one gives the same
requests, not the same timing.
"""

import contextlib
import ipaddress
import json
import os
import random
import socket
import struct
import time
from collections import Counter

import simco_client as simco
from lib import topo
from lib.proc import wait_until
from lib.sluice import BUILD, PATIENCE, Middlebox, middlebox_policy
from simco_client import BOTH, INBOUND, OUTBOUND, Closed, Refused, Simco

SANITIZED = "san" in os.path.basename(BUILD)
GRACE = 10  # seconds that the kernel's timeout is longer than the lifetime
SLACK = 3.5 * PATIENCE / 2

INSIDE = ["10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5"]
INSIDE6 = ["fd01::2", "fd01::3"]
OUTSIDE = ["192.0.2.10", "192.0.2.66"]
OUTSIDE6 = ["fd03::10", "fd03::66"]
POOLS = ["192.0.2.1", "192.0.2.2"]
POOL_PORTS = (16384, 18431)
FACE = "10.1.1.1"  # a twice NAT's address inside
FACE_PORTS = (20000, 20999)
AGENTS = {"alpha": "10.1.1.11", "beta": "10.1.1.12", "gamma": "10.1.1.13", "delta": "10.1.1.14"}
OPERATOR_SHARE = 0.02

# Never the answer to a request of ours: they are well-formed. 0x034A: the kernel refused.
NEVER = {0x0310, 0x0311, 0x0312, 0x0341, 0x034A}


def policy(net, directory, mode):
    made = middlebox_policy(net, directory, nat=mode != "firewall")
    everything = [{"internal": "10.1.0.0/16", "external": "0.0.0.0/0"},
                  {"internal": "fd01::/64", "external": "::/0"}]
    agents = {}
    for name, address in AGENTS.items():
        agent = agents[name] = {"address": [address + "/32"], "max_rules": 150,
                                "may": ["reserve", "enable"], "permit": everything}
        if mode != "firewall":
            agent["pool"] = POOLS[name in ("gamma", "delta")]
    agents["alpha"].update(may=["reserve", "enable", "disable"], wildcards=True, owners=["beta"])
    agents["gamma"].update(wildcards=True)
    agents["delta"].update(idle_timeout=3)
    made["agents"] = agents
    if mode != "firewall":
        made["nat"]["outside"] = [{"address": a, "ports": "%d-%d" % POOL_PORTS} for a in POOLS]
    if mode == "twice":
        made["nat"]["mode"] = "twice"
        made["nat"]["inside"] = [{"address": FACE, "ports": "%d-%d" % FACE_PORTS}]
    return made


# -- what the kernel has ------------------------------------------------------------------------

_ADDRESS_BITS = {4: 32, 6: 128}
_PROTOCOLS = {"tcp": 6, "udp": 17}
_EXACT = {"proto": None, "saddr": 1, "sport": 2, "daddr": 4, "dport": 8}


def _number(value):
    if isinstance(value, int):
        return value
    if value in _PROTOCOLS:
        return _PROTOCOLS[value]
    return int(value) if value.isdigit() else int(ipaddress.ip_address(value))


def _span(value, version):
    """A field of an element as (first, last)."""
    if isinstance(value, dict) and "prefix" in value:
        first = _number(value["prefix"]["addr"])
        return first, first | (1 << _ADDRESS_BITS[version] - value["prefix"]["len"]) - 1
    if isinstance(value, dict):
        return tuple(_number(v) for v in value["range"])
    return _number(value), _number(value)


def _fields(name):
    """Names of the fields of a filter set's key, and its IP version."""
    version = int(name.lstrip("exactwildrng")[0])
    shape = int(name.split("_")[1]) if name.startswith("wild") else 15
    return [f for f, bit in _EXACT.items() if bit is None or shape & bit], version


def _flow(name, value):
    fields, version = _fields(name)
    addresses, ports = (0, (1 << _ADDRESS_BITS[version]) - 1), (0, 65535)
    everything = {"proto": None, "saddr": addresses, "sport": ports, "daddr": addresses,
                  "dport": ports}
    for field, v in zip(fields, value["concat"], strict=True):
        everything[field] = _span(v, version)
    return version, *everything.values()


def kernel_state(ns):
    """What is open, what is blocked {flow: expires}, and {(map, key, data): expires}.

    A flow that is there twice is an error.
    """
    opened, blocked, maps = {}, {}, {}
    for item in ns.nft_json("list", "table", "inet", "sluice"):
        kind = "set" if "set" in item else "map" if "map" in item else None
        for element in item[kind].get("elem", []) if kind else []:
            name = item[kind]["name"]
            data = ()
            if kind == "map":
                element, data = element
                data = tuple(data["concat"])
            element = element["elem"]
            if kind == "map":
                maps[name, tuple(map(_number, element["val"]["concat"])),
                     tuple(map(_number, data))] = element["expires"]
            else:
                flows = blocked if name.startswith("block_") else opened
                flow = _flow(name.removeprefix("block_"), element["val"])
                assert flow not in flows, f"{flow} is in two sets"
                flows[flow] = element["expires"]
    return opened, blocked, maps


# -- what the daemon says -------------------------------------------------------------------------

def _end(text):
    """"10.1.0.0/24:5000-5003" as (version, addresses, ports, number of ports)."""
    host, port = text.rsplit(":", 1)
    network = ipaddress.ip_network(host.strip("[]"))
    first, last = (0, 65535) if port == "*" else (
        int(p) for p in (port.split("-") if "-" in port else (port, port)))
    addresses = int(network.network_address), int(network.broadcast_address)
    return network.version, addresses, (first, last), 0 if port == "*" else last - first + 1


def _pairs(rule):
    """Ports of both ends, pair by pair; what is disabled is all with all."""
    _, _, inside, n = _end(rule["internal"])
    _, _, outside, m = _end(rule["external"])
    if rule["state"] == "disabled":
        return [(inside, outside)]
    translated = is_translated(rule)
    count = 1 if n == 0 else n if m or translated else 1

    def nth(ports, own, i):
        return (ports[0] + i,) * 2 if own == count else ports
    return [(nth(inside, n, i), nth(outside, m, i)) for i in range(count)]


def is_translated(rule):
    return rule["state"] == "enabled" and rule.get("outside", "").rsplit(":", 1)[0] in POOLS


def _protocols(rule):
    return [17, 6] if rule["protocol"] == "any" else [_PROTOCOLS[rule["protocol"]]]


def daemon_state(rules):
    """The same as kernel_state(), with lifetimes instead."""
    opened, blocked, maps = {}, {}, {}

    def note(where, key, lifetime):
        where[key] = max(where.get(key, 0), lifetime)

    for rule in rules:
        if rule["state"] == "reserved":
            continue
        flows = blocked if rule["state"] == "disabled" else opened
        version, inside, _, _ = _end(rule["internal"])
        _, outside, _, _ = _end(rule["external"])
        for i, (iport, eport) in enumerate(_pairs(rule)):
            for p in _protocols(rule):
                there = version, (p, p), outside, eport, inside, iport
                back = version, (p, p), inside, iport, outside, eport
                if rule.get("direction") != "outbound":
                    note(flows, there, rule["lifetime"])
                if rule.get("direction") != "inbound":
                    note(flows, back, rule["lifetime"])
                if is_translated(rule):
                    _note_binding(maps, note, rule, i, p, (inside[0], iport[0]),
                                  (outside[0], eport[0]))
    return opened, blocked, maps


def _note_binding(maps, note, rule, i, p, a0, a3):
    def nth(text):
        _, address, ports, _ = _end(text)
        return address[0], ports[0] + i
    a2 = nth(rule["outside"])
    note(maps, ("dnat4", (p, *a2), a0), rule["lifetime"])
    note(maps, ("snat4", (p, *a0), a2), rule["lifetime"])
    face = rule.get("inside")
    if face and _end(face)[0] == 4 and face.rsplit(":", 1)[0] == FACE:
        a1 = nth(face)
        note(maps, ("peer_dnat4", (p, *a0, *a1), a3), rule["lifetime"])
        note(maps, ("peer_snat4", (p, *a3, *a0), a1), rule["lifetime"])


def text_of(key):
    """A flow or a map element for people."""
    if isinstance(key[0], str):
        return f"{key[0]} {_text(key[1][1:], 4)} : {_text(key[2], 4)}"
    version, protocol, saddr, sport, daddr, dport = key
    ends = [_text((a[0], p[0]), version) + ("" if a[0] == a[1] and p[0] == p[1] else "...")
            for a, p in ((saddr, sport), (daddr, dport))]
    return f"{'tcp' if protocol[0] == 6 else 'udp'} {ends[0]} -> {ends[1]}"


def _text(numbers, version):
    make = ipaddress.IPv4Address if version == 4 else ipaddress.IPv6Address
    return " ".join(f"{make(a)}:{p}" for a, p in zip(numbers[::2], numbers[1::2]))


def differences(kernel, daemon):
    found = []
    for what, has, wants in zip(("open", "blocked", "map"), kernel, daemon):
        found += [f"{what}: {text_of(k)} is missing" for k in wants.keys() - has.keys()]
        found += [f"{what}: {text_of(k)} is left behind" for k in has.keys() - wants.keys()]
        for key in has.keys() & wants.keys():
            left = has[key] - wants[key] - GRACE
            # A binding outlives the longest rule that it had.
            if left < -SLACK or (left > SLACK and what != "map"):
                found.append(f"{text_of(key)} has {has[key]} s left, its rule {wants[key]} s")
    return found


# -- agents ------------------------------------------------------------------------------------------

class Agent:
    """A session of an agent, and what it knows of its rules."""

    def __init__(self, soak, name):
        self.soak, self.name = soak, name
        self.pids, self.gids, self.reserved = [], [], {}
        self.session = None
        self.asked = []  # (transaction id, request, note)

    def connect(self):
        with self.soak.net.agent.enter():
            sock = socket.socket()
        sock.bind((AGENTS[self.name], 0))
        sock.settimeout(10 * PATIENCE)
        sock.connect((topo.INSIDE, simco.PORT))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.session = Simco(sock, timeout=10 * PATIENCE).establish(
            extensions=self.soak.random.choice([None, 1]))
        self.asked = []
        self.pids = self.session.prl()
        self.reserved = {k: v for k, v in self.reserved.items() if k in self.pids}

    def drop(self, how):
        if how == "terminate":
            self.collect()
            self.session.terminate()
        elif how == "reset":
            with contextlib.suppress(OSError):
                self.session.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                             struct.pack("ii", 1, 0))
        self.session.close()
        self.session = None

    # -- random requests -------------------------------------------------------------------------

    def _inner(self, r, v6):
        """Mostly of its own, for on a NAT the first owner has it."""
        other = r.choice(list(AGENTS)) if r.random() < 0.2 else self.name
        return (r.choice(INSIDE6 if v6 else INSIDE),
                5000 + r.randrange(4) + 4 * list(AGENTS).index(other))

    def _outer(self, r, v6):
        return r.choice(OUTSIDE6 if v6 else OUTSIDE), 6000 + r.randrange(12)

    def _lifetime(self, r):
        return r.choice([1, 2, 3, 5, 8, 20, 600])

    def _per(self, r):
        """Arguments of PER or PEA."""
        v6 = r.random() < 0.25
        a, b = self._inner(r, v6), self._outer(r, v6)
        kind = dict(protocol=r.choice([simco.UDP, simco.UDP, simco.TCP]), count=1,
                    direction=r.choice([INBOUND, OUTBOUND, BOTH, BOTH]))
        dice = r.random()
        if dice < 0.15:
            kind["count"] = r.choice([2, 2, 3])
            kind["same_parity"] = r.random() < 0.5
        elif dice < 0.35:
            kind["direction"] = r.choice([INBOUND, OUTBOUND])
            b = r.choice([("::/0" if v6 else "0.0.0.0/0", r.choice([0, b[1]])), (b[0], 0),
                          ("fd03::/64" if v6 else "192.0.2.0/24", r.choice([0, b[1]]))])
            if r.random() < 0.2:
                kind["protocol"] = simco.ANY
                a, b = (a[0], 0), (b[0], 0)
        kind["lifetime"] = self._lifetime(r)
        return a, b, kind

    def _group(self, r):
        return r.choice(self.gids[-8:]) if self.gids and r.random() < 0.4 else None

    def _ask(self, kind_payload, what, note=None):
        self.asked.append((self.session.send(*kind_payload), what, note))

    def request(self, r):
        """Sends one random request."""
        s, dice = self.session, r.random()
        if dice < 0.2:
            v6 = r.random() < 0.2
            protocol = r.choice([simco.UDP, simco.TCP])
            version = 2 if v6 else 1
            twice = self.soak.mode == "twice" and r.random() < 0.5
            self._ask(s.prr_request(parity=r.randrange(3), protocol=protocol,
                                    count=r.choice([1, 1, 1, 2, 3]), inside=version,
                                    outside=version, lifetime=self._lifetime(r),
                                    nat=simco.TWICE if twice else simco.TRADITIONAL,
                                    gid=self._group(r)), "prr", (v6, protocol))
        elif dice < 0.4 and self.reserved:
            pid, (v6, protocol, count) = r.choice(list(self.reserved.items()))
            a, b = self._inner(r, v6), self._outer(r, v6)
            self._ask(s.pea_request(pid, a, b, protocol=protocol, count=count,
                                    lifetime=self._lifetime(r),
                                    direction=r.choice([INBOUND, OUTBOUND, BOTH])), "pea", pid)
        elif dice < 0.62:
            a, b, kind = self._per(r)
            self._ask(s.per_request(a, b, gid=self._group(r), **kind), "per")
        elif dice < 0.90:
            pid = r.choice(self.pids) if self.pids and r.random() < 0.95 else r.randrange(1, 5000)
            self._ask(s.plc_request(pid, r.choice([0, 0, self._lifetime(r)])), "plc", pid)
        elif dice < 0.96:
            pid = r.choice(self.pids) if self.pids else 1
            self._ask((simco.PRS, simco.number(5, pid)), "prs")
        elif dice < 0.98 or self.name != "alpha":
            self._ask((simco.PRL, b""), "prl")
        else:
            a, b, kind = self._per(r)
            self._ask(s.pdr_request(a, b, lifetime=r.choice([1, 2, 4, 8]),
                                    protocol=kind["protocol"], count=kind["count"]), "pdr")

    # -- replies -----------------------------------------------------------------------------------

    def collect(self):
        """Reads the replies to everything asked."""
        asked, self.asked = self.asked, []
        for tid, what, note in asked:
            try:
                m = self.session.reply(tid)
            except Refused as e:
                self.soak.refused(what, e.type)
                if what in ("plc", "pea") and e.type == 0x0343:
                    self.forget(note)
                continue
            self.soak.counts[what] += 1
            self._take(what, note, m)
        for pid, lifetime in self.session.events:
            if lifetime == 0:
                self.forget(pid)
        self.session.events.clear()

    def _take(self, what, note, m):
        if what in ("prr", "per", "pdr"):
            self.soak.new_pid(m.pid)
            self.pids.append(m.pid)
        if what in ("prr", "per") and m.gid:
            self.gids.append(m.gid)
        if what == "prr":
            self.reserved[m.pid] = (*note, m.outside.range or 1)
        elif what == "pea":
            self.reserved.pop(note, None)
        elif what == "plc" and m.type == simco.PRD_REP:
            self.forget(note)
        elif what == "prl":
            self.pids = list(m.pids)

    def forget(self, pid):
        self.reserved.pop(pid, None)
        with contextlib.suppress(ValueError):
            self.pids.remove(pid)


# -- the soak ------------------------------------------------------------------------------------------

class Soak:
    def __init__(self, net, directory, mode, seed, cleanup):
        self.net, self.directory, self.mode, self.cleanup = net, str(directory), mode, cleanup
        self.random = random.Random(seed)
        self.history = []  # what happened since the last check
        self.counts, self.refusals, self.seen = Counter(), Counter(), set()
        self.flushed = False  # the table was lost: the kernel may refuse for a moment
        self.aborts = 0       # explained by that
        net.agent.address("edge", *(a + "/24" for a in AGENTS.values()))
        net.client.address("eth0", *(a + "/24" for a in INSIDE[1:]), INSIDE6[1] + "/64")
        net.server.address("eth0", OUTSIDE6[1] + "/64")
        net.fw.address("out", POOLS[1] + "/24")
        self.policy = policy(net, self.directory, mode)
        self.unowned = self.random.choice([0, 8, 8])  # FW_FEATURE_OWNER_PERSIST
        self.force_off = self.unowned
        self.start()
        self.owned = self.status()["firewall"]["features"]["owner-persist"]
        cleanup(lambda: self.daemon.finish())
        self.agents = [Agent(self, name) for name in AGENTS]
        self.agents += [Agent(self, "beta")]  # a second session of one agent
        for a in self.agents:
            a.connect()
        self._sockets()

    def start(self):
        self.daemon = Middlebox(self.net.fw, self.directory, self.policy,
                                options=("--test-force-off", str(self.force_off)))
        self.daemon.wait_ready()
        self.flushed, self.aborts = False, 0

    def _sockets(self):
        self.inner = [self.net.client.udp(a, 5000 + i) for a in INSIDE for i in range(4)]
        self.outer = [self.net.server.udp(a, 6000 + i) for a in OUTSIDE for i in range(4)]
        for s in self.inner + self.outer:
            s.setblocking(False)
            self.cleanup(s.close)

    def refused(self, what, code):
        self.refusals[what, code] += 1
        allowed = code not in NEVER or (self.flushed and code == 0x034A)
        assert allowed, f"{what}: 0x{code:04x}"

    def new_pid(self, pid):
        assert pid not in self.seen, f"PID {pid} is used again"
        self.seen.add(pid)

    # -- what happens ---------------------------------------------------------------------------------

    def talk(self):
        """Some agents send at the same time, then all get their replies."""
        r = self.random
        busy = r.sample(self.agents, r.randint(1, len(self.agents)))
        for a in busy:
            for _ in range(r.choice([1, 3, 10, 40])):
                a.request(r)
        for a in busy:
            a.collect()

    def media(self):
        """Datagrams both ways, so that there is connection tracking to clean up."""
        r = self.random
        for _ in range(10):
            with contextlib.suppress(OSError):
                r.choice(self.inner).sendto(b"out", (r.choice(OUTSIDE), 6000 + r.randrange(4)))
            with contextlib.suppress(OSError):
                if self.mode == "firewall":
                    target = r.choice(INSIDE), 5000 + r.randrange(4)
                else:
                    target = r.choice(POOLS), POOL_PORTS[0] + r.randrange(200)
                r.choice(self.outer).sendto(b"in", target)
        for s in self.inner + self.outer:
            with contextlib.suppress(OSError):
                while s.recv(64):
                    pass

    def drop_session(self):
        a = self.random.choice(self.agents)
        for _ in range(self.random.choice([0, 0, 10])):
            a.request(self.random)  # never to be answered
        a.drop(self.random.choice(["terminate", "close", "reset"]))
        a.connect()

    def restart(self):
        """kill -9 (with requests on the way) or SIGTERM, and another start."""
        r = self.random
        for a in self.agents:
            for _ in range(r.choice([0, 30])):
                a.request(r)
        time.sleep(r.random() * 0.01)
        if r.random() < 0.75:
            self.daemon.kill()
            self.daemon.check_clean()
        else:
            self.daemon.finish()
        self.counts["restarts"] += 1
        self.force_off = self.unowned | r.choice([0, 0, 1, 2, 3, 4])
        emptied = r.random() < 0.3
        if emptied:  # the daemon relies on the kernel, and then finds out
            self.counts["emptied"] += 1
            for name in self.net.fw.elements():
                if name.endswith("exact4"):
                    self.net.fw.run("nft", "flush", "set", "inet", "sluice", name)
        confirmed = self.daemon.text().count("confirmed by the kernel")
        self.start()
        rules = self.status()["rules"]
        if emptied and rules["enabled"] + rules["disabled"]:
            wait_until(lambda: self.daemon.text().count("confirmed by the kernel") > confirmed,
                       10 * PATIENCE, "the elements to come back")
        for a in self.agents:
            a.session.close()
            a.connect()

    def flush_ruleset(self):
        before = self.status()["firewall"]["reinstalls"]
        self.flushed = True
        self.net.fw.run("nft", "flush", "ruleset")
        if self.random.random() < 0.7:
            with contextlib.suppress(Closed):
                self.talk()  # into the hole
        self.counts["flushes"] += 1
        if self.owned:
            assert self.status()["firewall"]["reinstalls"] == 0, "others cannot flush it"
            self.flushed = False
            return
        wait_until(lambda: self.status()["firewall"]["reinstalls"] > before
                   and self.status()["ready"], 10 * PATIENCE, "the tables to come back")
        for a in self.agents:
            a.pids = a.session.prl()  # also a point of order: nothing older is on the way
        self.flushed = False
        self.aborts = self.status()["firewall"]["aborts"]

    def operator(self):
        """Somebody ends a rule over REST."""
        rules = self.rules()
        if rules:
            pid = self.random.choice(rules)["pid"]
            status, _ = self.daemon.rest.request("DELETE", f"/v1/rules/{pid}")
            assert status in (200, 404)
            self.counts["operator"] += status == 200

    # -- what must be true ---------------------------------------------------------------------------------

    def status(self):
        return self.daemon.rest.get("/v1/status")

    def own_fds(self):
        """Descriptors of the daemon without those of SIMCO connections."""
        return self.daemon.fds() - self.status()["sessions"]["connections"]

    def rules(self):
        return self.daemon.rest.items("rules")

    def audit(self):
        """What the daemon finds when it asks the kernel itself."""
        found, after = [], 0
        while after is not None:
            body = self.daemon.rest.get(f"/v1/audit?after={after}")
            found += body["differences"]
            after = body.get("next")
        return found

    def check(self):
        """Kernel and daemon agree."""
        def steady():
            """Both, with no rule coming or going in between."""
            before = {r["pid"]: r["state"] for r in self.rules()}
            kernel = kernel_state(self.net.fw)
            rules = self.rules()
            return (kernel, rules) if before == {r["pid"]: r["state"] for r in rules} else None
        kernel, rules = wait_until(steady, 20 * PATIENCE, "a moment without an expiry", step=0.1)
        found = differences(kernel, daemon_state(rules))
        if found:
            with open(os.path.join(self.directory, "rules.json"), "w") as f:
                json.dump(rules, f, indent=1)
        assert not found, "\n".join([f"{len(found)} differences after {self.history}",
                                     *found[:20]])
        found = self.audit()
        assert not found, "\n".join([f"audit after {self.history}", *found[:20]])
        status = self.status()
        assert status["firewall"]["aborts"] == self.aborts, status["firewall"]
        assert status["firewall"]["enobufs"] == 0, status["firewall"]
        self.history.clear()
        self.counts["checks"] += 1
        self.counts["compared"] += sum(map(len, kernel))
        self.counts["blocked"] += len(kernel[1])
        return rules

    def run(self, seconds):
        end = time.monotonic() + seconds
        next_check = time.monotonic() + 2
        events = [(self.drop_session, 0.03), (self.restart, 0.004), (self.flush_ruleset, 0.003),
                  (self.operator, OPERATOR_SHARE), (lambda: time.sleep(1), 0.01)]
        memory = fds = None
        self.talk()
        self.check()
        self.restart()
        self.check()
        self.flush_ruleset()
        while time.monotonic() < end:
            self.talk()
            self.media()
            for event, share in events:
                if self.random.random() < share:
                    self.history.append(event.__name__)
                    event()
            if time.monotonic() > next_check:
                self.check()
                next_check = time.monotonic() + 2
                if time.monotonic() > end - seconds / 2 and memory is None:
                    memory, fds, of = self.daemon.memory_kb(), self.own_fds(), self.daemon
        self.check()
        if memory is not None and of is self.daemon:
            wait_until(lambda: self.own_fds() <= fds, 5, "descriptors to go")
            assert SANITIZED or self.daemon.memory_kb() < memory * 1.2 + 1024, "memory leaks"

    def end(self):
        """Everything is closed, nothing is left."""
        for a in self.agents:
            for _ in range(3):
                for pid in a.session.prl():
                    try:
                        a.session.plc(pid, 0)
                    except Refused as e:
                        assert e.type == 0x0343, e
        assert self.check() == []
        assert not any(kernel_state(self.net.fw))
        status = self.status()
        assert status["rules"]["bindings"] == status["rules"]["elements"] == 0, status["rules"]
        wait_until(lambda: not self.leftovers(), 5 * PATIENCE, "conntrack entries to go")
        for a in self.agents:
            a.drop("close")
        wait_until(lambda: self.status()["sessions"]["connections"] == 0, 5 * PATIENCE,
                   "sessions to end")

    def leftovers(self):
        """Connection tracking entries of pinholes; of a pure firewall they let nothing pass."""
        if self.mode == "firewall":
            return []
        ports = range(POOL_PORTS[0], POOL_PORTS[1] + 1)
        return [line for line in self.net.fw.conntrack()
                if any(f"dport={p} " in line for p in range(6000, 6012))
                or (any(a in line for a in POOLS)
                    and any(int(w.removeprefix("dport=")) in ports
                            for w in line.split() if w.startswith("dport=")))]

    def summary(self):
        refused = Counter()
        for (_, code), n in self.refusals.items():
            refused[f"0x{code:04x}"] += n
        return f"{dict(self.counts)}, refused {dict(sorted(refused.items()))}"


def soak(net, directory, cleanup, mode, seconds, seed=None):
    seed = seed if seed is not None else int(os.environ.get("SLUICE_SOAK_SEED", 0)) or \
        random.SystemRandom().randrange(1, 1 << 32)
    print(f"soak: {mode}, seed {seed}", flush=True)
    s = Soak(net, directory, mode, seed, cleanup)
    try:
        s.run(seconds)
        s.end()
    finally:
        print(f"soak: {mode}, {s.summary()}", flush=True)
    return s


