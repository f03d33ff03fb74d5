"""A small SIMCO 3.0 client (RFC 4540) for tests: pure Python, blocking, one message at a time
or pipelined. It checks nothing on its own, so tests may also send nonsense with raw().

    c = Simco(ns.connect("10.1.1.1", 7626)).establish()
    rule = c.prr()
    c.pea(rule.pid, internal=("10.1.0.2", 5000), external=("192.0.2.10", 6000))
    c.plc(rule.pid, 0)
"""

import collections
import hashlib
import hmac
import ipaddress
import socket
import struct

PORT = 7626
UDP, TCP, ANY = 17, 6, 0
INBOUND, OUTBOUND, BOTH = 1, 2, 3
INTERNAL, INSIDE, OUTSIDE, EXTERNAL = range(4)
TRADITIONAL, TWICE = 1, 2
ODD, EVEN = 1, 2

(SE, SA, ST, PRR, PER, PEA, PDR, PLC, PRS, PRL) = (
    0x0101, 0x0102, 0x0103, 0x0111, 0x0112, 0x0113, 0x0114, 0x0115, 0x0121, 0x0122)
(SE_REP, SA_REP, ST_REP, PRR_REP, PER_REP, PDR_REP, PLC_REP, PRD_REP, PRS_REP, PRL_REP, PES_REP,
 PDS_REP) = (0x0201, 0x0202, 0x0203, 0x0211, 0x0212, 0x0214, 0x0215, 0x0216, 0x0221, 0x0222,
             0x0223, 0x0224)
BFM, AST, ARE = 0x0401, 0x0402, 0x0403

_VERSION, _CHALLENGE, _TOKEN, _CAPABILITIES, _PID, _GID, _LIFETIME, _OWNER, _TUPLE = range(1, 10)
_PRR_PARAMS, _PER_PARAMS, _EXTENSIONS, _ACTIVITY = 10, 11, 0x8000, 0x8001

Tuple = collections.namedtuple("Tuple", "protocols_only version prefix protocol location port range"
                               " address")
Capabilities = collections.namedtuple("Capabilities", "mb_type internal_wildcard external_wildcard"
                                      " port_wildcard persistent inside outside max_lifetime")
Activity = collections.namedtuple("Activity", "packets octets idle_ms")  # pairs: in, out


class Refused(Exception):
    """A negative reply."""

    def __init__(self, message):
        super().__init__(f"0x{message.type:04x}")
        self.type = message.type
        self.message = message


class Closed(Exception):
    """The middlebox closed the connection."""


class Message:
    """A decoded message; attributes that it has not are None."""

    def __init__(self, kind, tid, payload):
        self.type, self.tid, self.payload = kind, tid, payload
        self.pid = self.gid = self.lifetime = self.owner = self.challenge = self.token = None
        self.capabilities = self.direction = self.extensions = self.activity = self.version = None
        self.pids, self.tuples, self.attributes = [], {}, []
        while payload:
            name, length = struct.unpack_from("!HH", payload)
            value, payload = payload[4:4 + length], payload[4 + length:]
            self.attributes.append(name)
            self._take(name, value)

    def _take(self, name, value):
        if name == _PID:
            self.pid = struct.unpack("!I", value)[0]
            self.pids.append(self.pid)
        elif name in (_GID, _LIFETIME, _EXTENSIONS):
            number = struct.unpack("!I", value)[0]
            setattr(self, {_GID: "gid", _LIFETIME: "lifetime"}.get(name, "extensions"), number)
        elif name == _OWNER:
            self.owner = value.decode()
        elif name in (_CHALLENGE, _TOKEN):
            setattr(self, "challenge" if name == _CHALLENGE else "token", value)
        elif name == _VERSION:
            self.version = tuple(value[:2])
        elif name == _CAPABILITIES:
            mb, flags, life = struct.unpack("!BBxxI", value)
            self.capabilities = Capabilities(mb, *(bool(flags & b) for b in (128, 64, 32, 16)),
                                             flags >> 2 & 3, flags & 3, life)
        elif name == _PER_PARAMS:
            self.direction = value[1]
        elif name == _ACTIVITY:
            v = struct.unpack("!6Q", value)
            self.activity = Activity((v[0], v[3]), (v[1], v[4]), (v[2], v[5]))
        elif name == _TUPLE:
            t = _decode_tuple(value)
            self.tuples[t.location] = t

    outside = property(lambda self: self.tuples[OUTSIDE])
    inside = property(lambda self: self.tuples[INSIDE])

    def __repr__(self):
        return f"<0x{self.type:04x} tid {self.tid} {self.payload.hex()}>"


