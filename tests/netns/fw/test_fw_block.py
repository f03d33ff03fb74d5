"""What disable rules block: traffic that static permits let through, and nothing else."""
import pytest

from fwlab import (A1, A2, CLIENT, CLIENT6, NEIGHBOUR, NEIGHBOUR6, OWNER, SERVER, SERVER2, SERVER6,
                   SERVER26, dropped, end, passes)

pytestmark = pytest.mark.san
V4 = (CLIENT, NEIGHBOUR, SERVER, SERVER2)
V6 = (CLIENT6, NEIGHBOUR6, SERVER6, SERVER26)
both_versions = pytest.mark.parametrize("hosts", [V4, V6], ids=["v4", "v6"])
PERMIT = ["--permit", "10.1.0.0/24,any,any,any", "--permit", "fd00:1::/64,any,any,any"]
MARKING = ("add table inet site; add chain inet site f { type filter hook forward priority 0; "
           "policy drop; }; add rule inet site f ct state established accept; "
           "add rule inet site f iifname in accept")


def firewall(lab, mode, *options):
    """Enforce: permits. Mark: the site lets everybody out, and the replies in."""
    if mode == "enforce":
        return lab.tool(*PERMIT, *options)
    lab.fw.nft(MARKING)
    return lab.tool("--mode", "mark", *options)


def block(t, a, b, proto="udp", word="block"):
    ms = " 60000" if word == "block" else ""
    t.run(f"{word} {proto} {a} {b}{ms}", f"{word} {proto} {b} {a}{ms}")


@both_versions
@pytest.mark.parametrize("mode", ["enforce", "mark"])
def test_exact_tuple_and_every_wrong_member(lab, hosts, mode):
    client, neighbour, server, server2 = hosts
    t = firewall(lab, mode)
    c, s = lab.client.udp(client, 5000), lab.server.udp(server, 6000)
    passes(c, (server, 6000), s)
    passes(s, (client, 5000), c)  # a reply, by conntrack
    block(t, end(client, 5000), end(server, 6000))
    assert dropped(c, (server, 6000), s)
    assert dropped(s, (client, 5000), c)  # established, and yet
    others = [(lab.client.udp(client, 5001), (server, 6000), s),
              (lab.neighbour.udp(neighbour, 5000), (server, 6000), s),
              (c, (server, 6001), lab.server.udp(server, 6001)),
              (c, (server2, 6000), lab.server.udp(server2, 6000))]
    for a, to, b in others:
        who = passes(a, to, b)
        passes(b, who, a)
    lab.server.listen(server, 6000)
    assert lab.client.connect(server, 6000, (client, 5000))
    left = int(t.good(f"audit-block udp {end(client, 5000)} {end(server, 6000)}"))
    assert 50000 < left <= 60000
    block(t, end(client, 5000), end(server, 6000), word="unblock")
    passes(c, (server, 6000), s)
    passes(s, (client, 5000), c)
    assert t.do(f"audit-block udp {end(client, 5000)} {end(server, 6000)}").startswith("error")


@pytest.mark.parametrize("mode", ["enforce", "mark"])
@pytest.mark.parametrize("inner,outer,bad,good", [
    (f"{CLIENT}:5000", f"{SERVER}:any", [(SERVER, 6000), (SERVER, 6001)], [(SERVER2, 6000)]),
    (f"{CLIENT}:any", "any:6000", [(SERVER, 6000), (SERVER2, 6000)], [(SERVER, 6001)]),
    ("any:any", f"{SERVER}:6000", [(SERVER, 6000)], [(SERVER, 6001), (SERVER2, 6000)]),
    ("10.1.0.0/30:5000-5001", f"{SERVER}:6000-6001", [(SERVER, 6000), (SERVER, 6001)],
     [(SERVER, 6002), (SERVER2, 6000)]),
    (f"{CLIENT}:any", "192.0.2.10/31:any", [(SERVER2, 6000)], [(SERVER, 6000)]),
    ("any:any", "any:any", [(SERVER, 6000), (SERVER2, 7000)], []),
])
def test_shapes_and_ranges(lab, mode, inner, outer, bad, good):
    t = firewall(lab, mode)
    c = lab.client.udp(CLIENT, 5000)
    sockets = {x: lab.server.udp(*x) for x in bad + good}
    for x in bad + good:
        passes(c, x, sockets[x])
    block(t, inner, outer)
    for x in bad:
        assert dropped(c, x, sockets[x])
        assert dropped(sockets[x], (CLIENT, 5000), c)
    for x in good:
        passes(c, x, sockets[x])
        passes(sockets[x], (CLIENT, 5000), c)
    block(t, inner, outer, word="unblock")
    for x in bad:
        passes(c, x, sockets[x])
        passes(sockets[x], (CLIENT, 5000), c)


