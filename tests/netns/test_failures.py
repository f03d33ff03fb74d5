"""RTSP: every way a session can fail or end, in every phase, and who gets to know what.

One word for one cause: the reply's reason phrase and body, the log, REST and metrics.
"""

import re
import socket
import sys
import time

import pytest

from lib import topo
from lib.pki import Authority
from lib.proc import wait_until
from lib.rtsp import Closed, encode
from lib.sluice import PATIENCE
from simco_client import PDR_REP, Simco
from test_sessions import world  # noqa: F401

BOTH = pytest.mark.parametrize("nat", [False, True], ids=["firewall", "nat"])
OTHER = "10.1.0.3"  # a second client host


class Witness:
    """Counts of one cause, before and after, in REST and in the metrics."""

    def __init__(self, w, cause):
        self.w, self.cause = w, cause
        self.before = self.counts()

    def counts(self):
        failures = self.w.agent.rest.get("/v1/status")["failures"]
        _, text = self.w.agent.rest.request("GET", "/metrics")
        found = re.search(rb'sluice_agent_failures_total\{cause="%s"\} (\d+)'
                          % self.cause.encode(), text)
        return failures[self.cause], int(found.group(1))

    def check(self, least=1):
        """The cause was counted in both places and has its line in the log."""
        after = self.counts()
        assert after[0] >= self.before[0] + least and after[0] == after[1], (self.before, after)
        assert re.search(rf"rtsp [cr]\d+: {self.cause}\b", self.w.agent.text())


def check_reply(reply, cause):
    """A reply of the agent's own: the cause in its reason phrase, the detail as text."""
    assert reply.start.endswith(f"({cause})"), reply.start
    assert reply["Content-Type"] == "text/plain"
    assert re.match(rb"sluice: %s( \(edge\))?: .+\r\n$" % cause.encode(), reply.body), reply.body


def ended(w, client, cause, timeout=5.0):
    """The session is over: the client's connection closed, the server told, nothing left open."""
    client.sock.settimeout(timeout * PATIENCE)
    with pytest.raises(Closed):
        client.reply()
    w.server.wait_for("TEARDOWN", timeout=5.0 * PATIENCE)
    w.wait_no_rules()
    wait_until(lambda: not w.agent.rest.items("sessions"), 5, "no sessions")
    assert not sum(n for name, n in w.net.fw.elements().items())
    log = w.agent.text()
    assert re.search(rf"rtsp r\d+: session ended: {cause}\b", log), log[-2000:]


def rebuilt(w, **changes):
    """The daemons once more, with changes to the middlebox's policy."""
    w.agent.finish()
    w.middlebox.finish()
    for key, value in changes.items():
        w.middlebox_policy[key].update(value)
    w.start_middlebox()
    w.start_agent()
    w.agent.wait_ready()
    return w


def bound_connection(ns, address, to):
    """A TCP connection from that address of a host that has several."""
    with ns.enter():
        sock = socket.socket()
    sock.bind((address, 0))
    sock.settimeout(10)
    sock.connect(to)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


# --- before the SETUP goes out, and after the server accepted it -------------------------------


@pytest.mark.san
@pytest.mark.parametrize("hint", ["", "listener", "route"], ids=["503", "461", "461-by-route"])
def test_middlebox_unreachable(world, hint):  # noqa: F811
    listener = {"mode": "transparent", "out": "auto", "tproxy": True,
                "interleaved_hint": hint == "listener",
                "routes": [{"to": topo.SERVER + "/32", "out": "auto",
                            "interleaved_hint": hint == "route"}]}
    w = world(agent={"rtsp": [{"listen": "0.0.0.0:554", **listener}]})
    seen = Witness(w, "middlebox-unreachable")
    w.middlebox.kill()
    reply = w.client().setup(expect=461 if hint else 503)
    check_reply(reply, "middlebox-unreachable")
    assert (int(reply.get("Retry-After", 0)) > 0) != bool(hint)
    assert w.server.count("SETUP") == 0
    seen.check()
    w.start_middlebox()


