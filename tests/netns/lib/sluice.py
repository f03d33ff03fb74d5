"""The two daemons in a topology: policies, start, readiness, end."""

import json
import os

from . import topo
from .proc import Proc, wait_until
from .rest import Rest

SRC = os.environ.get("SRCDIR") or os.path.abspath(
    os.path.join(os.path.dirname(__file__), "..", "..", ".."))
BUILD = os.environ.get("BUILDDIR") or os.path.join(SRC, "build")

SANITIZED = "san" in os.path.basename(BUILD)

# How many times slower than usual to expect things (sanitizers, loaded machines).
PATIENCE = 4 if SANITIZED else 2

_SANITIZER = ("AddressSanitizer", "LeakSanitizer", "runtime error:")


class Daemon(Proc):
    """One daemon with its policy in `directory`. It must end cleanly when it is stopped."""

    program = None

    def __init__(self, ns, directory, policy, name=None, options=(), env=None):
        self.name = name or self.program
        self.policy = policy
        self.policy_file = os.path.join(directory, self.name + ".json")
        self.write_policy()
        super().__init__([os.path.join(BUILD, self.program), *options, self.policy_file],
                         os.path.join(directory, self.name + ".log"), ns,
                         env={"ASAN_OPTIONS": "detect_leaks=1:abort_on_error=0",
                              "UBSAN_OPTIONS": "print_stacktrace=1", **(env or {})})
        self.rest = Rest(policy["rest"]["listen"][0].removeprefix("unix:"))

    def write_policy(self):
        with open(self.policy_file, "w") as f:
            json.dump(self.policy, f, indent=2)

    def _answers(self, target):
        assert self.running(), f"{self.name} ended ({self.popen.returncode}):\n{self.text()}"
        try:
            return self.rest.request("GET", target)[0] == 200
        except OSError:
            return False

    def wait_healthy(self):
        wait_until(lambda: self._answers("/healthz"), 10 * PATIENCE, f"{self.name}: /healthz")
        return self

    def wait_ready(self):
        wait_until(lambda: self._answers("/readyz"), 10 * PATIENCE, f"{self.name}: /readyz")
        return self

    def check_clean(self):
        text = self.text()
        for sign in _SANITIZER:
            assert sign not in text, f"{self.name}:\n{text[-6000:]}"

    def finish(self):
        """Stops it and checks that it ended as it should."""
        was_running = self.running()
        status = self.stop(20)
        self.check_clean()
        assert was_running, f"{self.name} had ended by itself ({status}):\n{self.text()[-3000:]}"
        assert status == 0, f"{self.name} ended with {status}:\n{self.text()[-3000:]}"


class Middlebox(Daemon):
    program = "sluice-middlebox"


class Agent(Daemon):
    program = "sluice-agent"


def middlebox_policy(net, directory, nat=False, **changes):
    """A middlebox for `net`. `changes` replace or add top-level keys."""
    simco = "127.0.0.1" if net.one_host else topo.INSIDE
    agent = {"address": ["127.0.0.1/32"] if net.one_host else [topo.AGENT + "/32"],
             "may": ["reserve", "enable"], "max_rules": 4000,
             "permit": [{"internal": topo.CLIENT_NET, "external": "0.0.0.0/0",
                         "protocol": "udp", "ports": "1024-65535"},
                        {"internal": topo.CLIENT_NET6, "external": "::/0",
                         "protocol": "udp", "ports": "1024-65535"}]}
    permit = [{"from": topo.CLIENT_NET, "to": "0.0.0.0/0", "protocol": "tcp", "ports": "554"},
              {"from": topo.CLIENT_NET6, "to": "::/0", "protocol": "tcp", "ports": "554"},
              {"from": topo.AGENT + "/32", "to": "0.0.0.0/0", "protocol": "tcp", "ports": "554"},
              {"from": topo.AGENT6 + "/128", "to": "::/0", "protocol": "tcp", "ports": "554"}]
    policy = {
        "simco": {"listen": [simco + ":7626"], "plain": True, "max_lifetime": 3600},
        "agents": {"agent-1": agent},
        "firewall": {"mode": "enforce", "inside": ["in"], "outside": ["out"], "permit": permit},
        "ledger": os.path.join(directory, "ledger"),
        "rest": {"listen": ["unix:" + os.path.join(directory, "middlebox.sock")]},
    }
    if nat:
        agent["pool"] = topo.OUTSIDE
        policy["nat"] = {
            "mode": "napt", "outside": [{"address": topo.OUTSIDE, "ports": "16384-32767"}],
            "source": [{"from": "10.1.0.0/16", "to_address": topo.OUTSIDE, "ports": "40000-65535"}]}
    policy.update(changes)
    return policy


def agent_policy(net, directory, **changes):
    """An agent for `net` that intercepts RTSP. `changes` replace or add top-level keys."""
    simco = "127.0.0.1" if net.one_host else topo.INSIDE
    policy = {
        "identity": "agent-1",
        "zones": {"inside": [topo.CLIENT_NET, topo.CLIENT_NET6],
                  "outside": ["0.0.0.0/0", "::/0"]},
        "middleboxes": {"edge": {"address": simco + ":7626"}},
        "paths": [{"from": "inside", "to": "outside", "through": ["edge"]}],
        "rtsp": [{"listen": "0.0.0.0:554", "mode": "transparent", "out": "auto", "tproxy": True},
                 {"listen": "[::]:554", "mode": "transparent", "out": "auto", "tproxy": True}],
        "rest": {"listen": ["unix:" + os.path.join(directory, "agent.sock")]},
    }
    policy.update(changes)
    return policy


class Site:
    """A topology with both daemons running in it."""

    def __init__(self, net, directory, nat=False, middlebox=None, agent=None, intercept=True,
                 env=None):
        self.net, self.directory, self.env = net, str(directory), env
        self.middlebox_policy = middlebox_policy(net, self.directory, nat, **(middlebox or {}))
        self.agent_policy = agent_policy(net, self.directory, **(agent or {}))
        if intercept:
            net.intercept()
        self.start_middlebox()
        self.start_agent()
        self.agent.wait_ready()

    def start_middlebox(self):
        self.middlebox = Middlebox(self.net.fw, self.directory, self.middlebox_policy,
                                   env=self.env)
        self.middlebox.wait_healthy()

    def start_agent(self):
        self.agent = Agent(self.net.agent, self.directory, self.agent_policy, env=self.env)
        self.agent.wait_healthy()

    def rules(self):
        return self.middlebox.rest.items("rules")

    def wait_no_rules(self, timeout=5.0):
        wait_until(lambda: not self.rules(), timeout * PATIENCE, "all rules to go")

    def close(self):
        """Ends both; a daemon that crashed or leaked fails the test."""
        try:
            self.agent.finish()
        finally:
            self.middlebox.finish()
