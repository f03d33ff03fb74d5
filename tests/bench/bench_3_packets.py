#!/usr/bin/python3
"""Packets: what forwarding costs with 100000 pinholes, and when media stops after a close.

    sender ── firewall ── receiver, all frames sent by one process, in whose context the kernel
    forwards them; from its CPU time the same with the frames dropped at the first device is taken.
"""

import socket
import struct
import time

from benchlib import AGENTS, SCALE, SIMCO, Background, middlebox, row, run, title
from lib.net import Net
from simco_client import Simco

PINHOLES = int(100000 * SCALE)
SENDER, RECEIVER = "10.1.0.2", "198.18.0.1"  # ends of flow i of simco_load
FLOWS = 1000
DROP = """table netdev bench {
	chain ingress {
		type filter hook ingress device "%s" priority 0
		drop
	}
}
"""


class Hosts(Net):
    """Sender, firewall and receiver; nobody answers, nobody asks for addresses."""

    def __init__(self):
        super().__init__("bench")
        self.s, self.fw, self.r = self.ns("s"), self.ns("fw"), self.ns("r")
        self.fw.forwarding()
        self.link(self.s, "eth0", self.fw, "in")
        self.link(self.fw, "out", self.r, "eth0")
        self.s.address("eth0", SENDER + "/16")
        self.fw.address("in", "10.1.255.1/16")
        self.fw.address("out", "198.18.0.254/16", *(f"192.0.2.{i + 1}/32" for i in range(AGENTS)))
        self.r.address("eth0", RECEIVER + "/16")
        for ns, dev in ((self.s, "eth0"), (self.r, "eth0")):
            ns.route("default", "10.1.255.1" if ns is self.s else "198.18.0.254")
        self.mac = self.s.run("ip", "-n", self.fw.name, "-br", "link", "show", "in").split()[2]
        self.out_mac = self.s.run("ip", "-n", self.fw.name, "-br", "link", "show",
                                  "out").split()[2]
        there = self.s.run("ip", "-n", self.r.name, "-br", "link", "show", "eth0").split()[2]
        self.fw.ip("neigh", "add", RECEIVER, "lladdr", there, "dev", "out")

    def cost(self, seconds=0.7, tries=4):
        """CPU ns of sending one packet and all that it causes; the best of some tries."""
        return min(run("packets", "eth0", self.mac, SENDER, 20000, RECEIVER, 5004, FLOWS,
                       seconds, ns=self.s.name)["ns"] for _ in range(tries))

    def received(self):
        return int(self.r.run("cat", "/sys/class/net/eth0/statistics/rx_packets"))


def forwarding():
    title(f"Forwarding 172 octets of payload, {FLOWS} flows; CPU per packet")
    hosts = Hosts()
    try:
        hosts.fw.nft(DROP % "in")
        base = hosts.cost()
        hosts.fw.run("nft", "delete", "table", "netdev", "bench")
        hosts.r.nft(DROP % "eth0")
        plain = hosts.cost() - base
        row("plain forwarding, no nftables", f"{plain:.0f} ns")
        permit = [{"from": "10.9.0.0/16", "to": "0.0.0.0/0", "protocol": "tcp", "ports": "554"}]
        for name, options, permits, goal in (
                ("firewall", {"counters": False}, [], "75 %"),
                ("firewall, counters", {}, [], ""),
                ("firewall, stateful permits", {"counters": False}, permit, "58 %"),
                ("NAPT", {"nat": True, "counters": False}, permit, "45 %")):
            with_pinholes(hosts, name, options, permits, goal, base, plain)
        permitted(hosts, base, plain)
    finally:
        hosts.close()


