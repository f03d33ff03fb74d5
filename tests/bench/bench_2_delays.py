#!/usr/bin/python3
"""How long one session's requests wait while another does something big, or something evil.

A probe opens and closes one pinhole after the other. Shown for each case: the longest request by
the clock, and by the CPU time that the daemon spent meanwhile, which other programs on this machine
disturb less; and the longest turn of the daemon's loop, in CPU time of its one thread (a request
waits for the rest of a turn and for its own). All that also while nothing happens.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time

from benchlib import (SIMCO, SRC, Background, certificates, middlebox, program, row, run, scaled,
                      title)
from lib.proc import Proc, wait_until

HOSTILE = os.path.join(SRC, "tests", "netns", "tools", "hostile.py")
RULES = scaled(10000)
PRL_MAX = 8191
LONG_US = 200


def undisturbed(pid, priority):
    """Goes ahead of the other programs of a case, which would be on hosts of their own.

    Daemon and probe have a processor each, if there are two. Threads do not go ahead. What the
    kernel does on that processor in the name of others still delays them, also while nothing
    happens: only what is beyond that says something.
    """
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(pid, {cpus[priority % len(cpus)]})
    os.sched_setscheduler(pid, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(priority))


class Probe:
    """agent-1 asks all the time; during(what) shows how that went."""

    def __init__(self, box):
        self.tool = Background(box.directory, "simco_load", "-b", "5000000", "probe", SIMCO,
                               str(box.pid))
        self.box, self.seen, self.read = box, 0, 0
        undisturbed(box.pid, 1)
        undisturbed(self.tool.pid, 2)
        time.sleep(0.3)
        self.report()
        time.sleep(0.5)
        self.show("nothing happens", self.report())

    def report(self):
        self.seen += 1
        return self.tool.next(signal.SIGUSR1, self.seen - 1)

    def turn(self):
        """The longest turn since the last call, and how many were long."""
        text = self.box.text()
        turns = [int(us) for us in re.findall(r"a turn took (\d+) us", text[self.read:])]
        self.read = len(text)
        most = f"{max(turns) / 1e3:5.2f}" if turns else f"< {LONG_US / 1e3:.1f}"
        return f"turn {most} ms"

    def show(self, what, v, goal=""):
        row(what, f"{v['wall_max'] / 1e3:6.2f} ms p99 {v['wall_p99'] / 1e3:5.2f}, CPU "
            f"{v['cpu_max'] / 1e3:5.2f} ms p99 {v['cpu_p99'] / 1e3:5.2f}, {self.turn()}", goal)

    def during(self, what, action, goal="1 ms more"):
        self.report()
        self.turn()
        action()
        self.show(what, self.report(), goal)

    def close(self):
        self.tool.kill()


def fill(box, count, *options, mode="keep"):
    run("simco_load", "-s", "127.0.0.2", *options, mode, SIMCO, box.pid, count, 1024)


def big_things(nat):
    title(f"The longest request of a session while another ... ({'NAPT' if nat else 'firewall'})")
    with middlebox(nat=nat, change=large_policy, watch=LONG_US) as box:
        probe = Probe(box)
        probe.during(f"opens {RULES} rules", lambda: fill(box, RULES, "-l", 5))
        probe.during(f"has {RULES} rules expire at once", lambda: wait_until(
            lambda: box.rest.get("/v1/status")["rules"]["present"] < 10, 30, "expiry", 0.2))
        bulk = subprocess.Popen([program("simco_load"), "-s", "127.0.0.3", "hold", SIMCO,
                                 str(box.pid), str(RULES), "1024"], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE)
        bulk.stdout.readline()
        probe.during(f"closes {RULES} rules", lambda: (bulk.stdin.close(), bulk.wait()))
        count = min(PRL_MAX, RULES)
        fill(box, count)
        probe.during(f"lists {count} rules (PRL)",
                     lambda: run("simco_load", "-s", "127.0.0.2", "list", SIMCO, box.pid, 20))
        probe.during("reads them page by page over REST", lambda: box.rest.items("rules"))
        fill(box, 20, "-s", "127.0.0.4", "-l", 2, "-b", 100000, mode="wild")
        probe.during("has 20 wildcard rules expire", lambda: time.sleep(3))
        probe.during("reloads a policy of 4 x 4000 permits", lambda: (
            box.signal(signal.SIGHUP), time.sleep(1)))
        probe.close()


def large_policy(policy):
    for agent in policy["agents"].values():
        agent["permit"] = agent["permit"] + [
            {"internal": f"172.{16 + i // 256 % 16}.{i % 256}.0/24", "external": "0.0.0.0/0"}
            for i in range(4000)]


def handshakes():
    title("The longest request of a session while others do 40 TLS handshakes at once")
    with tempfile.TemporaryDirectory(dir=os.environ.get("SLUICE_TMP")) as directory:
        tls = certificates(directory)

        def agents(policy):
            policy["agents"]["agent-2"]["certificate"] = "agent-1.example"
            del policy["agents"]["agent-1"]["certificate"]
        with middlebox(tls=tls, change=agents, watch=LONG_US) as box:
            probe = Probe(box)
            for _ in range(3):
                probe.during("40 handshakes (ECDSA, mutual)", lambda: run(
                    "simco_load", "-s", "127.0.0.2", "-T", directory, "handshakes", SIMCO, 40))
            probe.close()


def restrained(policy):
    policy["agents"]["agent-2"].update(wildcards=False, permit=[
        {"internal": "10.1.0.0/16", "external": "0.0.0.0/0"}])


def hostile():
    title("The longest request of a session while a peer misbehaves for 2 s")
    with middlebox(change=restrained, watch=LONG_US) as box:
        probe = Probe(box)
        for kind in ("garbage", "fuzz", "halfopen", "slow", "refused", "churn"):
            def attack(kind=kind):
                peer = Proc(["/usr/bin/python3", HOSTILE, kind, "127.0.0.1", "7626", "2",
                             "127.0.0.2"], os.path.join(box.directory, kind))
                assert peer.wait() == 0, peer.text()
            probe.during(kind, attack, "")
            wait_until(lambda: box.rest.get("/v1/status")["sessions"]["connections"] < 3, 30,
                       "connections to go")
        probe.close()


PARTS = {"firewall": lambda: big_things(False), "nat": lambda: big_things(True),
         "handshakes": handshakes, "hostile": hostile}
for part in sys.argv[1:] or PARTS:
    PARTS[part]()
