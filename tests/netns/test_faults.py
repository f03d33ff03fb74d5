"""Faults of the host: a kernel that refuses, lost netlink answers, clocks that jump, a full disk,
no descriptors, no memory. No rule leaks, none is open for longer than it may be, and everybody gets
a true answer.
"""

import contextlib
import os
import re
import resource
import signal
import socket
import time

import pytest

import simco_client as simco
from lib import topo
from lib.faults import Faults
from lib.net import sh
from lib.proc import wait_until
from lib.rtsp import Client, Closed, Server
from lib.sluice import PATIENCE, SANITIZED, Middlebox, Site, middlebox_policy
from simco_client import EVEN, Refused
from soak import daemon_state, differences, kernel_state
from test_middlebox import CLIENT, FORCE_OFF_OWNER, SERVER, Box, passes

BOTH = pytest.mark.parametrize("nat", [False, True], ids=["firewall", "nat"])
DAY = 86400


class Place(Box):
    """A middlebox that lives among faults."""

    def __init__(self, *args, env=None, logs=None, **changes):
        self.env, self.logs = env, logs
        super().__init__(*args, **changes)

    def start(self):
        self.daemon = Middlebox(self.net.fw, self.logs or self.directory, self.policy,
                                options=self.options, env=self.env)
        self.daemon.wait_ready()
        self.rest = self.daemon.rest

    def firewall(self):
        return self.status()["firewall"]

    def agree(self):
        """The kernel has what the daemon says, element by element; the number of elements."""
        kernel = kernel_state(self.net.fw)
        found = differences(kernel, daemon_state(self.rules()))
        assert not found, "\n".join(found[:20])
        return len(kernel[0])

    def keys(self):
        """What is open and mapped, without times."""
        kernel, daemon = kernel_state(self.net.fw), daemon_state(self.rules())
        assert [k.keys() for k in kernel] == [d.keys() for d in daemon]
        return kernel[0].keys()


@pytest.fixture
def place(line, directory, cleanup):
    def make(nat=False, **changes):
        return Place(line(translated=nat), directory, cleanup, nat, **changes)
    return make


@pytest.fixture
def faults(directory):
    return Faults(directory)


@contextlib.contextmanager
def stopped(daemon):
    daemon.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        daemon.signal(signal.SIGCONT)


def together(box, session, requests):
    """Sends requests that the daemon finds all at once; the replies, or the Refused."""
    with stopped(box.daemon):
        tids = [session.send(*r) for r in requests]
    replies = []
    for tid in tids:
        try:
            replies.append(session.reply(tid))
        except Refused as e:
            replies.append(e)
    return replies


def per(session, n, **options):
    return session.per_request((topo.CLIENT, 10000 + n), SERVER, lifetime=600, **options)


# -- the kernel refuses ---------------------------------------------------------------------------

def fill(ns, leave):
    """Adds elements to the set of exact flows until only `leave` fit; takes them away again."""
    listed = ns.nft_json("list", "set", "inet", "sluice", "exact4")
    found = next(i["set"] for i in listed if "set" in i)
    count = found["size"] - len(found.get("elem", [])) - leave
    elements = ",".join(f"tcp . 10.9.{i >> 8}.{i & 255} . 1 . 10.8.0.1 . 1" for i in range(count))
    ns.nft(f"add element inet sluice exact4 {{ {elements} }}")
    return lambda: ns.nft(f"delete element inet sluice exact4 {{ {elements} }}")


