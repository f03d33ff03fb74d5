"""sluice-middlebox alone, spoken to in SIMCO: rules, media, restarts, lost tables, sessions."""

import json
import os
import signal
import ssl
import subprocess
import threading
import time

import pytest

import simco_client as simco
from lib import topo
from lib.pki import Authority
from lib.proc import wait_until
from lib.sluice import BUILD, Middlebox, PATIENCE, middlebox_policy
from simco_client import EVEN, ODD, Refused, Simco

CLIENT, SERVER = (topo.CLIENT, 5000), (topo.SERVER, 6000)


class Box:
    """A running middlebox and the hosts on both sides of it."""

    def __init__(self, net, directory, cleanup, nat, options=(), **changes):
        self.net, self.directory, self.cleanup, self.options = net, directory, cleanup, options
        self.policy = middlebox_policy(net, directory, nat, **changes)
        self.start()
        cleanup(lambda: self.daemon.finish())

    def start(self):
        self.daemon = Middlebox(self.net.fw, self.directory, self.policy,
                                options=self.options)
        self.daemon.wait_ready()
        self.rest = self.daemon.rest

    def connect(self):
        sock = self.net.agent.connect(topo.INSIDE, simco.PORT)
        self.cleanup(sock.close)
        return Simco(sock)

    def session(self, **options):
        return self.connect().establish(**options)

    def inside(self, end=CLIENT):
        s = self.net.client.udp(*end, timeout=1.0 * PATIENCE)
        self.cleanup(s.close)
        return s

    def outside(self, end=SERVER):
        s = self.net.server.udp(*end, timeout=1.0 * PATIENCE)
        self.cleanup(s.close)
        return s

    def status(self):
        return self.rest.get("/v1/status")

    def rules(self):
        return self.rest.items("rules")


@pytest.fixture
def box(line, directory, cleanup):
    def make(nat=False, **changes):
        return Box(line(translated=nat), directory, cleanup, nat, **changes)
    return make


def passes(sender, target, receiver):
    """Does a datagram arrive? The address that it seems to come from, or None."""
    payload = os.urandom(8)
    sender.sendto(payload, target)
    receiver.settimeout(0.5)
    while True:
        try:
            got, source = receiver.recvfrom(2048)
        except TimeoutError:
            return None
        if got == payload:
            return source[:2]


@pytest.mark.san
@pytest.mark.parametrize("nat", [False, True], ids=["firewall", "nat"])
def test_reserve_enable_and_close(box, nat):
    b = box(nat)
    c = b.session()
    assert bool(c.capabilities.mb_type & 0x40) == nat and c.capabilities.mb_type & 0x80
    inside, outside = b.inside(), b.outside()

    reserved = c.prr(parity=EVEN)
    target = CLIENT
    if nat:
        assert reserved.outside.address == topo.OUTSIDE and reserved.outside.port % 2 == 0
        target = (topo.OUTSIDE, reserved.outside.port)
    assert passes(outside, target, inside) is None, "a reservation lets nothing through"
    assert b.rules()[0]["pid"] == reserved.pid

    enabled = c.pea(reserved.pid, CLIENT, SERVER)
    assert enabled.type == simco.PER_REP and enabled.pid == reserved.pid
    assert passes(outside, target, inside) == SERVER
    assert passes(inside, SERVER, outside) == target
    stranger = b.outside((topo.SERVER, 6001))
    assert passes(stranger, target, inside) is None
    assert passes(inside, (topo.SERVER, 6001), stranger) is None

    rule = b.rest.get(f"/v1/rules/{reserved.pid}")
    assert rule["pid"] == reserved.pid
    assert c.plc(reserved.pid, 0).type == simco.PRD_REP
    assert passes(outside, target, inside) is None
    assert passes(inside, SERVER, outside) is None
    assert b.rules() == []
    status = b.status()
    assert status["firewall"]["aborts"] == 0 and status["rules"]["present"] == 0


