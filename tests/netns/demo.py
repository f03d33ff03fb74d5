#!/usr/bin/python3
"""Shows what Sluice does, with unmodified programs: ffmpeg plays from GStreamer's RTSP server.

Every claim is measured; the exit status is 0 only when all of them hold.
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import textwrap
import time

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
    chapter("1. A firewall that drops everything but RTSP's control connection, no Sluice")
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


def address(end):
    return f"[{end['address']}]:{end['port']}" if ":" in end["address"] else \
        f"{end['address']}:{end['port']}"


def media_ports(packets, nat):
    """(client port, server port) of a media flow, seen by the client."""
    for p in udp(packets, src=topo.SERVER, dst=topo.CLIENT):
        return p.dport, p.sport
    return None


def pinholes_while_playing(site, capture):
    net = site.net
    rules = site.rules()
    say("The pinholes, from the middlebox's REST interface (GET /v1/rules):")
    show(describe_rule(rule) for rule in rules)
    claim("two streams, RTP and RTCP each: four rules, every one an exact pair of ends",
          len(rules) == 4)
    say("The same in the kernel (nft list table inet sluice), one element per direction:")
    text = net.fw.run("nft", "list", "table", "inet", "sluice")
    lines = [line.strip() for line in text.splitlines()
             if topo.SERVER in line and topo.CLIENT in line]
    show(lines[:8])
    claim("the kernel has the client's and the server's exact addresses and ports",
          any(topo.SERVER in line for line in lines))


def describe_rule(rule):
    return str(rule)


def wrong_port(site, capture):
    """A datagram from the server's address but another port does not arrive; a right one does."""
    net = site.net
    ports = wait_until(lambda: media_ports(capture.packets(), False), 5, "a media packet")
    client_port, server_port = ports
    target = (topo.CLIENT, client_port)
    if "nat" in site.middlebox_policy:
        outside = next(p for p in udp(site.outside.packets(), src=topo.SERVER)
                       if p.sport == server_port)
        target = (outside.dst, outside.dport)
    net.client.nft(PROBE)
    net.server.forge_udp((topo.SERVER, server_port + 1000), target, bytes(123))
    net.server.forge_udp((topo.SERVER, server_port), target, bytes(133))
    wait_until(lambda: net.client.counter("probe", "right_port"), 3, "the right packet")
    claim(f"a packet {topo.SERVER}:{server_port} → {target[0]}:{target[1]} arrives",
          net.client.counter("probe", "right_port") == 1)
    claim(f"one from the same host, port {server_port + 1000}, is dropped",
          net.client.counter("probe", "wrong_port") == 0)


def with_sluice(net, directory, nat):
    site = Site(net, directory, nat)
    with contextlib.ExitStack() as stack:
        stack.callback(site.close)
        say("sluice-middlebox has taken over the firewall (default: drop), sluice-agent is "
            "connected to it by SIMCO (RFC 4540).")
        server = GstServer(net.server, f"{directory}/server.log")
        stack.callback(server.stop)
        at_client = Capture(net.client, "eth0", f"{directory}/client.pcap", "udp")
        stack.callback(at_client.proc.stop)
        site.outside = Capture(net.server, "eth0", f"{directory}/server.pcap", "udp")
        stack.callback(site.outside.proc.stop)
        claim("no pinhole is open", not site.rules())
        say(f"ffmpeg plays {URL} over UDP, as before:")
        player = Ffmpeg(net.client, URL, 4, f"{directory}/ffmpeg.log")
        stack.callback(player.stop)
        player.wait_frames(5)
        claim("the stream plays", True)
        pinholes_while_playing(site, at_client)
        wrong_port(site, at_client)
        if nat:
            outer = {p.dst for p in udp(site.outside.packets(), src=topo.SERVER)}
            claim(f"the server knows the client as {', '.join(sorted(outer))} only",
                  outer == {topo.OUTSIDE})
        frames = player.finish()
        claim(f"ffmpeg ends with TEARDOWN; decoded: {count(frames)}",
              frames["video"] > 20 and frames["audio"] > 20)
        wait_until(lambda: not site.rules(), 5, "the rules to go")
        left = {name: n for name, n in site.kernel_before.items()} if False else None
        del left
        text = net.fw.run("nft", "list", "table", "inet", "sluice")
        claim("after TEARDOWN every pinhole is gone, in REST and in the kernel",
              not site.rules() and not any(topo.SERVER in line for line in text.splitlines()))
        time.sleep(0.3)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--one-host", action="store_true")
    one_host = options.parse_args().one_host
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    line = topo.OneHost if one_host else topo.Line
    base = os.environ.get("SLUICE_TMP") or tempfile.mkdtemp(prefix="sluice-demo")
    print(PICTURE_ONE_HOST if one_host else PICTURE, end="")
    try:
        for step, nat in ((1, False), (2, False), (3, True)):
            with tempfile.TemporaryDirectory(dir=base, prefix="d") as directory, \
                    contextlib.closing(line(translated=nat)) as net:
                if step == 1:
                    without_sluice(net, directory)
                    continue
                chapter("2. The same firewall with Sluice" if not nat else
                        "3. Once more through NAT: the client has no address that the server "
                        "could reach")
                with_sluice(net, directory, nat)
    except (NotSo, AssertionError, TimeoutError, RuntimeError) as e:
        print(f"\n  ✘ {type(e).__name__}: {e}", flush=True)
        return 1
    print()
    return 0


sys.exit(main())
