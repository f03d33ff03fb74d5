"""Programs started by a test: in a namespace, with a log, ended for certain."""

import ctypes
import os
import re
import signal
import subprocess
import time

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


def _die_with_parent():
    """In the child: end when the test process ends, however it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def wait_until(check, timeout=5.0, what="condition", step=0.02):
    """The first true value of check(), or TimeoutError."""
    deadline = time.monotonic() + timeout
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout} s")
        time.sleep(step)


class Proc:
    """One program. Its output goes to a file; `stdout` may name another file for stdout alone."""

    def __init__(self, argv, log, ns=None, env=None, stdout=None):
        self.argv = [str(a) for a in argv]
        self.log = log
        self.stdout = stdout
        command = self.argv if ns is None else ["ip", "netns", "exec", ns.name, *self.argv]
        with open(log, "ab") as err, open(stdout or log, "ab") as out:
            self.popen = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                env={**os.environ, **(env or {})}, preexec_fn=_die_with_parent)

    @property
    def pid(self):
        return self.popen.pid

    def running(self):
        return self.popen.poll() is None

    def text(self):
        with open(self.log, errors="replace") as f:
            return f.read()

    def wait_line(self, pattern, timeout=10.0):
        """The match of `pattern` in the log; fails at once when the program ended without it."""
        regex = re.compile(pattern, re.MULTILINE)

        def look():
            ended = not self.running()
            found = regex.search(self.text())
            if not found and ended:
                raise AssertionError(
                    f"{self.argv[0]} ended ({self.popen.returncode}):\n{self.text()[-2000:]}")
            return found
        return wait_until(look, timeout, f"{self.argv[0]}: '{pattern}' in {self.log}")

    def signal(self, number):
        if self.running():
            self.popen.send_signal(number)

    def kill(self):
        """SIGKILL, at once."""
        self.signal(signal.SIGKILL)
        self.popen.wait()

    def wait(self, timeout=None):
        return self.popen.wait(timeout)

    def stop(self, timeout=10.0):
        """SIGTERM, after `timeout` SIGKILL. The exit status."""
        self.signal(signal.SIGTERM)
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return self.popen.returncode

    def fds(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory_kb(self):
        """Resident set, in KiB."""
        with open(f"/proc/{self.pid}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read()).group(1))
