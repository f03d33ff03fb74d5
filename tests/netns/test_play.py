"""Real players and a real server through the firewall: what passes, and when."""

import pytest

from lib import topo
from lib.capture import TCP, Capture, lost_sequence_numbers, rtsp, udp
from lib.peers import Ffmpeg, GstPlayer, GstServer
from lib.proc import wait_until
from lib.sluice import PATIENCE

URL = f"rtsp://{topo.SERVER}/av"
URL6 = f"rtsp://[{topo.SERVER6}]/av"


@pytest.fixture
def captures(cleanup, directory):
    """captures(site): the client's link and both sides of the firewall."""
    def make(site):
        net = site.net
        made = {
            "client": Capture(net.client, "eth0", directory + "/client.pcap"),
            "in": Capture(net.fw, "in", directory + "/in.pcap", "not port 7626"),
            "out": Capture(net.fw, "out", directory + "/out.pcap"),
        }
        for capture in made.values():
            cleanup(capture.proc.stop)
        return made
    return make


def header(packet, name):
    for line in packet.payload.decode("latin-1").split("\r\n"):
        if line.lower().startswith(name.lower() + ":"):
            return line.split(":", 1)[1].strip()
    return None


def replies_to(packets, method):
    """The packets that answer requests of this method, on one link."""
    asked = {(p.src, p.sport, header(p, "CSeq")) for p in rtsp(packets, method.encode() + b" ")}
    return [p for p in rtsp(packets, b"RTSP/1.0 ")
            if (p.dst, p.dport, header(p, "CSeq")) in asked]


def check_nothing_early(seen):
    """No media passed the firewall before the server's first SETUP reply had reached it."""
    due = min(p.time for p in replies_to(seen["out"], "SETUP") if header(p, "Transport"))
    inward = udp(seen["in"], src=topo.SERVER)
    outward = [p for p in udp(seen["out"]) if p.src in (topo.CLIENT, topo.OUTSIDE)]
    assert inward and outward
    early = [p for p in inward + outward if p.time < due]
    assert not early


def check_nothing_late(seen):
    """No media passed the firewall after the client's TEARDOWN was answered.

    A client that does not wait for the answer gets none: half a second then.
    """
    asked = [p.time for p in rtsp(seen["client"], b"TEARDOWN ")]
    end = min([p.time for p in replies_to(seen["client"], "TEARDOWN")], default=asked[0] + 0.5)
    late = udp(seen["in"], src=topo.SERVER)
    late += [p for p in udp(seen["out"]) if p.src in (topo.CLIENT, topo.OUTSIDE)]
    assert not [p for p in late if p.time > end]


def check_no_punch_lost(seen):
    """Every datagram that the client sent left the firewall at the other side.

    In order within a flow; flows may pass each other on two processors.
    """
    sent = udp(seen["client"], src=topo.CLIENT)
    passed = udp(seen["out"], src=topo.CLIENT)
    assert sent and len(passed) == len(sent)
    for port in {p.sport for p in sent}:
        assert [p.payload for p in passed if p.sport == port] == [
            p.payload for p in sent if p.sport == port]


@pytest.mark.san
@pytest.mark.parametrize("one_host", [False, True], ids=["two-hosts", "one-host"])
@pytest.mark.parametrize("nat", [False, True], ids=["firewall", "nat"])
def test_ffmpeg_plays_over_udp(site, captures, cleanup, directory, nat, one_host):
    s = site(nat, one_host)
    server = GstServer(s.net.server, directory + "/server.log")
    cleanup(server.stop)
    capture = captures(s)
    player = Ffmpeg(s.net.client, URL, 3, directory + "/ffmpeg.log")
    player.wait_frames(3, 20 * PATIENCE)
    assert len(s.rules()) == 4  # two streams, RTP and RTCP
    frames = player.finish()
    assert frames["video"] >= 30 and frames["audio"] >= 20
    s.wait_no_rules()
    wait_until(lambda: server.requests("teardown") == 1, 5, "TEARDOWN at the server")
    seen = {name: c.stop() for name, c in capture.items()}
    check_nothing_early(seen)
    check_nothing_late(seen)
    if not nat:
        check_no_punch_lost(seen)
    # Nothing but the pool address is ever seen outside a NAT.
    outside = {p.dst for p in udp(seen["out"], src=topo.SERVER)}
    assert outside == {topo.OUTSIDE if nat else topo.CLIENT}
    assert lost_sequence_numbers(udp(seen["client"], src=topo.SERVER)) == 0


