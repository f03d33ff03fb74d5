#!/usr/bin/python3
"""What opening and closing a pinhole costs, through the whole daemon and without it, in one run.

Runs in a network namespace of its own (./run bench makes one).
"""

import os
import subprocess
import sys
import tempfile

SRC = os.environ.get("SRCDIR") or os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
sys.path.insert(0, os.path.join(SRC, "tests", "netns"))

from lib.proc import Proc, wait_until  # noqa: E402
from lib.sluice import BUILD, Middlebox  # noqa: E402

SIMCO, ECHO = "127.0.0.1:7626", "127.0.0.1:7627"
COUNT = int(os.environ.get("SLUICE_BENCH_COUNT", "20000"))


def program(name):
    return os.path.join(BUILD, "tests", "bench", name)


def listens(port):
    with open("/proc/net/tcp") as f:
        return f":{port:04X} 00000000:0000 0A" in f.read()


def run(name, *argv):
    done = subprocess.run([program(name), *map(str, argv)], text=True, timeout=600,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    print("".join(f"    {line}\n" for line in done.stdout.splitlines()), end="", flush=True)
    if done.returncode:
        sys.exit(f"{name} {argv}: {done.returncode}")


def policy(directory, nat):
    agent = {"address": ["127.0.0.1/32"], "max_rules": 3000000,
             "permit": [{"internal": "0.0.0.0/0", "external": "0.0.0.0/0"}]}
    made = {"simco": {"listen": [SIMCO], "plain": True}, "agents": {"bench": agent},
            "firewall": {"inside": ["lo"], "outside": ["none"]},
            "limits": {"rules": 3000000},
            "ledger": os.path.join(directory, "ledger"),
            "rest": {"listen": ["unix:" + os.path.join(directory, "rest.sock")]}}
    if nat:
        agent["pool"] = "192.0.2.1"
        made["nat"] = {"mode": "napt", "outside": [{"address": "192.0.2.1", "ports": "1024-65535"}]}
    return made


def main():
    print("  one TCP round trip of the same sizes (echo), window 1:")
    with tempfile.TemporaryDirectory(dir=os.environ.get("SLUICE_TMP")) as directory:
        echo = Proc([program("simco_load"), "echo", ECHO], os.path.join(directory, "echo.log"))
        try:
            wait_until(lambda: listens(7627), 5, "the echo server")
            run("simco_load", "ping", ECHO, COUNT)
        finally:
            echo.kill()
    print("  the kernel alone, two elements per pinhole:")
    run("nft_bare", COUNT)
    for nat in (False, True):
        with tempfile.TemporaryDirectory(dir=os.environ.get("SLUICE_TMP")) as directory:
            middlebox = Middlebox(None, directory, policy(directory, nat)).wait_healthy()
            try:
                kind = "NAT" if nat else "firewall"
                print(f"  sluice-middlebox, {kind} mode, window 1:")
                run("simco_load", "one", SIMCO, middlebox.pid, COUNT)
                print(f"  sluice-middlebox, {kind} mode, 256 in flight:")
                run("simco_load", "many", SIMCO, middlebox.pid, COUNT, 256)
            finally:
                middlebox.stop()
                subprocess.run(["nft", "delete", "table", "inet", "sluice"], check=False)


main()
