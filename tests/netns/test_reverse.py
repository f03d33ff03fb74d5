"""Mounts: real players and servers, Digest, RTSPS, names, publishing."""

import pytest

from lib import topo
from lib.capture import TCP, Capture, udp
from lib.dns import AAAA, Dns
from lib.peers import Ffmpeg, FfmpegPublisher, GstPlayer, GstServer
from lib.pki import Authority
from lib.proc import wait_until
from lib.rtsp import Client, Server
from lib.sluice import PATIENCE, middlebox_policy

AGENT, AGENT6 = "10.1.0.1", "fd01::1"
PORT = 8554
URL, URL6 = f"rtsp://{AGENT}:{PORT}/cam", f"rtsp://[{AGENT6}]:{PORT}/cam"
DNS_PORT = 5353
LOGIN = ("user-id=ada", "user-pw=secret")


def reverse(to, listen=f"0.0.0.0:{PORT}", **changes):
    mounts = to if isinstance(to, dict) else {"/cam": {"to": to}}
    return {"rtsp": [{"listen": listen, "mode": "reverse", "mounts": mounts, **changes}]}


def open_ports(nat, *ports):
    """The middlebox lets the agent's and the clients' control connections to these ports pass."""
    policy = middlebox_policy(topo.Line, "/nowhere", nat)["firewall"]
    extra = [{**p, "ports": str(port)} for p in policy["permit"] for port in ports]
    return {"firewall": {**policy, "permit": policy["permit"] + extra}}


def relay_agents(nat):
    """The middlebox opens pinholes for the agent's own host."""
    agents = middlebox_policy(topo.Line, "/nowhere", nat)["agents"]
    agents["agent-1"]["permit"].append({"internal": topo.AGENT + "/32", "external": "0.0.0.0/0",
                                        "protocol": "udp", "ports": "1024-65535"})
    return {"agents": agents}


@pytest.fixture
def gst(cleanup, directory):
    """gst(ns, *options): a GStreamer server."""
    def make(ns, *options):
        server = GstServer(ns, directory + "/server.log", *options)
        cleanup(server.stop)
        return server
    return make


@pytest.fixture
def dns(cleanup):
    """dns(site's net, names): a name server on the client's host."""
    def make(net, names):
        server = Dns(net.client, topo.CLIENT, names, DNS_PORT)
        cleanup(server.close)
        return server
    return make


def check_played(site, counts, least=(30, 20)):
    assert counts["video"] >= least[0] and counts["audio"] >= least[1]
    site.wait_no_rules()


@pytest.mark.san
@pytest.mark.parametrize("nat", [False, True], ids=["firewall", "nat"])
def test_ffmpeg_through_a_mount(site, gst, cleanup, directory, nat):
    s = site(nat, agent=reverse(f"rtsp://{topo.SERVER}/av"))
    server = gst(s.net.server)
    inside = Capture(s.net.client, "eth0", directory + "/client.pcap")
    outside = Capture(s.net.fw, "out", directory + "/out.pcap")
    for capture in (inside, outside):
        cleanup(capture.proc.stop)
    player = Ffmpeg(s.net.client, URL, 3, directory + "/ffmpeg.log")
    player.wait_frames(3, 20 * PATIENCE)
    assert len(s.rules()) == 4
    check_played(s, player.finish())
    wait_until(lambda: server.requests("teardown") == 1, 5, "TEARDOWN at the server")
    packets = inside.stop()
    # Control goes to the agent alone, and neither side ever reads the other's URLs.
    assert {p.dst for p in packets if p.protocol == TCP and p.src == topo.CLIENT} == {AGENT}
    control = b"".join(p.payload for p in packets if p.protocol == TCP and p.src == AGENT)
    assert f"rtsp://{topo.SERVER}".encode() not in control and URL.encode() in control
    control = b"".join(p.payload for p in outside.stop() if p.protocol == TCP)
    assert f"rtsp://{topo.SERVER}/av".encode() in control and AGENT.encode() not in control
    # Media does not.
    assert {p.src for p in udp(packets, dst=topo.CLIENT)} == {topo.SERVER}


