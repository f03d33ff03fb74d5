#!/usr/bin/python3
"""What a request costs: latency, CPU, with many rules present, against other ways, with TLS."""

import os
import tempfile
import time

from benchlib import (AGENTS, SCALE, SIMCO, certificates, middlebox, row, run, scaled, title,
                      versus)
from lib.sluice import Middlebox


def idle():
    title("One request at a time on an idle session, against a TCP echo of the same sizes")
    for nat in (False, True):
        with middlebox(nat=nat, counters=False) as box:
            v = versus(box)
            name = "NAPT" if nat else "firewall"
            row(f"{name}: open p50 / p99", f"{v['open']:.1f} / {v['open_p99']:.0f} us")
            row(f"{name}: TCP echo p50 / p99", f"{v['echo']:.1f} / {v['echo_p99']:.0f} us")
            row(f"{name}: open / echo, p50", f"{v['ratio']:.2f}",
                "1.3" if not nat else "")
            row(f"{name}: CPU of the daemon per request", f"{v['cpu']:.1f} us")


def pipelined():
    """Best of three: other programs only make it slower."""
    title("256 requests in flight, one core")
    costs = {}
    for name, options, goal in (
            ("firewall, 2 elements", {"counters": False}, "5 us, 200000/s"),
            ("firewall, 2 elements with counters", {}, ""),
            ("NAPT, 4 elements", {"nat": True, "counters": False}, "12 us"),
            ("NAPT, 4 elements, 2 with counters", {"nat": True}, "")):
        with middlebox(**options) as box:
            tries = [run("simco_load", "many", SIMCO, box.pid, scaled(20000), 256)
                     for _ in range(3)]
        v = min(tries, key=lambda t: t["open_cpu"])
        costs[name] = v["open_cpu"]
        row(f"{name}: open", f"{v['open_cpu']:.2f} us CPU {v['open_rate']:8.0f}/s", goal)
        row(f"{name}: close", f"{v['close_cpu']:.2f} us CPU {v['close_rate']:8.0f}/s")
    return costs["firewall, 2 elements"]


def others(cost):
    title("The same pinhole in other ways, CPU; in brackets: how much the daemon is cheaper")
    v = run("nft_ways", scaled(20000))
    row("bare libnftnl, one per transaction", f"{v['single_open']:.2f} us")
    row("bare libnftnl, 50 per transaction", f"{v['batch_open']:.2f} us")
    for key, name, goal in (("rule", "rule per pinhole, 1000 present", "35"),
                            ("libnftables", "libnftables in process", "8"),
                            ("process", "a process of nft each", "100")):
        if key + "_open" in v:
            row(name, f"{v[key + '_open']:.0f} us ({v[key + '_open'] / cost:.0f} x)", goal + " x")
        else:
            row(name, "not here")


def population(nat, total):
    name = f"{'NAPT' if nat else 'firewall'}, {total} rules"
    title(f"With many rules present: {name}")
    with middlebox(nat=nat, counters=False) as box:
        empty_kb = box.memory_kb()
        before = versus(box, 2000000)
        light = run("simco_load", "-b", 2000000, "many", SIMCO, box.pid, scaled(20000), 256)
        each = total // AGENTS
        began = time.monotonic()
        for i in range(AGENTS):
            run("simco_load", "-l", 86400, "-b", i * each, "-s", f"127.0.0.{i + 1}", "keep",
                SIMCO, box.pid, each, 1024)
        fill = time.monotonic() - began
        after = versus(box, 2000000)
        heavy = run("simco_load", "-b", 2000000, "many", SIMCO, box.pid, scaled(20000), 256)
        row("filling", f"{fill:.1f} s, {total / fill:.0f}/s")
        row("window 1: open p50 without and with them",
            f"{before['open']:.1f} {after['open']:.1f} us")
        row("window 1: the same, CPU of the daemon per request",
            f"{before['cpu']:.1f} {after['cpu']:.1f} us")
        row("window 1: p50 grows to", f"{100 * after['open'] / before['open']:.0f} %", "110 %")
        row("window 256: open, CPU without and with them",
            f"{light['open_cpu']:.2f} {heavy['open_cpu']:.2f} us")
        row("daemon memory per rule",
            f"{(box.memory_kb() - empty_kb) * 1024 / total:.0f} octets", "256 octets")
        if not nat:
            restart(box, total)


def restart(box, total):
    """kill -9 and another start, until it serves again."""
    box.kill()
    began = time.monotonic()
    box.popen = Middlebox(None, box.directory, box.policy).popen
    box.wait_ready()
    took = time.monotonic() - began
    assert box.rest.get("/v1/status")["rules"]["present"] == total
    row("killed; until it serves again", f"{took:.2f} s", "2 s")
    row("and its memory per rule, all in all", f"{box.memory_kb() * 1024 / total:.0f} octets",
        "256 octets")


def tls():
    title("TLS against plain TCP, 256 in flight, CPU")
    with tempfile.TemporaryDirectory(dir=os.environ.get("SLUICE_TMP")) as directory:
        with middlebox(counters=False, tls=certificates(directory)) as box:
            best = {}
            for _ in range(3):
                for name, options in (("plain", ["-s", "127.0.0.2"]), ("tls", ["-T", directory])):
                    v = run("simco_load", *options, "many", SIMCO, box.pid, scaled(20000), 256)
                    cost = v["open_cpu"]
                    best[name] = min(cost, best.get(name, cost))
    row("open, plain", f"{best['plain']:.2f} us")
    row("open, TLS", f"{best['tls']:.2f} us ({best['tls'] / best['plain']:.2f} x)", "1.5 x")


def main():
    idle()
    others(pipelined())
    tls()
    population(True, int(100000 * SCALE))
    population(False, int(1000000 * SCALE))


main()
