"""Sessions of a scripted client and server: order of events, failures, ends."""

import time

import pytest

from lib import topo
from lib.capture import Capture, rtsp, udp
from lib.proc import wait_until
from lib.rtsp import Client, Closed, Sender, Server, encode
from lib.sluice import PATIENCE

BOTH = pytest.mark.parametrize("nat", [False, True], ids=["firewall", "nat"])


@pytest.fixture
def world(site, cleanup):
    """world(nat, **options): a site, a scripted server, and a way to make clients."""
    def make(nat=False, hook=None, timeout=None, **options):
        s = site(nat, **options)
        s.server = Server(s.net.server, topo.SERVER, timeout=timeout, hook=hook)
        cleanup(s.server.close)

        def client(**more):
            c = Client(s.net.client, topo.SERVER, topo.CLIENT, **more)
            cleanup(c.close)
            return c
        s.client = client
        return s
    return make


@pytest.mark.san
@BOTH
def test_media_passes_from_the_setup_reply_to_the_teardown_reply(world, cleanup, directory, nat):
    """The server sends before it answers SETUP, and never stops: the firewall decides."""
    senders = []

    def hook(request, connection):
        if request.method == "SETUP":
            reply = connection.setup(request)
            senders.append(Sender(w.server.all_streams()[-1]))
            time.sleep(0.4)
            return reply
        if request.method == "TEARDOWN":
            return connection.ok(request)  # and goes on sending
        return None

    w = world(nat, hook)
    cleanup(lambda: [sender.stop() for sender in senders])
    inside = Capture(w.net.fw, "in", directory + "/in.pcap", "udp")
    outside = Capture(w.net.fw, "out", directory + "/out.pcap")
    link = Capture(w.net.client, "eth0", directory + "/client.pcap")
    for capture in (inside, outside, link):
        cleanup(capture.proc.stop)

    client = w.client()
    reply = client.setup()
    client.punch(reply)
    client.play()
    for _ in range(20):
        assert len(client.receive()[0]) == 200
    client.receive()
    assert client.teardown().status == 200
    time.sleep(0.5)
    for sender in senders:
        sender.stop()

    due = min(p.time for p in rtsp(outside.stop(), b"Transport: ") if p.src == topo.SERVER)
    answered = max(p.time for p in rtsp(link.stop(), b"RTSP/1.0 200") if p.dst == topo.CLIENT)
    passed = [p.time for p in udp(inside.stop(), src=topo.SERVER)]
    arrived = [p.time for p in udp(outside.packets(), src=topo.SERVER)]
    assert min(arrived) < due - 0.3 and max(arrived) > answered + 0.3  # the server did its worst
    assert min(passed) >= due
    assert max(passed) <= answered
    # The client's two first packets, sent as soon as it had the reply.
    punches = [p for p in udp(outside.packets()) if p.dst == topo.SERVER]
    assert len(punches) == 2
    w.wait_no_rules()


@BOTH
def test_media_sent_to_a_reserved_port_arrives_once_it_is_open(world, cleanup, nat):
    """What came too early leaves nothing behind that could misdirect what comes in time."""
    w = world(nat)
    client = w.client()
    client.setup()
    stream = w.server.all_streams()[0]
    for _ in range(5):
        stream.send()
        assert len(client.receive()[0]) == 200
    assert client.media[0][0].getsockname()[1]


@BOTH
def test_fragments_arrive(world, nat):
    """4,000 octets over a link of 1,500, both ways, on IPv4."""
    w = world(nat)
    client = w.client()
    reply = client.setup()
    stream = w.server.all_streams()[0]
    for _ in range(3):
        stream.send(size=4000)
        assert len(client.receive()[0]) == 4000
    port = reply.transport()["server_port"][0]
    client.media[0][0].sendto(bytes(4000), (topo.SERVER, port))
    assert len(stream.pair[0].recvfrom(65536)[0]) == 4000


def test_a_reused_outside_port_delivers_to_its_new_owner_only(world):
    """One pair of ports in the pool: the next session gets what the last one had."""
    w = world(nat=True)
    w.agent.finish()
    w.middlebox.finish()
    w.middlebox_policy["nat"]["outside"][0]["ports"] = "16384-16385"
    w.start_middlebox()
    w.start_agent()
    w.agent.wait_ready()
    first, second = w.client(), w.client()
    first.setup()
    old = w.server.all_streams()[0]
    old.send()
    first.receive()
    old_end = old.pair[0].getsockname()
    first.request("TEARDOWN")
    first.media[0][0].settimeout(0.3)
    w.wait_no_rules()

    second.setup()
    new = w.server.all_streams()[0]
    assert new.peer == old.peer
    for _ in range(3):
        w.net.server.forge_udp(old_end, new.peer, b"late")  # from the far end of the old session
        new.send()
        assert len(second.receive()[0]) == 200
    second.media[0][0].settimeout(0.3)
    for client in (first, second):
        with pytest.raises(TimeoutError):
            client.receive()


