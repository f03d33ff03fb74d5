"""The test bench itself: without Sluice, real peers and the plain firewall behave as expected."""

from lib import topo
from lib.capture import Capture, udp
from lib.peers import Ffmpeg, GstPlayer, GstServer
from lib.rtsp import Client, Server

OPEN = """
table inet site
delete table inet site
"""


def test_default_drop_stops_media_and_an_open_firewall_does_not(line, cleanup, directory):
    net = line()
    net.plain_firewall()
    server = GstServer(net.server, directory + "/server.log")
    cleanup(server.stop)
    inside = Capture(net.fw, "in", directory + "/in.pcap", "udp")
    cleanup(inside.stop)

    player = Ffmpeg(net.client, f"rtsp://{topo.SERVER}/av", 2, directory + "/drop.log",
                    "-timeout", "2500000")
    assert player.finish() == {"video": 0, "audio": 0}
    assert not udp(inside.packets(), src=topo.SERVER)
    assert net.fw.counter("site", "dropped") > 0

    net.fw.nft(OPEN)
    player = Ffmpeg(net.client, f"rtsp://{topo.SERVER}/av", 2, directory + "/open.log")
    frames = player.finish()
    assert frames["video"] > 20 and frames["audio"] > 10
    inside.wait(lambda packets: udp(packets, src=topo.SERVER))


def test_forged_datagrams_carry_any_source_port(line, directory):
    net = line()
    with net.client.udp(topo.CLIENT) as receiver:
        net.server.forge_udp((topo.SERVER, 7), (topo.CLIENT, receiver.getsockname()[1]), b"x")
        assert receiver.recvfrom(100) == (b"x", (topo.SERVER, 7))


def test_scripted_client_and_server_play(line, cleanup):
    net = line()
    server = Server(net.server, topo.SERVER)
    cleanup(server.close)
    client = Client(net.client, topo.SERVER, topo.CLIENT)
    cleanup(client.close)
    assert client.request("DESCRIBE").body.startswith(b"v=0")
    client.punch(client.setup(0), 0)
    client.setup(1)
    client.play()
    for stream in server.all_streams():
        stream.send()
        stream.send(component=1)
    for track in (0, 1):
        assert len(client.receive(track)[0]) == 200
        assert client.receive(track, 1)[0][1] == 201
    assert client.teardown().status == 200
    assert server.count("TEARDOWN") == 1 and not server.all_streams()


def test_gstreamer_plays_with_digest(line, cleanup, directory):
    net = line()
    server = GstServer(net.server, directory + "/server.log", "--digest", "ada:secret")
    cleanup(server.stop)
    player = GstPlayer(net.client, f"rtsp://{topo.SERVER}/av", 2, directory + "/player.log",
                       "user-id=ada", "user-pw=secret")
    counts = player.result()
    assert counts["video"] > 10 and counts["audio"] > 10