def test_wildcards_of_ipv6_and_both_protocols(lab):
    t = firewall(lab, "enforce")
    c, s = lab.client.udp(CLIENT6, 5000), lab.server.udp(SERVER6, 6000)
    lab.server.listen(SERVER6, 6000)
    passes(c, (SERVER6, 6000), s)
    old = lab.client.connect(SERVER6, 6000, (CLIENT6, 5000))
    block(t, end(CLIENT6, 5000), "[fd00:2::/64]:any", "any")
    assert dropped(c, (SERVER6, 6000), s)
    assert dropped(s, (CLIENT6, 5000), c)
    old.close()
    assert not lab.client.connect(SERVER6, 6000, (CLIENT6, 5000))
    assert lab.client.connect(SERVER6, 6000, (CLIENT6, 5001))
    assert int(t.good(f"audit-block any {end(CLIENT6, 5000)} [fd00:2::/64]:any")) > 50000
    block(t, end(CLIENT6, 5000), "[fd00:2::/64]:any", "any", "unblock")
    passes(c, (SERVER6, 6000), s)


@pytest.mark.parametrize("mode", ["enforce", "mark"])
def test_open_tuples_win(lab, mode):
    t = firewall(lab, mode)
    c, s = lab.client.udp(CLIENT, 5000), lab.server.udp(SERVER, 6000)
    block(t, f"{CLIENT}:any", "any:any")
    assert dropped(c, (SERVER, 6000), s)
    t.open((CLIENT, 5000), (SERVER, 6000))
    if mode == "mark":
        lab.fw.nft("insert rule inet site f meta mark 0x51 accept")
    passes(c, (SERVER, 6000), s)
    passes(s, (CLIENT, 5000), c)
    t.shut((CLIENT, 5000), (SERVER, 6000))
    assert dropped(c, (SERVER, 6000), s)


@pytest.mark.parametrize("mode", ["enforce", "mark"])
def test_this_host(lab, mode):
    """Input and output hooks; its own loopback and control connections go on."""
    t = firewall(lab, mode, "--control", f"{A1}:7626", "--control", "0.0.0.0:7627")
    c, f = lab.client.udp(CLIENT, 5000), lab.fw.udp(A1, 6000)
    for port in (7626, 7627, 7628):
        lab.fw.listen(A1, port)
    passes(c, (A1, 6000), f)
    passes(f, (CLIENT, 5000), c)
    block(t, "any:any", "any:any", "any")
    assert dropped(c, (A1, 6000), f)
    with pytest.raises(PermissionError):  # the output hook says so
        f.sendto(b"blocked", (CLIENT, 5000))
    assert lab.client.connect(A1, 7626)
    assert lab.client.connect(A1, 7627)
    assert not lab.client.connect(A1, 7628)
    local = lab.fw.udp("127.0.0.1", 7000)
    passes(lab.fw.udp("127.0.0.1", 7001), ("127.0.0.1", 7000), local)
    # the port of the listener is no way to other sockets
    stranger = lab.client.udp(CLIENT, 7627)
    assert dropped(stranger, (A1, 6000), f)
    block(t, "any:any", "any:any", "any", "unblock")
    passes(c, (A1, 6000), f)


@pytest.mark.parametrize("nat", ["napt", "twice"])
def test_translated(lab, nat):
    """By the addresses inside, for flows that nat.source translates."""
    t = lab.tool("--nat", nat, "--pool", f"{A2},16384-32767", "--inside", "in", "--outside", "out",
                 "--source", f"10.1.0.0/24,{A2},40000-65535", *PERMIT)
    c, s = lab.client.udp(CLIENT, 5000), lab.server.udp(SERVER, 6000)
    who = passes(c, (SERVER, 6000), s)
    assert who[0] == A2
    passes(s, who, c)
    block(t, end(CLIENT, 5000), end(SERVER, 6000))
    assert dropped(c, (SERVER, 6000), s)
    assert dropped(s, who, c)
    n = lab.neighbour.udp(NEIGHBOUR, 5000)
    passes(s, passes(n, (SERVER, 6000), s), n)
    block(t, end(CLIENT, 5000), end(SERVER, 6000), word="unblock")
    who = passes(c, (SERVER, 6000), s)
    passes(s, who, c)


