"""Disable rules (RFC 4540 §8.8) with a real kernel: what the firewall permits otherwise is dropped.

The flows that are looked at pass by a static permit (enforce) or by the site's own rules (mark),
and back by connection tracking.
"""

import threading
import time

import pytest

import simco_client as simco
from lib import topo
from lib.proc import wait_until
from lib.sluice import PATIENCE
from simco_client import Refused
from test_middlebox import CLIENT, SERVER, Box, passes

CLIENT6, SERVER6 = (topo.CLIENT6, 5000), (topo.SERVER6, 6000)
UNOWNED = ("--test-force-off", "8")  # so that others can change the table

SITE = """
table inet site {
	chain forward {
		type filter hook forward priority filter; policy drop;
		meta mark 0x51 accept
		ct state established accept
		iifname "in" accept
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
	}
}
"""


class Disabling(Box):
    def start(self):
        self.policy["agents"]["agent-1"].update(may=["reserve", "enable", "disable"],
                                                wildcards=True)
        super().start()


@pytest.fixture
def box(line, directory, cleanup):
    def make(mode="enforce", nat=False, **options):
        net = line(translated=nat)
        if mode == "mark":
            net.fw.nft(SITE)
        permit = [{"from": topo.CLIENT_NET, "to": "0.0.0.0/0"},
                  {"from": topo.CLIENT_NET6, "to": "::/0"}]
        firewall = {"mode": mode, "inside": ["in"], "outside": ["out"],
                    "permit": permit if mode == "enforce" else []}
        return Disabling(net, directory, cleanup, nat, firewall=firewall, **options)
    return make


class Media:
    """Datagrams every millisecond from one socket to another; when were those sent that came?"""

    def __init__(self, sender, target, receiver):
        self.sender, self.target, self.receiver = sender, target, receiver
        self.came, self.stopped = [], threading.Event()
        receiver.settimeout(0.2)
        self.threads = [threading.Thread(target=f) for f in (self._send, self._receive)]
        for t in self.threads:
            t.start()

    def _send(self):
        while not self.stopped.is_set():
            self.sender.sendto(b"%.9f" % time.monotonic(), self.target)
            time.sleep(0.001)

    def _receive(self):
        while not self.stopped.is_set():
            try:
                self.came.append(float(self.receiver.recv(64)))
            except TimeoutError:
                pass

    def since(self, moment):
        return sum(t > moment for t in self.came)

    def stop(self):
        self.stopped.set()
        for t in self.threads:
            t.join()


def flow(b, version=4):
    """An established flow: sockets of both ends and the address that the outer one sees."""
    client, server = (CLIENT, SERVER) if version == 4 else (CLIENT6, SERVER6)
    inside, outside = b.inside(client), b.outside(server)
    seen = passes(inside, server, outside)
    assert seen
    assert passes(outside, seen, inside) == server
    return inside, outside, client, server, seen


@pytest.mark.san
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", ["enforce", "mark"])
def test_permitted_traffic_stops_with_the_reply(box, mode, version):
    b = box(mode)
    c = b.session()
    inside, outside, client, server, seen = flow(b, version)
    there, back = Media(inside, server, outside), Media(outside, client, inside)
    try:
        wait_until(lambda: len(there.came) > 50 and len(back.came) > 50, 5 * PATIENCE, "media")
        rule = c.pdr(client, server, lifetime=600)
        replied = time.monotonic()
        time.sleep(0.3)
        assert there.since(replied) == back.since(replied) == 0, "it passes after the reply"
        assert b.rest.get(f"/v1/rules/{rule.pid}")["state"] == "disabled"
        assert c.plc(rule.pid, 0).type == simco.PRD_REP
        ended = time.monotonic()
        wait_until(lambda: there.since(ended) > 20 and back.since(ended) > 20, 2 * PATIENCE,
                   "media to pass again")
    finally:
        there.stop()
        back.stop()
    assert b.status()["firewall"]["aborts"] == 0