def with_pinholes(hosts, name, options, permits, goal, base, plain):
    def change(policy):
        policy["firewall"].update(inside=["in", "lo"], outside=["out"], permit=permits)
    with middlebox(hosts.fw, change, **options) as box:
        each = PINHOLES // AGENTS
        for i in range(AGENTS):
            run("simco_load", "-b", i * each, "-s", f"127.0.0.{i + 1}", "keep", SIMCO, box.pid,
                each, 1024, ns=hosts.fw.name)
        before = hosts.received()
        cost = hosts.cost() - base
        assert hosts.received() > before + 10000, "the packets do not pass"
        row(f"{name}, {PINHOLES} pinholes", f"{cost:.0f} ns, {100 * plain / cost:.0f} % of plain",
            goal)


def permitted(hosts, base, plain):
    """Flows without pinholes, which only a static permit lets through, and disable rules of others."""
    def change(policy):
        policy["firewall"].update(inside=["in", "lo"], outside=["out"], permit=[
            {"from": "10.1.0.0/16", "to": "0.0.0.0/0", "protocol": "udp", "ports": "1-65535"}])
        for agent in policy["agents"].values():
            agent.update(may=["enable", "disable"], wildcards=True)
    with middlebox(hosts.fw, change, counters=False) as box:
        c = Simco(hosts.fw.connect("127.0.0.1", 7626)).establish()
        for name, ends in (("no disable rule", None),
                           ("an exact disable rule", (("10.1.9.9", 5000), (RECEIVER, 5004))),
                           ("a wildcard one besides", (("10.1.9.9", 0), ("0.0.0.0/0", 0)))):
            if ends:
                c.pdr(*ends, lifetime=600)
            before = hosts.received()
            cost = hosts.cost() - base
            assert hosts.received() > before + 10000, "the packets do not pass"
            row(f"static permit, {name}", f"{cost:.0f} ns, {100 * plain / cost:.0f} % of plain")


def last_packet(sock, patience=0.05):
    """When the kernel received the last packet, in seconds of CLOCK_REALTIME."""
    sock.settimeout(patience)
    last = 0
    while True:
        try:
            _, more, _, _ = sock.recvmsg(2048, 128)
        except TimeoutError:
            return last
        for _, _, data in more:
            seconds, ns = struct.unpack("qq", data[:16])
            last = seconds + ns / 1e9


def stopping(nat):
    """Media from outside is cut by PLC 0; how long after the request, and after its reply?"""
    hosts, name = Hosts(), "NAPT" if nat else "firewall"
    try:
        def change(policy):
            policy["firewall"].update(inside=["in", "lo"], outside=["out"])
        with middlebox(hosts.fw, change, nat=nat) as box:
            c = Simco(hosts.fw.connect("127.0.0.1", 7626)).establish()
            sock = hosts.s.udp(SENDER, 5000)
            sock.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            here = hosts.s.run("ip", "-n", hosts.s.name, "-br", "link", "show",
                               "eth0").split()[2]
            hosts.fw.ip("neigh", "replace", SENDER, "lladdr", here, "dev", "in")
            after_request, after_reply = [], []
            for _ in range(20):
                rule = c.per((SENDER, 5000), (RECEIVER, 5004), lifetime=600)
                target = ("192.0.2.1", rule.outside.port) if nat else (SENDER, 5000)
                sender = Background(box.directory, "packets", "eth0", hosts.out_mac, RECEIVER,
                                    "5004", target[0], str(target[1]), "1", "0.25", "20",
                                    ns=hosts.r)
                sock.settimeout(5)
                sock.recv(2048)
                time.sleep(0.1)
                asked = time.time()
                c.plc(rule.pid, 0)
                answered = time.time()
                last = last_packet(sock)
                assert last, "no media"
                sender.wait(10)
                after_request.append(last - asked)
                after_reply.append(last - answered)
        row(f"{name}: last packet after the request, worst of 20",
            f"{max(after_request) * 1e3:.2f} ms", "1 ms")
        row(f"{name}: last packet after the reply, worst of 20",
            f"{max(after_reply) * 1e3:.2f} ms", "none: negative")
    finally:
        hosts.close()


forwarding()
title("Closing a pinhole while media flows")
stopping(False)
stopping(True)