def _decode_tuple(value):
    first, prefix, protocol, location = struct.unpack_from("!BBBB", value)
    if first & 0xF0:
        return Tuple(True, first & 15, prefix, protocol, location, None, None, None)
    port, count = struct.unpack_from("!HH", value, 4)
    return Tuple(False, first & 15, prefix, protocol, location, port, count,
                 str(ipaddress.ip_address(value[8:])))


def attribute(name, value):
    return struct.pack("!HH", name, len(value)) + value


def number(name, value):
    return attribute(name, struct.pack("!I", value))


def address_tuple(location, end, protocol=UDP, count=1):
    """`end` is (address, port) or (network, port), e.g. ("10.0.0.0/8", 0)."""
    network = ipaddress.ip_network(end[0], strict=False)
    version = 1 if network.version == 4 else 2
    packed = ipaddress.ip_address(end[0].split("/")[0]).packed
    return attribute(_TUPLE, struct.pack("!BBBBHH", version, network.prefixlen, protocol, location,
                                         end[1], count) + packed)


def per_params(direction, same_parity=False):
    return attribute(_PER_PARAMS, struct.pack("!BBH", 3 if same_parity else 0, direction, 0))


def token(secret, role, challenge, name=None):
    """What answers a challenge: the agent's (role b"agent") or the middlebox's."""
    mac = hmac.new(secret, role + b"\0" + challenge, hashlib.sha256).digest()
    return mac if name is None else name + b"\0" + mac


