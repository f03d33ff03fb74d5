"""Daemons that die: media goes on where it may, and no pinhole outlives its owner for long."""

import signal
import time

from lib import topo
from lib.capture import Capture, lost_sequence_numbers, udp
from lib.peers import Ffmpeg, GstServer
from lib.proc import wait_until
from lib.rtsp import Client, Sender, Server
from lib.sluice import PATIENCE

import pytest

URL = f"rtsp://{topo.SERVER}/av"


@pytest.mark.san
@pytest.mark.parametrize("nat", [False, True], ids=["firewall", "nat"])
def test_middlebox_killed_while_a_stream_plays(site, cleanup, directory, nat):
    s = site(nat)
    server = GstServer(s.net.server, directory + "/server.log")
    cleanup(server.stop)
    capture = Capture(s.net.client, "eth0", directory + "/client.pcap", "udp")
    cleanup(capture.proc.stop)
    player = Ffmpeg(s.net.client, URL, 8, directory + "/ffmpeg.log")
    player.wait_frames(3, 20 * PATIENCE)
    before = s.rules()
    assert len(before) == 4

    s.middlebox.kill()
    time.sleep(1.0)
    began = time.time()
    s.start_middlebox()
    after = s.rules()
    assert {r["pid"] for r in after} == {r["pid"] for r in before}
    s.agent.wait_ready()  # it is connected again
    assert {r["pid"] for r in s.rules()} == {r["pid"] for r in before}

    frames = player.finish()
    assert frames["video"] >= 100 and frames["audio"] >= 50
    media = udp(capture.stop(), src=topo.SERVER)
    assert lost_sequence_numbers(media) == 0
    assert any(p.time < began for p in media) and any(p.time > began + 1 for p in media)
    s.wait_no_rules()
    assert not any(s.net.fw.elements().values()) or all(
        topo.SERVER not in line for line in
        s.net.fw.run("nft", "list", "table", "inet", "sluice").splitlines())


@pytest.mark.parametrize("nat", [False, True], ids=["firewall", "nat"])
def test_no_packet_is_lost_while_the_middlebox_is_killed_and_comes_back(
        site, cleanup, directory, nat):
    """Some thousand packets a second: a gap of a millisecond would show."""
    s = site(nat)
    server = Server(s.net.server, topo.SERVER)
    cleanup(server.close)
    client = Client(s.net.client, topo.SERVER, topo.CLIENT)
    cleanup(client.close)
    client.setup(0)
    client.play()
    link = Capture(s.net.client, "eth0", directory + "/client.pcap", "udp")
    cleanup(link.proc.stop)
    sender = Sender(server.all_streams()[0])
    cleanup(sender.stop)
    for _ in range(3):
        time.sleep(0.3)
        s.middlebox.kill()
        time.sleep(0.3)
        s.start_middlebox()
    s.agent.wait_ready()
    time.sleep(0.3)
    sender.stop()
    time.sleep(0.2)
    sent = next(sender.stream.sequence) - 1
    arrived = udp(link.stop(), src=topo.SERVER)
    assert sent > 3000
    assert len(arrived) == sent and lost_sequence_numbers(arrived) == 0
    assert client.teardown().status == 200
    s.wait_no_rules()


def test_sessions_that_end_while_the_middlebox_is_away_are_released_after_it_returns(
        site, cleanup):
    s = site()
    server = Server(s.net.server, topo.SERVER)
    cleanup(server.close)
    client = Client(s.net.client, topo.SERVER, topo.CLIENT)
    cleanup(client.close)
    client.setup(0)
    client.play()
    assert len(s.rules()) == 2
    s.middlebox.kill()
    assert client.teardown().status == 200
    s.start_middlebox()
    s.wait_no_rules(20)


def test_agent_killed_its_pinholes_go_within_their_lifetime(site, cleanup):
    s = site(agent={"lifetime": {"reserved": 4, "enabled": 4}})
    server = Server(s.net.server, topo.SERVER)
    cleanup(server.close)
    client = Client(s.net.client, topo.SERVER, topo.CLIENT)
    cleanup(client.close)
    client.setup(0)
    client.play()
    stream = server.all_streams()[0]
    time.sleep(6)  # longer than the lifetime: it is being refreshed
    assert len(s.rules()) == 2
    stream.send()
    client.receive()

    s.agent.kill()
    killed = time.monotonic()
    client.media[0][0].settimeout(0.2)
    stream.send()
    client.receive()  # not at once
    wait_until(lambda: not s.rules(), 10, "the rules to expire")
    assert time.monotonic() - killed < 4 + 1.0
    stream.send()
    with pytest.raises(TimeoutError):
        client.receive()
    s.start_agent()


def test_agent_that_comes_back_deletes_what_it_does_not_know(site, cleanup):
    s = site()
    server = Server(s.net.server, topo.SERVER)
    cleanup(server.close)
    client = Client(s.net.client, topo.SERVER, topo.CLIENT)
    cleanup(client.close)
    client.setup(0)
    assert len(s.rules()) == 2
    s.agent.kill()
    time.sleep(0.5)
    assert len(s.rules()) == 2
    s.start_agent()
    s.wait_no_rules(10)


@pytest.mark.san
def test_agent_stopped_ends_its_sessions(site, cleanup):
    s = site()
    server = Server(s.net.server, topo.SERVER)
    cleanup(server.close)
    client = Client(s.net.client, topo.SERVER, topo.CLIENT)
    cleanup(client.close)
    client.setup(0)
    client.play()
    s.agent.signal(signal.SIGTERM)
    assert s.agent.wait(10) == 0
    assert server.count("TEARDOWN") == 1
    s.wait_no_rules(2)
    s.start_agent()
