"""HTTP to a daemon's REST interface over its unix socket."""

import http.client
import json
import socket


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(self.path)


class Rest:
    def __init__(self, path):
        self.path = path

    def request(self, method, target):
        """(status, decoded body)"""
        connection = _UnixConnection(self.path)
        try:
            connection.request(method, target)
            reply = connection.getresponse()
            body = reply.read()
            if body and "json" in (reply.getheader("Content-Type") or ""):
                body = json.loads(body)
            return reply.status, body
        finally:
            connection.close()

    def get(self, target):
        status, body = self.request("GET", target)
        assert status == 200, f"GET {target}: {status} {body}"
        return body

    def items(self, what):
        """All entries of a list, page by page, e.g. items("rules")."""
        found, after = [], 0
        while True:
            body = self.get(f"/v1/{what}?limit=1000&after={after}")
            found += body[what]
            after = body.get("next")
            if not after or not body[what]:
                return found
