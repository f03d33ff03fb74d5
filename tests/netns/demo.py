#!/usr/bin/python3
"""Shows what Sluice does, with unmodified programs: ffmpeg plays from GStreamer's RTSP server.

Every claim is measured; the exit status is 0 only when all of them hold.
"""

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import textwrap

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from lib import topo  # noqa: E402
from lib.capture import Capture, udp  # noqa: E402
from lib.peers import Ffmpeg, GstServer  # noqa: E402
from lib.proc import wait_until  # noqa: E402
from lib.sluice import Site  # noqa: E402

URL = f"rtsp://{topo.SERVER}/av"

PICTURE = """
     client  ──────────  agent host  ──────────  firewall  ──────────  server
     ffmpeg              sluice-agent    SIMCO   sluice-middlebox      GStreamer
     10.1.0.2            10.1.1.2      ───────▶  10.1.1.1 | 192.0.2.1  192.0.2.10

  Four network namespaces on this machine, joined by virtual cables. The agent's host
  routes for the client and takes its RTSP connections (TPROXY); media it only forwards.
"""

PICTURE_ONE_HOST = """
     client  ────────────────  firewall  ────────────────  server
     ffmpeg          sluice-agent, sluice-middlebox        GStreamer
     10.1.0.2            10.1.0.1 | 192.0.2.1              192.0.2.10

  Three network namespaces on this machine, joined by virtual cables. Agent and middlebox
  run on the firewall itself and talk SIMCO over loopback.
"""

# Turns up in the client's namespace when one of our two test datagrams arrives there.
PROBE = """
table inet probe {
	counter wrong_port { }
	counter right_port { }
	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		meta l4proto udp udp length 131 counter name wrong_port
		meta l4proto udp udp length 141 counter name right_port
	}
}
"""


class NotSo(Exception):
    """A claim of the demonstration does not hold."""


def say(text):
    print(textwrap.fill(text, 96, initial_indent="  ", subsequent_indent="  "), flush=True)


def show(lines):
    for text in lines:
        print("      " + text, flush=True)


def chapter(text):
    print(f"\n── {text} " + "─" * max(0, 92 - len(text)), flush=True)


def claim(text, holds, otherwise=""):
    print(f"  {'✔' if holds else '✘'} {text}", flush=True)
    if not holds:
        raise NotSo(f"{text} {otherwise}".strip())


def count(frames):
    return f"{frames['video']} video frames, {frames['audio']} audio frames"


def without_sluice(net, directory):
    net.plain_firewall()
    server = GstServer(net.server, directory + "/server-1.log")
    say(f"ffmpeg asks {URL} for video and audio over UDP and waits three seconds.")
    player = Ffmpeg(net.client, URL, 2, directory + "/ffmpeg-1.log", "-timeout", "3000000")
    frames = player.finish()
    server.stop()
    dropped = net.fw.counter("site", "dropped")
    claim("the server got the client's PLAY and sent", server.requests("play") == 1)
    claim(f"the firewall dropped the media: {dropped} packets", dropped > 0)
    claim(f"ffmpeg decoded nothing: {count(frames)}", not any(frames.values()))


def describe(rule):
    """One rule of the middlebox in a line."""
    ends = rule["internal"]
    if rule.get("outside") not in (None, rule["internal"]):
        ends += f"  seen outside as {rule['outside']}"
    packets = {way: n["packets"] for way, n in rule.get("counters", {}).items()}
    return (f"rule {rule['pid']:<10} {rule['protocol']} {ends}  ↔  {rule['external']}   "
            f"packets: {packets.get('inbound', 0)} in, {packets.get('outbound', 0)} out")


def kernel_elements(net):
    """The elements of the sets of exact flows, one line each, as nft lists them."""
    found = []
    for item in net.fw.nft_json("list", "table", "inet", "sluice"):
        for element in item.get("set", {}).get("elem", []):
            key = element.get("elem", {}).get("val", element) if isinstance(element, dict) \
                else element
            if isinstance(key, dict) and "concat" in key:
                found.append(" . ".join(str(part) for part in key["concat"]))
    return found


