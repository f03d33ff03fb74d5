"""Faults on demand in a daemon: jumping clocks, a suspended host, lost netlink answers."""

import mmap
import os
import struct

from .sluice import BUILD

SHIM = os.path.join(BUILD, "tests", "netns", "tools", "faults.so")
_NAMES = ("suspended_ns", "wall_ns", "netlink_room", "netlink_lose", "netlink_lost",
          "netlink_skip", "memory_every", "memory_failed")


class Faults:
    """What the daemons that are started with `env` see; attributes as in tools/faults.c."""

    def __init__(self, directory, name="faults"):
        path = os.path.join(directory, name)
        with open(path, "wb") as f:
            f.write(bytes(4096))
        with open(path, "r+b") as f:
            self.memory = mmap.mmap(f.fileno(), 4096)
        self.env = {"LD_PRELOAD": SHIM, "FAULTS": path}

    def __getattr__(self, name):
        return struct.unpack_from("=q", self.memory, 8 * _NAMES.index(name))[0]

    def __setattr__(self, name, value):
        if name in _NAMES:
            struct.pack_into("=q", self.memory, 8 * _NAMES.index(name), int(value))
        else:
            super().__setattr__(name, value)

    def suspend(self, seconds):
        """The host sleeps for so long and wakes up now."""
        self.suspended_ns += seconds * 10**9

    def wall(self, seconds):
        """Somebody sets the clock."""
        self.wall_ns += seconds * 10**9
