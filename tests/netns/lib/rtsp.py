"""A scripted RTSP client and server (RFC 2326): for what real programs do not do on request."""

import itertools
import random
import socket
import struct
import threading
import time

from .proc import wait_until

PORT = 554


class Message:
    """One request or reply: start line, headers (last value per lower-case name), body."""

    def __init__(self, start, headers, body=b""):
        self.start, self.headers, self.body = start, headers, body

    @property
    def method(self):
        return self.start.split()[0]

    @property
    def uri(self):
        return self.start.split()[1]

    @property
    def status(self):
        return int(self.start.split()[1])

    def __getitem__(self, name):
        return self.headers[name.lower()]

    def get(self, name, default=None):
        return self.headers.get(name.lower(), default)

    def transport(self):
        """The parameters of the Transport header; client_port and server_port as pairs."""
        found = {}
        for part in self["Transport"].split(";"):
            name, _, value = part.strip().partition("=")
            found[name] = value
            if name in ("client_port", "server_port", "interleaved") and value:
                found[name] = tuple(int(n) for n in value.split("-"))
        return found

    @property
    def session(self):
        return self["Session"].split(";")[0].strip()


class Closed(Exception):
    """The other end closed the connection."""


class Wire:
    """Reads messages and interleaved packets from a socket."""

    def __init__(self, sock):
        self.sock, self.pending = sock, b""

    def _more(self):
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError as e:
            raise Closed from e
        if not data:
            raise Closed
        self.pending += data

    def _take(self, n):
        while len(self.pending) < n:
            self._more()
        data, self.pending = self.pending[:n], self.pending[n:]
        return data

    def read(self):
        """A Message, or (channel, octets) of interleaved data (RFC 2326 §10.12)."""
        while not self.pending:
            self._more()
        if self.pending[:1] == b"$":
            _, channel, length = struct.unpack(">BBH", self._take(4))
            return channel, self._take(length)
        while b"\r\n\r\n" not in self.pending:
            self._more()
        head = self._take(self.pending.index(b"\r\n\r\n") + 4).decode("latin-1")
        start, *lines = head.rstrip("\r\n").split("\r\n")
        headers = {n.strip().lower(): v.strip() for n, _, v in (x.partition(":") for x in lines)}
        return Message(start, headers, self._take(int(headers.get("content-length", 0))))


def encode(start, headers, body=b""):
    lines = [start, *(f"{n}: {v}" for n, v in headers.items())]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def udp_pair(ns, address):
    """Two UDP sockets on an even port and its odd neighbour."""
    while True:
        port = random.randrange(20000, 60000) & ~1
        try:
            first = ns.udp(address, port)
        except OSError:
            continue
        try:
            return first, ns.udp(address, port + 1)
        except OSError:
            first.close()


class Client:
    """A scripted client on one control connection."""

    def __init__(self, ns, server, local, port=PORT, connect_to=None, timeout=10.0):
        self.ns, self.server, self.local = ns, server, local
        self.sock = ns.connect(*(connect_to or (server, port)), timeout)
        self.wire = Wire(self.sock)
        host = f"[{server}]" if ":" in server else server
        self.base = f"rtsp://{host}/av"
        self.cseq = itertools.count(1)
        self.session = None
        self.media = []  # udp pairs

    def send(self, method, uri=None, **headers):
        headers = {"CSeq": next(self.cseq), **{k.replace("_", "-"): v for k, v in headers.items()}}
        if self.session and "Session" not in headers:
            headers["Session"] = self.session
        self.sock.sendall(encode(f"{method} {uri or self.base} RTSP/1.0", headers))

    def reply(self):
        while True:
            message = self.wire.read()
            if isinstance(message, Message):
                return message

    def request(self, method, uri=None, **headers):
        self.send(method, uri, **headers)
        return self.reply()

    def setup(self, track=0, expect=200, **headers):
        """SETUP of one track over UDP with a fresh pair of ports; the reply."""
        pair = udp_pair(self.ns, self.local)
        port = pair[0].getsockname()[1]
        reply = self.request("SETUP", f"{self.base}/track{track}",
                             Transport=f"RTP/AVP;unicast;client_port={port}-{port + 1}", **headers)
        assert reply.status == expect, reply.start
        if reply.status == 200:
            self.session = reply.session
            self.media.append(pair)
        else:
            for s in pair:
                s.close()
        return reply

    def play(self):
        reply = self.request("PLAY", Range="npt=0-")
        assert reply.status == 200, reply.start
        return reply

    def teardown(self):
        reply = self.request("TEARDOWN")
        self.session = None
        return reply

    def receive(self, track=0, component=0):
        """One datagram of a track, or TimeoutError."""
        return self.media[track][component].recvfrom(65536)

    def punch(self, reply, track=0):
        """What real clients do right after SETUP: a packet from each port to the server's."""
        host = reply.transport().get("source") or self.server
        for s, port in zip(self.media[track], reply.transport()["server_port"]):
            s.sendto(b"\x80\x00\x00\x00" + bytes(8), (host, port))

    def close(self):
        self.sock.close()
        for pair in self.media:
            for s in pair:
                s.close()
        self.media.clear()


