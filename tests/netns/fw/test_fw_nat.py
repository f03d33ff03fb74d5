"""NAPT, twice NAT, mark mode: the house rules for addresses, ports and conntrack entries."""
import pytest

from fwlab import (A1, A2, CLIENT, FORGET, INPUT_DROP, NEIGHBOUR, POOL_GUARD, SERVER, SERVER2,
                   SOURCE, dropped, end, passes, recv, refused)

A0, POOL, A3 = (CLIENT, 5000), (A2, 20000), (SERVER, 6000)


@pytest.mark.san
def test_both_directions(lab):
    t = lab.napt()
    c, s = lab.client.udp(*A0), lab.server.udp(*A3)
    t.bind(A0, POOL, A3)
    assert passes(c, A3, s) == POOL
    assert passes(s, POOL, c) == A3
    # a stranger, a wrong port, another binding's remote
    assert dropped(lab.server.udp(SERVER2, 6000), POOL, c)
    assert dropped(lab.server.udp(SERVER, 6001), POOL, c)
    assert dropped(s, (A2, 20001), c)
    assert len(lab.fw.conntrack()) == 1
    t.unbind(A0, POOL, A3)
    assert dropped(s, POOL, c)
    assert dropped(c, A3, s)
    assert not lab.fw.conntrack()


def test_inbound_first_and_tcp(lab):
    t = lab.napt()
    c, s = lab.client.udp(*A0), lab.server.udp(*A3)
    t.bind(A0, POOL, A3, proto="any")
    assert passes(s, POOL, c) == A3
    assert passes(c, A3, s) == POOL
    lab.client.listen(*A0)
    x = lab.server.connect(*POOL, source=A3)
    assert x
    x.close()
    t.unbind(A0, POOL, A3, proto="any")
    assert not lab.server.connect(*POOL, source=A3)


def test_two_remotes_on_one_outside_port(lab):
    t = lab.napt()
    c, s = lab.client.udp(*A0), lab.server.udp(*A3)
    s2 = lab.server.udp(SERVER2, 6002)
    t.bind(A0, POOL, A3)
    t.bind(A0, POOL, (SERVER2, 6002))
    for x, to in ((s, A3), (s2, (SERVER2, 6002))):
        assert passes(c, to, x) == POOL
        assert passes(x, POOL, c) == to
    t.run(*t.both("close", A0, A3), f"forget udp {end(*A0)} {end(*A3)} {end(*A0)} {end(*POOL)}")
    assert dropped(s, POOL, c)
    passes(s2, POOL, c)


@pytest.mark.san
@pytest.mark.parametrize("off", [0, 1, 2, 3, 31])
def test_binding_refreshed_and_moved(lab, off):
    t = lab.napt("--force-off", off)
    c, s = lab.client.udp(*A0), lab.server.udp(*A3)
    for _ in range(2):
        t.bind(A0, POOL, A3)
        passes(c, A3, s)
        passes(s, POOL, c)
    # the same inside end, another outside port, in one transaction
    other = (A2, 20002)
    t.run(f"unbind udp {end(*A0)} {end(*POOL)} 0", f"bind udp {end(*A0)} {end(*other)} 60000",
          f"forget udp {end(*A0)} {end(*A3)} {end(*A0)} {end(*POOL)}",
          f"forget udp {end(*A0)} {end(*A3)} {end(*A0)} {end(*other)}")
    assert passes(c, A3, s) == other
    assert dropped(s, POOL, c)


def reserved_port(lab, omit):
    """Media reaches a port that is only reserved, goes on, and the port is opened."""
    t = lab.napt("--omit", omit)
    s, c = lab.server.udp(*A3, peer=POOL), lab.client.udp(*A0)
    answered = refused(s)
    entries = len(lab.fw.conntrack())
    t.bind(A0, POOL, A3)
    s.send(b"later")
    got = recv(c)
    return answered, entries, got is not None


def test_a_reserved_port_answers_nothing_and_opens_later(lab):
    assert reserved_port(lab, 0) == (False, 0, True)


