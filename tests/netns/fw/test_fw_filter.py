"""The pure firewall: exact tuples, permits, ICMP, fragments. IPv4 and IPv6."""
import threading
import time

import pytest

from fwlab import (CLIENT, CLIENT6, DEFRAG, ICMP, NEIGHBOUR, NEIGHBOUR6, SERVER, SERVER2, SERVER6,
                   SERVER26, dropped, end, passes, recv, refused)

V4 = (CLIENT, NEIGHBOUR, SERVER, SERVER2)
V6 = (CLIENT6, NEIGHBOUR6, SERVER6, SERVER26)
both_versions = pytest.mark.parametrize("hosts", [V4, V6], ids=["v4", "v6"])


@both_versions
def test_exact_tuple_and_every_wrong_member(lab, hosts):
    client, neighbour, server, server2 = hosts
    t = lab.tool()
    c, s = lab.client.udp(client, 5000), lab.server.udp(server, 6000)
    assert dropped(c, (server, 6000), s)
    t.open((client, 5000), (server, 6000))
    assert passes(c, (server, 6000), s) == (client, 5000)
    assert passes(s, (client, 5000), c) == (server, 6000)
    # one wrong member each, outwards
    s_port, s_addr = lab.server.udp(server, 6001), lab.server.udp(server2, 6000)
    assert dropped(lab.client.udp(client, 5001), (server, 6000), s)
    assert dropped(lab.neighbour.udp(neighbour, 5000), (server, 6000), s)
    assert dropped(c, (server, 6001), s_port)
    assert dropped(c, (server2, 6000), s_addr)
    # and inwards
    assert dropped(s_port, (client, 5000), c)
    assert dropped(s_addr, (client, 5000), c)
    assert dropped(s, (client, 5001), lab.client.udp(client, 5001))
    assert dropped(s, (neighbour, 5000), lab.neighbour.udp(neighbour, 5000))
    # the other protocol
    lab.server.listen(server, 6000)
    assert lab.client.connect(server, 6000, (client, 5000)) is None
    t.shut((client, 5000), (server, 6000))
    assert dropped(c, (server, 6000), s)
    assert dropped(s, (client, 5000), c)


@both_versions
def test_one_direction_only(lab, hosts):
    client, _, server, _ = hosts
    t = lab.tool()
    c, s = lab.client.udp(client, 5000), lab.server.udp(server, 6000)
    t.run(f"open udp {end(server, 6000)} {end(client, 5000)} 60000")
    passes(s, (client, 5000), c)
    assert dropped(c, (server, 6000), s)


@both_versions
def test_tcp_and_both_protocols(lab, hosts):
    client, _, server, _ = hosts
    t = lab.tool()
    lab.server.listen(server, 6000)
    t.open((client, 5000), (server, 6000), proto="tcp")
    assert lab.client.connect(server, 6000, (client, 5000))
    assert lab.client.connect(server, 6000, (client, 5002)) is None
    t.open((client, 5002), (server, 6000), proto="any")
    assert lab.client.connect(server, 6000, (client, 5002))
    passes(lab.client.udp(client, 5002), (server, 6000), lab.server.udp(server, 6000))
    t.shut((client, 5002), (server, 6000), proto="any")
    assert lab.client.connect(server, 6000, (client, 5002)) is None


@pytest.mark.parametrize("off", [0, 2, 3])
def test_timeout_and_refresh(lab, off):
    t = lab.tool("--force-off", off)
    c, s = lab.client.udp(CLIENT, 5000), lab.server.udp(SERVER, 6000)
    t.open((CLIENT, 5000), (SERVER, 6000), ms=400)
    time.sleep(0.25)
    t.open((CLIENT, 5000), (SERVER, 6000), ms=400)  # the same timeout again must count
    time.sleep(0.25)
    passes(c, (SERVER, 6000), s)
    t.open((CLIENT, 5000), (SERVER, 6000), ms=60000)
    time.sleep(0.45)
    passes(c, (SERVER, 6000), s)
    left = int(t.good(f"audit udp {end(CLIENT, 5000)} {end(SERVER, 6000)}"))
    assert 55000 < left <= 60000
    t.open((CLIENT, 5000), (SERVER, 6000), ms=200)  # shorter, too
    time.sleep(0.3)
    assert dropped(c, (SERVER, 6000), s)
    assert t.do(f"audit udp {end(CLIENT, 5000)} {end(SERVER, 6000)}").startswith("error")
    t.shut((CLIENT, 5000), (SERVER, 6000))  # gone already: fine


