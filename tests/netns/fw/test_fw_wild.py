"""Wildcards: hash sets by shape, layered interval sets, and their conntrack entries."""
import os

import pytest

from fwlab import (A2, CLIENT, CT_FILE, LATE_DUMP, NEIGHBOUR, SERVER, SERVER2, SERVER6, CLIENT6,
                   dropped, end, passes, recv, refused)

pytestmark = pytest.mark.san

@pytest.mark.parametrize("dst,good,bad", [
    ("any:any", [(SERVER, 6000), (SERVER2, 6001)], []),
    (f"{SERVER}:any", [(SERVER, 6000), (SERVER, 6001)], [(SERVER2, 6000)]),
    ("any:6000", [(SERVER, 6000), (SERVER2, 6000)], [(SERVER, 6001)]),
    (f"{SERVER}:6000-6001", [(SERVER, 6000), (SERVER, 6001)], [(SERVER, 6002), (SERVER2, 6000)]),
    ("192.0.2.10/31:any", [(SERVER2, 6000)], [(SERVER, 6000)]),
])
def test_shapes_and_ranges(lab, dst, good, bad):
    t = lab.tool()
    t.run(f"open udp {end(CLIENT, 5000)} {dst} 60000")
    c, wrong = lab.client.udp(CLIENT, 5000), lab.client.udp(CLIENT, 5001)
    sockets = {x: lab.server.udp(*x) for x in good + bad}
    for x in good:
        passes(c, x, sockets[x])
        assert dropped(wrong, x, sockets[x])
        assert dropped(sockets[x], (CLIENT, 5000), c)
    for x in bad:
        assert dropped(c, x, sockets[x])
    t.good(f"audit udp {end(CLIENT, 5000)} {dst}")
    t.run(f"open udp {end(CLIENT, 5000)} {dst} 90000")
    assert int(t.good(f"audit udp {end(CLIENT, 5000)} {dst}")) > 80000
    t.run(f"close udp {end(CLIENT, 5000)} {dst}", f"close udp {end(CLIENT, 5000)} {dst}")
    for x in good:
        assert dropped(c, x, sockets[x])


def test_wildcards_of_ipv6(lab):
    t = lab.tool()
    t.run(f"open any [any]:any {end(CLIENT6, 5000)} 60000",
          f"open udp [fd00:2::/64]:6000-6010 {end(CLIENT6, 5002)} 60000")
    s = lab.server.udp(SERVER6, 6000)
    for port in (5000, 5002):
        passes(s, (CLIENT6, port), lab.client.udp(CLIENT6, port))
    assert dropped(s, (CLIENT6, 5001), lab.client.udp(CLIENT6, 5001))
    lab.client.listen(CLIENT6, 5000)
    assert not lab.server.connect(CLIENT6, 5000)  # the answers have no way back
    t.run(f"open any {end(CLIENT6, 5000)} [any]:any 60000")
    assert lab.server.connect(CLIENT6, 5000)


def test_icmp_errors_of_wildcards(lab):
    t = lab.tool()
    t.run(f"open udp {end(CLIENT, 5000)} any:any 60000",
          f"open udp 10.1.0.0/24:7000-7999 {SERVER}:any 60000")
    assert refused(lab.client.udp(CLIENT, 5000, (SERVER, 6000)))
    assert refused(lab.client.udp(CLIENT, 7500, (SERVER, 6000)))


@pytest.mark.parametrize("off", [0, 3])
def test_overlapping_ranges(lab, off):
    t = lab.tool("--force-off", off)
    s = lab.server.udp(SERVER, 6000)
    t.run(f"open udp {CLIENT}:5000-5010 any:any 60000", f"open udp {CLIENT}:5005-5020 any:any 60000",
          f"open udp 10.1.0.0/24:5007-5007 {SERVER}:6000-6100 60000",
          f"open udp {CLIENT}:5000-5010 any:any 60000")
    c = {p: lab.client.udp(CLIENT, p) for p in (5000, 5007, 5015, 5021)}
    for p in (5000, 5007, 5015):
        passes(c[p], (SERVER, 6000), s)
    assert dropped(c[5021], (SERVER, 6000), s)
    t.run(f"close udp {CLIENT}:5000-5010 any:any")
    assert dropped(c[5000], (SERVER, 6000), s)
    passes(c[5007], (SERVER, 6000), s)
    t.run(f"close udp {CLIENT}:5005-5020 any:any")
    assert dropped(c[5015], (SERVER, 6000), s)
    passes(c[5007], (SERVER, 6000), s)
    t.run(f"close udp 10.1.0.0/24:5007-5007 {SERVER}:6000-6100")
    assert dropped(c[5007], (SERVER, 6000), s)


def test_too_much_overlap_is_refused_without_an_abort(lab):
    t = lab.tool()
    for i in range(9):
        t.good(f"open udp {CLIENT}:{5000 + i}-6000 any:any 60000")
        t.good("txn")
    assert [r != 0 for r in t.commit()] == [False] * 8 + [True, False]
    t.run(f"close udp {CLIENT}:5000-6000 any:any", f"open udp {CLIENT}:5008-6000 any:any 60000")


def test_more_shapes_than_the_cap_still_work(lab):
    t = lab.tool()
    s = lab.server.udp(SERVER, 6000)
    c = lab.client.udp(CLIENT, 5000)
    for mask in range(1, 15):
        src = f"{CLIENT if mask & 1 else 'any'}:{5000 if mask & 2 else 'any'}"
        dst = f"{SERVER if mask & 4 else 'any'}:{6000 if mask & 8 else 'any'}"
        t.run(f"open udp {src} {dst} 60000")
        passes(c, (SERVER, 6000), s)
        t.run(f"close udp {src} {dst}")
        assert dropped(c, (SERVER, 6000), s)