@pytest.mark.parametrize("mode", ["enforce", "mark"])
def test_every_wrong_member_passes(box, mode):
    b = box(mode)
    b.net.client.address("eth0", "10.1.0.3/24")
    c = b.session()
    inside, outside, *_ = flow(b)
    pid = c.pdr(CLIENT, SERVER, lifetime=600).pid
    assert not passes(inside, SERVER, outside) and not passes(outside, CLIENT, inside)
    for a, z in [((topo.CLIENT, 5001), SERVER), (("10.1.0.3", 5000), SERVER),
                 (CLIENT, (topo.SERVER, 6001)), (CLIENT, (topo.NEIGHBOUR, 6000))]:
        i = inside if a == CLIENT else b.inside(a)
        o = outside if z == SERVER else b.outside(z)
        assert passes(i, z, o) == a and passes(o, a, i) == z
    # the other protocol
    listener = b.net.server.tcp_listener(*SERVER)
    b.cleanup(listener.close)
    b.net.client.connect(*SERVER).close()
    # until another rule has that, too
    tcp = c.pdr(("0.0.0.0/0", 0), SERVER, protocol=simco.TCP, lifetime=600).pid
    with pytest.raises(OSError):
        b.net.client.connect(*SERVER, timeout=0.5)
    assert c.plc(tcp, 0).type == c.plc(pid, 0).type == simco.PRD_REP
    assert passes(inside, SERVER, outside) == CLIENT


@pytest.mark.san
def test_it_expires(box):
    b = box()
    c = b.session()
    inside, outside, *_ = flow(b)
    c.pdr(CLIENT, SERVER, lifetime=2)
    assert not passes(inside, SERVER, outside)
    wait_until(lambda: passes(inside, SERVER, outside), 4 * PATIENCE, "the end of the lifetime")
    assert b.rules() == [] and b.status()["rules"]["elements"] == 0


def test_it_is_prolonged(box):
    b = box()
    c = b.session()
    inside, outside, *_ = flow(b)
    pid = c.pdr(CLIENT, ("0.0.0.0/0", 0), lifetime=1).pid
    assert c.plc(pid, 600).lifetime == 600
    time.sleep(1.5)
    assert not passes(inside, SERVER, outside)


@pytest.mark.san
def test_translated_traffic(box):
    """Disable rules name the address inside; nat.source has given the flow another one."""
    b = box(nat=True)
    c = b.session()
    inside, outside, _, _, seen = flow(b)
    assert seen[0] == topo.OUTSIDE
    pid = c.pdr(CLIENT, SERVER, lifetime=600).pid
    assert not passes(inside, SERVER, outside) and not passes(outside, seen, inside)
    other = b.inside((topo.CLIENT, 5001))
    assert passes(other, SERVER, outside)
    c.plc(pid, 0)
    assert passes(outside, passes(inside, SERVER, outside), inside) == SERVER


@pytest.mark.parametrize("nat", [False, True], ids=["firewall", "nat"])
def test_pinholes_end_and_nothing_takes_their_place(box, nat):
    """One reply later neither the pinhole nor the permit behind it lets anything through."""
    b = box(nat=nat)
    c, watcher = b.session(), b.session()
    rule = c.per(CLIENT, SERVER, lifetime=600)
    inside, outside = b.inside(), b.outside()
    target = passes(inside, SERVER, outside)
    there, back = Media(inside, SERVER, outside), Media(outside, target, inside)
    try:
        wait_until(lambda: len(there.came) > 50 and len(back.came) > 50, 5 * PATIENCE, "media")
        c.pdr(("10.1.0.0/24", 0), SERVER, lifetime=600)
        replied = time.monotonic()
        time.sleep(0.3)
    finally:
        there.stop()
        back.stop()
    assert there.since(replied) == back.since(replied) == 0
    watcher.prl()
    assert (rule.pid, 0) in watcher.events
    with pytest.raises(Refused) as e:
        c.per(CLIENT, SERVER)
    assert e.value.type == 0x0350