@pytest.mark.parametrize("omit,expected", [(INPUT_DROP, (True, 1, True)),
                                           (INPUT_DROP | FORGET, (True, 1, False))])
def test_reserved_ports_need_the_rules(lab, omit, expected):
    assert reserved_port(lab, omit) == expected


def early_punch(lab, omit):
    """The client sends before the pinhole, through a site that lets it out and masquerades."""
    lab.site()
    t = lab.napt("--mode", "mark", "--omit", omit)
    c, s = lab.client.udp(*A0), lab.server.udp(*A3)
    assert passes(c, A3, s) == (A2, 5000)
    t.bind(A0, POOL, A3)
    c.sendto(b"media", A3)
    got = recv(s)
    s.sendto(b"media", POOL)
    return got[1], recv(c) is not None


def test_an_early_punch_does_not_change_the_ports(lab):
    assert early_punch(lab, 0) == (POOL, True)


def test_early_punches_need_the_rule(lab):
    assert early_punch(lab, FORGET) != (POOL, True)


def neighbour_on_pool_port(lab, omit):
    """A neighbour sends from a port that is the media's outside port."""
    lab.site()
    t = lab.napt("--mode", "mark", "--omit", omit)
    c, n, s = lab.client.udp(*A0), lab.neighbour.udp(NEIGHBOUR, POOL[1]), lab.server.udp(*A3)
    t.bind(A0, POOL, A3)
    where = passes(n, A3, s)
    s.sendto(b"to the neighbour", where)
    answered = recv(n) is not None
    s.sendto(b"media", POOL)
    return where[1], answered, recv(c) is not None, recv(n, 0) is not None


def test_a_neighbour_neither_takes_nor_blocks_the_media(lab):
    port, answered, arrived, taken = neighbour_on_pool_port(lab, 0)
    assert port >= 32768
    assert (answered, arrived, taken) == (True, True, False)


def test_neighbours_need_the_rule(lab):
    assert neighbour_on_pool_port(lab, POOL_GUARD)[2] is False


def test_the_guard_stops_what_the_site_translates_itself(lab):
    # a public source that the site puts behind our address: no private prefix, no masquerade of ours
    lab.neighbour.ip("addr", "add", "203.0.113.3/24", "dev", "eth0")
    lab.fw.ip("addr", "add", "203.0.113.1/24", "dev", "in")
    lab.fw.nft("add table ip site; add chain ip site post "
               "{ type nat hook postrouting priority 100; }; "
               f"add rule ip site post ip saddr 203.0.113.0/24 snat to {A2}")
    t = lab.napt("--mode", "mark")
    t.bind(A0, POOL, A3)
    c, s = lab.client.udp(*A0), lab.server.udp(*A3)
    assert dropped(lab.neighbour.udp("203.0.113.3", POOL[1]), A3, s)
    assert passes(lab.neighbour.udp("203.0.113.3", 9000), A3, s) == (A2, 9000)
    passes(s, POOL, c)


def test_without_interface_names_only_the_pools_interface_counts(lab):
    lab.site()
    lab.fw.ip("link", "add", "dmz", "type", "veth", "peer", "dmz0")
    lab.fw.ip("addr", "add", "10.9.0.1/24", "dev", "dmz")
    for dev in ("dmz", "dmz0"):
        lab.fw.ip("link", "set", dev, "up")
    lab.tool("--nat", "napt", "--pool", f"{A2},16384-32767", "--mode", "mark")
    n, s = lab.neighbour.udp(NEIGHBOUR, POOL[1]), lab.server.udp(*A3)
    assert passes(n, A3, s)[1] >= 32768
    n.sendto(b"x", ("10.9.0.2", 9))
    assert any(f"src=10.9.0.2 dst={NEIGHBOUR}" in line for line in lab.fw.conntrack())