@pytest.mark.parametrize("off", [0, CT_FILE, CT_FILE | LATE_DUMP])
def test_forgetting_a_wildcard(lab, off):
    t = lab.napt("--force-off", off)
    a0, a2 = (CLIENT, 5000), (A2, 20000)
    t.run(f"bind udp {end(*a0)} {end(*a2)} 60000", f"open udp {end(*a0)} any:any 60000",
          f"open udp any:any {end(*a0)} 60000",
          f"forget udp {end(*a0)} any:any {end(*a0)} {end(*a2)}")
    assert t.good(f"quarantined udp {end(*a2)}") == "1"
    t.good("work")
    assert t.good(f"quarantined udp {end(*a2)}") == "0"
    c = lab.client.udp(*a0)
    for x in ((SERVER, 6000), (SERVER2, 6001)):
        s = lab.server.udp(*x)
        assert passes(c, x, s) == a2
        passes(s, a2, c)
    inbound = lab.server.udp(SERVER, 6100)
    passes(inbound, a2, c)
    assert len(lab.fw.conntrack()) == 3
    t.run(f"close udp {end(*a0)} any:any", f"close udp any:any {end(*a0)}",
          f"unbind udp {end(*a0)} {end(*a2)} 0",
          f"forget udp {end(*a0)} any:any {end(*a0)} {end(*a2)}")
    assert t.good(f"quarantined udp {end(*a2)}") == "1"
    t.good("work")
    assert not lab.fw.conntrack()
    # the next owner of the port gets its own media
    t.bind((NEIGHBOUR, 7000), a2, (SERVER, 6100))
    n = lab.neighbour.udp(NEIGHBOUR, 7000)
    passes(inbound, a2, n)
    assert recv(c, 0) is None
    assert int(t.good("features")) & (CT_FILE | LATE_DUMP) == (CT_FILE | LATE_DUMP) & ~off


A0, OUTSIDE = (CLIENT, 5000), (A2, 20000)
WILD = f"forget udp {end(*A0)} any:any {end(*A0)} {end(*OUTSIDE)}"
OTHER = f"udp {end(CLIENT, 5001)} {end(SERVER, 6000)} {end(CLIENT, 5001)} {end(A2, 20001)}"


def flows(lab, *options):
    """Entries in the firewall; the count that comes last may run into a list."""
    return int(lab.fw.run("conntrack", "-L", "-p", "udp", "-o", "extended", *options).split(
        "flow entries")[0].split()[-1])


@pytest.mark.parametrize("off", [0, CT_FILE, CT_FILE | LATE_DUMP])
def test_many_entries_and_many_wildcards(lab, off):
    """More entries than fit into one answer, more wildcards than one dump serves."""
    t = lab.napt("--force-off", off)
    c = [lab.client.udp(CLIENT, 5000 + i) for i in range(8)]
    servers = [lab.server.udp(SERVER, 6000 + i) for i in range(30)]
    for i, x in enumerate(c):
        t.run(f"bind udp {end(CLIENT, 5000 + i)} {end(A2, 20000 + i)} 60000",
              f"open udp {end(CLIENT, 5000 + i)} any:any 60000")
        for s in servers:
            x.sendto(b"media", s.getsockname())
    assert flows(lab) == 240
    for i in range(300):  # all but the last client's
        a0, a2 = end(CLIENT, 5000 + i % 7), end(A2, 20000 + i % 7)
        t.good(f"forget udp {a0} any:any {a0} {a2}")
    t.commit()
    t.good("work")
    assert flows(lab) == flows(lab, "--sport=5007") == 30
    assert t.stat("dumps") == 2


def buckets():
    with open("/proc/sys/net/netfilter/nf_conntrack_buckets") as f:
        return int(f.read())


@pytest.mark.parametrize("off", [0, CT_FILE])
def test_a_dump_delays_nothing(lab, off):
    """Told by the main thread's processor time, and not by the clock: others use this machine."""
    if buckets() < 65536 or len(os.sched_getaffinity(0)) < 2:
        pytest.skip("a dump takes no time here")
    t = lab.napt("--force-off", off)
    longest = []
    for _ in range(5):
        before = [int(x) for x in t.good("cpu").split()]
        t.run(WILD)
        t.good("work")
        main, both = [int(x) - y for x, y in zip(t.good("cpu").split(), before)]
        assert main < 2000 and both > main
        t.run(WILD)
        longest.append(int(t.good("meanwhile " + OTHER).split()[1]))
    assert sorted(longest)[2] < 2000, longest
    assert int(t.good("features")) & LATE_DUMP


def test_closing_during_a_dump(lab):
    """Also killed, reinstalled and reconfigured in the midst of it."""
    t = lab.napt("--force-off", CT_FILE)
    t.run(WILD)
    t.good("slice")
    t.good("reconfigure")
    t.good("reinstall")
    assert t.good(f"quarantined udp {end(*OUTSIDE)}") == "1"
    t.good("quit")
    t.close()
    assert t.code == 0
    t = lab.napt("--adopt", 1, "--force-off", CT_FILE)
    t.run(WILD)
    t.good("slice")
    t.good("remove")
    t.close()
    assert t.code == 0