def test_connection_closed_closes_the_pinholes(world):
    w = world()
    client = w.client()
    client.setup(0)
    client.setup(1)
    client.play()
    assert len(w.rules()) == 4
    client.sock.close()
    w.wait_no_rules(1.0)
    w.server.wait_for("TEARDOWN")


def test_server_that_closes_ends_the_session(world):
    w = world()
    client = w.client()
    client.setup()
    client.play()
    w.server.connections[0].close()
    w.wait_no_rules(1.0)
    with pytest.raises(Closed):
        client.reply()


def test_session_timeout(world):
    """`timeout=` plus ten seconds without a request: TEARDOWN upstream, connection closed."""
    w = world(timeout=2)
    client = w.client()
    client.setup()
    client.play()
    began = time.monotonic()
    client.sock.settimeout(30)
    with pytest.raises(Closed):
        client.reply()
    assert 11 < time.monotonic() - began < 11 + 4 * PATIENCE
    w.server.wait_for("TEARDOWN")
    w.wait_no_rules(1.0)


def test_session_kept_alive_by_requests(world):
    w = world(timeout=2)
    client = w.client()
    client.setup()
    client.play()
    for _ in range(5):
        time.sleep(3)
        assert client.request("GET_PARAMETER").status == 200
    assert len(w.rules()) == 2
    assert client.teardown().status == 200
    w.wait_no_rules()


def test_one_stream_torn_down_leaves_the_other(world):
    w = world()
    client = w.client()
    client.setup(0)
    client.setup(1)
    assert len(w.rules()) == 4
    assert client.request("TEARDOWN", client.base + "/track0").status == 200
    wait_until(lambda: len(w.rules()) == 2, 5, "two rules")


# --- failures ---------------------------------------------------------------------------------


def refused(w, status, upstream_setups):
    """A SETUP that fails: with this status, and nothing is left anywhere."""
    client = w.client()
    began = time.monotonic()
    reply = client.setup(expect=status)
    assert time.monotonic() - began < 2
    assert w.server.count("SETUP") == upstream_setups
    return client, reply


@pytest.mark.san
def test_middlebox_down_is_503_with_retry_after(world):
    w = world()
    w.middlebox.kill()
    client, reply = refused(w, 503, 0)
    assert int(reply["Retry-After"]) > 0
    # Everything that needs no pinhole passes (interleaved media, too).
    assert client.request("OPTIONS").status == 200
    reply = client.request("SETUP", client.base + "/track0",
                           Transport="RTP/AVP/TCP;unicast;interleaved=0-1")
    assert reply.status == 200
    w.start_middlebox()
    w.agent.wait_ready()
    w.client().setup()


@pytest.mark.san
def test_middlebox_that_does_not_answer_is_503(world):
    """Not dead but silent: its packets are dropped."""
    w = world()
    w.net.agent.nft("table inet silence { chain output { type filter hook output priority 0;"
                    " policy accept; tcp dport 7626 drop\n }\n}\n")
    client = w.client()
    began = time.monotonic()
    reply = client.setup(expect=503)
    assert time.monotonic() - began < 2 + PATIENCE / 2
    assert int(reply["Retry-After"]) > 0
    assert w.server.count("SETUP") == 0
    w.net.agent.nft("delete table inet silence\n")
    w.wait_no_rules(35)


def test_no_free_ports_is_453(world):
    w = world(nat=True)
    w.agent.finish()
    w.middlebox.finish()
    w.middlebox_policy["nat"]["outside"][0]["ports"] = "16384-16387"
    w.start_middlebox()
    w.start_agent()
    w.agent.wait_ready()
    client = w.client()
    client.setup(0)
    client.setup(1)
    other, _ = refused(w, 453, 2)
    assert len(w.rules()) == 4
    assert client.teardown().status == 200
    w.wait_no_rules()
    other.setup(0)


def test_agent_policy_is_403(world):
    w = world(agent={"permit": [{"internal": topo.CLIENT_NET, "external": "198.51.100.0/24"}]})
    refused(w, 403, 0)
    assert not w.rules()


def test_middlebox_policy_is_403(world):
    w = world()
    w.agent.finish()
    w.middlebox.finish()
    for permit in w.middlebox_policy["agents"]["agent-1"]["permit"]:
        permit["ports"] = "61000-65535"
    w.start_middlebox()
    w.start_agent()
    w.agent.wait_ready()
    refused(w, 403, 1)
    # The server had accepted: what it gave is given back.
    w.server.wait_for("TEARDOWN")
    w.wait_no_rules()


def test_quota_is_453(world):
    w = world()
    w.agent.finish()
    w.middlebox.finish()
    w.middlebox_policy["agents"]["agent-1"]["max_rules"] = 1
    w.start_middlebox()
    w.start_agent()
    w.agent.wait_ready()
    client = w.client()
    client.setup(0)
    refused(w, 453, 1)
    client.teardown()
    w.wait_no_rules()


def test_server_refusing_setup_leaves_nothing_reserved(world):
    def hook(request, _):
        if request.method == "SETUP":
            return encode("RTSP/1.0 461 Unsupported transport", {"CSeq": request["CSeq"]})
        return None

    w = world(nat=True, hook=hook)
    refused(w, 461, 1)
    w.wait_no_rules(1.0)