@pytest.mark.san
@pytest.mark.parametrize("options", [(), UNOWNED], ids=["owned", "unowned"])
def test_killed_and_restarted(box, options):
    """kill -9: blocked while nobody is there, blocked by the new process, which can end it."""
    b = box(options=options)
    inside, outside, *_ = flow(b)
    c = b.session()
    pids = [c.pdr(CLIENT, SERVER, lifetime=600).pid,
            c.pdr((topo.CLIENT, 5001), ("192.0.2.0/24", 0), lifetime=600).pid]
    other = b.inside((topo.CLIENT, 5001))
    media = Media(inside, SERVER, outside)
    began = time.monotonic()
    try:
        b.daemon.kill()
        b.daemon.check_clean()
        time.sleep(0.2)
        b.start()
        time.sleep(0.3)
        assert media.since(began) == 0
    finally:
        media.stop()
    assert not passes(other, SERVER, outside)
    c = b.session()
    assert sorted(c.prl()) == sorted(pids)
    for pid in pids:
        c.plc(pid, 0)
    assert passes(inside, SERVER, outside) and passes(other, SERVER, outside)


def test_comes_back_after_a_foreign_flush(box):
    b = box(options=UNOWNED)
    c = b.session()
    inside, outside, *_ = flow(b)
    for external in (SERVER, (topo.SERVER, 0), ("192.0.2.0/24", 0)):
        c.pdr(CLIENT, external, lifetime=600)
    b.net.fw.run("nft", "flush", "ruleset")
    wait_until(lambda: b.status()["firewall"]["reinstalls"] == 1 and b.status()["ready"],
               10 * PATIENCE, "the table to come back")
    wait_until(lambda: not passes(inside, SERVER, outside), 5 * PATIENCE, "the elements")
    names = {k: n for k, n in b.net.fw.elements().items() if k.startswith("block_") and n}
    assert names == {"block_exact4": 2, "block_wild4_7": 1, "block_wild4_13": 1,
                     "block_range4_0": 2}, names


def test_everything_disabled(box):
    """The session that asked stays usable; this host's other ports do not."""
    b = box()
    c = b.session()
    inside, outside, *_ = flow(b)
    listener = b.net.fw.tcp_listener(topo.INSIDE, 7000)
    b.cleanup(listener.close)
    b.net.agent.connect(topo.INSIDE, 7000).close()
    pid = c.pdr(("0.0.0.0/0", 0), ("0.0.0.0/0", 0), protocol=simco.ANY, lifetime=600).pid
    assert not passes(inside, SERVER, outside)
    with pytest.raises(OSError):
        b.net.agent.connect(topo.INSIDE, 7000, timeout=0.5)
    other = b.session()
    assert other.prl() == [pid]
    assert other.plc(pid, 0).type == simco.PRD_REP
    assert passes(inside, SERVER, outside)


@pytest.mark.san
def test_what_the_kernel_cannot_take_terminates_nothing(box):
    """More overlapping ranges than there are interval sets: 0x034A, and no harm done."""
    b = box()
    c = b.session()
    for i in range(8):
        c.pdr((topo.CLIENT, 7000 + i), ("198.51.0.0/16", 0), count=100, lifetime=600)
    rule = c.per((topo.CLIENT, 7107), ("198.51.100.7", 6000), lifetime=600)
    with pytest.raises(Refused) as e:
        c.pdr((topo.CLIENT, 7008), ("198.51.0.0/16", 0), count=100, lifetime=600)
    assert e.value.type == 0x034A
    assert b.status()["rules"]["disabled"] == 8
    assert rule.pid in c.prl() and (rule.pid, 0) not in c.events
    assert b.status()["firewall"]["aborts"] == 0
