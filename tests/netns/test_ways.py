"""Ways out: media relayed by the agent, several middleboxes in a row, the pool address being
the agent's own, groups."""

import contextlib
import socket
import struct
import time

import pytest

from lib import topo
from lib.capture import Capture, rtsp, udp
from lib.peers import Ffmpeg, GstPlayer, GstServer
from lib.proc import wait_until
from lib.rtsp import Client, Sender, Server
from lib.sluice import PATIENCE, Agent, Middlebox, Site, agent_policy, middlebox_policy

BOTH = pytest.mark.parametrize("nat", [False, True], ids=["firewall", "nat"])

NEAR, NEAR6, PORT = "10.1.0.1", "fd01::1", 8554  # where clients reach the agent
OTHER_CLIENT = "10.1.0.66"
RELAY_PORTS = "50000-50099"


def forward_listeners(out, **more):
    return [{"listen": f"{NEAR}:{PORT}", "mode": "forward", "out": out, **more},
            {"listen": f"[{NEAR6}]:{PORT}", "mode": "forward", "out": out, **more}]


@pytest.fixture
def proxy(line, cleanup, directory):
    """proxy(nat, one_host, hook): an agent that clients use as a proxy, and a scripted server."""
    def make(nat=False, one_host=False, out="relay", hook=None, server=topo.SERVER, rtsp=None,
             middlebox=None, permit=(), agent=None):
        net = line(topo.OneHost if one_host else topo.Line, translated=nat)
        agents = middlebox_policy(net, directory, nat)["agents"]
        agents["agent-1"].update(middlebox or {})
        own = [NEAR, NEAR6] if one_host else [topo.AGENT, topo.AGENT6]
        for a in own:
            agents["agent-1"]["permit"].append(
                {"internal": a + ("/128" if ":" in a else "/32"), "protocol": "udp",
                 "external": "::/0" if ":" in a else "0.0.0.0/0", "ports": "1024-65535"})
        agents["agent-1"]["permit"].extend(permit)
        relay = {"ports": RELAY_PORTS}
        if one_host:  # the way to the server would be the pool address
            relay["addresses"] = own
        s = Site(net, directory, nat, middlebox={"agents": agents}, intercept=False,
                 agent={"rtsp": rtsp or forward_listeners(out), "relay": relay, **(agent or {})})
        cleanup(s.close)
        if hook or rtsp is None:
            s.server = Server(net.server, server, hook=hook)
            cleanup(s.server.close)

        def client(local=topo.CLIENT):
            near = NEAR6 if ":" in local else NEAR
            c = Client(net.client, server, local, connect_to=(near, PORT))
            cleanup(c.close)
            return c
        s.client = client
        return s
    return make


def capture(cleanup, directory, ns, dev, name, expression=""):
    c = Capture(ns, dev, f"{directory}/{name}.pcap", expression)
    cleanup(c.proc.stop)
    return c


# --- relay ----------------------------------------------------------------------------------------


def deaf_server(senders):
    """Sends before it answers SETUP, and goes on after TEARDOWN."""
    def hook(request, connection):
        if request.method == "SETUP":
            reply = connection.setup(request)
            senders.append(Sender(connection.server.all_streams()[-1], 0.005))
            time.sleep(0.4)
            return reply
        if request.method == "TEARDOWN":
            return connection.ok(request)
        return None
    return hook


