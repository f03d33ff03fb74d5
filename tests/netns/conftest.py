"""Fixtures: a directory per test, topologies, sites. Everything goes away with the test."""

import os
import shutil
import sys
import tempfile

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib import topo  # noqa: E402
from lib.sluice import Site  # noqa: E402


def pytest_configure(config):
    config.addinivalue_line("markers", "san: also run with the sanitizer build")
    config.addinivalue_line("markers", "soak: runs for minutes, only on demand")


def pytest_collection_modifyitems(items):
    if os.geteuid() != 0:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="namespaces need root"))


@pytest.hookimpl(tryfirst=True, hookwrapper=True)
def pytest_runtest_makereport(item):
    report = (yield).get_result()
    if report.failed:
        item.failed = True


@pytest.fixture
def directory(request):
    """A short path (unix sockets have little room); kept as a log when the test fails."""
    base = os.environ.get("SLUICE_TMP") or None
    path = tempfile.mkdtemp(prefix="t", dir=base)
    yield path
    keep = os.environ.get("SLUICE_LOG")
    if keep and getattr(request.node, "failed", False):
        shutil.copytree(path, os.path.join(keep, request.node.name), dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns("*.sock"))
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def cleanup(request, directory):
    """cleanup(function) is called after the test, last first, whatever happens."""
    todo = []
    yield todo.append
    errors = []
    for function in reversed(todo):
        try:
            function()
        except BaseException as e:  # the others must still run
            errors.append(e)
    if errors:
        request.node.failed = True
        raise errors[0]


@pytest.fixture
def line(cleanup):
    """line(translated=False): client, agent, firewall and server in a row."""
    def make(cls=topo.Line, **options):
        net = cls(**options)
        cleanup(net.close)
        return net
    return make


@pytest.fixture
def site(line, cleanup, directory):
    """site(nat=False, one_host=False, **options): the same with both daemons running."""
    def make(nat=False, one_host=False, **options):
        net = line(topo.OneHost if one_host else topo.Line, translated=nat)
        made = Site(net, directory, nat, **options)
        cleanup(made.close)
        return made
    return make