@pytest.mark.san
@pytest.mark.parametrize("nat", [False, True], ids=["firewall", "nat"])
@pytest.mark.parametrize("player", ["ffmpeg", "gstreamer"])
def test_digest_and_short_timeout(site, gst, directory, player, nat):
    """The client computes its Digest for the agent's URL; keep-alives hold a session of 8 s."""
    s = site(nat, agent=reverse({"/a/b": {"to": f"rtsp://{topo.SERVER}:554/av/"}}))
    server = gst(s.net.server, "--digest", "ada:secret", "--timeout", "8")
    url = f"rtsp://{AGENT}:{PORT}/a/b"
    if player == "gstreamer":
        counts = GstPlayer(s.net.client, url, 14, directory + "/player.log", *LOGIN).result()
    else:
        url = url.replace("//", "//ada:secret@")
        counts = Ffmpeg(s.net.client, url, 14, directory + "/player.log").finish()
    check_played(s, counts, (150, 100))
    assert server.requests("get-parameter") + server.requests("options") >= 2


@pytest.mark.parametrize("player", ["ffmpeg", "gstreamer"])
def test_ipv6(site, gst, directory, player):
    s = site(agent=reverse(f"rtsp://[{topo.SERVER6}]/av", f"[::]:{PORT}"))
    gst(s.net.server, "--address", "::")
    if player == "gstreamer":
        counts = GstPlayer(s.net.client, URL6, 4, directory + "/player.log").result()
    else:
        counts = Ffmpeg(s.net.client, URL6, 3, directory + "/player.log").finish()
    check_played(s, counts)


@pytest.mark.parametrize("out", ["rewrite", "transparent"])
def test_wrong_password_is_refused(site, gst, directory, out):
    s = site(nat=out == "rewrite", agent=reverse(f"rtsp://{topo.SERVER}/av", out=out))
    gst(s.net.server, "--digest", "ada:secret")
    player = GstPlayer(s.net.client, URL, 5, directory + "/player.log", "user-id=ada",
                       "user-pw=wrong")
    assert not player.result() and player.popen.returncode == 1
    assert "Unauthorized" in player.text() and not s.rules()


@pytest.mark.san
@pytest.mark.parametrize("nat", [False, True], ids=["firewall", "nat"])
def test_rtsps_on_both_sides(site, gst, directory, nat):
    """TLS to the agent and TLS to the server; media is UDP, by the same pinholes."""
    ca, cameras = Authority(directory), Authority(directory, "cameras")
    certificate, key = ca.issue(AGENT, "agent.test")
    policy = reverse(f"rtsps://{topo.SERVER}/av", "0.0.0.0:322",
                     tls={"certificate": certificate, "key": key},
                     upstream_tls={"ca": cameras.file})
    s = site(nat, agent=policy, middlebox=open_ports(nat, 322))
    gst(s.net.server, "--port", "322", "--tls", *cameras.issue(topo.SERVER))
    # GStreamer takes 554 for the default port of rtsps, too.
    player = GstPlayer(s.net.client, f"rtsps://{AGENT}:322/cam", 4, directory + "/player.log",
                       "ca=" + ca.file)
    check_played(s, player.result())


def test_intercepted_rtsps(site, gst, directory):
    """Where the agent has the server's certificate, intercepted RTSPS gets its pinholes, too."""
    ca = Authority(directory)
    certificate, key = ca.issue(topo.SERVER)
    s = site(agent={"rtsp": [{"listen": "0.0.0.0:8322", "mode": "transparent",
                              "tls": {"certificate": certificate, "key": key},
                              "upstream_tls": {"ca": ca.file}}]},
             middlebox=open_ports(False, 322))
    s.net.agent.nft("""
table ip hand_over {
	chain prerouting {
		type nat hook prerouting priority dstnat;
		iifname "cl" tcp dport 322 redirect to :8322
	}
}
""")
    gst(s.net.server, "--port", "322", "--tls", certificate, key)
    player = GstPlayer(s.net.client, f"rtsps://{topo.SERVER}:322/av", 4,
                       directory + "/player.log", "ca=" + ca.file)
    check_played(s, player.result())


