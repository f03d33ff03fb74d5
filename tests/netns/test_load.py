"""Many sessions come and go; afterwards everything is back where it was."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib import topo
from lib.proc import wait_until
from lib.rtsp import Client, Server
from lib.sluice import SANITIZED

SESSIONS = 200
LIMITS = {"limits": {"sessions_per_client": 1000, "connections_per_client": 1000,
                     "bindings_per_client": 4000}}


def udp_conntrack(net):
    return len(net.fw.conntrack("-p", "udp"))


def resources(s):
    """What a session uses and must give back."""
    status = {"sessions": len(s.agent.rest.items("sessions")),
              "bindings": len(s.agent.rest.items("bindings")),
              "rules": len(s.rules())}
    return {**status, "elements": sum(s.net.fw.elements().values()),
            "conntrack": udp_conntrack(s.net),
            "agent fds": s.agent.fds(), "middlebox fds": s.middlebox.fds()}


def one_session(s, server, number, together, closes):
    """Two streams, a packet each way on both; ends by TEARDOWN or by closing."""
    client = Client(s.net.client, topo.SERVER, topo.CLIENT, timeout=60)
    try:
        for track in (0, 1):
            client.punch(client.setup(track), track)
        client.play()
        with server.lock:
            streams = list(server.streams[client.session])
        for track, stream in enumerate(streams):
            stream.send()
            stream.send(component=1)
            client.media[track][0].settimeout(10)
            client.receive(track, 0)
            client.receive(track, 1)
        together.wait(120)
        if not closes:
            assert client.teardown().status == 200
    except BaseException:
        together.abort()
        raise
    finally:
        client.close()
        if closes:
            server.end(client.session)


def round_of(s, server, sessions, at_peak=None):
    """All sessions are there at the same moment, then they end."""
    together = threading.Barrier(sessions, action=at_peak)
    with ThreadPoolExecutor(sessions) as pool:
        jobs = [pool.submit(one_session, s, server, n, together, n % 4 == 3)
                for n in range(sessions)]
        errors = [e for job in jobs if (e := job.exception())]
    if errors:
        raise next((e for e in errors if not isinstance(e, threading.BrokenBarrierError)),
                   errors[0])
    wait_until(lambda: not s.rules(), 20, "all rules to go", step=0.2)
    wait_until(lambda: not server.open_connections(), 10, "connections to the server to close")


@pytest.mark.san
@pytest.mark.parametrize("nat", [False, True], ids=["firewall", "nat"])
def test_200_parallel_sessions_come_and_go(site, cleanup, nat):
    s = site(nat, agent=LIMITS)
    if not nat:
        # A pure firewall leaves tracking to the kernel, which forgets by its own clock.
        s.net.fw.sysctl("net.netfilter.nf_conntrack_udp_timeout=1",
                        "net.netfilter.nf_conntrack_udp_timeout_stream=1")
    server = Server(s.net.server, topo.SERVER)
    cleanup(server.close)
    peak = {}

    def at_peak():
        peak.update(resources(s))

    round_of(s, server, 8)  # whatever is allocated once is allocated now
    wait_until(lambda: not udp_conntrack(s.net), 10, "no connection tracking entries", step=0.5)
    before = resources(s)
    assert before["rules"] == before["sessions"] == before["bindings"] == 0
    round_of(s, server, SESSIONS, at_peak)
    assert peak["rules"] == 4 * SESSIONS and peak["sessions"] == SESSIONS
    assert peak["elements"] >= 8 * SESSIONS
    wait_until(lambda: resources(s) == before, 10, f"{before} again", step=0.5)
    if SANITIZED:
        return  # AddressSanitizer keeps what was freed; leaks it reports itself
    # The peak may have grown a heap or a table once; a second one must not.
    memory = s.agent.memory_kb(), s.middlebox.memory_kb()
    round_of(s, server, SESSIONS)
    wait_until(lambda: resources(s) == before, 10, f"{before} again", step=0.5)
    for old, daemon in zip(memory, (s.agent, s.middlebox)):
        assert daemon.memory_kb() <= old * 1.1 + 1024, daemon.name


@pytest.mark.soak
def test_soak(site, cleanup):
    """Rounds of sessions for a quarter of SLUICE_SOAK_MINUTES; nothing may grow."""
    minutes = float(os.environ.get("SLUICE_SOAK_MINUTES", "10")) / 4
    s = site(nat=True, agent=LIMITS)
    server = Server(s.net.server, topo.SERVER)
    cleanup(server.close)
    for _ in range(3):
        round_of(s, server, 50)
    before = resources(s)
    memory = s.agent.memory_kb(), s.middlebox.memory_kb()
    end, rounds = time.monotonic() + minutes * 60, 0
    while time.monotonic() < end:
        round_of(s, server, 50)
        rounds += 1
    wait_until(lambda: resources(s) == before, 30, f"{before} again", step=0.5)
    print(f"{rounds * 50} sessions; memory in KiB: {memory} before, "
          f"{(s.agent.memory_kb(), s.middlebox.memory_kb())} after")
    for old, daemon in zip(memory, (s.agent, s.middlebox)):
        assert SANITIZED or daemon.memory_kb() <= old * 1.2 + 2048, daemon.name
