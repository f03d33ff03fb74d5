#!/usr/bin/python3
"""What an RTSP session costs the agent, beside a program that only passes the same messages on.

Client, agent, firewall and server are four namespaces in a row. A cycle is a connection, SETUP,
PLAY, TEARDOWN and the end of the connection; CPU time is that of the daemon alone.
"""

import os
import re
import resource
import selectors
import socket
import tempfile
import threading
import time

from benchlib import program, row, scaled, title
from lib import topo
from lib.proc import Proc, wait_until
from lib.sluice import Site

PROXY, FORWARD, SPLICE = "10.1.0.1", 8555, 8600
TOGETHER = 16
CYCLES = scaled(4000)
SESSIONS = scaled(1000)
LIMITS = {"sessions": 5000, "sessions_per_client": 5000, "connections": 5000,
          "connections_per_client": 5000, "bindings": 5000, "bindings_per_client": 5000}
WORD = re.compile(rb"CSeq: (\d+)|client_port=(\d+)|^(\w+)")


class Server(threading.Thread):
    """Answers whatever is asked, one thread for all connections."""

    def __init__(self, ns):
        super().__init__(daemon=True)
        self.listener = ns.tcp_listener(topo.SERVER, 554)
        self.listener.listen(4096)
        self.listener.setblocking(False)
        self.ready = selectors.DefaultSelector()
        self.ready.register(self.listener, selectors.EVENT_READ)

    def run(self):
        while True:
            for key, _ in self.ready.select():
                if key.fileobj is self.listener:
                    sock, _ = self.listener.accept()
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.ready.register(sock, selectors.EVENT_READ)
                else:
                    self.serve(key.fileobj)

    def serve(self, sock):
        try:
            data = sock.recv(65536)
        except OSError:
            data = b""
        if not data:
            self.ready.unregister(sock)
            sock.close()
            return
        for request in data.split(b"\r\n\r\n")[:-1]:
            found = dict(zip(("cseq", "port", "method"), map(max, zip(*WORD.findall(request)))))
            reply = b"RTSP/1.0 200 OK\r\nCSeq: %s\r\n" % found["cseq"]
            if found["port"]:
                port = int(found["port"])
                reply += (b"Session: %d;timeout=3600\r\nTransport: RTP/AVP;unicast;client_port=%d-%d"
                          b";server_port=%d-%d\r\n" % (port, port, port + 1, port, port + 1))
            sock.sendall(reply + b"\r\n")


class Session:
    def __init__(self, ns, to, n):
        self.ns, self.to, self.port, self.cseq = ns, to, 10000 + 2 * n, 0

    def open(self):
        self.sock = self.ns.connect(*self.to, timeout=30)

    def ask(self, method, header):
        self.cseq += 1
        self.sock.sendall(b"%s rtsp://%s/av RTSP/1.0\r\nCSeq: %d\r\n%s\r\n\r\n" % (
            method, topo.SERVER.encode(), self.cseq, header))

    def setup(self):
        self.ask(b"SETUP", b"Transport: RTP/AVP;unicast;client_port=%d-%d"
                 % (self.port, self.port + 1))

    def play(self):
        self.ask(b"PLAY", b"Session: %d" % self.port)

    def teardown(self):
        self.ask(b"TEARDOWN", b"Session: %d" % self.port)

    def answered(self):
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            more = self.sock.recv(4096)
            assert more, "closed"
            data += more
        assert data.startswith(b"RTSP/1.0 200"), data


def all_do(sessions, step):
    for s in sessions:
        getattr(s, step)()
    for s in sessions:
        s.answered()


def cpu(pid):
    """Seconds of CPU time, of all threads."""
    with open(f"/proc/{pid}/schedstat") as f:
        return int(f.read().split()[0]) / 1e9