@pytest.mark.san
@pytest.mark.parametrize("one_host", [False, True], ids=["two-hosts", "one-host"])
@BOTH
def test_relayed_media_passes_from_reply_to_reply(proxy, cleanup, directory, nat, one_host):
    senders = []
    s = proxy(nat, one_host, hook=deaf_server(senders))
    cleanup(lambda: [sender.stop() for sender in senders])
    link = capture(cleanup, directory, s.net.client, "eth0", "client")
    outside = capture(cleanup, directory, s.net.fw, "out", "out")
    client = s.client()
    reply = client.setup()
    wish = reply.transport()
    assert wish["source"] == NEAR and 50000 <= wish["server_port"][0] < 50100
    assert wish["client_port"][0] == client.media[0][0].getsockname()[1]
    client.punch(reply)
    client.play()
    for _ in range(20):
        data, source = client.receive()
        assert len(data) == 200 and source == (NEAR, wish["server_port"][0])
    stream = s.server.all_streams()[0]
    for component in (0, 1):  # what the client punched with
        data, source = stream.pair[component].recvfrom(100)
        assert len(data) == 12 and source == (stream.peer[0], stream.peer[1] + component)
    # the path's middlebox knows the agent's port only
    far = {r["internal"].rsplit(":", 1)[0] for r in s.rules()}
    assert far == {NEAR if one_host else topo.AGENT}
    session = s.agent.rest.items("sessions")[0]
    assert session["way_out"] == "relay"
    rtp, rtcp = [c["relay"] for c in session["streams"][0]["components"]]
    assert rtp["from_server"]["packets"] >= 20 and rtp["from_client"]["packets"] == 1
    assert rtcp["from_client"]["packets"] == 1

    assert client.teardown().status == 200
    time.sleep(0.5)
    for sender in senders:
        sender.stop()
    due = min(p.time for p in rtsp(outside.stop(), b"Transport: ") if p.src == topo.SERVER)
    answered = max(p.time for p in rtsp(link.stop(), b"RTSP/1.0 200") if p.dst == topo.CLIENT)
    arrived = [p.time for p in udp(outside.packets(), src=topo.SERVER)]
    passed = [p.time for p in udp(link.packets(), dst=topo.CLIENT)]
    assert min(arrived) < due - 0.3 and max(arrived) > answered + 0.3
    assert min(passed) >= due and max(passed) <= answered
    shown = {p.src for p in udp(outside.packets(), dst=topo.SERVER)}
    assert shown == {topo.OUTSIDE if nat else NEAR if one_host else topo.AGENT}
    s.wait_no_rules()


@pytest.mark.san
@BOTH
def test_a_relay_takes_nothing_from_strangers(proxy, nat):
    """Neither from another host nor from another port, on neither side."""
    s = proxy(nat)
    s.net.client.address("eth0", OTHER_CLIENT + "/24")
    client = s.client()
    reply = client.setup()
    port = reply.transport()["server_port"][0]
    stream = s.server.all_streams()[0]
    mine, far = client.media[0][0], stream.pair[0]
    mine.settimeout(0.3)
    far.settimeout(0.3)

    with s.net.client.udp(OTHER_CLIENT, mine.getsockname()[1]) as wrong_host, \
            s.net.client.udp(topo.CLIENT) as wrong_port:
        for stranger in (wrong_host, wrong_port, client.media[0][1]):
            stranger.sendto(b"stranger", (NEAR, port))
        with pytest.raises(TimeoutError):
            far.recvfrom(100)
    with s.net.server.udp(topo.NEIGHBOUR, far.getsockname()[1]) as wrong_host, \
            s.net.server.udp(topo.SERVER) as wrong_port:
        for stranger in (wrong_host, wrong_port, stream.pair[1]):
            stranger.sendto(b"stranger", stream.peer)
        with pytest.raises(TimeoutError):
            mine.recvfrom(100)
    # Behind the firewall, too, where no pinhole is asked for.
    if not nat:
        with s.net.fw.udp(topo.INSIDE) as neighbour:
            neighbour.sendto(b"stranger", stream.peer)
        with pytest.raises(TimeoutError):
            mine.recvfrom(100)
    stream.send()
    assert len(mine.recvfrom(1000)[0]) == 200
    mine.sendto(b"mine", (NEAR, port))
    assert far.recvfrom(100)[0] == b"mine"
    dropped = s.agent.rest.items("sessions")[0]["streams"][0]["components"][0]["relay"]
    assert dropped["from_client"]["dropped"] == 3
    old = far.getsockname()
    assert client.teardown().status == 200
    s.wait_no_rules()
    with s.net.server.udp(*old, timeout=0.3) as far:
        mine.sendto(b"late", (NEAR, port))
        far.sendto(b"late", stream.peer)
        for end in (mine, far):
            with pytest.raises((TimeoutError, ConnectionError)):
                end.recvfrom(100)


@pytest.mark.parametrize("local, server", [(topo.CLIENT6, topo.SERVER),
                                           (topo.CLIENT, topo.SERVER6)], ids=["6-to-4", "4-to-6"])