def test_neighbouring_pair(box):
    c = box(nat=True).session()
    rtp = c.prr(parity=EVEN)
    rtcp = c.prr(parity=ODD, gid=rtp.gid)
    assert rtcp.outside.port == rtp.outside.port + 1


@pytest.mark.san
def test_killed_and_restarted_while_media_flows(box):
    """kill -9 loses no datagram; the new process knows its rules and can close them."""
    b = box()
    c = b.session()
    inside, outside = b.inside(), b.outside()
    pid = c.per(CLIENT, SERVER, lifetime=600).pid
    stop, sent, got = threading.Event(), [], []

    def send():
        while not stop.is_set():
            outside.sendto(len(sent).to_bytes(4, "big"), CLIENT)
            sent.append(time.monotonic())
            time.sleep(0.005)

    def receive():
        inside.settimeout(0.5)
        while not stop.is_set() or len(got) < len(sent):
            try:
                got.append(inside.recv(100))
            except TimeoutError:
                return

    threads = [threading.Thread(target=f) for f in (send, receive)]
    for t in threads:
        t.start()
    time.sleep(0.3)
    b.daemon.kill()
    time.sleep(0.3)
    b.start()
    time.sleep(0.3)
    stop.set()
    for t in threads:
        t.join()
    assert len(got) == len(sent) > 100

    assert [r["pid"] for r in b.rules()] == [pid]
    c = b.session()
    assert c.prl() == [pid]
    assert c.per(CLIENT, (topo.SERVER, 6002)).pid != pid, "a PID is not used again"
    assert c.plc(pid, 0).type == simco.PRD_REP
    assert passes(outside, CLIENT, inside) is None


FORCE_OFF_OWNER = ("--test-force-off", "8")  # FW_FEATURE_OWNER_PERSIST


@pytest.mark.parametrize("owned", [False, True], ids=["open", "owned"])
@pytest.mark.parametrize("nat", [False, True], ids=["firewall", "nat"])
def test_flushed_ruleset(box, nat, owned):
    """Where the kernel lets us own the table nobody can flush it; elsewhere it comes back."""
    b = box(nat, options=() if owned else FORCE_OFF_OWNER)
    if owned and not b.status()["firewall"]["features"]["owner-persist"]:
        pytest.skip("this kernel has no tables with an owner")
    c = b.session()
    inside, outside = b.inside(), b.outside()
    rule = c.per(CLIENT, SERVER, lifetime=600)
    target = (topo.OUTSIDE, rule.outside.port) if nat else CLIENT
    assert passes(outside, target, inside) == SERVER
    b.net.fw.run("nft", "flush", "ruleset")
    if not owned:
        wait_until(lambda: b.status()["firewall"]["reinstalls"] == 1, 5 * PATIENCE, "the tables")
        b.daemon.wait_ready()
    assert passes(outside, target, inside) == SERVER
    assert passes(inside, SERVER, outside) == target
    assert passes(b.outside((topo.SERVER, 6001)), target, inside) is None
    assert c.plc(rule.pid, 0).type == simco.PRD_REP
    assert passes(outside, target, inside) is None
    assert b.status()["firewall"]["reinstalls"] == (0 if owned else 1)
    assert b.status()["firewall"]["aborts"] == 0


def test_a_table_has_its_owner_again_after_a_crash(box):
    b = box()
    if not b.status()["firewall"]["features"]["owner-persist"]:
        pytest.skip("this kernel has no tables with an owner")
    c = b.session()
    c.per(CLIENT, SERVER, lifetime=600)
    b.daemon.kill()
    b.start()
    b.net.fw.run("nft", "flush", "ruleset")
    inside, outside = b.inside(), b.outside()
    assert passes(outside, CLIENT, inside) == SERVER
    assert passes(b.outside((topo.SERVER, 6001)), CLIENT, inside) is None
    assert b.status()["firewall"]["reinstalls"] == 0


