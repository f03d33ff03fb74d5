"""Real players and publishers, real servers, every way in and out: all of them play.

All cases of one network run together, a few at a time, against servers that stay; each test
then looks at what became of its case.
"""

import copy
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from lib import topo
from lib.peers import Ffmpeg, FfmpegListener, FfmpegPublisher, GstPlayer, GstPublisher, GstServer
from lib.pki import Authority
from lib.proc import wait_until
from lib.sluice import PATIENCE, Site, middlebox_policy

TOGETHER = 4
SECONDS = 4
LONG = 12  # past the end of a session of 8 s that nobody keeps alive
FORWARD, REVERSE, REVERSE_TLS = 8555, 8554, 322
LOGIN = ("user-id=ada", "user-pw=secret")

SERVERS = {"plain": 0, "digest": 1, "timeout": 2, "rtsps": 3}  # last octet, from .20
PLAYERS = [("ffmpeg", "transparent"), ("ffmpeg", "reverse"), ("gstreamer", "transparent"),
           ("gstreamer", "forward"), ("gstreamer", "reverse")]
PLAY = [(player, way, server) for player, way in PLAYERS for server in SERVERS
        if server != "rtsps" or way == "reverse"]
# ffmpeg as a server does not read rtspclientsink's mode=RECORD (it wants "record").
PUBLISH = [(publisher, way, server) for publisher, way in PLAYERS
           for server in ("gstreamer", "ffmpeg") if (publisher, server) != ("gstreamer", "ffmpeg")]

# GStreamer cannot be told a proxy by its IPv6 address.
NOT_V6 = "forward"
NETS = {"rewrite-v4": (True, 4), "transparent-v4": (False, 4), "transparent-v6": (False, 6)}


def name_of(case):
    return "-".join(case)