@BOTH
def test_relay_between_ip_versions(proxy, nat, local, server):
    s = proxy(nat, server=server)
    client = s.client(local)
    reply = client.setup()
    assert reply.transport()["source"] == (NEAR6 if ":" in local else NEAR)
    stream = s.server.all_streams()[0]
    stream.send()
    assert len(client.receive()[0]) == 200
    stream.send(1)
    assert len(client.receive(0, 1)[0]) == 200
    client.punch(reply)
    assert len(stream.pair[1].recvfrom(100)[0]) == 12
    assert client.teardown().status == 200
    s.wait_no_rules()


@pytest.mark.parametrize("out", ["rewrite", "transparent", "auto"])
def test_ip_versions_differ_and_nothing_relays(proxy, out):
    """A 461 that says so; requests that need no pinhole, and interleaved media, pass."""
    s = proxy(out=out)
    client = s.client(topo.CLIENT6)
    assert client.request("DESCRIBE").status == 200
    reply = client.setup(expect=461)
    assert "unsupported" in reply.start and b"IP version" in reply.body
    assert s.server.count("SETUP") == 0
    reply = client.request("SETUP", client.base + "/track0",
                           Transport="RTP/AVP/TCP;unicast;interleaved=0-1")
    assert reply.status == 200
    assert not s.rules()


def test_ffmpeg_6_plays_from_gstreamer_4_through_a_relay(proxy, cleanup, directory):
    mount = {"listen": f"[{NEAR6}]:{PORT}", "mode": "reverse",
             "mounts": {"/cam": {"to": f"rtsp://{topo.SERVER}/av", "out": "relay"}}}
    s = proxy(nat=True, rtsp=[mount])
    server = GstServer(s.net.server, directory + "/server.log")
    cleanup(server.stop)
    player = Ffmpeg(s.net.client, f"rtsp://[{NEAR6}]:{PORT}/cam", 3, directory + "/ffmpeg.log")
    frames = player.finish()
    assert frames["video"] >= 30 and frames["audio"] >= 20
    s.wait_no_rules()


@BOTH
def test_intercepted_gstreamer_plays_through_a_relay(proxy, cleanup, directory, nat):
    listener = {"listen": "0.0.0.0:554", "mode": "transparent", "out": "relay", "tproxy": True}
    s = proxy(nat, rtsp=[listener])
    s.net.intercept()
    server = GstServer(s.net.server, directory + "/server.log")
    cleanup(server.stop)
    player = GstPlayer(s.net.client, f"rtsp://{topo.SERVER}/av", 4, directory + "/player.log")
    counts = player.result()
    assert counts["video"] > 30 and counts["audio"] > 15
    s.wait_no_rules()


# --- the pool address is the agent's own ----------------------------------------------------------


def one_host_agent(out):
    return {"rtsp": forward_listeners(out), "permit": [
        {"internal": topo.CLIENT_NET, "external": "0.0.0.0/0", "ports": "1024-65535"}]}


@pytest.mark.san
def test_rewrite_with_the_agents_own_address(proxy, cleanup, directory):
    """Agent and NAT on one host: control connection and media share an address."""
    senders = []
    s = proxy(nat=True, one_host=True, hook=deaf_server(senders), agent=one_host_agent("rewrite"))
    cleanup(lambda: [sender.stop() for sender in senders])
    s.net.client.address("eth0", OTHER_CLIENT + "/24")
    link = capture(cleanup, directory, s.net.client, "eth0", "client")
    outside = capture(cleanup, directory, s.net.fw, "out", "out")
    client = s.client()
    reply = client.setup()
    assert s.server.connections[0].peer[0] == topo.OUTSIDE
    stream = s.server.all_streams()[0]
    assert stream.peer[0] == topo.OUTSIDE and 16384 <= stream.peer[1] < 32768
    client.punch(reply)
    for component in (0, 1):
        assert stream.pair[component].recvfrom(100)[1] == (
            topo.OUTSIDE, stream.peer[1] + component)
    for _ in range(20):
        assert len(client.receive()[0]) == 200

    stream.pair[0].settimeout(0.3)
    with s.net.server.udp(topo.NEIGHBOUR, stream.pair[0].getsockname()[1]) as wrong_host, \
            s.net.server.udp(topo.SERVER) as wrong_port, \
            s.net.client.udp(OTHER_CLIENT, client.media[0][0].getsockname()[1]) as wrong_client, \
            s.net.fw.udp(topo.OUTSIDE) as agent_itself:
        for stranger in (wrong_host, wrong_port, agent_itself):
            stranger.sendto(b"stranger", stream.peer)
        for stranger in (wrong_client, agent_itself):
            stranger.sendto(b"stranger", stream.pair[0].getsockname())
        with pytest.raises(TimeoutError):
            while True:
                data, source = stream.pair[0].recvfrom(100)
                # The host itself may talk to whom it likes, but not from the client's port.
                assert source[1] == agent_itself.getsockname()[1]
    assert client.teardown().status == 200
    time.sleep(0.5)
    for sender in senders:
        sender.stop()
    answered = max(p.time for p in rtsp(link.stop(), b"RTSP/1.0 200") if p.dst == topo.CLIENT)
    passed = udp(link.packets(), dst=topo.CLIENT)
    assert passed and not [p for p in passed if p.payload == b"stranger"]
    assert max(p.time for p in passed) <= answered
    assert max(p.time for p in udp(outside.stop(), src=topo.SERVER)) > answered + 0.3
    s.wait_no_rules()


