"""One peer misbehaves as badly as it can; the sessions of the others are served all the same."""

import os
import socket
import threading
import time

import pytest

import simco_client as simco
from lib import topo
from lib.proc import Proc, wait_until
from lib.sluice import BUILD, PATIENCE, Middlebox, middlebox_policy
from simco_client import Simco

TOOL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tools", "hostile.py")
PYTHON = "/usr/bin/python3"
EVIL = "10.1.1.66"
SESSIONS = 48
SPARE = 64  # connections above limits.sessions that are accepted to be refused in SIMCO
SECONDS = 3


class Good(threading.Thread):
    """An agent that opens and closes one pinhole after the other."""

    def __init__(self, session):
        super().__init__(daemon=True)
        self.session, self.latency, self.stop, self.error = session, [], False, None

    def run(self):
        n = 0
        try:
            while not self.stop:
                n += 1
                began = time.monotonic()
                pid = self.session.per((topo.CLIENT, 2000 + n % 3000), (topo.SERVER, 9000)).pid
                assert self.session.plc(pid, 0).type == simco.PRD_REP
                self.latency.append(time.monotonic() - began)
        except BaseException as e:
            self.error = e


@pytest.fixture
def place(line, directory, cleanup):
    """A middlebox with a good agent, and one that is allowed but evil."""
    net = line()
    net.agent.address("edge", EVIL + "/24")
    # What does not choose its address has the evil one.
    net.agent.ip("route", "add", "10.1.1.1", "dev", "edge", "src", EVIL)
    policy = middlebox_policy(net, directory, limits={
        "sessions": SESSIONS, "sessions_per_agent": 8, "half_open_seconds": 1,
        "output_bytes": 1 << 20})
    evil = dict(policy["agents"]["agent-1"], address=[EVIL + "/32"], max_rules=200)
    policy["agents"]["evil"] = evil
    daemon = Middlebox(net.fw, directory, policy, options=("--test-force-off", "8"))
    daemon.wait_ready()
    cleanup(lambda: daemon.finish())
    return net, daemon


def attack(net, directory, kind, seconds, host=None):
    """The hostile peer in a process of its own; from the evil agent's address or the client."""
    return Proc([PYTHON, TOOL, kind, topo.INSIDE, simco.PORT, seconds],
                os.path.join(directory, kind + ".log"), host or net.agent,
                stdout=os.path.join(directory, kind + ".out"))


def connect(net):
    with net.agent.enter():
        sock = socket.socket()
    sock.bind((topo.AGENT, 0))
    sock.settimeout(10 * PATIENCE)
    sock.connect((topo.INSIDE, simco.PORT))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return Simco(sock, timeout=10 * PATIENCE)


@pytest.mark.san
@pytest.mark.parametrize("kind", ["garbage", "fuzz", "halfopen", "slow", "refused", "churn"])
def test_others_are_served(place, directory, cleanup, kind):
    net, daemon = place
    good = Good(connect(net).establish())
    good.start()
    wait_until(lambda: len(good.latency) > 50, 20, "the good agent")
    usual = sorted(good.latency)
    memory, most, fds = daemon.memory_kb(), 0, 0
    began, at = len(good.latency), time.monotonic()
    peer = attack(net, directory, kind, SECONDS)
    while peer.running():
        most = max(most, daemon.rest.get("/v1/status")["sessions"]["connections"])
        fds = max(fds, daemon.fds())
        time.sleep(0.1)
    assert peer.wait() == 0, peer.text()
    with open(peer.stdout) as f:
        deeds = int(f.read())
    served = len(good.latency) - began
    elapsed = time.monotonic() - at
    later = connect(net).establish()  # a new session gets in, too
    good.stop = True
    good.join()
    assert good.error is None, good.error
    under = sorted(good.latency[began:]) or [elapsed]
    print(f"hostile {kind}: {deeds} deeds; others: {served} in {elapsed:.1f} s, p99 "
          f"{under[len(under) * 99 // 100] * 1e3:.2f} ms instead of "
          f"{usual[len(usual) * 99 // 100] * 1e3:.2f} ms")
    assert deeds > 5
    assert served > 20 * elapsed / PATIENCE, "the good agent was starved"
    assert most <= SESSIONS + SPARE + 1
    assert fds <= SESSIONS + SPARE + 40, "connections linger without being counted"
    status = daemon.rest.get("/v1/status")
    assert status["firewall"]["aborts"] == 0 and status["firewall"]["refused"] == 0, status
    if "san" not in os.path.basename(BUILD):
        # Buffers of connections come and go; what they may hold is the policy's business.
        assert daemon.memory_kb() < memory + 32 * 1024, "memory grows"
    wait_until(lambda: daemon.rest.get("/v1/status")["sessions"]["connections"] <= 2,
               5 * PATIENCE, "the evil connections to go")
    assert later.terminate().type == simco.ST_REP


@pytest.mark.san
def test_strangers_get_nowhere(place, directory, cleanup):
    """Somebody without a place in the policy: no session, no state."""
    net, daemon = place
    c = connect(net).establish()
    peers = [attack(net, directory, kind, SECONDS, net.client)
             for kind in ("garbage", "halfopen", "fuzz")]
    done = 0
    while any(p.running() for p in peers):
        pid = c.per((topo.CLIENT, 3000 + done % 100), (topo.SERVER, 9000)).pid
        c.plc(pid, 0)
        done += 1
        assert daemon.rest.get("/v1/status")["sessions"]["connections"] <= SESSIONS + SPARE + 1
    assert done > 10 * SECONDS
    for p in peers:
        assert p.wait() == 0, p.text()
    assert daemon.rest.items("rules") == []
    wait_until(lambda: daemon.rest.get("/v1/status")["sessions"]["connections"] == 1,
               5 * PATIENCE, "the strangers to go")