@pytest.mark.parametrize("nat", [False, True], ids=["firewall", "nat"])
def test_gstreamer_plays_over_udp(site, captures, cleanup, directory, nat):
    s = site(nat)
    server = GstServer(s.net.server, directory + "/server.log", "--digest", "ada:secret",
                       "--timeout", "10")
    cleanup(server.stop)
    capture = captures(s)
    player = GstPlayer(s.net.client, URL, 4, directory + "/player.log", "user-id=ada",
                       "user-pw=secret")
    counts = player.result()
    assert counts["video"] > 30 and counts["audio"] > 20
    s.wait_no_rules()
    seen = {name: c.stop() for name, c in capture.items()}
    check_nothing_early(seen)
    check_nothing_late(seen)
    if not nat:
        check_no_punch_lost(seen)


@pytest.mark.san
def test_ipv6(site, captures, cleanup, directory):
    s = site()
    server = GstServer(s.net.server, directory + "/server.log", "--address", "::")
    cleanup(server.stop)
    player = Ffmpeg(s.net.client, URL6, 2, directory + "/ffmpeg.log")
    player.wait_frames(3, 20 * PATIENCE)
    assert len(s.rules()) == 4
    frames = player.finish()
    assert frames["video"] >= 20 and frames["audio"] >= 10
    s.wait_no_rules()


FORWARD = {"rtsp": [{"listen": "0.0.0.0:8555", "mode": "forward", "out": "auto"}]}


@pytest.mark.parametrize("nat", [False, True], ids=["firewall", "nat"])
def test_forward_proxy(site, captures, cleanup, directory, nat):
    s = site(nat, agent=FORWARD, intercept=not nat)
    server = GstServer(s.net.server, directory + "/server.log")
    cleanup(server.stop)
    capture = captures(s)
    player = GstPlayer(s.net.client, URL, 4, directory + "/player.log",
                       "proxy=http://10.1.0.1:8555")
    counts = player.result()
    assert counts["video"] > 30 and counts["audio"] > 20
    s.wait_no_rules()
    seen = {name: c.stop() for name, c in capture.items()}
    check_nothing_early(seen)
    check_nothing_late(seen)
    assert all(p.dst == "10.1.0.1" for p in seen["client"]
               if p.protocol == TCP and p.src == topo.CLIENT)


def test_interleaved_passes_without_a_pinhole(site, cleanup, directory):
    s = site()
    server = GstServer(s.net.server, directory + "/server.log")
    cleanup(server.stop)
    player = Ffmpeg(s.net.client, URL, 2, directory + "/ffmpeg.log", transport="tcp")
    player.wait_frames(3, 20 * PATIENCE)
    assert not s.rules()
    frames = player.finish()
    assert frames["video"] >= 20 and frames["audio"] >= 10


def test_two_players_at_once(site, cleanup, directory):
    s = site(nat=True)
    server = GstServer(s.net.server, directory + "/server.log")
    cleanup(server.stop)
    players = [Ffmpeg(s.net.client, URL, 3, f"{directory}/ffmpeg-{i}.log") for i in (0, 1)]
    for player in players:
        player.wait_frames(3, 20 * PATIENCE)
    assert len(s.rules()) == 8
    for player in players:
        frames = player.finish()
        assert frames["video"] >= 30 and frames["audio"] >= 20
    s.wait_no_rules()


@pytest.mark.parametrize("nat", [False, True], ids=["firewall", "nat"])
def test_another_port_of_the_right_host_is_dropped(site, captures, cleanup, directory, nat):
    s = site(nat)
    server = GstServer(s.net.server, directory + "/server.log")
    cleanup(server.stop)
    capture = captures(s)
    player = Ffmpeg(s.net.client, URL, 4, directory + "/ffmpeg.log")
    player.wait_frames(3, 20 * PATIENCE)
    media = udp(capture["out"].packets(), src=topo.SERVER)[0]
    target = (media.dst, media.dport)
    s.net.server.forge_udp((topo.SERVER, media.sport + 1000), target, b"wrong port")
    s.net.server.forge_udp((topo.NEIGHBOUR, media.sport), target, b"wrong host")
    s.net.server.forge_udp((topo.SERVER, media.sport), target, b"right")
    capture["client"].wait(lambda packets: [p for p in packets if p.payload == b"right"])
    payloads = {p.payload for p in capture["client"].stop()}
    assert not payloads & {b"wrong port", b"wrong host"}
    player.finish()