@pytest.mark.parametrize("player", ["ffmpeg", "gstreamer"])
def test_players_behind_the_agents_own_address(proxy, cleanup, directory, player):
    mount = {"listen": f"{NEAR}:{PORT}", "mode": "reverse", "out": "auto",
             "mounts": {"/cam": {"to": f"rtsp://{topo.SERVER}/av"}}}
    s = proxy(nat=True, one_host=True, rtsp=[mount])
    server = GstServer(s.net.server, directory + "/server.log")
    cleanup(server.stop)
    url = f"rtsp://{NEAR}:{PORT}/cam"
    if player == "ffmpeg":
        counts = Ffmpeg(s.net.client, url, 3, directory + "/ffmpeg.log").finish()
    else:
        counts = GstPlayer(s.net.client, url, 3, directory + "/player.log").result()
    assert counts["video"] > 30 and counts["audio"] > 15
    s.wait_no_rules()


# --- two middleboxes in a row ---------------------------------------------------------------------

MIDDLE_INNER, MIDDLE_OUTER = "10.2.0.1", "10.2.0.2"


class TwoBoxes(topo.Line):
    """client ── agent ── fw 10.2.0.1 ── 10.2.0.2 fw2 192.0.2.1 ── server; one of them is a NAT.

    Nobody beyond the NAT has a route to what is behind it.
    """

    def __init__(self, inner_nat):
        self.inner_nat = inner_nat
        super().__init__(translated=True)

    def build(self, translated):
        super().build(translated)
        fw, fw2 = self.fw, self.ns("fw2")
        self.fw2 = fw2
        fw2.forwarding()
        fw.ip("link", "set", "dev", "out", "netns", fw2.name)
        fw2.ip("link", "set", "dev", "out", "up")
        fw2.address("out", topo.OUTSIDE + "/24")
        self.link(fw, "out", fw2, "in")
        fw.address("out", MIDDLE_INNER + "/24")
        fw2.address("in", MIDDLE_OUTER + "/24")
        fw.route("default", MIDDLE_OUTER)
        if self.inner_nat:
            self.server.route("10.2.0.0/24", topo.OUTSIDE)
        else:
            fw2.route("10.1.0.0/16", MIDDLE_INNER)


