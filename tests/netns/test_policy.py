"""Bad policy files: a daemon does not start, and names every error with its place."""

import json
import os
import re
import subprocess

import jsonschema
import pytest

from lib.sluice import BUILD, SRC, Agent, agent_policy, middlebox_policy

AGENT_ERRORS = """{
	"identity": "agent-1",
	"zones": { "inside": ["10.1.0.0/33"] },
	"middleboxes": { "edge": { "address": "10.1.1.1" } },
	"paths": [ { "from": "inside", "to": "nowhere", "through": ["edge"] } ],
	"rtsp": [ { "listen": "0.0.0.0:554", "mode": "sideways" } ],
	"lifetime": { "reserved": "long" },
	"colour": "blue",
	"rest": { "listen": ["unix:/tmp/x"] },
	"rest": { "listen": ["unix:/tmp/y"] }
}
"""
AGENT_LINES = [3, 4, 5, 6, 7, 8, 10]

MIDDLEBOX_ERRORS = """{
	"simco": { "listen": ["10.1.1.1:70000"] },
	"agents": { "agent-1": { "may": ["reserve", "fly"], "pool": "192.0.2.1" } },
	"firewall": { "mode": "maybe", "inside": ["in"], "outside": ["out"] },
	"nat": { "mode": "napt", "outside": [ { "address": "192.0.2.1", "ports": "9-1" } ] },
	"colour": "blue",
	"rest": { "listen": ["unix:/tmp/x"] }
}
"""
MIDDLEBOX_LINES = [2, 3, 4, 5, 6]

DAEMONS = [("sluice-agent", AGENT_ERRORS, AGENT_LINES),
           ("sluice-middlebox", MIDDLEBOX_ERRORS, MIDDLEBOX_LINES)]


def run(program, *argv):
    return subprocess.run([os.path.join(BUILD, program), *argv], capture_output=True, text=True,
                          timeout=20, stdin=subprocess.DEVNULL)


def lines_named(done, path):
    """The line numbers in findings of the form FILE:LINE:COLUMN: KEY: TEXT."""
    text = done.stdout + done.stderr
    found = re.findall(rf"{re.escape(path)}:(\d+):(\d+): \S+: \S", text)
    return sorted({int(line) for line, _ in found}), text


@pytest.mark.san
@pytest.mark.parametrize("check", [True, False], ids=["check", "start"])
@pytest.mark.parametrize("program, text, lines", DAEMONS, ids=["agent", "middlebox"])
def test_every_error_is_named_and_nothing_starts(directory, program, text, lines, check):
    path = os.path.join(directory, "policy.json")
    with open(path, "w") as f:
        f.write(text)
    done = run(program, *(["--check"] if check else []), path)
    assert done.returncode not in (0, None) and done.returncode > 0
    found, output = lines_named(done, path)
    assert found == lines, output
    assert not os.path.exists("/tmp/x")


@pytest.mark.parametrize("program", ["sluice-agent", "sluice-middlebox"])
@pytest.mark.parametrize("text", ["", "{", "[]", "{} x", '{"identity": "a\u0000b"}', "\xff"])
def test_not_json(directory, program, text):
    path = os.path.join(directory, "policy.json")
    with open(path, "w", encoding="latin-1") as f:
        f.write(text)
    done = run(program, "--check", path)
    assert done.returncode > 0
    assert path in done.stdout + done.stderr


@pytest.mark.parametrize("program", ["sluice-agent", "sluice-middlebox"])
def test_no_file(directory, program):
    done = run(program, os.path.join(directory, "nothing.json"))
    assert done.returncode > 0
    assert "nothing.json" in done.stdout + done.stderr


def test_good_policies_pass_the_check(line, directory):
    net = line()
    for program, policy in (("sluice-agent", agent_policy(net, directory)),
                            ("sluice-middlebox", middlebox_policy(net, directory)),
                            ("sluice-middlebox", middlebox_policy(net, directory, nat=True))):
        path = os.path.join(directory, "policy.json")
        Agent.write_policy(type("File", (), {"policy": policy, "policy_file": path}))
        done = run(program, "--check", path)
        assert done.returncode == 0, done.stdout + done.stderr


def test_reload_keeps_the_old_policy_when_the_new_one_is_bad(site):
    s = site()
    for daemon in (s.agent, s.middlebox):
        with open(daemon.policy_file, "w") as f:
            f.write('{ "colour": "blue" }\n')
        daemon.signal(1)
        daemon.wait_line(r"colour")
        assert daemon.rest.get("/v1/status")
    assert s.agent.rest.request("GET", "/readyz")[0] == 200
    for daemon in (s.agent, s.middlebox):
        daemon.write_policy()
        daemon.signal(1)


def readme_policies():
    """The complete policies that README.md shows."""
    with open(os.path.join(SRC, "README.md")) as f:
        blocks = re.findall(r"```json\n(.*?)```", f.read(), re.DOTALL)
    return [b for b in blocks if b.startswith("{")]


def example(name):
    with open(os.path.join(SRC, "etc", name)) as f:
        return f.read()


def test_examples_and_readme_pass_the_check(directory):
    """What is shown is what works."""
    shown = readme_policies() + [example("agent.json"), example("middlebox.json")]
    assert len(shown) == 4
    for text in shown:
        program = "sluice-agent" if '"identity"' in text else "sluice-middlebox"
        path = os.path.join(directory, "policy.json")
        with open(path, "w") as f:
            f.write(text)
        done = run(program, "--check", path)
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("program", ["sluice-agent", "sluice-middlebox"])
def test_schema_is_up_to_date_and_fits_the_example(program):
    """etc/*.schema.json is what the program prints, and the example policy obeys it."""
    name = program.removeprefix("sluice-")
    printed = run(program, "--schema").stdout
    assert json.loads(printed) == json.loads(example(name + ".schema.json"))
    plain = re.sub(r"(?m)^\s*//.*$|\s//\s.*$", "", example(name + ".json"))
    jsonschema.validate(json.loads(plain), json.loads(printed))


@pytest.mark.parametrize("page", sorted(
    n for n in os.listdir(os.path.join(SRC, "doc")) if n[-1].isdigit()))
def test_manual_pages_are_correct(page):
    done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning",
                           os.path.join(SRC, "doc", page)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
