"""Certificates for tests, made with openssl(1)."""

import ipaddress
import os
import subprocess


def _alternative(name):
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"


class Authority:
    """A certificate authority in `directory`; `file` holds its certificate."""

    def __init__(self, directory, name="ca"):
        self.base = os.path.join(directory, name)
        self.file = self.base + ".pem"
        self._openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                      "-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout",
                      self.base + ".key", "-out", self.file)

    @staticmethod
    def _openssl(*argv):
        subprocess.run(["openssl", *argv], check=True, capture_output=True)

    def issue(self, *names):
        """Certificate and key of a host by these names or addresses; their files."""
        at = f"{self.base}-{names[0].replace(':', '_')}"
        self._openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                      "-subj", f"/CN={names[0]}", "-addext",
                      "subjectAltName=" + ",".join(_alternative(n) for n in names),
                      "-keyout", at + ".key", "-out", at + ".csr")
        self._openssl("x509", "-req", "-in", at + ".csr", "-CA", self.file, "-CAkey",
                      self.base + ".key", "-CAcreateserial", "-days", "2", "-copy_extensions",
                      "copy", "-out", at + ".pem")
        return at + ".pem", at + ".key"