@pytest.mark.san
@pytest.mark.parametrize("room", [0, 2048], ids=["", "and-answers-are-lost"])
def test_the_kernel_refuses_some_of_a_batch(place, faults, room):
    """0x034A to whom it refuses, with the operation in the log; everybody else gets his due.

    With a small receive buffer most of the refusals never reach the daemon.
    """
    faults.netlink_room = room
    b = place(env=faults.env, options=FORCE_OFF_OWNER, limits={"rules": 1000})
    c = b.session()
    old = [r.pid for r in together(b, c, [per(c, n) for n in range(60)])]
    empty = fill(b.net.fw, leave=6)
    opens = [per(c, 100 + n) for n in range(60)]
    changes = [c.plc_request(pid, 0 if n % 2 else 300) for n, pid in enumerate(old)]
    reserves = [c.prr_request() for n in range(20)]
    # The daemon takes some requests at a time: most of the first ones are refused.
    requests = opens[:50] + changes[:10] + reserves[:10] + opens[50:] + changes[10:] + reserves[10:]
    answers = dict(zip(map(id, requests), together(b, c, requests)))
    opened, changed, reserved = ([answers[id(r)] for r in kind]
                                 for kind in (opens, changes, reserves))
    granted = [r.pid for r in opened if not isinstance(r, Refused)]
    # A batch is closed before the next one, so that some fit later on.
    assert 3 <= len(granted) <= 3 + 30
    assert all(r.type == 0x034A for r in opened if isinstance(r, Refused))
    assert [r.type for r in changed] == [simco.PLC_REP, simco.PRD_REP] * 30
    assert all(r.type == simco.PRR_REP for r in reserved)
    text = b.daemon.text()
    inner, outer = r"10\.1\.0\.2 port 101\d\d", r"192\.0\.2\.10 port 6000"
    assert re.search(rf"fw: FW_OPEN udp ({inner} -> {outer}|{outer} -> {inner}) refused: \w", text)
    stats = b.firewall()
    assert (stats["enobufs"] > 0) == bool(room), stats
    assert stats["batches"] < 40, stats  # nobody is sent alone because of others
    assert stats["refused"] == 60 - len(granted)

    empty()
    assert b.agree() == 2 * (30 + len(granted))
    assert set(c.prl()) == {*old[0::2], *granted, *(r.pid for r in reserved)}
    more = [r.pid for r in together(b, c, [per(c, 200 + n) for n in range(20)])]
    assert b.agree() == 2 * (30 + len(granted) + 20)
    for pid in c.prl():
        c.plc(pid, 0)
    assert len(set(more)) == 20 and b.agree() == 0


# -- netlink answers and events that are lost -----------------------------------------------------

@pytest.mark.san
def test_an_overflow_hides_no_flush(place, faults):
    """So many commits of others that the events overflow; one of them took our table."""
    faults.netlink_room = 4096
    b = place(env=faults.env, options=FORCE_OFF_OWNER)
    c = b.session()
    pids = [r.pid for r in together(b, c, [per(c, n) for n in range(30)])]
    rule = c.per(CLIENT, SERVER, lifetime=600)
    elements = ",".join(f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(20000))
    with stopped(b.daemon):
        b.net.fw.nft("add table ip other; add set ip other s { type ipv4_addr; }\n"
                     f"add element ip other s {{ {elements} }}\n")
        b.net.fw.run("sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do"
                     " nft add table ip x; nft delete table ip x; done;"
                     " nft delete table inet sluice")
        assert b.net.fw.elements() == {}
    wait_until(lambda: b.firewall()["reinstalls"] == 1 and b.status()["ready"], 5 * PATIENCE,
               "the tables to come back")
    assert b.firewall()["enobufs"] >= 1
    metrics = b.rest.request("GET", "/metrics")[1].decode()
    assert re.search(r"kernel_enobufs_total [1-9]", metrics)
    assert b.agree() == 62
    assert passes(b.outside(), CLIENT, b.inside()) == SERVER
    for pid in (*pids, rule.pid):
        assert c.plc(pid, 0).type == simco.PRD_REP
    assert b.agree() == 0


def test_a_flush_while_answers_are_lost(place, faults):
    """Asked whether the table is still there, the kernel's answer does not arrive."""
    b = place(env=faults.env, options=FORCE_OFF_OWNER)
    c = b.session()
    together(b, c, [per(c, n) for n in range(20)])
    for skip in range(5):  # reads of the event come first
        before = b.firewall()["reinstalls"]
        faults.netlink_skip, faults.netlink_lose = skip, 4
        b.net.fw.run("nft", "delete", "table", "inet", "sluice")
        wait_until(lambda: b.firewall()["reinstalls"] > before and b.status()["ready"],
                   4 * PATIENCE, "the tables to come back")
        faults.netlink_lose = 0
        assert b.agree() == 40