class Chain:
    """Both middleboxes and the agent in that line."""

    def __init__(self, net, directory, cleanup, inner_nat, refuse=None):
        self.net = net
        self.inner = self.box(net, net.fw, directory, "inner", inner_nat, MIDDLE_INNER, topo.INSIDE)
        self.outer = self.box(net, net.fw2, directory, "outer", not inner_nat, topo.OUTSIDE,
                              MIDDLE_OUTER)
        if inner_nat:  # what the outer one sees as the internal end, and as the agent
            agent = self.outer.policy["agents"]["agent-1"]
            agent["address"] = [MIDDLE_INNER + "/32"]
            agent["permit"] = [{"internal": MIDDLE_INNER + "/32", "external": "0.0.0.0/0",
                                "protocol": "udp", "ports": "1024-65535"}]
            self.outer.policy["firewall"]["permit"].append(
                {"from": MIDDLE_INNER + "/32", "to": "0.0.0.0/0", "protocol": "tcp",
                 "ports": "554"})
        self.inner.policy["firewall"]["permit"].append(
            {"from": topo.AGENT + "/32", "to": MIDDLE_OUTER + "/32", "protocol": "tcp",
             "ports": "7626"})
        for name, change in (refuse or {}).items():
            getattr(self, name).policy["agents"]["agent-1"].update(change)
        for box in (self.inner, self.outer):
            box.start()
            cleanup(box.finish)
        policy = agent_policy(
            net, directory,
            middleboxes={"inner": {"address": topo.INSIDE + ":7626"},
                         "outer": {"address": MIDDLE_OUTER + ":7626"}},
            paths=[{"from": "inside", "to": "outside", "through": ["inner", "outer"]}],
            rtsp=forward_listeners("auto"))
        self.agent = Agent(net.agent, directory, policy)
        cleanup(self.agent.finish)
        self.agent.wait_ready()

    @staticmethod
    def box(net, ns, directory, name, nat, outside, simco):
        policy = middlebox_policy(net, directory, nat)
        policy["simco"]["listen"] = [simco + ":7626"]
        policy["ledger"] = f"{directory}/{name}.ledger"
        policy["rest"]["listen"] = [f"unix:{directory}/{name}.sock"]
        if nat:
            policy["agents"]["agent-1"]["pool"] = outside
            policy["nat"]["outside"][0]["address"] = outside
            policy["nat"]["source"][0]["to_address"] = outside
        return Box(ns, directory, policy, name)


class Box:
    """A middlebox that is started once its policy is complete."""

    def __init__(self, ns, directory, policy, name):
        self.ns, self.directory, self.policy, self.name = ns, directory, policy, name

    def start(self):
        self.daemon = Middlebox(self.ns, self.directory, self.policy, self.name)
        self.daemon.wait_healthy()

    def finish(self):
        self.daemon.finish()

    def rules(self):
        return self.daemon.rest.items("rules")


@pytest.fixture
def chain(cleanup, directory):
    def make(inner_nat, hook=None, **options):
        net = TwoBoxes(inner_nat)
        cleanup(net.close)
        c = Chain(net, directory, cleanup, inner_nat, **options)
        c.server = Server(net.server, topo.SERVER, hook=hook)
        cleanup(c.server.close)
        c.client = Client(net.client, topo.SERVER, topo.CLIENT, connect_to=(NEAR, PORT))
        cleanup(c.client.close)
        return c
    return make


ORDER = pytest.mark.parametrize("inner_nat", [False, True],
                                ids=["firewall-then-nat", "nat-then-firewall"])


def wait_nothing_left(c):
    wait_until(lambda: not c.inner.rules() and not c.outer.rules(), 5 * PATIENCE, "no rules")


@pytest.mark.san
@ORDER
def test_two_middleboxes(chain, cleanup, directory, inner_nat):
    senders = []
    c = chain(inner_nat, hook=deaf_server(senders))
    cleanup(lambda: [sender.stop() for sender in senders])
    link = capture(cleanup, directory, c.net.client, "eth0", "client")
    outside = capture(cleanup, directory, c.net.fw2, "out", "out")
    reply = c.client.setup()
    stream = c.server.all_streams()[0]
    c.client.punch(reply)
    for component in (0, 1):
        assert stream.pair[component].recvfrom(100)[1] == (
            stream.peer[0], stream.peer[1] + component)
    for _ in range(20):
        assert len(c.client.receive()[0]) == 200

    # The outer one's internal end is the inner one's outside end.
    inner = {r["outside"]: r for r in c.inner.rules()}
    outer = {r["internal"]: r for r in c.outer.rules()}
    assert len(inner) == 2 and set(inner) == set(outer)
    mine = [f"{topo.CLIENT}:{s.getsockname()[1]}" for s in c.client.media[0]]
    assert sorted(r["internal"] for r in inner.values()) == mine
    shown = f"{stream.peer[0]}:{stream.peer[1]}"
    assert shown in {r["outside"] for r in outer.values()}
    assert stream.peer[0] == (MIDDLE_INNER if inner_nat else topo.OUTSIDE)

    stream.pair[0].settimeout(0.3)
    with c.net.server.udp(topo.NEIGHBOUR, stream.pair[0].getsockname()[1]) as wrong_host, \
            c.net.server.udp(topo.SERVER) as wrong_port:
        for stranger in (wrong_host, wrong_port):
            stranger.sendto(b"stranger", stream.peer)
    assert c.client.teardown().status == 200
    time.sleep(0.5)
    for sender in senders:
        sender.stop()
    due = min(p.time for p in rtsp(outside.stop(), b"Transport: ") if p.src == topo.SERVER)
    answered = max(p.time for p in rtsp(link.stop(), b"RTSP/1.0 200") if p.dst == topo.CLIENT)
    arrived = [p.time for p in udp(outside.packets(), src=topo.SERVER)]
    passed = udp(link.packets(), dst=topo.CLIENT)
    assert min(arrived) < due - 0.3 and max(arrived) > answered + 0.3
    assert min(p.time for p in passed) >= due and max(p.time for p in passed) <= answered
    assert not [p for p in passed if p.payload == b"stranger"]
    wait_nothing_left(c)