def test_rules_outlive_their_session_and_expire(box):
    b = box()
    c = b.session()
    short, long = c.per(CLIENT, SERVER, lifetime=2), c.per(CLIENT, (topo.SERVER, 7000))
    c.terminate()
    c = b.session()
    assert sorted(c.prl()) == sorted([short.pid, long.pid])
    assert c.wait_event(short.pid, 5 * PATIENCE) == 0
    assert c.prl() == [long.pid]
    with pytest.raises(Refused) as refused:
        c.prs(short.pid)
    assert refused.value.type == 0x0343


def test_operator_ends_a_rule(box):
    b = box()
    c = b.session()
    pid = c.per(CLIENT, SERVER).pid
    assert b.rest.request("DELETE", f"/v1/rules/{pid}")[0] == 200
    assert c.wait_event(pid) == 0
    assert b.rest.request("DELETE", f"/v1/rules/{pid}")[0] == 404
    assert b.rest.request("GET", f"/v1/rules/{pid}")[0] == 404
    assert b.rest.request("DELETE", "/v1/rules/x")[0] == 400
    inside, outside = b.inside(), b.outside()
    assert passes(outside, CLIENT, inside) is None


def test_packet_counters_and_sessions_are_shown(box):
    b = box()
    c = b.session(extensions=1)
    assert c.extensions == 1
    pid = c.per(CLIENT, SERVER).pid
    inside, outside = b.inside(), b.outside()
    for _ in range(3):
        assert passes(outside, CLIENT, inside)
    activity = c.prs(pid).activity
    assert activity.packets == (3, 0)
    assert "3" in json.dumps(b.rest.get(f"/v1/rules/{pid}"))
    session, = b.rest.items("sessions")
    assert session["agent"] == "agent-1" and session["state"].upper() == "OPEN"
    assert session["peer"].startswith(topo.AGENT + ":") and session["requests"] == 2
    metrics = b.rest.request("GET", "/metrics")[1].decode()
    assert 'sluice_middlebox_rules{state="enabled"} 1' in metrics


def test_pipelined_requests_are_answered_in_order(box):
    b = box()
    c = b.session()
    n = 500
    tids = []
    for i in range(n):
        tids.append(c.send(*c.per_request(CLIENT, (topo.SERVER, 10000 + i))))
    pids = [c.reply(tid).pid for tid in tids]
    assert len(set(pids)) == n
    tids = [c.send(*c.plc_request(pid, 0)) for pid in pids]
    tids.append(c.send(simco.ST))
    assert [c.reply(tid).type for tid in tids] == [simco.PRD_REP] * n + [simco.ST_REP]
    status = b.status()
    assert status["rules"]["present"] == 0 and status["rules"]["elements"] == 0
    assert status["firewall"]["aborts"] == 0


def test_an_agent_that_nobody_knows_is_refused(box):
    b = box(simco={"listen": [topo.INSIDE + ":7626"], "plain": True})
    sock = b.net.client.connect(topo.INSIDE, simco.PORT)
    b.cleanup(sock.close)
    with pytest.raises(Refused) as refused:
        Simco(sock).establish()
    assert refused.value.type == 0x0324


def test_challenge_and_token(box, directory):
    secret = b"a secret of two daemons"
    path = os.path.join(directory, "secret")
    with open(path, "wb") as f:
        f.write(secret + b"\n")
    agents = middlebox_policy(topo.Line, directory)["agents"]
    agents["agent-1"]["secret_file"] = path
    b = box(agents=agents)
    c = b.session(secret=secret, challenge=b"prove it")
    assert c.sa_reply.token == simco.token(secret, b"middlebox", b"prove it")
    assert c.per(CLIENT, SERVER).type == simco.PER_REP
    b.session(secret=secret, name=b"agent-1")
    for bad in ({"secret": b"another one entirely"}, {"secret": secret, "name": b"agent-2"}, {}):
        with pytest.raises(Refused) as refused:
            b.session(**bad)
        assert refused.value.type == 0x0323