@pytest.mark.parametrize("nat, off", [(False, 8), (True, 8), (True, 11)],
                         ids=["firewall", "nat", "nat-old-kernel"])
def test_lost_answers(place, faults, nat, off):
    """Every kind of operation while the kernel's answer is lost: done all the same, and once."""
    b = place(nat, env=faults.env, options=("--test-force-off", str(off)))
    c = b.session(extensions=1)
    inside, outside = b.inside(), b.outside()

    def losing(function, *args, **options):
        faults.netlink_lose = 1
        result = function(*args, **options)
        assert faults.netlink_lose == 0, "nothing was lost"
        return result

    rule = losing(c.per, CLIENT, SERVER, lifetime=600)
    target = (topo.OUTSIDE, rule.outside.port) if nat else CLIENT
    assert passes(outside, target, inside) == SERVER
    assert losing(c.plc, rule.pid, 300).lifetime == 300
    b.agree()
    assert losing(c.prs, rule.pid).activity.packets[0] == 1
    reserved = c.prr(parity=EVEN)
    other = losing(c.pea, reserved.pid, (topo.CLIENT, 5002), SERVER, lifetime=600)
    many = losing(together, b, c, [per(c, n) for n in range(40)])
    assert [r.type for r in many] == [simco.PER_REP] * 40
    assert b.agree() == 84
    assert losing(b.rest.request, "DELETE", f"/v1/rules/{other.pid}")[0] == 200
    short = c.per(CLIENT, (topo.SERVER, 7000), lifetime=1)
    assert losing(c.wait_event, short.pid) == 0
    assert losing(c.plc, rule.pid, 0).type == simco.PRD_REP
    assert passes(outside, target, inside) is None
    assert b.agree() == 80
    stats = b.firewall()
    assert stats["enobufs"] == faults.netlink_lost and stats["refused"] == 0, stats
    assert stats["aborts"] == 0

    b.daemon.kill()
    faults.netlink_lose = 2
    b.start()
    c = b.session()
    assert set(c.prl()) == {r.pid for r in many} and b.agree() == 80
    for r in many:
        losing(c.plc, r.pid, 0)
    assert b.agree() == 0 and not b.rules()


@pytest.mark.parametrize("off", [64, 96], ids=["late", "plain"])
def test_a_lost_dump_of_conntrack(place, faults, directory, off):
    """What a wildcard left in connection tracking goes, though a read of the dump fails."""
    agents = middlebox_policy(topo.Line, directory, True)["agents"]
    agents["agent-1"]["wildcards"] = True
    b = place(True, env=faults.env, agents=agents, options=("--test-force-off", str(off)))
    c = b.session()
    inside, outside = b.inside(), b.outside()

    def entries():
        return [line for line in b.net.fw.conntrack("-p", "udp") if topo.SERVER in line]

    for skip in range(3):  # one of them is in the dump
        rule = c.per(CLIENT, ("0.0.0.0/0", SERVER[1]), direction=simco.INBOUND, lifetime=600)
        # Opening looks for entries, too.
        wait_until(lambda: passes(outside, (topo.OUTSIDE, rule.outside.port), inside) == SERVER
                   and entries(), 3 * PATIENCE, "an entry")
        faults.netlink_skip, faults.netlink_lose = skip, 1
        c.plc(rule.pid, 0)
        wait_until(lambda: faults.netlink_lose == 0 and not entries(), 3 * PATIENCE,
                   "conntrack entries to go")
    assert b.agree() == 0


# -- clocks ---------------------------------------------------------------------------------------