@pytest.mark.san
@pytest.mark.parametrize("cause", ["out-of-ports", "quota", "policy-refused", "unsupported"])
def test_refused_before_the_server_hears_of_it(world, cause):  # noqa: F811
    agent = {"permit": [{"internal": topo.CLIENT_NET, "external": "198.51.100.0/24"}]}
    w = world(nat=True, agent=agent if cause == "policy-refused" else {})
    if cause == "out-of-ports":
        rebuilt(w, nat={"outside": [{"address": topo.OUTSIDE, "ports": "16384-16385"}]})
        w.client().setup()
    elif cause == "quota":
        w.middlebox_policy["agents"]["agent-1"]["max_rules"] = 1
        rebuilt(w)
        w.client().setup()
    before, seen = w.server.count("SETUP"), Witness(w, cause)
    client = w.client()
    if cause == "unsupported":
        reply = client.request("SETUP", client.base + "/track0", Transport="x-pn-tng/udp;unicast")
        assert reply.status == 461
    else:
        reply = client.setup(expect=403 if cause == "policy-refused" else 453)
    check_reply(reply, cause)
    assert w.server.count("SETUP") == before
    seen.check()


@pytest.mark.san
@pytest.mark.parametrize("cause", ["policy-refused", "conflict"])
def test_refused_after_the_server_accepted(world, cause):  # noqa: F811
    """The server gives back what it gave; another stream of the session goes on."""
    w = world()
    if cause == "policy-refused":
        for permit in w.middlebox_policy["agents"]["agent-1"]["permit"]:
            permit["ports"] = "1024-59999"
        rebuilt(w)
    else:
        w.middlebox_policy["agents"]["guard"] = {
            "address": ["10.1.1.77/32"], "may": ["disable"], "max_rules": 10, "wildcards": True,
            "permit": [{"internal": "0.0.0.0/0", "external": "0.0.0.0/0"}]}
        rebuilt(w)
        w.net.agent.address("edge", "10.1.1.77/24")
    client = w.client()
    client.setup(0)
    seen = Witness(w, cause)
    port = 61000
    if cause == "conflict":
        sock = bound_connection(w.net.agent, "10.1.1.77", (topo.INSIDE, 7626))
        guard = Simco(sock).establish()
        assert guard.pdr((topo.CLIENT, port), (topo.SERVER, 0)).type == PDR_REP
    reply = client.request("SETUP", client.base + "/track1",
                           Transport=f"RTP/AVP;unicast;client_port={port}-{port + 1}")
    assert reply.status == 403
    check_reply(reply, cause)
    w.server.wait_for("TEARDOWN")
    seen.check()
    assert len(w.rules()) == 2 + (cause == "conflict")
    assert client.request("GET_PARAMETER").status == 200
    assert len(w.agent.rest.items("sessions")) == 1


# --- while it plays ----------------------------------------------------------------------------


def playing(w, **more):
    client = w.client(**more)
    client.setup(0)
    client.setup(1)
    client.play()
    assert len(w.rules()) == 4
    stream = w.server.all_streams()[0]
    stream.send()
    assert len(client.receive()[0]) == 200
    return client, stream


def check_cut(client, stream):
    """What the server sends now does not arrive."""
    stream.send()
    client.media[0][0].settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.receive()


@pytest.mark.san
@BOTH
def test_operator_of_the_agent(world, nat):  # noqa: F811
    w = world(nat)
    client, _ = playing(w)
    seen = Witness(w, "operator")
    session = w.agent.rest.items("sessions")[0]
    assert w.agent.rest.request("DELETE", f"/v1/sessions/{session['id']}")[0] in (200, 202, 204)
    ended(w, client, "operator")
    seen.check()


@pytest.mark.san
@BOTH
def test_operator_of_the_middlebox(world, nat):  # noqa: F811
    """One of four pinholes goes; so does the session, with the others."""
    w = world(nat)
    client, _ = playing(w)
    seen = Witness(w, "operator")
    assert w.middlebox.rest.request("DELETE", f"/v1/rules/{w.rules()[2]['pid']}")[0] in (
        200, 202, 204)
    ended(w, client, "operator")
    seen.check()