def fragments(lab, hosts, omit):
    client, _, server, _ = hosts
    t = lab.tool("--omit", omit)
    time.sleep(0.3)  # for the kernel to forget the rule that the driver probed with
    c, s = lab.client.udp(client, 5000), lab.server.udp(server, 6000)
    t.open((client, 5000), (server, 6000))
    passes(c, (server, 6000), s)
    c.sendto(b"x" * 4000, (server, 6000))
    got = recv(s, 0.5)
    return got is not None and len(got[0]) == 4000


@both_versions
def test_fragments(lab, hosts):
    assert fragments(lab, hosts, 0)
    assert not lab.fw.conntrack()


def test_fragments_need_the_rule(lab):
    assert not fragments(lab, V4, DEFRAG)


@both_versions
def test_icmp_errors_of_open_tuples(lab, hosts):
    client, _, server, _ = hosts
    t = lab.tool()
    t.open((client, 5000), (server, 6000))
    assert refused(lab.client.udp(client, 5000, (server, 6000)))
    lab.client.sockets[-1].close()
    assert refused(lab.server.udp(server, 6000, (client, 5000)))


def test_icmp_errors_need_the_rule(lab):
    t = lab.tool("--omit", ICMP)
    t.open((CLIENT, 5000), (SERVER, 6000))
    assert not refused(lab.client.udp(CLIENT, 5000, (SERVER, 6000)))


@both_versions
def test_icmp_errors_of_closed_tuples_and_echo_are_dropped(lab, hosts):
    client, _, server, _ = hosts
    t = lab.tool()
    # only outwards is open: the server's error is about an open tuple, the client's about none
    t.run(f"open udp {end(client, 5000)} {end(server, 6000)} 60000")
    assert refused(lab.client.udp(client, 5000, (server, 6000)))
    t.run(f"close udp {end(client, 5000)} {end(server, 6000)}",
          f"open udp {end(server, 6000)} {end(client, 5000)} 60000")
    lab.client.sockets[-1].close()
    assert refused(lab.server.udp(server, 6000, (client, 5000)))
    assert "1 received" not in lab.client.run("ping", "-c1", "-W1", server, check=False)


def test_permits_and_their_replies(lab):
    t = lab.tool("--permit", f"{CLIENT},any,tcp,554", "--permit", f"any,{SERVER},udp,53",
                 "--permit", f"{CLIENT},{SERVER},1,any", "--permit", "fd00:1::/64,any,any,any")
    lab.server.listen(SERVER, 554)
    lab.server.listen(SERVER, 555)
    lab.server.listen(SERVER6, 555)
    assert lab.client.connect(SERVER, 554)
    assert lab.client.connect(SERVER, 555) is None
    assert lab.client.connect(SERVER6, 555)
    assert lab.neighbour.connect(SERVER, 554) is None
    c, s = lab.neighbour.udp(NEIGHBOUR, 7000), lab.server.udp(SERVER, 53)
    passes(c, (SERVER, 53), s)
    passes(s, (NEIGHBOUR, 7000), c)
    assert dropped(s, (NEIGHBOUR, 7001), lab.neighbour.udp(NEIGHBOUR, 7001))
    assert "1 received" in lab.client.run("ping", "-c1", "-W1", SERVER, check=False)
    # pinhole flows are never marked, so closing one stops it although conntrack knows it
    c, s = lab.client.udp(CLIENT, 5000), lab.server.udp(SERVER, 6000)
    t.open((CLIENT, 5000), (SERVER, 6000))
    passes(c, (SERVER, 6000), s)
    passes(s, (CLIENT, 5000), c)
    t.shut((CLIENT, 5000), (SERVER, 6000))
    assert dropped(s, (CLIENT, 5000), c)
    # a reload takes the permits back
    t.good("reconfigure")
    assert lab.client.connect(SERVER, 554) is None


def test_counters_of_both_protocols(lab):
    t = lab.tool("--counters", 1)
    a, b = (CLIENT, 5000), (SERVER, 6000)
    t.open(a, b, proto="any")
    passes(lab.client.udp(*a), b, lab.server.udp(*b))
    lab.server.listen(*b)
    assert lab.client.connect(*b, source=a)
    packets, octets = t.good(f"counters any {end(*a)} {end(*b)}").split()
    assert int(packets) >= 3 and int(octets) >= 33 + 2 * 40
    assert t.do(f"counters udp {end(*a)} {end(SERVER, 6001)}").startswith("error")
    assert t.good(f"audit any {end(*a)} {end(*b)}")


def test_no_conntrack_without_permits(lab):
    t = lab.tool()
    t.open((CLIENT, 5000), (SERVER, 6000))
    passes(lab.client.udp(CLIENT, 5000), (SERVER, 6000), lab.server.udp(SERVER, 6000))
    assert not lab.fw.conntrack()