@ORDER
@pytest.mark.parametrize("name", ["inner", "outer"])
@pytest.mark.parametrize("change, status, setups", [
    ({"may": ["enable"]}, 403, 0),     # at the reservation
    ({"permit": [{"internal": "10.0.0.0/8", "external": "0.0.0.0/0", "protocol": "udp",
                  "ports": "1024-1025"}]}, 403, 1),  # when the server's ports are known
], ids=["reserve", "enable"])
def test_all_or_nothing(chain, inner_nat, name, change, status, setups):
    """One refuses: nothing stays at the other one, and the server is told."""
    c = chain(inner_nat, refuse={name: change})
    c.client.setup(expect=status)
    assert c.server.count("SETUP") == setups
    if setups:
        c.server.wait_for("TEARDOWN")
    wait_nothing_left(c)


@ORDER
def test_one_of_two_middleboxes_goes(chain, inner_nat):
    """The operator ends a rule at one: the session ends, the other one's rules go."""
    c = chain(inner_nat)
    c.client.setup()
    c.client.play()
    pid = c.outer.rules()[0]["pid"]
    assert c.outer.daemon.rest.request("DELETE", f"/v1/rules/{pid}")[0] in (200, 202, 204)
    c.server.wait_for("TEARDOWN")
    wait_nothing_left(c)


# --- multicast ------------------------------------------------------------------------------------

GROUP, OTHER_GROUP, GROUP_PORT = "232.1.2.3", "232.1.2.4", 5000
GROUPS = {"internal": "232.1.0.0/16", "external": f"{topo.SERVER}/32", "protocol": "udp",
          "ports": "1-65535"}


@contextlib.contextmanager
def multicast_route(ns, source_dev, to_dev, *groups):
    """Static multicast forwarding, as a router's daemon would set it up (linux/mroute.h)."""
    mrt_init, mrt_add_vif, mrt_add_mfc, use_ifindex = 200, 202, 204, 8
    with ns.enter():
        router = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)
        index = [socket.if_nametoindex(dev) for dev in (source_dev, to_dev)]
    with router:
        try:
            router.setsockopt(socket.IPPROTO_IP, mrt_init, struct.pack("i", 1))
        except OSError as e:
            pytest.skip(f"the kernel routes no multicast: {e}")
        for vif, ifindex in enumerate(index):
            router.setsockopt(socket.IPPROTO_IP, mrt_add_vif,
                              struct.pack("=HBBIi4s", vif, use_ifindex, 1, 0, ifindex, bytes(4)))
        for source in (topo.SERVER, topo.NEIGHBOUR):
            for group in groups:
                ttls = bytes([0, 1]) + bytes(30)
                router.setsockopt(socket.IPPROTO_IP, mrt_add_mfc, struct.pack(
                    "4s4sH32sxxIIIi", socket.inet_aton(source), socket.inet_aton(group), 0, ttls,
                    0, 0, 0, 0))
        yield


def join(ns, group, source, local):
    """A socket that receives this group's datagrams."""
    with ns.enter():
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.settimeout(0.3)
    s.bind((group, GROUP_PORT))
    s.setsockopt(socket.IPPROTO_IP, 39, socket.inet_aton(group) + socket.inet_aton(local)
                 + socket.inet_aton(source))  # IP_ADD_SOURCE_MEMBERSHIP
    return s