def test_our_own_host_leaves_the_pool_ports(lab):
    t = lab.napt()
    mine, s = lab.fw.udp(A2, POOL[1]), lab.server.udp(*A3)
    where = passes(mine, A3, s)
    assert where[1] >= 32768
    assert passes(s, where, mine) == A3
    c = lab.client.udp(*A0)
    t.bind(A0, POOL, A3)
    assert passes(s, POOL, c) == A3
    lab.server.listen(SERVER, 80)
    assert lab.fw.connect(SERVER, 80, (A2, 20010))


def reused_port(lab, omit):
    t = lab.napt("--omit", omit)
    c, n, s = lab.client.udp(*A0), lab.neighbour.udp(NEIGHBOUR, 7000), lab.server.udp(*A3)
    t.bind(A0, POOL, A3)
    passes(s, POOL, c)
    passes(c, A3, s)
    t.unbind(A0, POOL, A3)
    t.bind((NEIGHBOUR, 7000), POOL, A3)
    s.sendto(b"media", POOL)
    return recv(n) is not None, recv(c, 0) is not None


def test_a_reused_port_does_not_deliver_to_its_previous_owner(lab):
    assert reused_port(lab, 0) == (True, False)


def test_reused_ports_need_the_rule(lab):
    assert reused_port(lab, FORGET)[0] is False


def source(lab, omit):
    lab.napt("--omit", omit, "--permit", f"{CLIENT},any,tcp,554", "--permit", "any,any,1,any",
             "--source", f"10.1.0.0/24,{A2},40000-40999")
    srv = lab.server.listen(SERVER, 554)
    seen = []
    for port in (3000, 3001, 3002):
        assert lab.client.connect(SERVER, 554, (CLIENT, port))
        seen.append(srv.accept()[1])
    return seen


def test_nat_source(lab):
    seen = source(lab, 0)
    assert len(set(seen)) == 3
    assert all(addr == A2 and 40000 <= port <= 40999 for addr, port in seen)
    assert "1 received" in lab.client.run("ping", "-c1", "-W1", SERVER, check=False)


def test_nat_source_needs_the_rule(lab):
    assert source(lab, SOURCE)[0] == (CLIENT, 3000)


def test_static_translation(lab):
    lab.napt("--static", f"udp,{A2}:5060,{CLIENT}:5060", "--permit", f"any,{CLIENT},udp,5060",
             "--permit", f"{CLIENT},any,udp,5060")
    c, s = lab.client.udp(CLIENT, 5060), lab.server.udp(SERVER, 5060)
    assert passes(s, (A2, 5060), c) == (SERVER, 5060)
    assert passes(c, (SERVER2, 5060), lab.server.udp(SERVER2, 5060)) == (A2, 5060)


def test_icmp_errors_reach_the_right_end(lab):
    t = lab.napt()
    t.bind(A0, POOL, A3)
    assert refused(lab.client.udp(*A0, peer=A3))
    lab.client.sockets[-1].close()
    assert refused(lab.server.udp(*A3, peer=POOL))


def test_fragments(lab):
    t = lab.napt()
    t.bind(A0, POOL, A3)
    c, s = lab.client.udp(*A0), lab.server.udp(*A3)
    assert passes(c, A3, s, b"x" * 4000) == POOL
    assert passes(s, POOL, c, b"y" * 4000) == A3


def test_a_socket_on_the_middlebox_itself(lab):
    t = lab.napt("--counters", 1)
    local = (A1, 5000)
    t.bind(local, POOL, A3)
    c, s = lab.fw.udp(*local), lab.server.udp(*A3)
    assert passes(s, POOL, c) == A3
    assert passes(c, A3, s) == POOL
    assert t.good(f"counters udp {end(*A3)} {end(*local)}").split()[0] == "1"
    assert dropped(lab.server.udp(SERVER2, 6000), POOL, c)
    t.unbind(local, POOL, A3)
    assert dropped(s, POOL, c)


def test_ipv6_passes_untranslated(lab):
    t = lab.napt()
    t.open(("fd00:1::2", 5000), ("fd00:2::9", 6000))
    c, s = lab.client.udp("fd00:1::2", 5000), lab.server.udp("fd00:2::9", 6000)
    assert passes(c, ("fd00:2::9", 6000), s) == ("fd00:1::2", 5000)
    passes(s, ("fd00:1::2", 5000), c)