def test_limits(box, directory):
    b = box(limits={"sessions_per_agent": 2, "half_open_seconds": 1})
    first, second = b.session(), b.session()
    with pytest.raises(Refused) as refused:
        b.session()
    assert refused.value.type == 0x0321
    second.terminate()
    wait_until(lambda: len(b.rest.items("sessions")) == 1, 5, "a session less")
    b.session()
    idle = b.connect()
    with pytest.raises(simco.Closed):
        idle.receive()
    assert first.prl() == []


def test_the_end_is_announced(box):
    b = box()
    c = b.session()
    pid = c.per(CLIENT, SERVER, lifetime=600).pid
    b.daemon.signal(signal.SIGTERM)
    m = c.receive()
    assert m.type == simco.AST
    assert b.daemon.wait(10) == 0
    inside, outside = b.inside(), b.outside()
    assert passes(outside, CLIENT, inside) == SERVER, "rules live on"
    b.start()
    assert b.session().prl() == [pid]


def test_reload(box, directory):
    b = box()
    c = b.session()
    good = json.loads(json.dumps(b.policy))
    b.daemon.policy["agents"]["agent-1"]["permit"][0]["ports"] = "7000-7999"
    b.daemon.write_policy()
    b.daemon.signal(signal.SIGHUP)
    b.daemon.wait_line("reload: .* is in force")
    with pytest.raises(Refused) as refused:
        c.per(CLIENT, SERVER)
    assert refused.value.type in (0x0347, 0x0355)
    assert c.per((topo.CLIENT, 7000), (topo.SERVER, 7001)).type == simco.PER_REP

    b.daemon.policy["oops"] = 1
    b.daemon.write_policy()
    b.daemon.signal(signal.SIGHUP)
    b.daemon.wait_line("oops: unknown key")
    b.daemon.wait_line("the old policy stays")

    del b.daemon.policy["oops"]
    b.daemon.policy["limits"] = {"rules": 4711}
    b.daemon.write_policy()
    b.daemon.signal(signal.SIGHUP)
    b.daemon.wait_line("limits.rules needs a restart")
    assert c.prl() != []

    other = dict(good["agents"]["agent-1"])
    b.daemon.policy = {**good, "agents": {"agent-2": other}}
    b.daemon.write_policy()
    b.daemon.signal(signal.SIGHUP)
    while (m := c.receive()).type == simco.ARE:
        pass
    assert m.type == simco.AST, "a session whose agent is gone ends"


def test_garbage_hurts_nobody(box):
    b = box(limits={"half_open_seconds": 1})
    c = b.session()
    for octets in (b"\0" * 100, b"GET / HTTP/1.1\r\n\r\n", os.urandom(300), b"\x01\x12\xff\xff"):
        bad = b.connect()
        bad.raw(octets)
        with pytest.raises((simco.Closed, Refused)):
            while True:
                m = bad.receive()
                assert m.type >> 8 in (3, 4)
    assert c.prl() == []


def run(*argv):
    return subprocess.run([os.path.join(BUILD, "sluice-middlebox"), *argv], text=True,
                          capture_output=True)


def test_check_names_every_error(line, directory):
    policy = middlebox_policy(topo.Line, directory)
    good, bad = os.path.join(directory, "good.json"), os.path.join(directory, "bad.json")
    with open(good, "w") as f:
        json.dump(policy, f)
    assert run("--check", good).returncode == 0
    with open(bad, "w") as f:
        f.write('{\n"simco": { "listen": ["10.0.0.1:7626"] },\n"agents": {},\n"colour": 1\n}\n')
    done = run("--check", bad)
    assert done.returncode == 1
    for line_ in ("bad.json:2:", "bad.json:3:", "bad.json:4:1: colour: unknown key",
                  "firewall: required key missing"):
        assert line_ in done.stderr
    assert run("-c", bad).returncode == 1 and run("--nonsense").returncode == 1
    assert json.loads(run("--schema").stdout)["title"]
    assert run("--version").stdout.startswith("sluice-middlebox ")