@BOTH
def test_a_suspended_host(place, faults, nat):
    """What expired while the host slept is closed when it wakes, not when its timer would have."""
    b = place(nat, env=faults.env)
    c = b.session()
    inside, outside = b.inside(), b.outside()
    short = c.per(CLIENT, SERVER, lifetime=60)
    long = c.per((topo.CLIENT, 5002), SERVER, lifetime=3600)
    target = (topo.OUTSIDE, short.outside.port) if nat else CLIENT
    assert passes(outside, target, inside) == SERVER
    faults.suspend(300)
    began = time.monotonic()
    assert c.wait_event(short.pid) == 0
    assert time.monotonic() - began < 0.5 * PATIENCE
    assert passes(outside, target, inside) is None
    assert 3200 < c.prs(long.pid).lifetime <= 3300 and len(b.keys()) == 2
    faults.suspend(7 * DAY)
    assert c.wait_event(long.pid, 1.0 * PATIENCE) == 0
    assert c.prl() == [] and not b.keys()
    assert c.per(CLIENT, SERVER).lifetime == 60


def test_somebody_sets_the_clock(place, faults):
    """Lifetimes go on as they were: none ends early, none lives longer."""
    b = place(env=faults.env, log={"format": "json", "level": "debug"})
    c = b.session()
    short = c.per(CLIENT, SERVER, lifetime=2)
    long = c.per((topo.CLIENT, 5002), SERVER, lifetime=600)
    began = time.monotonic()
    for jump in (DAY, -2 * DAY, 1000 * DAY, -10000 * DAY):
        time.sleep(0.3)
        faults.wall(jump)
        assert b.status()["uptime_ms"] < 60000
        assert set(c.prl()) == {short.pid, long.pid}
        assert 500 < c.prs(long.pid).lifetime <= 600
        assert c.plc(c.per((topo.CLIENT, 5004), SERVER).pid, 0).type == simco.PRD_REP
    assert c.wait_event(short.pid, 3 * PATIENCE) == 0
    assert 1.9 < time.monotonic() - began < 2 + 0.5 * PATIENCE
    assert b.rest.get(f"/v1/rules/{long.pid}")["lifetime"] > 500
    assert b.agree() == 2


@pytest.fixture
def suspended_site(line, cleanup, directory, faults):
    """Both daemons, and a session that plays; the host can be suspended."""
    net = line()
    s = Site(net, directory, env=faults.env)
    cleanup(s.close)
    s.server = Server(net.server, topo.SERVER)
    cleanup(s.server.close)
    s.client = Client(net.client, topo.SERVER, topo.CLIENT)
    cleanup(s.client.close)
    s.client.setup(0, Session="")
    s.client.play()
    assert len(s.rules()) == 2
    return s


def test_an_agent_refreshes_when_its_host_wakes(suspended_site, faults):
    """Asleep for less than the rules live: refreshed at once, and the session plays on."""
    s = suspended_site
    faults.suspend(65)  # a refresh is due after 60 s, the session after 70 s
    wait_until(lambda: all(r["lifetime"] > 110 for r in s.rules()), 1.0 * PATIENCE, "a refresh")
    stream = s.server.all_streams()[0]
    stream.send()
    s.client.receive()
    assert s.client.teardown().status == 200
    s.wait_no_rules()


def test_sessions_that_a_suspended_host_outlived_end(suspended_site, faults):
    """Asleep for an hour: the rules are gone, and everybody hears of it at once."""
    s = suspended_site
    faults.suspend(3600)
    began = time.monotonic()
    s.wait_no_rules(1)
    s.client.sock.settimeout(5 * PATIENCE)
    with pytest.raises(Closed):
        s.client.reply()
    s.server.wait_for("TEARDOWN", timeout=5.0 * PATIENCE)
    assert time.monotonic() - began < 5 * PATIENCE
    assert not sum(s.net.fw.elements().values())
    s.agent.wait_ready()
    again = Client(s.net.client, topo.SERVER, topo.CLIENT)
    again.setup(0)
    assert again.teardown().status == 200
    again.close()


# -- full disks -----------------------------------------------------------------------------------