def test_expiry_while_the_middlebox_is_out_of_reach(world):  # noqa: F811
    """The pinholes close by themselves, and the agent draws the same conclusion."""
    w = world(agent={"lifetime": {"reserved": 4, "enabled": 6}})
    client, stream = playing(w)
    seen = Witness(w, "rule-lost")
    w.net.agent.nft("table inet silence { chain output { type filter hook output priority 0;"
                    " policy accept; tcp dport 7626 drop\n }\n}\n")
    wait_until(lambda: not w.rules(), 8 * PATIENCE, "expiry")
    check_cut(client, stream)
    ended(w, client, "rule-lost", 10)
    seen.check()
    w.net.agent.nft("delete table inet silence\n")


def test_flushed_tables_come_back_and_nobody_notices(world):  # noqa: F811
    w = world(nat=True)
    client, stream = playing(w)
    w.net.fw.nft("flush ruleset\n")

    def arrives():
        stream.send()
        client.media[0][0].settimeout(0.2)
        try:
            return client.receive()
        except TimeoutError:
            return None

    wait_until(arrives, 5 * PATIENCE, "media")
    assert len(w.rules()) == 4
    assert client.teardown().status == 200
    w.wait_no_rules()


def test_lost_kernel(world):  # noqa: F811
    """A middlebox that comes back empty: the agent compares, and ends what is gone."""
    w = world()
    client, _ = playing(w)
    seen = Witness(w, "rule-lost")
    w.middlebox.kill()
    w.net.fw.run("rm", "-f", w.middlebox_policy["ledger"])
    w.net.fw.nft("flush ruleset\n")
    w.start_middlebox()
    ended(w, client, "rule-lost", 20)
    seen.check()


@BOTH
def test_ledger_of_another_version(world, nat):  # noqa: F811
    """After an upgrade: nobody knows the old pinholes any more, so they go."""
    w = world(nat)
    client, _ = playing(w)
    seen = Witness(w, "rule-lost")
    assert any(w.net.fw.elements().values())
    w.middlebox.kill()
    with open(w.middlebox_policy["ledger"], "r+b") as f:
        f.seek(4)
        f.write((1).to_bytes(4, sys.byteorder))
    w.start_middlebox()
    assert not any(w.net.fw.elements().values())
    ended(w, client, "rule-lost", 20)
    seen.check()


@BOTH
def test_media_silence(world, nat):  # noqa: F811
    """`idle_timeout` of the middlebox: RTP on each stream holds the session, its end ends it."""
    w = world(nat)
    w.middlebox_policy["agents"]["agent-1"]["idle_timeout"] = 2
    rebuilt(w)
    client, _ = playing(w)
    until = time.monotonic() + 5
    while time.monotonic() < until:
        for stream in w.server.all_streams():
            stream.send()
        time.sleep(0.25)
    assert len(w.agent.rest.items("sessions")) == 1
    silent = time.monotonic()
    ended(w, client, "media-timeout", 10)
    assert time.monotonic() - silent < 2 + 4 * PATIENCE


def test_rtcp_of_the_client_is_a_sign_of_life(world):  # noqa: F811
    """No request for longer than a session may be silent (2 + 10 s), but receiver reports."""
    w = world(timeout=2)
    client, _ = playing(w)
    seen = Witness(w, "session-timeout")
    port = w.server.all_streams()[0].pair[1].getsockname()[1]
    until = time.monotonic() + 16
    while time.monotonic() < until:
        client.media[0][1].sendto(b"\x80\xc9\x00\x01\x00\x00\x00\x07", (topo.SERVER, port))
        time.sleep(1)
    assert len(w.agent.rest.items("sessions")) == 1
    ended(w, client, "session-timeout", 30)
    seen.check()