def test_server_not_answering_setup_leaves_nothing_reserved(world):
    w = world(nat=True, hook=lambda request, _: b"" if request.method == "SETUP" else None)
    client = w.client()
    client.send("SETUP", client.base + "/track0",
                Transport="RTP/AVP;unicast;client_port=40000-40001")
    wait_until(lambda: len(w.rules()) == 2, 5, "the reservation")
    client.sock.close()
    w.wait_no_rules(1.0)


def test_unreachable_server(world):
    w = world()
    w.server.close()
    try:
        reply = w.client().request("OPTIONS")
    except (Closed, ConnectionError):
        return  # refused like a router would
    assert reply.status == 502


MALFORMED = {
    "no-version": b"SETUP rtsp://192.0.2.10/av\r\nCSeq: 1\r\n\r\n",
    "no-cseq": b"SETUP rtsp://192.0.2.10/av RTSP/1.0\r\n"
               b"Transport: RTP/AVP;unicast;client_port=40000-40001\r\n\r\n",
    "port-zero": b"SETUP rtsp://192.0.2.10/av RTSP/1.0\r\nCSeq: 1\r\n"
                 b"Transport: RTP/AVP;unicast;client_port=0-1\r\n\r\n",
    "port-too-big": b"SETUP rtsp://192.0.2.10/av RTSP/1.0\r\nCSeq: 1\r\n"
                    b"Transport: RTP/AVP;unicast;client_port=65536-65537\r\n\r\n",
    "reversed-ports": b"SETUP rtsp://192.0.2.10/av RTSP/1.0\r\nCSeq: 1\r\n"
                      b"Transport: RTP/AVP;unicast;client_port=40001-40000\r\n\r\n",
    "wide-ports": b"SETUP rtsp://192.0.2.10/av RTSP/1.0\r\nCSeq: 1\r\n"
                  b"Transport: RTP/AVP;unicast;client_port=40000-40009\r\n\r\n",
    "no-transport": b"SETUP rtsp://192.0.2.10/av RTSP/1.0\r\nCSeq: 1\r\n\r\n",
    "garbage": b"\x01\x02\x03\xff garbage\r\n\r\n",
    "bad-length": b"ANNOUNCE rtsp://192.0.2.10/av RTSP/1.0\r\nCSeq: 1\r\n"
                  b"Content-Length: -5\r\n\r\n",
    "two-lengths": b"ANNOUNCE rtsp://192.0.2.10/av RTSP/1.0\r\nCSeq: 1\r\n"
                   b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "endless-line": b"OPTIONS rtsp://192.0.2.10/" + b"a" * 300000,
}


@pytest.mark.san
def test_malformed_requests_get_400_and_go_no_further(world):
    w = world()
    for name, octets in MALFORMED.items():
        client = w.client()
        client.sock.settimeout(5)
        before = len(w.server.requests)
        try:
            client.sock.sendall(octets)
            assert client.reply().status in (400, 413, 414), name
        except (Closed, ConnectionError):
            pass
        assert len(w.server.requests) == before, name
        client.close()
    assert not w.rules()
    w.client().setup()


def test_malformed_replies_are_502_and_go_no_further(world):
    answers = iter([
        {"Session": "1", "Transport": "RTP/AVP;unicast;client_port=%s"},
        {"Session": "1", "Transport": "RTP/AVP;unicast;client_port=%s;server_port=0-1"},
        {"Session": "1", "Transport": "RTP/AVP;unicast;client_port=%s;server_port=99999"},
        {"Session": "1", "Transport": "RTP/AVP;unicast;client_port=2000-2001;"
                                      "server_port=5000-5001"},
        {"Session": "1"},
    ])

    def hook(request, _):
        if request.method != "SETUP":
            return None
        ports = "-".join(str(n) for n in request.transport()["client_port"])
        headers = next(answers)
        if "%s" in headers.get("Transport", ""):
            headers["Transport"] %= ports
        return encode("RTSP/1.0 200 OK", {"CSeq": request["CSeq"], **headers})

    w = world(hook=hook)
    for n in range(5):
        client = w.client()
        client.setup(expect=502)
        client.close()
        w.server.wait_for("TEARDOWN", n + 1)
    w.wait_no_rules()


def test_operator_ends_a_session(world):
    w = world()
    client = w.client()
    client.setup()
    client.play()
    session = w.agent.rest.items("sessions")[0]
    status, _ = w.agent.rest.request("DELETE", f"/v1/sessions/{session['id']}")
    assert status in (200, 202, 204)
    with pytest.raises(Closed):
        client.reply()
    w.server.wait_for("TEARDOWN")
    w.wait_no_rules()


def test_operator_ends_a_rule(world):
    """The middlebox takes a pinhole away: the session ends at both sides."""
    w = world()
    client = w.client()
    client.setup()
    client.play()
    status, _ = w.middlebox.rest.request("DELETE", f"/v1/rules/{w.rules()[0]['pid']}")
    assert status in (200, 202, 204)
    with pytest.raises(Closed):
        client.reply()
    w.server.wait_for("TEARDOWN")
    w.wait_no_rules()