@pytest.mark.parametrize("player", ["ffmpeg", "gstreamer"])
def test_cameras_inside_viewers_outside(site, gst, directory, player):
    """The other way round, through a firewall: a path from outside to inside."""
    policy = middlebox_policy(topo.Line, directory)
    policy["agents"]["agent-1"]["permit"] = [
        {"internal": "192.0.2.0/24", "external": topo.CLIENT_NET, "protocol": "udp",
         "ports": "1024-65535"}]
    policy["firewall"]["permit"] += [
        {"from": "192.0.2.0/24", "to": topo.AGENT + "/32", "protocol": "tcp", "ports": "8554"}]
    s = site(agent={**reverse(f"rtsp://{topo.CLIENT}/av"),
                    "paths": [{"from": "outside", "to": "inside", "through": ["edge"]}]},
             middlebox={"agents": policy["agents"], "firewall": policy["firewall"]})
    gst(s.net.client)
    url = f"rtsp://{topo.AGENT}:{PORT}/cam"
    if player == "gstreamer":
        counts = GstPlayer(s.net.server, url, 4, directory + "/player.log").result()
    else:
        counts = Ffmpeg(s.net.server, url, 3, directory + "/player.log").finish()
    check_played(s, counts)


@pytest.mark.san
@pytest.mark.parametrize("nat", [False, True], ids=["firewall", "nat"])
def test_ipv6_client_of_an_ipv4_server(site, gst, directory, nat):
    """Relayed by the agent: the pinholes are for its own address, the client's side needs none."""
    s = site(nat, agent={**reverse({"/cam": {"to": f"rtsp://{topo.SERVER}/av", "out": "relay"}},
                                   f"[::]:{PORT}"),
                         "zones": {"inside": [topo.CLIENT_NET, topo.CLIENT_NET6,
                                              topo.AGENT + "/32"],
                                   "outside": ["0.0.0.0/0", "::/0"]},
                         "relay": {"ports": "50000-50999"}},
             middlebox=relay_agents(nat))
    gst(s.net.server)
    player = Ffmpeg(s.net.client, URL6, 3, directory + "/ffmpeg.log")
    player.wait_frames(3, 20 * PATIENCE)
    assert len(s.rules()) == 4
    check_played(s, player.finish())


def test_rtsps_server_must_prove_itself(site, gst, directory, cleanup):
    """A certificate of another authority, or for another host: 502 unless nobody checks."""
    cameras, other = Authority(directory), Authority(directory, "other")
    to = {"/cam": {"to": f"rtsps://{topo.SERVER}/av"}}
    s = site(agent={"rtsp": [
        {"listen": f"0.0.0.0:{PORT + n}", "mode": "reverse", "mounts": to, "upstream_tls": tls}
        for n, tls in enumerate([{"ca": other.file}, {"ca": cameras.file}, {"verify": False}])]},
        middlebox=open_ports(False, 322))
    gst(s.net.server, "--port", "322", "--tls", *cameras.issue("192.0.2.99"))
    for port, status in ((PORT, 502), (PORT + 1, 502), (PORT + 2, 200)):
        client = Client(s.net.client, AGENT, topo.CLIENT, port)
        cleanup(client.close)
        reply = client.request("DESCRIBE", f"rtsp://{AGENT}:{port}/cam")
        assert reply.status == status, reply.start
        if status == 502:
            assert "peer-unreachable" in reply.start
            assert b"certificate was not accepted" in reply.body


@pytest.mark.san
def test_names(site, gst, dns, directory, cleanup):
    """Mounts and URIs name servers; a dead address is passed over, a silent server bounded."""
    rtsp = reverse({"/cam": {"to": "rtsp://camera.test/av"}, "/no": {"to": "rtsp://no.test/av"},
                    "/self": {"to": "rtsp://self.test/av"}})["rtsp"]
    rtsp += [{"listen": "0.0.0.0:8555", "mode": "forward", "out": "auto"}]
    s = site(agent={"rtsp": rtsp, "resolver": [f"{topo.CLIENT}:{DNS_PORT}"]})
    names = dns(s.net, {"camera.test": [topo.SERVER6, topo.NEIGHBOUR, topo.SERVER],
                        "self.test": ["127.0.0.1", AGENT]})
    gst(s.net.server, "--address", topo.SERVER)
    # The neighbour's address refuses connections, and IPv6 has nobody.
    check_played(s, Ffmpeg(s.net.client, URL, 3, directory + "/ffmpeg.log").finish())
    assert {kind for name, kind in names.asked if name == "camera.test"} == {1, AAAA}
    asked = len(names.asked)
    player = GstPlayer(s.net.client, "rtsp://camera.test/av", 4, directory + "/player.log",
                       f"proxy=http://{AGENT}:8555")
    check_played(s, player.result())
    assert len(names.asked) == asked  # still known
    client = Client(s.net.client, AGENT, topo.CLIENT, PORT)
    cleanup(client.close)
    reply = client.request("DESCRIBE", f"rtsp://{AGENT}/no")
    assert reply.status == 502 and b"cannot resolve no.test" in reply.body
    # A name is no way around what policy refuses.
    reply = client.request("DESCRIBE", f"rtsp://{AGENT}/self")
    assert reply.status == 403 and b"own host" in reply.body
    assert client.request("DESCRIBE", f"rtsp://{AGENT}/none").status == 404