@pytest.mark.parametrize("off", [0, 3])
def test_timeout_refresh_and_absent_ones(lab, off):
    t = firewall(lab, "enforce", "--force-off", off)
    c, s = lab.client.udp(CLIENT, 5000), lab.server.udp(SERVER, 6000)
    a, b = end(CLIENT, 5000), end(SERVER, 6000)
    for dst in (b, f"{SERVER}:any", f"{SERVER}:6000-6009"):
        block(t, a, dst, word="unblock")  # none there
        t.run(f"block udp {a} {dst} 300")
        assert dropped(c, (SERVER, 6000), s)
        t.run(f"block udp {a} {dst} 60000")
        assert int(t.good(f"audit-block udp {a} {dst}")) > 55000
        t.run(f"block udp {a} {dst} 1")
        passes_soon(c, s)
        assert t.do(f"audit-block udp {a} {dst}").startswith("error")
        block(t, a, dst, word="unblock")


@pytest.mark.parametrize("off", [0, 3])
def test_both_directions_are_one_element(lab, off):
    t = firewall(lab, "enforce", "--force-off", off)
    c, s = lab.client.udp(CLIENT, 5000), lab.server.udp(SERVER, 6000)
    for ends in ("any:any", "any:6000-7000", f"{CLIENT}:5000"):
        for _ in range(2):
            block(t, ends, ends)
        assert dropped(c, (SERVER, 6000), s) == (ends == "any:any")
        for _ in range(2):
            block(t, ends, ends, word="unblock")
        passes(c, (SERVER, 6000), s)


def passes_soon(c, s):
    for _ in range(20):
        if not dropped(c, (SERVER, 6000), s):
            return
    raise AssertionError("still blocked")


def test_more_shapes_and_overlaps_than_the_caps(lab):
    t = firewall(lab, "enforce")
    c, s = lab.client.udp(CLIENT, 5000), lab.server.udp(SERVER, 6000)
    for mask in range(1, 15):
        src = f"{CLIENT if mask & 1 else 'any'}:{5000 if mask & 2 else 'any'}"
        dst = f"{SERVER if mask & 4 else 'any'}:{6000 if mask & 8 else 'any'}"
        t.run(f"block udp {src} {dst} 60000")
        assert dropped(c, (SERVER, 6000), s)
        t.run(f"unblock udp {src} {dst}")
        passes(c, (SERVER, 6000), s)
    # more than the layers take is refused, without an abort and without harm to the others
    for i in range(9):
        t.good(f"block udp {CLIENT}:{4000 + i}-6000 10.0.0.0/8:any 60000")
        t.good("txn")
    assert [r != 0 for r in t.commit()] == [False] * 8 + [True, False]
    assert t.good(f"audit-block udp {CLIENT}:4000-6000 10.0.0.0/8:any")


def test_a_ruleset_without_disable_rules_has_no_lookups(lab):
    t = firewall(lab, "enforce")
    assert "@" not in lab.fw.nft("list chain inet sluice block")
    block(t, end(CLIENT, 5000), end(SERVER, 6000))
    assert "@block_exact4 drop" in lab.fw.nft("list chain inet sluice block")
    assert "@block" not in lab.fw.nft("list chain inet sluice forward")


def test_adopted_after_a_crash(lab):
    t = firewall(lab, "enforce", "--force-off", OWNER)
    c, s = lab.client.udp(CLIENT, 5000), lab.server.udp(SERVER, 6000)
    block(t, end(CLIENT, 5000), end(SERVER, 6000))
    block(t, f"{CLIENT}:5001-5002", "192.0.2.0/24:any")
    t.kill()
    assert dropped(c, (SERVER, 6000), s)
    t = lab.tool(*PERMIT, "--adopt", 1, "--force-off", OWNER)
    assert dropped(c, (SERVER, 6000), s)
    assert t.good(f"audit-block udp {end(CLIENT, 5000)} {end(SERVER, 6000)}")
    assert t.good(f"audit-block udp {CLIENT}:5001-5002 192.0.2.0/24:any")
    block(t, f"{CLIENT}:5001-5002", "192.0.2.0/24:any", word="unblock")
    passes(lab.client.udp(CLIENT, 5001), (SERVER, 6000), s)
    t.good("reconfigure")
    assert t.good(f"audit-block udp {end(CLIENT, 5000)} {end(SERVER, 6000)}")
