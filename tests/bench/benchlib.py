"""What the benchmarks share: a middlebox on the loopback, programs that print name=value, a table.

Goals are those of the project's plan; nothing here fails because of a number.
"""

import contextlib
import os
import subprocess
import sys
import tempfile

SRC = os.environ.get("SRCDIR") or os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
sys.path.insert(0, os.path.join(SRC, "tests", "netns"))

from lib.proc import Proc, wait_until  # noqa: E402
from lib.sluice import BUILD, Middlebox  # noqa: E402

SIMCO, ECHO = "127.0.0.1:7626", "127.0.0.1:7627"
SCALE = float(os.environ.get("SLUICE_BENCH_SCALE", "1"))  # less: a quicker, rougher run
AGENTS = 4


def scaled(n):
    return max(100, int(n * SCALE))


def program(name):
    return os.path.join(BUILD, "tests", "bench", name)


def values(text):
    """The last line with name=value words, as a dictionary."""
    found = {}
    for line in text.splitlines():
        words = dict(w.split("=", 1) for w in line.split() if "=" in w)
        found.update({k: float(v) for k, v in words.items()})
    return found


def run(name, *argv, ns=None):
    """Runs a benchmark program; its figures."""
    command = [program(name), *map(str, argv)]
    if ns:
        command = ["ip", "netns", "exec", ns, *command]
    done = subprocess.run(command, text=True, timeout=600, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode or done.stderr:
        sys.exit(f"{' '.join(command)}: {done.returncode} {done.stderr}")
    made = values(done.stdout)
    assert not made.get("refused"), f"{' '.join(command)}: {done.stdout}"
    return made


class Background(Proc):
    """A benchmark program that goes on until it is stopped."""

    def __init__(self, directory, name, *argv, ns=None):
        self.out = tempfile.mktemp(dir=directory, prefix=name)
        super().__init__([program(name), *argv], self.out + ".err", ns, stdout=self.out)

    def lines(self):
        with open(self.out) as f:
            return [values(line) for line in f.read().splitlines() if "=" in line]

    def next(self, signal, before, timeout=30):
        """Asks for a report; the one that comes after `before` others."""
        self.signal(signal)
        wait_until(lambda: len(self.lines()) > before, timeout, "a report")
        return self.lines()[before]


def versus(box, first=0):
    """The echo and the daemon by turns. Client and servers have a processor each, if there are
    two, lest the scheduler decide which of the servers shares the client's."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1:
        os.sched_setaffinity(box.pid, {cpus[1]})
    with echo_server() as echo:
        if len(cpus) > 1:
            os.sched_setaffinity(echo.pid, {cpus[1]})
            os.sched_setaffinity(0, {cpus[0]})
        try:
            return run("simco_load", "-b", first, "versus", ECHO, SIMCO, box.pid, scaled(20000))
        finally:
            os.sched_setaffinity(0, cpus)
            os.sched_setaffinity(box.pid, cpus)


def row(what, value, goal=""):
    print(f"  {what:<56} {value:>34}   {goal}".rstrip(), flush=True)


def title(text):
    print(f"\n{text}", flush=True)


def listens(port):
    with open("/proc/net/tcp") as f:
        return f":{port:04X} 00000000:0000 0A" in f.read()


@contextlib.contextmanager
def echo_server():
    with tempfile.TemporaryDirectory(dir=os.environ.get("SLUICE_TMP")) as directory:
        echo = Proc([program("simco_load"), "echo", ECHO], os.path.join(directory, "echo.log"))
        try:
            wait_until(lambda: listens(7627), 5, "the echo server")
            yield echo
        finally:
            echo.kill()


def policy(directory, nat=False, counters=True, tls=None):
    """Agents come from 127.0.0.1, .2, ...; on a NAT each has a pool address of its own."""
    permit = [{"internal": "0.0.0.0/0", "external": "0.0.0.0/0"}]
    agents = {f"agent-{i}": {"address": [f"127.0.0.{i}/32"], "max_rules": 3000000,
                             "wildcards": True, "permit": permit} for i in range(1, AGENTS + 1)}
    made = {"simco": {"listen": [SIMCO], "plain": True, "max_lifetime": 86400}, "agents": agents,
            "firewall": {"inside": ["lo"], "outside": ["none"], "counters": counters},
            "limits": {"rules": 1200000, "sessions": 256},
            "ledger": os.path.join(directory, "ledger"),
            "rest": {"listen": ["unix:" + os.path.join(directory, "rest.sock")]},
            "log": {"level": "warning"}}
    if tls:
        made["simco"]["tls"] = {"certificate": f"{tls}/middlebox.pem",
                                "key": f"{tls}/middlebox.key", "ca": f"{tls}/ca.pem"}
        agents["agent-1"]["certificate"] = "agent-1.example"
    if nat:
        for i, agent in enumerate(agents.values(), 1):
            agent["pool"] = f"192.0.2.{i}"
        made["nat"] = {"mode": "napt",
                       "outside": [{"address": a["pool"], "ports": "1024-65535"}
                                   for a in agents.values()]}
        made["limits"]["rules"] = 200000
    return made


@contextlib.contextmanager
def middlebox(ns=None, change=None, watch=None, **options):
    """A running middlebox, with an empty ledger and no table left behind. Its directory is in
    memory, as /run is. `watch`: the CPU time (us) above which it logs a turn of its loop."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        made = policy(directory, **options)
        if change:
            change(made)
        more = {"options": ["--test-turns", str(watch)]} if watch else {}
        box = Middlebox(ns, directory, made, **more).wait_ready()
        box.directory = directory
        try:
            yield box
            status = box.rest.get("/v1/status")["firewall"]
            if status["aborts"] or status["refused"]:
                row("ABORTED TRANSACTIONS", f"{status['aborts']}", "0")
        finally:
            box.stop()
            enter = ["ip", "netns", "exec", ns.name] if ns else []
            subprocess.run([*enter, "nft", "delete", "table", "inet", "sluice"], check=False,
                           stderr=subprocess.DEVNULL)


def certificates(directory):
    """A CA, a middlebox and an agent-1.example, ECDSA."""
    def openssl(*argv):
        subprocess.run(["openssl", *argv], check=True, capture_output=True)

    def at(name):
        return os.path.join(directory, name)
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *new, "-keyout", at("ca.key"), "-out", at("ca.pem"), "-days", "2",
            "-subj", "/CN=bench")
    for name, host in (("middlebox", "edge.example"), ("agent", "agent-1.example")):
        openssl("req", *new, "-keyout", at(name + ".key"), "-out", at(name + ".csr"),
                "-subj", "/CN=" + host, "-addext", "subjectAltName=DNS:" + host)
        openssl("x509", "-req", "-in", at(name + ".csr"), "-CA", at("ca.pem"), "-CAkey",
                at("ca.key"), "-CAcreateserial", "-copy_extensions", "copy", "-days", "2",
                "-out", at(name + ".pem"))
    return directory