class Simco:
    def __init__(self, sock, timeout=10.0):
        self.sock = sock
        self.sock.settimeout(timeout)
        self.buffer = b""
        self.tid = 0
        self.events = []  # ARE notifications as (pid, lifetime), in order of arrival
        self.capabilities = self.extensions = None

    # -- octets ----------------------------------------------------------------------------

    def raw(self, octets):
        self.sock.sendall(octets)

    @staticmethod
    def message(kind, tid, payload=b""):
        return struct.pack("!HHI", kind, len(payload), tid) + payload

    def send(self, kind, payload=b""):
        """Sends a request without waiting; its transaction id."""
        self.tid += 1
        self.raw(self.message(kind, self.tid, payload))
        return self.tid

    def _fill(self, n):
        while len(self.buffer) < n:
            try:
                more = self.sock.recv(65536)
            except ConnectionResetError:
                more = b""
            if not more:
                raise Closed(self.buffer)
            self.buffer += more

    def receive(self):
        """The next message, whatever it is."""
        self._fill(8)
        kind, length, tid = struct.unpack_from("!HHI", self.buffer)
        self._fill(8 + length)
        payload, self.buffer = self.buffer[8:8 + length], self.buffer[8 + length:]
        return Message(kind, tid, payload)

    def reply(self, tid):
        """The reply to one request; notifications before it go to `events`."""
        while True:
            m = self.receive()
            if m.type == ARE:
                self.events.append((m.pid, m.lifetime))
                continue
            if m.type >> 8 == 4:
                raise Closed(m)
            assert m.tid == tid, f"{m!r} instead of the reply to {tid}"
            if m.type >> 8 == 3:
                raise Refused(m)
            return m

    def request(self, kind, payload=b""):
        return self.reply(self.send(kind, payload))

    def wait_event(self, pid, timeout=5.0):
        """The lifetime in the next ARE for `pid`."""
        self.sock.settimeout(timeout)
        while True:
            for i, (p, lifetime) in enumerate(self.events):
                if p == pid:
                    del self.events[i]
                    return lifetime
            m = self.receive()
            assert m.type == ARE, repr(m)
            self.events.append((m.pid, m.lifetime))

    def close(self):
        self.sock.close()

    # -- session ------------------------------------------------------------------------------

    def establish(self, secret=None, name=None, challenge=None, extensions=None):
        payload = attribute(_VERSION, struct.pack("!BBH", 3, 0, 0))
        if challenge is not None:
            payload += attribute(_CHALLENGE, challenge)
        if extensions is not None:
            payload += number(_EXTENSIONS, extensions)
        m = self.request(SE, payload)
        if m.type == SA_REP:
            self.sa_reply = m
            answer = b""
            if m.challenge is not None and secret is not None:
                answer = attribute(_TOKEN, token(secret, b"agent", m.challenge, name))
            m = self.request(SA, answer)
        self.capabilities, self.extensions = m.capabilities, m.extensions
        return self

    def terminate(self):
        return self.request(ST)

    # -- policy rules, each with a _request() for pipelining ------------------------------------

    @staticmethod
    def prr_request(lifetime=60, parity=0, protocol=UDP, count=1, gid=None, nat=TRADITIONAL,
                    inside=0, outside=0):
        first = nat << 6 | parity << 4 | inside << 2 | outside
        payload = attribute(_PRR_PARAMS, struct.pack("!BBH", first, protocol, count))
        payload += number(_LIFETIME, lifetime)
        return PRR, payload + (number(_GID, gid) if gid is not None else b"")

    @staticmethod
    def per_request(internal, external, lifetime=60, protocol=UDP, direction=BOTH, gid=None,
                    count=1, same_parity=False):
        payload = (per_params(direction, same_parity)
                   + address_tuple(INTERNAL, internal, protocol, count)
                   + address_tuple(EXTERNAL, external, protocol, count)
                   + number(_LIFETIME, lifetime))
        return PER, payload + (number(_GID, gid) if gid is not None else b"")

    @staticmethod
    def pea_request(pid, internal, external, lifetime=60, protocol=UDP, direction=BOTH, count=1,
                    same_parity=False):
        return PEA, (per_params(direction, same_parity)
                     + address_tuple(INTERNAL, internal, protocol, count)
                     + address_tuple(EXTERNAL, external, protocol, count)
                     + number(_LIFETIME, lifetime) + number(_PID, pid))

    @staticmethod
    def pdr_request(internal, external, lifetime=60, protocol=UDP, count=1):
        return PDR, (address_tuple(INTERNAL, internal, protocol, count)
                     + address_tuple(EXTERNAL, external, protocol, count)
                     + number(_LIFETIME, lifetime))

    @staticmethod
    def plc_request(pid, lifetime):
        return PLC, number(_PID, pid) + number(_LIFETIME, lifetime)

    def prr(self, **options):
        return self.request(*self.prr_request(**options))

    def per(self, internal, external, **options):
        return self.request(*self.per_request(internal, external, **options))

    def pea(self, pid, internal, external, **options):
        return self.request(*self.pea_request(pid, internal, external, **options))

    def pdr(self, internal, external, **options):
        return self.request(*self.pdr_request(internal, external, **options))

    def plc(self, pid, lifetime):
        return self.request(*self.plc_request(pid, lifetime))

    def prs(self, pid):
        return self.request(PRS, number(_PID, pid))

    def prl(self):
        return self.request(PRL).pids


def dial(address, port=PORT, timeout=10.0):
    """A TCP connection from this process's own namespace."""
    return socket.create_connection((address, port), timeout)