# --- servers that do not let go, and clients that come and go ----------------------------------


@pytest.mark.parametrize("scheme", ["Digest", "Basic"])
def test_teardown_of_our_own_at_a_server_with_passwords(world, scheme):  # noqa: F811
    """Basic credentials serve again; with Digest the connection closes and the server knows."""
    def hook(request, _):
        shown = request.get("Authorization", "")
        if shown.startswith("Basic") or (shown and request.method != "TEARDOWN"):
            return None
        return encode("RTSP/1.0 401 Unauthorized", {
            "CSeq": request["CSeq"], "WWW-Authenticate": f'{scheme} realm="r", nonce="n"'})

    w = world(hook=hook)
    client = w.client()
    client.setup(expect=401)
    shown = {"Basic": "Basic YWRhOnNlY3JldA==", "Digest": 'Digest username="ada"'}[scheme]
    client.setup(Authorization=shown)
    connection = w.server.connections[0]
    w.agent.rest.request("DELETE", "/v1/sessions/" + w.agent.rest.items("sessions")[0]["id"])
    w.server.wait_for("TEARDOWN")
    assert w.server.requests[-1].get("Authorization") == (shown if scheme == "Basic" else None)
    wait_until(lambda: not connection.open, 1.5 * PATIENCE, "the end of the connection")
    w.wait_no_rules()


@BOTH
def test_session_moves_to_a_new_connection(world, nat):  # noqa: F811
    w = world(nat)
    first, stream = playing(w)
    second = w.client()
    second.session = first.session
    assert second.request("GET_PARAMETER").status == 200
    first.sock.close()
    time.sleep(1)
    assert len(w.rules()) == 4
    stream.send()
    assert len(first.receive()[0]) == 200
    second.setup(2)
    assert len(w.rules()) == 6
    assert second.teardown().status == 200
    w.wait_no_rules()
    assert w.server.count("TEARDOWN") == 1


@BOTH
def test_setup_again_with_new_ports_and_pause(world, nat):  # noqa: F811
    """The old pinholes close, the new ones open; a pause changes nothing."""
    w = world(nat)
    client, old = playing(w)
    client.setup(0)
    assert len(w.rules()) == 4
    new = w.server.all_streams()[-1]
    new.send()
    assert len(client.receive(2)[0]) == 200
    check_cut(client, old)
    assert client.request("PAUSE").status == 200
    new.send()
    assert len(client.receive(2)[0]) == 200
    assert w.agent.rest.items("sessions")[0]["state"] == "ready"
    assert client.teardown().status == 200
    w.wait_no_rules()


# --- hostile peers -----------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("permitted", [False, True], ids=["forbidden", "permitted"])
def test_server_names_another_source(world, cleanup, nat, permitted):  # noqa: F811
    """source=NEIGHBOUR opens nothing unless policy has it; then for the neighbour alone."""
    def hook(request, connection):
        if request.method != "SETUP":
            return None
        return connection.setup(request).replace(
            b"server_port", f"source={topo.NEIGHBOUR};server_port".encode())

    listener = {"listen": "0.0.0.0:554", "mode": "transparent", "out": "auto", "tproxy": True}
    if permitted:
        listener["media_from"] = [topo.NEIGHBOUR + "/32"]
    w = world(nat, hook=hook, agent={"rtsp": [listener]})
    seen = Witness(w, "policy-refused")
    client = w.client()
    if not permitted:
        check_reply(client.setup(expect=403), "policy-refused")
        seen.check()
        w.server.wait_for("TEARDOWN")
        w.wait_no_rules()
        assert not sum(w.net.fw.elements().values())
        return
    client.setup()
    stream = w.server.all_streams()[0]
    port = stream.pair[0].getsockname()[1]
    to = (stream.peer[0], stream.peer[1])
    for source in ((topo.SERVER, port), (topo.NEIGHBOUR, port + 2)):
        w.net.server.forge_udp(source, to, b"wrong")
    w.net.server.forge_udp((topo.NEIGHBOUR, port), to, b"right")
    assert client.receive() == (b"right", (topo.NEIGHBOUR, port))
    assert client.teardown().status == 200
    w.wait_no_rules()
    w.net.server.forge_udp((topo.NEIGHBOUR, port), to, b"late")
    client.media[0][0].settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.receive()