def group_sender(ns, address, port=0):
    s = ns.udp(address, port)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 8)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(address))
    return s


def group_server(group):
    def hook(request, connection):
        if request.method == "SETUP":
            session = f"{next(connection.server.numbers):x}"
            return connection.ok(request, Session=session, Transport=(
                f"RTP/AVP;multicast;destination={group};port={GROUP_PORT}-{GROUP_PORT + 1};ttl=8"))
        return None
    return hook


def group_site(proxy, nat, group=GROUP, groups="232.0.0.0/8", **middlebox):
    return proxy(nat, one_host=True, hook=group_server(group), permit=[GROUPS],
                 rtsp=forward_listeners("rewrite", **({"multicast": [groups]} if groups else {})),
                 middlebox={"wildcards": True, **middlebox})


def setup_group(client, expect=200):
    reply = client.request("SETUP", client.base + "/track0", Transport="RTP/AVP;multicast")
    assert reply.status == expect, reply.start
    client.session = reply.session if expect == 200 else None
    return reply


@pytest.mark.san
@BOTH
def test_group_is_open_exactly_while_someone_plays(proxy, cleanup, nat):
    s = group_site(proxy, nat)
    routes = contextlib.ExitStack()
    cleanup(routes.close)
    routes.enter_context(multicast_route(s.net.fw, "out", "in", GROUP, OTHER_GROUP))
    member = join(s.net.client, GROUP, topo.SERVER, topo.CLIENT)
    neighbours = join(s.net.client, GROUP, topo.NEIGHBOUR, topo.CLIENT)
    others = join(s.net.client, OTHER_GROUP, topo.SERVER, topo.CLIENT)
    server = group_sender(s.net.server, topo.SERVER)
    other_port = group_sender(s.net.server, topo.SERVER)
    neighbour = group_sender(s.net.server, topo.NEIGHBOUR)
    for end in (member, neighbours, others, server, other_port, neighbour):
        cleanup(end.close)

    def arrives(sender, group=GROUP, at=member):
        sender.sendto(b"media", (group, GROUP_PORT))
        try:
            return at.recvfrom(100)[0] == b"media"
        except TimeoutError:
            return False

    assert not arrives(server)
    first, second = s.client(), s.client()
    reply = setup_group(first)
    assert f"destination={GROUP};port={GROUP_PORT}-{GROUP_PORT + 1}" in reply["Transport"]
    setup_group(second)
    assert arrives(server) and arrives(other_port)
    assert not arrives(neighbour, at=neighbours)
    assert not arrives(server, OTHER_GROUP, others)
    assert {r["internal"] for r in s.rules()} == {f"{GROUP}:{GROUP_PORT}",
                                                  f"{GROUP}:{GROUP_PORT + 1}"}
    assert first.request("TEARDOWN").status == 200
    assert arrives(server)  # for the other client
    assert second.request("TEARDOWN").status == 200
    assert not arrives(server)
    s.wait_no_rules()


def test_no_groups_without_a_policy_for_them(proxy):
    s = group_site(proxy, nat=False, groups=None)
    setup_group(s.client(), 461)
    assert s.server.count("SETUP") == 0


def test_group_outside_of_policy(proxy):
    s = group_site(proxy, nat=False, group="239.1.2.3")
    reply = setup_group(s.client(), 461)
    assert "policy-refused" in reply.start and b"239.1.2.3" in reply.body
    s.server.wait_for("TEARDOWN")
    assert not s.rules()


@pytest.mark.parametrize("change, status", [({"wildcards": False}, 461), ({"permit": []}, 403)],
                         ids=["wildcards", "permit"])
def test_group_refused_by_the_middlebox(proxy, change, status):
    s = proxy(one_host=True, hook=group_server(GROUP), permit=[],
              rtsp=forward_listeners("rewrite", multicast=["232.0.0.0/8"]),
              middlebox={"wildcards": True, **{k: v for k, v in change.items() if k != "permit"}})
    setup_group(s.client(), status)
    s.server.wait_for("TEARDOWN")
    s.wait_no_rules()