def test_adopted_bindings_go_on(lab):
    t = lab.napt()
    t.bind(A0, POOL, A3)
    c, s = lab.client.udp(*A0), lab.server.udp(*A3)
    t.kill()
    passes(c, A3, s)
    t = lab.napt("--adopt", 1)
    passes(s, POOL, c)
    t.bind(A0, POOL, A3)
    assert passes(c, A3, s) == POOL
    t.unbind(A0, POOL, A3)
    assert dropped(s, POOL, c)


@pytest.mark.san
def test_twice_nat(lab):
    t = lab.tool("--nat", "twice", "--pool", f"{A2},16384-32767", "--inside", "in",
                 "--outside", "out")
    s = lab.server.udp(*A3)
    # two clients of one A3, seen inside at the same port of different clients' faces
    ends = (((CLIENT, 5000), (A2, 20000), (A1, 30000)),
            ((NEIGHBOUR, 5000), (A2, 20002), (A1, 30000)))
    for a0, a2, a1 in ends:
        t.run(f"bind udp {end(*a0)} {end(*a2)} 60000 {end(*a1)} {end(*A3)}",
              *t.both("open", a0, A3),
              f"forget udp {end(*a0)} {end(*A3)} {end(*a0)} {end(*a2)} {end(*a1)} {end(*A3)}")
    for ns, (a0, a2, a1) in zip((lab.client, lab.neighbour), ends):
        c = ns.udp(*a0)
        assert passes(c, a1, s) == a2
        assert passes(s, a2, c) == a1
        assert dropped(c, (A1, 30001), s)
    for ns, (a0, a2, a1) in zip((lab.client, lab.neighbour), ends):
        c = ns.udp(a0[0], 5000)
        t.run(*t.both("close", a0, A3),
              f"unbind udp {end(*a0)} {end(*a2)} 0 {end(*a1)} {end(*A3)}",
              f"forget udp {end(*a0)} {end(*A3)} {end(*a0)} {end(*a2)} {end(*a1)} {end(*A3)}")
        assert dropped(s, a2, c)
        assert dropped(c, a1, s)


def marked_site(lab):
    lab.fw.nft("add table inet site; add chain inet site fw "
               "{ type filter hook forward priority 0; policy drop; }; "
               "add rule inet site fw ct state established accept; "
               "add rule inet site fw meta mark 0x51 accept")


def mark_mode(lab, omit):
    marked_site(lab)
    t = lab.tool("--mode", "mark", "--omit", omit)
    c, s = lab.client.udp(*A0), lab.server.udp(*A3)
    assert dropped(c, A3, s)
    t.open(A0, A3)
    passes(c, A3, s)
    passes(s, A0, c)
    t.shut(A0, A3)
    return dropped(c, A3, s) and dropped(s, A0, c)


def test_mark_mode(lab):
    assert mark_mode(lab, 0)


def test_mark_mode_needs_conntrack_deletes(lab):
    assert not mark_mode(lab, FORGET)


@pytest.mark.san
def test_mark_mode_permits_and_strangers(lab):
    marked_site(lab)
    t = lab.napt("--mode", "mark", "--permit", f"{CLIENT},any,tcp,554",
                 "--source", f"10.1.0.0/24,{A2},40000-40999")
    srv = lab.server.listen(SERVER, 554)
    assert lab.client.connect(SERVER, 554)
    assert srv.accept()[1][0] == A2
    assert lab.neighbour.connect(SERVER, 554) is None
    t.bind(A0, POOL, A3)
    c, s = lab.client.udp(*A0), lab.server.udp(*A3)
    passes(s, POOL, c)
    # even where the site accepts everything, a stranger does not reach a bound port
    lab.fw.nft("insert rule inet site fw accept")
    assert dropped(lab.server.udp(SERVER2, 6000), POOL, c)