@BOTH
def test_client_names_another_destination(world, nat):  # noqa: F811
    """destination= of a third party: 403, unheard by the server. Its own: not passed on."""
    w = world(nat)
    seen = Witness(w, "policy-refused")
    client = w.client()
    for other in (OTHER, topo.NEIGHBOUR, "victim.example", "224.1.2.3"):
        reply = client.request("SETUP", client.base + "/track0",
                               Transport=f"RTP/AVP;unicast;destination={other};"
                                         "client_port=40000-40001")
        assert reply.status == 403, other
        check_reply(reply, "policy-refused")
    assert w.server.count("SETUP") == 0 and not w.rules()
    seen.check(4)
    reply = client.request("SETUP", client.base + "/track0",
                           Transport=f"RTP/AVP;unicast;destination={topo.CLIENT};"
                                     "client_port=40000-40001")
    assert reply.status == 200
    assert b"destination" not in w.server.requests[-1]["Transport"].encode()


def test_echoed_destination_moves_nothing(world):  # noqa: F811
    """A server that names a third party as destination: the pinhole is the client's."""
    def hook(request, connection):
        if request.method != "SETUP":
            return None
        return connection.setup(request).replace(
            b"server_port", f"destination={OTHER};server_port".encode())

    w = world(hook=hook)
    client = w.client()
    reply = client.setup()
    assert reply.transport()["destination"] == topo.CLIENT
    assert len(w.rules()) == 2 and OTHER not in str(w.rules())


# --- limits ------------------------------------------------------------------------------------


def is_closed(sock, timeout):
    """Did the other end close (possibly after some octets)?"""
    sock.settimeout(timeout)
    try:
        while sock.recv(4096):
            pass
        return True
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


@pytest.mark.san
def test_limits_of_connections_and_sessions(world):  # noqa: F811
    """Of one client and in all; what is above is turned away, the rest goes on."""
    w = world(agent={"limits": {"connections": 8, "connections_per_client": 6, "sessions": 3,
                                "sessions_per_client": 2}})
    w.net.client.address("eth0", OTHER + "/24")
    crowd = [w.net.client.connect(topo.SERVER, 554) for _ in range(10)]
    wait_until(lambda: sum(is_closed(s, 0.05) for s in crowd[6:]) == 4, 5, "four turned away")
    assert not any(is_closed(s, 0.05) for s in crowd[:6])
    # Another host is not the worse for it.
    others = [bound_connection(w.net.client, OTHER, (topo.SERVER, 554)) for _ in range(3)]
    assert [is_closed(s, 0.3) for s in others] == [False, False, True]
    for s in crowd + others:
        s.close()
    time.sleep(0.5)
    seen = Witness(w, "quota")
    clients = [w.client() for _ in range(3)]
    clients[0].setup()
    clients[1].setup()
    check_reply(clients[2].setup(expect=453), "quota")
    seen.check()
    clients[0].teardown()
    clients[2].setup()