class Stream(threading.Thread):
    """500 datagrams a second, numbered, until stopped."""

    def __init__(self, a, to):
        super().__init__(daemon=True)
        self.a, self.to, self.sent, self.on = a, to, 0, True
        self.start()

    def run(self):
        while self.on:
            self.a.sendto(b"%d" % self.sent, self.to)
            self.sent += 1
            time.sleep(0.002)

    def finish(self, b):
        self.on = False
        self.join()
        got = set()
        while (x := recv(b, 0.1)) is not None:
            got.add(int(x[0]))
        return set(range(self.sent)) - got


@pytest.mark.san
@pytest.mark.parametrize("off", [0, 8, 31])
def test_adopt_after_kill(lab, off):
    t = lab.tool("--force-off", off)
    c, s = lab.client.udp(CLIENT, 5000), lab.server.udp(SERVER, 6000)
    t.open((CLIENT, 5000), (SERVER, 6000))
    t.run("open udp 10.1.0.0/24:7000-7100 192.0.2.0/24:any 60000")
    passes(c, (SERVER, 6000), s)
    stream = Stream(c, (SERVER, 6000))
    time.sleep(0.1)
    for _ in range(2):
        t.kill()
        time.sleep(0.05)
        t = lab.tool("--force-off", off, "--adopt", 1)
        time.sleep(0.1)
    assert not stream.finish(s)
    passes(s, (CLIENT, 5000), c)
    # what was adopted can be refreshed, overlapped, and closed
    t.open((CLIENT, 5000), (SERVER, 6000), ms=90000)
    passes(c, (SERVER, 6000), s)
    t.run("open udp 10.1.0.2/31:7050-7200 192.0.2.0/24:any 60000")
    t.run("close udp 10.1.0.0/24:7000-7100 192.0.2.0/24:any")
    c7 = lab.client.udp(CLIENT, 7050)
    passes(c7, (SERVER, 6000), s)
    t.run("close udp 10.1.0.2/31:7050-7200 192.0.2.0/24:any")
    assert dropped(c7, (SERVER, 6000), s)
    t.shut((CLIENT, 5000), (SERVER, 6000))
    assert dropped(c, (SERVER, 6000), s)


@pytest.mark.parametrize("before,after", [(0, 8), (8, 0)])
def test_adopt_across_ownership(lab, before, after):
    t = lab.tool("--force-off", before)
    t.open((CLIENT, 5000), (SERVER, 6000))
    t.kill()
    t = lab.tool("--force-off", after, "--adopt", 1)
    c, s = lab.client.udp(CLIENT, 5000), lab.server.udp(SERVER, 6000)
    passes(c, (SERVER, 6000), s)
    t.shut((CLIENT, 5000), (SERVER, 6000))
    assert dropped(c, (SERVER, 6000), s)
    t.good("remove")
    t.close()
    assert "sluice" not in lab.fw.nft("list tables")


def test_without_adopt_the_table_is_new(lab):
    t = lab.tool()
    t.open((CLIENT, 5000), (SERVER, 6000))
    t.kill()
    c, s = lab.client.udp(CLIENT, 5000), lab.server.udp(SERVER, 6000)
    passes(c, (SERVER, 6000), s)  # nobody is there: the kernel goes on
    lab.tool()
    assert dropped(c, (SERVER, 6000), s)


def test_another_layout_is_not_adopted(lab):
    t = lab.tool()
    t.open((CLIENT, 5000), (SERVER, 6000))
    t.kill()
    t = lab.tool("--adopt", 1, "--counters", 1)
    c, s = lab.client.udp(CLIENT, 5000), lab.server.udp(SERVER, 6000)
    assert dropped(c, (SERVER, 6000), s)
    t.open((CLIENT, 5000), (SERVER, 6000))
    passes(c, (SERVER, 6000), s)


def test_a_second_process_is_refused(lab):
    from fwlab import Tool
    lab.tool()
    second = Tool(lab.fw)
    assert second.ready.startswith("error")
    second.close()


@pytest.mark.parametrize("how", ["flush ruleset", "delete table inet sluice",
                                 "flush table inet sluice"])
def test_foreign_flush(lab, how):
    t = lab.tool("--force-off", 8)
    c, s = lab.client.udp(CLIENT, 5000), lab.server.udp(SERVER, 6000)
    t.open((CLIENT, 5000), (SERVER, 6000))
    t.good("poll")
    assert t.good("lost") == "0"
    lab.fw.nft(how)
    t.good("poll")
    assert t.good("lost") == "1"
    t.good("reinstall")
    t.open((CLIENT, 5000), (SERVER, 6000))
    passes(c, (SERVER, 6000), s)
    assert dropped(lab.client.udp(CLIENT, 5001), (SERVER, 6000), s)
    assert t.stat("reinstalls") == 1
    lab.fw.nft("add table inet other; delete table inet other")
    t.good("poll")
    assert t.good("lost") == "1"