def pinholes(net, site):
    say("The pinholes, from the middlebox's REST interface (GET /v1/rules):")
    rules = site.rules()
    show(describe(rule) for rule in rules)
    claim("four rules: RTP and RTCP of two streams, both ends exact", len(rules) == 4)
    elements = kernel_elements(net)
    say("The same in the kernel (nft list table inet sluice): protocol, source, destination.")
    show(elements)
    claim("each rule is there in both directions, and nothing else is open",
          len(elements) == 8 and all(topo.SERVER in e and topo.CLIENT in e for e in elements))


def wrong_port(net, at_server):
    """A datagram from the server's address but another port does not arrive; a right one does."""
    media = wait_until(lambda: udp(at_server.packets(), src=topo.SERVER), 5, "a media packet")[0]
    target = (media.dst, media.dport)
    net.client.nft(PROBE)
    net.server.forge_udp((topo.SERVER, media.sport + 1000), target, bytes(123))
    net.server.forge_udp((topo.SERVER, media.sport), target, bytes(133))
    wait_until(lambda: net.client.counter("probe", "right_port"), 3, "the right packet")
    to = f"{target[0]}:{target[1]}"
    claim(f"a packet from {topo.SERVER}:{media.sport} to {to} reaches the client",
          net.client.counter("probe", "right_port") == 1)
    claim(f"one from the same host, but port {media.sport + 1000}, does not",
          net.client.counter("probe", "wrong_port") == 0)
    return target


def with_sluice(net, directory, nat):
    with contextlib.ExitStack() as stack:
        site = stack.enter_context(contextlib.closing(Site(net, directory, nat)))
        server = GstServer(net.server, directory + "/server.log")
        stack.callback(server.stop)
        at_server = Capture(net.server, "eth0", directory + "/server.pcap", "udp")
        stack.callback(at_server.proc.stop)
        say("sluice-middlebox keeps the firewall (it drops what nobody asked for), sluice-agent "
            "has a SIMCO session with it.")
        claim("no pinhole is open", not site.rules() and not kernel_elements(net))
        say(f"ffmpeg plays {URL}, video and audio over UDP, as before.")
        player = Ffmpeg(net.client, URL, 5, directory + "/ffmpeg.log")
        stack.callback(player.stop)
        frames = player.wait_frames(5, 20)
        claim(f"it plays: {count(frames)} up to now", True)
        pinholes(net, site)
        target = wrong_port(net, at_server)
        if nat:
            claim(f"the server sends to {target[0]}, the firewall's own address: it never saw "
                  f"{topo.CLIENT}", {p.dst for p in udp(at_server.packets(), src=topo.SERVER)}
                  == {topo.OUTSIDE})
        frames = player.finish()
        claim(f"it ends with TEARDOWN, having decoded {count(frames)}",
              frames["video"] >= 50 and frames["audio"] >= 30)
        wait_until(lambda: server.requests("teardown"), 5, "TEARDOWN at the server")
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: not site.rules(), 2)
        claim("and everything is gone: no rule in REST, no element in any set or map of the kernel",
              not site.rules() and not any(net.fw.elements().values()))


def keep_logs(directory, name):
    if os.environ.get("SLUICE_LOG"):
        shutil.copytree(directory, os.path.join(os.environ["SLUICE_LOG"], name),
                        dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock"))


CHAPTERS = (
    ("1. A firewall that lets RTSP's control connection pass and drops the rest; no Sluice",
     "without", lambda net, directory: without_sluice(net, directory), False),
    ("2. The same with Sluice", "firewall",
     lambda net, directory: with_sluice(net, directory, False), False),
    ("3. The same through NAT: no host outside has a route to the client", "nat",
     lambda net, directory: with_sluice(net, directory, True), True),
)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--one-host", action="store_true")
    one_host = options.parse_args().one_host
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print(PICTURE_ONE_HOST if one_host else PICTURE, end="")
    for title, name, play, translated in CHAPTERS:
        chapter(title)
        with tempfile.TemporaryDirectory(dir=os.environ.get("SLUICE_TMP"), prefix="d") as directory:
            try:
                with contextlib.closing((topo.OneHost if one_host else topo.Line)(
                        translated=translated)) as net:
                    play(net, directory)
            except (NotSo, AssertionError, TimeoutError, RuntimeError) as e:
                print(f"\n  ✘ {e}", flush=True)
                return 1
            finally:
                keep_logs(directory, name)
    print()
    return 0


sys.exit(main())