def test_slow_loris(world):  # noqa: F811
    """Clients that say nothing, half of something, or nothing in many octets."""
    w = world(agent={"rtsp": [{"listen": "0.0.0.0:554", "mode": "transparent", "out": "auto",
                               "tproxy": True, "idle_timeout_s": 3}],
                     "limits": {"connections_per_client": 100}})
    begun = [b"", b"OPTIONS rtsp://x", b"\r\n", b"$\x00\xff\xff", b"A" * 100,
             b"ANNOUNCE rtsp://192.0.2.10/av RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 999\r\n\r\n"]
    crowd = [(w.net.client.connect(topo.SERVER, 554), octets) for octets in begun * 5]
    for sock, octets in crowd:
        sock.sendall(octets)
    spoke = w.client()
    assert spoke.request("OPTIONS").status == 200
    began = time.monotonic()
    assert is_closed(spoke.sock, 6 * PATIENCE)  # no session: idle_timeout_s
    assert 2.5 < time.monotonic() - began
    served, left = 0, list(crowd)
    while left and time.monotonic() < began + 40:
        for sock, octets in list(left):
            try:
                sock.sendall(octets[-1:] or b"")
                if octets[-2:] == b"\r\n":
                    sock.sendall(b"\r\n" if octets == b"\r\n" else b"x")
            except OSError:
                left.remove((sock, octets))
        client = w.client()  # others are served meanwhile
        assert client.request("OPTIONS").status == 200
        served += 1
        client.close()
        time.sleep(0.5)
        left = [(s, o) for s, o in left if o or not is_closed(s, 0.01)]
    assert not left, [o for _, o in left]
    assert served > 10


@pytest.mark.parametrize("octets", [
    b"OPTIONS rtsp://192.0.2.10/" + b"a" * 600 + b" RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n" + b"X: 1234567890\r\n" * 150 + b"\r\n",
    b"ANNOUNCE * RTSP/1.0\r\nCSeq: 1\r\nContent-Length: 2001\r\n\r\n",
], ids=["line", "header", "body"])
def test_sizes(world, octets):  # noqa: F811
    w = world(agent={"rtsp": [{"listen": "0.0.0.0:554", "mode": "transparent", "out": "auto",
                               "tproxy": True, "line_bytes": 512, "header_bytes": 2000,
                               "body_bytes": 2000}]})
    client = w.client()
    client.sock.sendall(octets)
    reply = client.reply()
    assert reply.status == 413
    check_reply(reply, "peer-malformed")
    assert is_closed(client.sock, 5) and not w.server.requests


def test_server_that_cannot_be_reached(world):  # noqa: F811
    """Its packets are dropped: 504 after connect_timeout_ms; refused: 502 at once."""
    w = world(agent={"rtsp": [{"listen": "0.0.0.0:554", "mode": "transparent", "out": "auto",
                               "tproxy": True, "connect_timeout_ms": 700}]})
    seen = Witness(w, "peer-unreachable")
    w.net.server.nft("table inet silence { chain input { type filter hook input priority 0;"
                     " policy accept; tcp dport 554 drop\n }\n}\n")
    began = time.monotonic()
    reply = w.client().request("OPTIONS")
    assert reply.status == 504 and 0.6 < time.monotonic() - began < 0.7 + PATIENCE
    check_reply(reply, "peer-unreachable")
    w.net.server.nft("delete table inet silence\n")
    w.server.close()
    reply = w.client().request("OPTIONS")
    assert reply.status == 502
    check_reply(reply, "peer-unreachable")
    seen.check(2)


def test_half_open_tls(world, directory):  # noqa: F811
    """Who connects to an RTSPS listener and never finishes the handshake is not kept."""
    certificate, key = Authority(directory).issue("10.1.0.1")
    w = world(agent={"rtsp": [
        {"listen": "0.0.0.0:322", "mode": "reverse", "mounts": {
            "/cam": {"to": f"rtsp://{topo.SERVER}/av"}},
         "tls": {"certificate": certificate, "key": key}}],
        "limits": {"connections_per_client": 2}})
    plain = w.net.client.connect("10.1.0.1", 322)
    plain.sendall(b"OPTIONS * RTSP/1.0\r\nCSeq: 1\r\n\r\n")
    assert is_closed(plain, 2)
    begun = [b"", b"\x16\x03\x01\x02\x00"]
    crowd = [w.net.client.connect("10.1.0.1", 322) for _ in begun]
    for sock, octets in zip(crowd, begun):
        sock.sendall(octets)
    turned_away = w.net.client.connect("10.1.0.1", 322)
    assert is_closed(turned_away, 1)
    assert all(is_closed(sock, 6 * PATIENCE) for sock in crowd)
    assert not w.server.connections