def cycles(ns, to, count, pids):
    """CPU microseconds per cycle of each of these processes, and cycles per second."""
    before, began = [cpu(p) for p in pids], time.monotonic()
    for i in range(0, count, TOGETHER):
        sessions = [Session(ns, to, (i + k) % 8000) for k in range(min(TOGETHER, count - i))]
        for s in sessions:
            s.open()
        for step in ("setup", "play", "teardown"):
            all_do(sessions, step)
        for s in sessions:
            s.sock.close()
    elapsed = time.monotonic() - began
    return [(cpu(p) - b) / count * 1e6 for p, b in zip(pids, before)], count / elapsed


def hold(ns, to, count, process):
    """KiB that each of so many sessions at a time takes, and CPU microseconds to have them all."""
    memory, spent = process.memory_kb(), cpu(process.pid)
    sessions = [Session(ns, to, n) for n in range(count)]
    for s in sessions:
        s.open()
    for i in range(0, count, 100):
        all_do(sessions[i:i + 100], "setup")
        all_do(sessions[i:i + 100], "play")
    used = (process.memory_kb() - memory) / count, (cpu(process.pid) - spent) / count * 1e6
    return used, sessions


def end(sessions):
    for i in range(0, len(sessions), 100):
        all_do(sessions[i:i + 100], "teardown")
    for s in sessions:
        s.sock.close()


def measure(nat):
    title(f"RTSP through the agent ({'NAPT, rewriting' if nat else 'firewall, transparent'})")
    net = topo.Line(translated=nat)
    try:
        with tempfile.TemporaryDirectory(dir=os.environ.get("SLUICE_TMP")) as directory:
            out = "rewrite" if nat else "transparent"
            site = Site(net, directory, nat, agent={
                "rtsp": [{"listen": f"0.0.0.0:{FORWARD}", "mode": "forward", "out": out}],
                "limits": LIMITS, "log": {"level": "warning"}})
            Server(net.server).start()
            splice = Proc([program("splice"), PROXY, SPLICE, topo.SERVER, 554],
                          directory + "/splice.log", net.agent)
            splice.wait_line("listening")
            measure_site(site, splice)
            splice.kill()
            site.close()
    finally:
        net.close()


def measure_site(site, splice):
    client, pids = site.net.client, (site.agent.pid, site.middlebox.pid)
    cycles(client, (PROXY, FORWARD), 200, pids)  # whatever is allocated once
    cycles(client, (PROXY, SPLICE), 200, [splice.pid])
    (agent, middlebox), rate = cycles(client, (PROXY, FORWARD), CYCLES, pids)
    (plain,), plain_rate = cycles(client, (PROXY, SPLICE), CYCLES, [splice.pid])
    row(f"CPU of a cycle, splice ({plain_rate:.0f}/s with this client)", f"{plain:.0f} us")
    row(f"CPU of a cycle, agent ({rate:.0f}/s)", f"{agent:.0f} us, {agent / plain:.1f} x splice")
    row("CPU of a cycle, middlebox (2 pinholes)", f"{middlebox:.0f} us")
    (kb, us), held = hold(client, (PROXY, SPLICE), SESSIONS, splice)
    row(f"{SESSIONS} sessions at a time, splice", f"{kb:.2f} KiB and {us:.0f} us each")
    end(held)
    (kb, us), held = hold(client, (PROXY, FORWARD), SESSIONS, site.agent)
    status = site.agent.rest.items("sessions")
    assert len(status) == SESSIONS and len(site.rules()) == 2 * SESSIONS
    row(f"{SESSIONS} sessions at a time, agent", f"{kb:.2f} KiB and {us:.0f} us each")
    spent = cpu(site.agent.pid)
    time.sleep(5)
    row("the same at rest, agent", f"{(cpu(site.agent.pid) - spent) / 5 * 100:.1f} % CPU")
    end(held)
    wait_until(lambda: not site.rules(), 20, "all rules to go")


resource.setrlimit(resource.RLIMIT_NOFILE, (16384, 16384))
measure(False)
measure(True)