def test_silent_name_server_holds_up_nobody_else(site, dns, directory, cleanup):
    rtsp = reverse({"/slow": {"to": "rtsp://slow.test/av"},
                    "/cam": {"to": f"rtsp://{topo.SERVER}/av"}})
    s = site(agent={**rtsp, "resolver": [f"{topo.CLIENT}:{DNS_PORT}"]})
    names = dns(s.net, {"slow.test": None})
    server = Server(s.net.server, topo.SERVER)
    cleanup(server.close)
    slow, gone, other = (Client(s.net.client, AGENT, topo.CLIENT, PORT, timeout=30.0)
                         for _ in range(3))
    for client in (slow, gone, other):
        cleanup(client.close)
    slow.send("OPTIONS", f"rtsp://{AGENT}/slow")
    gone.send("OPTIONS", f"rtsp://{AGENT}/slow")
    wait_until(lambda: names.asked, 5, "a question")
    gone.close()
    for _ in range(3):
        assert other.request("OPTIONS", f"rtsp://{AGENT}/cam").status == 200
    reply = slow.reply()
    assert reply.status == 504 and "peer-unreachable" in reply.start
    # Pipelined behind it: in order, on the same connection.
    assert slow.request("OPTIONS", f"rtsp://{AGENT}/cam").status == 200


@pytest.mark.parametrize("nat", [False, True], ids=["firewall", "nat"])
def test_publish(site, gst, directory, nat):
    s = site(nat, agent=reverse({"/up": {"to": f"rtsp://{topo.SERVER}/rec"}}))
    server = gst(s.net.server)
    publisher = FfmpegPublisher(s.net.client, f"rtsp://{AGENT}:{PORT}/up", 4,
                                directory + "/publisher.log")
    wait_until(lambda: min(server.packets()) >= 10, 20 * PATIENCE, "published packets")
    assert len(s.rules()) == 4
    assert publisher.wait(20) == 0, publisher.text()
    s.wait_no_rules()
    assert min(server.packets()) >= 20


def test_reload_moves_a_mount(site, directory, cleanup):
    """Connections go on with the mounts that they began with; new ones get the new ones."""
    s = site(agent=reverse(f"rtsp://{topo.SERVER}/av"))
    servers = [Server(s.net.server, address) for address in (topo.SERVER, topo.NEIGHBOUR)]
    for server in servers:
        cleanup(server.close)
    old = Client(s.net.client, AGENT, topo.CLIENT, PORT)
    cleanup(old.close)
    assert old.request("OPTIONS", URL).status == 200
    s.agent.policy.update(reverse(f"rtsp://{topo.NEIGHBOUR}/live"))
    s.agent.write_policy()
    s.agent.signal(1)
    s.agent.wait_line(r"in force", 5)
    fresh = Client(s.net.client, AGENT, topo.CLIENT, PORT)
    cleanup(fresh.close)
    assert fresh.request("OPTIONS", URL).status == 200
    assert old.request("OPTIONS", URL + "/x").status == 200
    assert [r.uri for r in servers[0].requests] == [f"rtsp://{topo.SERVER}/av",
                                                    f"rtsp://{topo.SERVER}/av/x"]
    assert [r.uri for r in servers[1].requests] == [f"rtsp://{topo.NEIGHBOUR}/live"]