class Stream:
    """One track of a server session: where it sends from and to."""

    def __init__(self, pair, peer):
        self.pair, self.peer = pair, peer
        self.sequence = itertools.count(1)

    def send(self, component=0, size=200):
        """One RTP packet (or, component 1, one RTCP packet) towards the client."""
        number = next(self.sequence)
        if component:
            data = struct.pack(">BBHI", 0x81, 201, 1, 7)
        else:
            data = struct.pack(">BBHII", 0x80, 96, number & 0xFFFF, number * 160, 7)
        data += bytes(max(0, size - len(data)))
        self.pair[component].sendto(data, (self.peer[0], self.peer[1] + component))


class Sender:
    """Sends on a stream again and again in the background, some thousand packets a second."""

    def __init__(self, stream, pause=0.0002):
        self.stream, self.pause, self.going = stream, pause, True
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while self.going:
            try:
                self.stream.send()
            except OSError:
                return
            time.sleep(self.pause)

    def stop(self):
        self.going = False
        self.thread.join()


class Server:
    """A scripted server. `hook(request, connection)` may return the octets of a reply instead."""

    def __init__(self, ns, address, port=PORT, timeout=None, hook=None):
        self.ns, self.address, self.timeout, self.hook = ns, address, timeout, hook
        self.requests, self.connections, self.streams = [], [], {}
        self.lock = threading.Lock()
        self.numbers = itertools.count(0x5000)
        self.listener = ns.tcp_listener(address, port)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                sock, peer = self.listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(self, sock, peer)
            with self.lock:
                self.connections.append(connection)
            threading.Thread(target=connection.run, daemon=True).start()

    def count(self, method):
        with self.lock:
            return sum(r.method == method for r in self.requests)

    def wait_for(self, method, n=1, timeout=10.0):
        """Waits until n requests of this method have arrived; more are a failure."""
        wait_until(lambda: self.count(method) >= n, timeout, f"{n} {method} at the server")
        assert self.count(method) == n

    def open_connections(self):
        with self.lock:
            return sum(c.open for c in self.connections)

    def all_streams(self):
        with self.lock:
            return [s for streams in self.streams.values() for s in streams]

    def end(self, session):
        with self.lock:
            streams = self.streams.pop(session, [])
        for stream in streams:
            for s in stream.pair:
                s.close()

    def close(self):
        if self.listener.fileno() >= 0:
            self.listener.shutdown(socket.SHUT_RDWR)
            self.listener.close()
        with self.lock:
            connections, sessions = list(self.connections), list(self.streams)
        for c in connections:
            c.close()
        for s in sessions:
            self.end(s)


class Connection:
    """One accepted control connection of a Server."""

    def __init__(self, server, sock, peer):
        self.server, self.sock, self.peer = server, sock, peer
        self.wire, self.open = Wire(sock), True

    def run(self):
        try:
            while True:
                message = self.wire.read()
                if isinstance(message, tuple):
                    continue
                with self.server.lock:
                    self.server.requests.append(message)
                own = self.server.hook and self.server.hook(message, self)
                self.sock.sendall(own or self.answer(message))
        except (Closed, OSError):
            pass
        finally:
            self.close()

    def close(self):
        self.open = False
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()

    def ok(self, request, body=b"", **headers):
        headers = {k.replace("_", "-"): v for k, v in headers.items()}
        return encode("RTSP/1.0 200 OK", {"CSeq": request["CSeq"], **headers}, body)

    def answer(self, request):
        method = request.method
        if method == "OPTIONS":
            return self.ok(request, Public="DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER")
        if method == "DESCRIBE":
            return self.ok(request, self.sdp(), Content_Type="application/sdp",
                           Content_Base=request.uri + "/")
        if method == "SETUP":
            return self.setup(request)
        if method == "TEARDOWN":
            self.server.end(request.session)
        return self.ok(request, Session=request.get("Session", "0"))

    def sdp(self):
        text = ("v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=test\r\nt=0 0\r\n"
                "m=video 0 RTP/AVP 96\r\na=rtpmap:96 VP8/90000\r\na=control:track0\r\n"
                "m=audio 0 RTP/AVP 0\r\na=control:track1\r\n")
        return text.encode()

    def setup(self, request):
        wish = request.transport()
        session = request.get("Session", "").split(";")[0] or f"{next(self.server.numbers):x}"
        announced = session + (f";timeout={self.server.timeout}" if self.server.timeout else "")
        if "interleaved" in wish:
            return self.ok(request, Session=announced, Transport=request["Transport"])
        pair = udp_pair(self.server.ns, self.server.address)
        with self.server.lock:
            self.server.streams.setdefault(session, []).append(
                Stream(pair, (self.peer[0], wish["client_port"][0])))
        first = pair[0].getsockname()[1]
        ports = "-".join(str(n) for n in wish["client_port"])
        return self.ok(request, Session=announced,
                       Transport=f"RTP/AVP;unicast;client_port={ports};"
                                 f"server_port={first}-{first + 1}")
