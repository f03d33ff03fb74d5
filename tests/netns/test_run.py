"""The demonstration, and that ./run leaves nothing behind."""

import os
import signal
import subprocess
import sys

import pytest

from lib.net import PREFIX, sh
from lib.proc import wait_until
from lib.sluice import SRC

HERE = os.path.dirname(os.path.abspath(__file__))


def namespaces(prefix):
    return [line.split()[0] for line in sh(["ip", "netns", "list"]).splitlines()
            if line.startswith(prefix)]


@pytest.mark.parametrize("options", [[], ["--one-host"]], ids=["two-hosts", "one-host"])
def test_demo(directory, options):
    done = subprocess.run([sys.executable, os.path.join(HERE, "demo.py"), *options], text=True,
                          env={**os.environ, "SLUICE_PREFIX": PREFIX + "d-",
                               "SLUICE_TMP": directory},
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=180)
    assert done.returncode == 0, done.stdout
    assert not namespaces(PREFIX + "d-")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_nothing(number):
    prefix = PREFIX + "i-"
    run = subprocess.Popen([os.path.join(SRC, "run"), "demo"], stdin=subprocess.DEVNULL,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                           env={**os.environ, "SLUICE_PREFIX": prefix},
                           # A background job ignores SIGINT, and so would its children.
                           preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    wait_until(lambda: len(namespaces(prefix)) == 4, 120, "the demonstration to begin")
    pids = [int(p) for ns in namespaces(prefix)
            for p in sh(["ip", "netns", "pids", ns], check=False).split()]
    run.send_signal(number)
    output = run.communicate(timeout=60)[0]
    assert run.returncode == 128 + number, output
    assert not namespaces(prefix)
    assert not [p for p in pids if os.path.exists(f"/proc/{p}")]


def test_run_tells_how_to_use_it():
    done = subprocess.run([os.path.join(SRC, "run"), "nonsense"], text=True, capture_output=True,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and "usage: sudo ./run COMMAND" in done.stderr