def test_an_owned_table_cannot_be_flushed(lab):
    t = lab.tool()
    assert int(t.good("features")) & 8
    c, s = lab.client.udp(CLIENT, 5000), lab.server.udp(SERVER, 6000)
    t.open((CLIENT, 5000), (SERVER, 6000))
    lab.fw.nft("flush ruleset", check=False)
    lab.fw.nft("delete table inet sluice", check=False)
    passes(c, (SERVER, 6000), s)
    assert dropped(lab.client.udp(CLIENT, 5001), (SERVER, 6000), s)


@pytest.mark.san
@pytest.mark.parametrize("off", [0, 1, 2, 3, 4, 8, 16, 31])
def test_each_feature_forced_off(lab, off):
    t = lab.tool("--force-off", off, "--counters", 1)
    assert int(t.good("features")) & off == 0
    c, s = lab.client.udp(CLIENT, 5000), lab.server.udp(SERVER, 6000)
    t.shut((CLIENT, 5000), (SERVER, 6000))  # never opened
    t.open((CLIENT, 5000), (SERVER, 6000))
    for _ in range(3):
        passes(c, (SERVER, 6000), s)
    for _ in range(2):
        t.open((CLIENT, 5000), (SERVER, 6000), ms=90000)
    passes(c, (SERVER, 6000), s)
    # a refresh keeps the counters
    assert t.good(f"counters udp {end(CLIENT, 5000)} {end(SERVER, 6000)}").split()[0] == "4"
    # open, refresh, close and open again in one batch
    a, b = (CLIENT, 5002), (SERVER, 6000)
    t.run(*t.both("open", a, b), *t.both("open", a, b), *t.both("close", a, b),
          *t.both("close", a, b), *t.both("open", a, b))
    passes(lab.client.udp(*a), b, s)
    t.run(*t.both("open", a, b), *t.both("close", a, b))
    assert dropped(lab.client.udp(*a), b, s)
    t.shut((CLIENT, 5000), (SERVER, 6000))
    t.shut((CLIENT, 5000), (SERVER, 6000))
    assert dropped(c, (SERVER, 6000), s)


@pytest.mark.san
def test_a_refused_transaction_takes_no_other_with_it(lab):
    lab.aborts_expected = True
    t = lab.tool("--force-off", 8)
    # break our own table so that the kernel refuses IPv6 elements
    for chain in ("forward", "input", "output"):
        lab.fw.nft(f"flush chain inet sluice {chain}")
    lab.fw.nft("delete set inet sluice exact6")
    for a, b in (((CLIENT, 5000), (SERVER, 6000)), ((CLIENT6, 5000), (SERVER6, 6000)),
                 ((CLIENT, 5002), (SERVER, 6000))):
        for line in t.both("open", a, b):
            t.good(line)
        t.good("txn")
    assert [r != 0 for r in t.commit()] == [False, True, False, False]
    assert (t.stat("aborts"), t.stat("resubmits"), t.stat("refused")) == (1, 1, 1)
    t.good(f"audit udp {end(CLIENT, 5000)} {end(SERVER, 6000)}")
    t.good(f"audit udp {end(SERVER, 6000)} {end(CLIENT, 5002)}")


@pytest.mark.san
def test_many_in_one_commit(lab):
    t = lab.tool("--max", 200000)
    n = 5000
    for i in range(n):
        for line in t.both("open", (CLIENT, 1024 + i), (SERVER, 6000)):
            t.p.stdin.write(line + "\n")
        t.p.stdin.write("txn\n")
    for i in range(3 * n):
        assert t._answer() == "ok"
    assert not any(t.commit())
    passes(lab.client.udp(CLIENT, 1024 + n - 1), (SERVER, 6000), lab.server.udp(SERVER, 6000))
    assert t.stat("batches") >= 2 * n // 512


@pytest.mark.san
def test_foreign_drops_are_named(lab):
    lab.fw.nft("add table inet site; add chain inet site fw "
               "{ type filter hook forward priority 5; policy drop; }")
    lab.fw.nft("add table ip site; add chain ip site fw { type filter hook forward priority 7; }; "
               "add rule ip site fw udp dport 9 drop")
    lab.fw.nft("add table ip harmless; add chain ip harmless fw "
               "{ type filter hook forward priority 9; }")
    got = lab.tool().good("foreign")
    assert "[inet site fw, priority 5, policy drop]" in got
    assert "[ip site fw, priority 7, rules that drop or reject]" in got
    assert "harmless" not in got and "sluice" not in got