@pytest.mark.san
def test_tls(box, directory):
    """Mutual TLS names the agent; a wrong name, a wrong authority, no TLS are each refused."""
    ca, other = Authority(directory), Authority(directory, "other")
    certificate, key = ca.issue("edge.example")
    agents = middlebox_policy(topo.Line, directory)["agents"]
    agents["agent-1"]["certificate"] = "agent-1.example"
    b = box(agents=agents, simco={
        "listen": [topo.INSIDE + ":7626", "127.0.0.1:7626"],
        "tls": {"certificate": certificate, "key": key, "ca": ca.base + ".pem"}})

    def tls(issued, version=None):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(ca.base + ".pem")
        context.load_cert_chain(*issued)
        if version:
            context.minimum_version = context.maximum_version = version
        sock = b.net.agent.connect(topo.INSIDE, simco.PORT)
        sock = context.wrap_socket(sock, server_hostname="edge.example")
        b.cleanup(sock.close)
        return Simco(sock)

    mine = ca.issue("agent-1.example")
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        c = tls(mine, version).establish()
        pid = c.per(CLIENT, SERVER).pid
        assert c.plc(pid, 0).type == simco.PRD_REP
    assert [s["tls"] for s in b.rest.items("sessions")] == [True, True]
    with pytest.raises(Refused) as refused:
        tls(ca.issue("agent-2.example")).establish()
    assert refused.value.type == 0x0324
    with pytest.raises((simco.Closed, ssl.SSLError, ConnectionError)):
        tls(other.issue("agent-1.example")).establish()
    with pytest.raises(Refused) as refused:
        b.session()
    assert refused.value.type == 0x0326
    with b.net.fw.enter():
        plain = simco.dial("127.0.0.1")
    b.cleanup(plain.close)
    with pytest.raises(Refused) as refused:  # plain TCP proves no certificate
        Simco(plain).establish()
    assert refused.value.type == 0x0324
    assert c.prl() == []


def test_handshakes_delay_nobody(box, directory):
    """Forty TLS handshakes at once, and connections that never finish one."""
    ca = Authority(directory)
    certificate, key = ca.issue("edge.example")
    agents = middlebox_policy(topo.Line, directory)["agents"]
    b = box(agents=agents, simco={
        "listen": [topo.INSIDE + ":7626"], "plain": True,
        "tls": {"certificate": certificate, "key": key, "ca": ca.base + ".pem"}},
        limits={"half_open_seconds": 2})
    c = b.session()
    stuck = [b.connect() for _ in range(40)]
    for s in stuck:
        s.raw(b"\x16\x03\x01\x02\x00\x01")
    began = time.monotonic()
    for _ in range(100):
        c.prl()
    assert time.monotonic() - began < 1.0 * PATIENCE
    for s in stuck:
        with pytest.raises(simco.Closed):
            s.receive()
    b.session()


class Impatient(Box):
    def start(self):
        self.policy["agents"]["agent-1"]["idle_timeout"] = 3
        super().start()


@pytest.mark.san
def test_a_large_group_falls_silent(line, directory, cleanup):
    """300 rules: media on one of them keeps all; without it all end."""
    b = Impatient(line(), directory, cleanup, False)
    c, other = b.session(), b.session()
    gid = c.per(CLIENT, SERVER, lifetime=600).gid
    for tid in [c.send(*c.per_request((topo.CLIENT, 5000 + i), SERVER, gid=gid, lifetime=600))
                for i in range(1, 300)]:
        c.reply(tid)
    alone = c.prl()
    assert len(alone) == 300
    inside, outside = b.inside((topo.CLIENT, 5299)), b.outside()
    until = time.monotonic() + 4
    while time.monotonic() < until:
        assert passes(inside, SERVER, outside)
        time.sleep(0.1)
    assert len(other.prl()) == 300
    other.events.clear()
    wait_until(lambda: not other.prl(), 8 * PATIENCE, "the group to end")
    assert sorted(pid for pid, lifetime in other.events if lifetime == 0) == sorted(alone)
    assert b.status()["rules"]["elements"] == 0 == b.status()["firewall"]["aborts"]