class Matrix:
    """One network with both daemons and a host per server; runs every case once."""

    def __init__(self, nat, version):
        self.nat, self.version = nat, version
        self.directory = tempfile.mkdtemp(prefix="m", dir=os.environ.get("SLUICE_TMP") or None)
        self.net = topo.Line(translated=nat)
        self.servers, self.site = {}, None
        try:
            self.build()
        except BaseException:
            self.close()
            raise

    def address(self, n):
        return f"192.0.2.{20 + n}" if self.version == 4 else f"fd03::{20 + n}"

    def url(self, host, path, port=None, scheme="rtsp", login=""):
        host = f"[{host}]" if ":" in host else host
        return f"{scheme}://{login}{host}{f':{port}' if port else ''}/{path}"

    def switch(self, n):
        """A host for every server: most servers send from whatever address the host has first."""
        switch, hosts = self.net.server, []
        switch.ip("link", "add", "switch", "type", "bridge")
        switch.ip("link", "set", "dev", "switch", "up")
        switch.ip("link", "set", "dev", "eth0", "master", "switch")
        for i in range(n):
            host = self.net.ns(f"s{i}")
            self.net.link(switch, f"p{i}", host, "eth0")
            switch.ip("link", "set", "dev", f"p{i}", "master", "switch")
            host.address("eth0", self.address(i) + ("/24" if self.version == 4 else "/64"))
            if self.version == 6 or not self.nat:
                host.route("default", topo.OUTSIDE if self.version == 4 else topo.OUTSIDE6)
            hosts.append(host)
        return hosts

    def build(self):
        net = self.net
        self.hosts = self.switch(len(SERVERS) + len(PUBLISH))
        self.ca = Authority(self.directory)
        agent = "10.1.0.1" if self.version == 4 else "fd01::1"
        cert, key = self.ca.issue(agent)
        mounts = {f"/{s}": {"to": self.url(self.address(n), "av", scheme="rtsps"
                                           if s == "rtsps" else "rtsp")}
                  for s, n in SERVERS.items()}
        for n, case in enumerate(PUBLISH):
            mounts["/" + name_of(case)] = {"to": self.url(self.publish_address(n), "rec")}
        out = "rewrite" if self.nat else "transparent"
        every = "0.0.0.0" if self.version == 4 else "[::]"
        listeners = [
            {"listen": f"{every}:554", "mode": "transparent", "out": out, "tproxy": True},
            {"listen": f"{every}:{FORWARD}", "mode": "forward", "out": out},
            {"listen": f"{every}:{REVERSE}", "mode": "reverse", "out": out, "mounts": mounts},
            {"listen": f"{every}:{REVERSE_TLS}", "mode": "reverse", "out": out, "mounts": mounts,
             "tls": {"certificate": cert, "key": key}, "upstream_tls": {"ca": self.ca.file}}]
        firewall = copy.deepcopy(middlebox_policy(net, self.directory, self.nat)["firewall"])
        for permit in firewall["permit"]:
            permit["ports"] = "322-554"
        for name, n in SERVERS.items():
            options = {"digest": ["--digest", "ada:secret"], "timeout": ["--timeout", "8"],
                       "rtsps": ["--port", "322", "--tls", *self.ca.issue(self.address(n))]}
            self.servers[name] = GstServer(
                self.hosts[n], f"{self.directory}/{name}.server", "--address", self.address(n),
                *options.get(name, []))
        self.site = Site(net, self.directory, self.nat, middlebox={"firewall": firewall},
                         agent={"rtsp": listeners})
        self.agent = agent

    def publish_address(self, n):
        return self.address(len(SERVERS) + n)

    def target(self, way, address, mount, path, login, tls):
        """URL and, for GStreamer, what more it needs."""
        if way != "reverse":
            proxy = self.url(self.agent, "", FORWARD, "http").rstrip("/")
            return self.url(address, path, login=login), [f"proxy={proxy}"] * (way == "forward")
        if tls:
            return self.url(self.agent, mount, REVERSE_TLS, "rtsps"), ["tls-validation-flags=0"]
        return self.url(self.agent, mount, REVERSE, login=login), []

    def play(self, player, way, server):
        log = f"{self.directory}/play-{player}-{way}-{server}"
        seconds = LONG if server == "timeout" else SECONDS
        login = "ada:secret@" if server == "digest" and player == "ffmpeg" else ""
        url, more = self.target(way, self.address(SERVERS[server]), server, "av", login,
                                server == "rtsps")
        if player == "ffmpeg":
            program = Ffmpeg(self.net.client, url, seconds, log)
            counts = program.finish(20 * PATIENCE + seconds)
        else:
            program = GstPlayer(self.net.client, url, seconds, log, *more,
                                *(LOGIN if server == "digest" else ()))
            counts = program.result(20 * PATIENCE + seconds)
        return counts, program.text()

    def publish(self, publisher, way, server):
        n = PUBLISH.index((publisher, way, server))
        log = f"{self.directory}/publish-{publisher}-{way}-{server}"
        address, host = self.publish_address(n), self.hosts[len(SERVERS) + n]
        if server == "ffmpeg":
            sink = FfmpegListener(host, self.url(address, "rec", 554), log + ".server")
            wait_until(lambda: ":554" in host.run("ss", "-Hltn"), 10 * PATIENCE, "ffmpeg to listen")
        else:
            sink = GstServer(host, log + ".server", "--address", address)
        url, more = self.target(way, address, name_of((publisher, way, server)), "rec", "", False)
        try:
            kind = FfmpegPublisher if publisher == "ffmpeg" else GstPublisher
            program = kind(self.net.client, url, SECONDS, log, *more)
            status = program.wait(20 * PATIENCE + SECONDS)
            if status == 77:
                return None, "no rtspclientsink here"
            if server == "ffmpeg":
                wait_until(lambda: min(sink.frames().values()) > 0 or not sink.running(),
                           5 * PATIENCE, "frames")
                counts = sink.frames()
            else:
                counts = dict(zip(("video", "audio"), sink.packets()))
        finally:
            sink.stop()
        return counts, f"{program.text()}\n--- server:\n{sink.text()[-2000:]}"

    def possible(self, cases):
        return [case for case in cases if self.version == 4 or case[1] != NOT_V6]

    def run(self):
        def one(function, case):
            try:
                return function(*case)
            except Exception as e:
                return {}, f"{type(e).__name__}: {e}"
        # The long ones first.
        play = sorted(self.possible(PLAY), key=lambda case: case[2] != "timeout")
        with ThreadPoolExecutor(TOGETHER) as pool:
            jobs = {("play", *case): pool.submit(one, self.play, case) for case in play}
            jobs |= {("publish", *case): pool.submit(one, self.publish, case)
                     for case in self.possible(PUBLISH)}
        self.results = {case: job.result() for case, job in jobs.items()}
        self.site.wait_no_rules(5.0)
        return self

    def close(self):
        try:
            for server in self.servers.values():
                server.stop()
            if self.site:
                self.site.close()
        finally:
            self.net.close()
            keep = os.environ.get("SLUICE_LOG")
            bad = [c for c, r in getattr(self, "results", {}).items()
                   if r[0] is not None and not enough(r[0])]
            if keep and (bad or not hasattr(self, "results")):
                shutil.copytree(self.directory,
                                os.path.join(keep, f"matrix-{self.version}-{self.nat}"),
                                dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock"))
            shutil.rmtree(self.directory, ignore_errors=True)


def enough(counts):
    """15 frames of video and at least 8 of audio are due every second."""
    return counts.get("video", 0) >= 20 and counts.get("audio", 0) >= 15


@pytest.fixture(scope="module", params=NETS.values(), ids=NETS.keys())
def matrix(request):
    made = Matrix(*request.param)
    try:
        yield made.run()
    finally:
        made.close()


def check(matrix, what, case):
    if case not in matrix.possible([case]):
        pytest.skip("no proxy by an IPv6 address")
    counts, text = matrix.results[what, *case]
    if counts is None:
        pytest.skip(text)
    assert enough(counts), f"{counts}\n{text[-3000:]}"
    return counts


@pytest.mark.parametrize("case", PLAY, ids=map(name_of, PLAY))
def test_play(matrix, case):
    counts = check(matrix, "play", case)
    if case[2] == "timeout":
        assert counts["video"] >= 15 * 9, counts


@pytest.mark.parametrize("case", PUBLISH, ids=map(name_of, PUBLISH))
def test_publish(matrix, case):
    check(matrix, "publish", case)