@pytest.fixture
def disk(directory, cleanup):
    """disk("3m"): a small file system of its own; fill() leaves no room, drain() makes it again."""
    class Disk:
        def __init__(self, size, inodes=200):
            self.path = os.path.join(directory, "disk")
            os.mkdir(self.path)
            sh(["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes}", "sl-faults",
                self.path])
            cleanup(lambda: sh(["umount", "-l", self.path]))

        def fill(self):
            with open(self.path + "/filler", "wb", buffering=0) as f:
                for size in (1 << 16, 1 << 12, 1):
                    try:
                        while f.write(bytes(size)):
                            pass
                    except OSError:
                        pass

        def drain(self):
            os.unlink(self.path + "/filler")
    return Disk


def started(net, directory, policy):
    """A middlebox that is to fail at its start: (status, log)."""
    daemon = Middlebox(net.fw, directory, policy)
    status = daemon.wait(20)
    daemon.check_clean()
    return status, daemon.text()


@pytest.mark.san
def test_a_full_disk_at_the_start(line, directory, disk):
    net = line()
    d = disk("8k", inodes=3)  # one is the directory
    policy = middlebox_policy(net, directory, ledger=d.path + "/ledger")
    status, text = started(net, directory, policy)
    assert status == 1 and re.search(r"ledger .*/disk/ledger: no space: No space left", text), text
    assert net.fw.elements() == {}, "its table is left behind"
    with open(d.path + "/another", "w"):
        pass
    policy["ledger"] = directory + "/ledger"
    policy["rest"]["listen"] = ["unix:" + d.path + "/sock"]  # no inode is left for it
    status, text = started(net, directory, policy)
    assert status == 1 and re.search(r"/disk/sock: no space", text), text


@pytest.mark.san
def test_a_ledger_that_cannot_grow(place, disk, directory):
    """New rules are refused; those that are there are served, and survive a crash."""
    d = disk("16m")
    b = place(ledger=d.path + "/ledger", limits={"rules": 20000})
    b.daemon.policy["agents"]["agent-1"]["max_rules"] = 20000
    c = b.session()
    d.fill()
    with pytest.raises(Refused) as refused:
        c.per(CLIENT, SERVER)
    assert refused.value.type == 0x0342
    assert "ledger: no space for more rules: No space left" in b.daemon.text()
    d.drain()
    rule = c.per(CLIENT, SERVER, lifetime=600)
    d.fill()
    # Room was claimed for more than one, perhaps not for all.
    replies = together(b, c, [c.per_request((topo.CLIENT, 2000 + n % 8000),
                                            (topo.SERVER, 7000 + n // 8000), lifetime=600)
                              for n in range(600)])
    assert all(r.type in (simco.PER_REP, 0x0342) for r in replies)
    there = [r.pid for r in replies if r.type == simco.PER_REP]
    assert c.plc(rule.pid, 300).lifetime == 300
    inside, outside = b.inside(), b.outside()
    assert passes(outside, CLIENT, inside) == SERVER
    b.daemon.kill()
    b.start()
    c = b.session()
    assert set(c.prl()) == {rule.pid, *there}
    assert passes(outside, CLIENT, inside) == SERVER
    assert c.plc(rule.pid, 0).type == simco.PRD_REP
    assert passes(outside, CLIENT, inside) is None
    assert b.agree() == 2 * len(there)

    # One with holes, and nothing to fill them with: no start, instead of a SIGBUS later.
    b.daemon.kill()
    os.unlink(d.path + "/filler")
    with open(d.path + "/ledger", "rb") as f:
        claimed = os.lseek(f.fileno(), 0, os.SEEK_HOLE)
    sh(["fallocate", "-p", "-o", claimed - 16384, "-l", 16384, d.path + "/ledger"])
    d.fill()
    status, text = started(b.net, directory, b.policy)
    assert status == 1 and "no space: No space left" in text, (status, text[-500:])
    d.drain()
    b.start()


@pytest.mark.san
def test_logs_on_a_full_disk(line, cleanup, directory, disk):
    """Nobody can write a line: sessions go on as ever."""
    net = line()
    d = disk("4m")
    s = Site(net, d.path, middlebox={"ledger": directory + "/ledger", "log": {"level": "debug"}},
             agent={"log": {"level": "debug"}})
    cleanup(s.close)
    server = Server(net.server, topo.SERVER)
    cleanup(server.close)
    d.fill()
    sizes = [os.path.getsize(p.log) for p in (s.middlebox, s.agent)]
    for _ in range(3):
        client = Client(net.client, topo.SERVER, topo.CLIENT)
        client.setup(0)
        client.play()
        assert len(s.rules()) == 2
        assert client.teardown().status == 200
        client.close()
    s.wait_no_rules()
    assert all(os.path.getsize(p.log) < size + 4096
               for p, size in zip((s.middlebox, s.agent), sizes)), "the disk was not full"
    d.drain()


# -- time that a daemon does not get, and resources that it does not have --------------------------

def cpu_s(daemon):
    with open(f"/proc/{daemon.pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def limit_memory(daemon, more):
    """The daemon gets at most so many octets more; None: as many as it wants."""
    with open(f"/proc/{daemon.pid}/status") as f:
        size = int(re.search(r"VmSize:\s+(\d+)", f.read()).group(1)) << 10
    _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_AS)
    resource.prlimit(daemon.pid, resource.RLIMIT_AS, (hard if more is None else size + more, hard))


def test_a_middlebox_that_hangs(line, cleanup, directory):
    """Stopped for longer than an agent waits: refused in time, nothing left over afterwards."""
    net = line()
    s = Site(net, directory)
    cleanup(s.close)
    server = Server(net.server, topo.SERVER)
    cleanup(server.close)
    client = Client(net.client, topo.SERVER, topo.CLIENT)
    cleanup(client.close)
    client.setup(0)
    client.play()
    with stopped(s.middlebox):
        other = Client(net.client, topo.SERVER, topo.CLIENT)
        began = time.monotonic()
        other.setup(0, expect=503)
        assert time.monotonic() - began < 2 * PATIENCE
        # Its requests are in the middlebox's socket.
        server.all_streams()[0].send()
        client.receive()  # the kernel needs no daemon
    s.agent.wait_ready()
    wait_until(lambda: len(s.rules()) == 2, 10 * PATIENCE, "the refused one's rules to go")
    server.all_streams()[0].send()
    client.receive()
    found = differences(kernel_state(net.fw), daemon_state(s.rules()))
    assert not found, found
    other.close()
    assert client.teardown().status == 200
    s.wait_no_rules()


@pytest.mark.san
def test_no_descriptors_left(place):
    """accept() fails: others are served, the processor rests, and it recovers by itself."""
    b = place(limits={"half_open_seconds": 60})
    c = b.session()
    spare = 3
    _, hard = resource.prlimit(b.daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(b.daemon.pid, resource.RLIMIT_NOFILE, (b.daemon.fds() + spare, hard))
    waiting = [b.connect() for _ in range(spare + 5)]
    b.daemon.wait_line("cannot accept connections: Too many open files")
    asking = socket.socket(socket.AF_UNIX)  # and REST has none either
    asking.settimeout(5 * PATIENCE)
    asking.connect(b.rest.path)
    asking.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    b.daemon.wait_line("rest: no descriptors left")
    before = cpu_s(b.daemon)
    time.sleep(1)
    assert cpu_s(b.daemon) - before < 0.1 * PATIENCE, "it spins"
    assert c.per(CLIENT, SERVER).type == simco.PER_REP
    resource.prlimit(b.daemon.pid, resource.RLIMIT_NOFILE, (hard, hard))
    for w in waiting:
        assert w.establish().capabilities
    assert b" 200 " in asking.recv(1000)
    asking.close()
    assert c.prl() != []


def test_an_agent_without_descriptors(line, cleanup, directory):
    net = line()
    s = Site(net, directory)
    cleanup(s.close)
    server = Server(net.server, topo.SERVER)
    cleanup(server.close)
    _, hard = resource.prlimit(s.agent.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(s.agent.pid, resource.RLIMIT_NOFILE, (s.agent.fds() + 5, hard))
    clients = [Client(net.client, topo.SERVER, topo.CLIENT) for _ in range(12)]
    for c in clients:
        c.send("OPTIONS")
    s.agent.wait_line("Too many open files|out of descriptors")
    time.sleep(0.3)
    before = cpu_s(s.agent)
    time.sleep(1)
    assert cpu_s(s.agent) - before < 0.1 * PATIENCE, "it spins"
    resource.prlimit(s.agent.pid, resource.RLIMIT_NOFILE, (hard, hard))
    for c in clients:
        c.sock.close()
    late = Client(net.client, topo.SERVER, topo.CLIENT)
    late.setup(0)
    assert late.teardown().status == 200
    late.close()
    s.wait_no_rules()


@pytest.mark.skipif(SANITIZED, reason="sanitizers need all the addresses there are")
def test_an_agent_without_memory(line, cleanup, directory):
    net = line()
    s = Site(net, directory)
    cleanup(s.close)
    server = Server(net.server, topo.SERVER)
    cleanup(server.close)
    limit_memory(s.agent, 1 << 20)
    clients, refused = [], 0
    for _ in range(150):
        try:
            clients.append(Client(net.client, topo.SERVER, topo.CLIENT, timeout=5.0 * PATIENCE))
            clients[-1].setup(0)
        except (AssertionError, Closed, OSError):
            refused += 1
    limit_memory(s.agent, None)
    print(f"without memory: {refused} of {len(clients)} sessions refused")
    for c in clients:
        c.sock.close()
    s.wait_no_rules(10)
    late = Client(net.client, topo.SERVER, topo.CLIENT)
    late.setup(0)
    assert late.teardown().status == 200
    late.close()
    s.wait_no_rules()


@pytest.mark.skipif(SANITIZED, reason="sanitizers need all the addresses there are")
def test_no_memory_left(place):
    """Bulk beyond what can be had: refused or the session ended, never a crash."""
    b = place(limits={"rules": 200000, "output_bytes": 1 << 24})
    c = b.session()
    c.per(CLIENT, SERVER, lifetime=600)
    limit_memory(b.daemon, 3 << 20)
    refused = 0
    sessions = []
    for n in range(200):
        try:
            s = b.connect()
            sessions.append(s)
            s.establish()
            together(b, s, [per(s, n * 20 + i) for i in range(20)] + [(simco.PRL, b"")] * 20)
        except (simco.Closed, Refused, OSError):
            refused += 1
    limit_memory(b.daemon, None)
    for s in sessions:
        s.close()
    print(f"without memory: {refused} of {len(sessions)} sessions ended")
    c = b.session()
    b.agree()
    assert c.per((topo.CLIENT, 5004), SERVER).type == simco.PER_REP
    for pid in c.prl():
        c.plc(pid, 0)
    assert b.agree() == 0


@pytest.mark.skipif(SANITIZED, reason="sanitizers have an allocator of their own")
def test_allocations_that_fail(line, cleanup, directory, faults):
    """Every so manieth allocation fails in both daemons, their libraries included."""
    net = line(translated=True)
    s = Site(net, directory, nat=True, env=faults.env)
    cleanup(s.close)
    server = Server(net.server, topo.SERVER)
    cleanup(server.close)

    def session():
        client = Client(net.client, topo.SERVER, topo.CLIENT, timeout=3.0)
        try:
            client.setup(0)
            client.play()
            return client.teardown().status == 200
        except (AssertionError, Closed, OSError):
            return False
        finally:
            client.sock.close()

    done = 0
    for every in (499, 307, 211, 101, 89, 61, 37, 23, 13):
        faults.memory_every = every
        for _ in range(8):
            done += session()
            time.sleep(0.02)
        assert s.agent.running() and s.middlebox.running(), every
    faults.memory_every = 0
    assert faults.memory_failed > 15
    s.agent.wait_ready()
    assert session()
    s.wait_no_rules(10)
    assert not sum(net.fw.elements().values())
    print(f"{faults.memory_failed} allocations failed, {done} of 72 sessions worked")
