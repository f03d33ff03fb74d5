#!/usr/bin/python3
"""Plays an RTSP URL with GStreamer's rtspsrc over UDP and counts RTP packets per stream.

gst_player.py URL SECONDS [PROPERTY=VALUE ...]    prints e.g. {"audio": 99, "video": 120}
"ca=FILE" is the authority that the certificate of an rtsps:// server must come from.
"""

import json
import signal
import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import Gio, GLib, Gst  # noqa: E402


def main():
    url, seconds = sys.argv[1], float(sys.argv[2])
    Gst.init(None)
    pipeline, loop = Gst.Pipeline.new(), GLib.MainLoop()
    source = Gst.ElementFactory.make("rtspsrc")
    source.set_property("location", url)
    # Its default silently goes over to TCP when no UDP arrives.
    for setting in ["protocols=udp", "latency=100", *sys.argv[3:]]:
        name, value = setting.split("=", 1)
        if name == "ca":
            source.set_property("tls-database", Gio.TlsFileDatabase.new(value))
        else:
            Gst.util_set_object_arg(source, name, value)
    pipeline.add(source)
    counts, errors = {}, []

    def on_pad(_, pad):
        media = pad.get_current_caps().get_structure(0).get_string("media")
        counts[media] = 0
        sink = Gst.ElementFactory.make("fakesink")
        sink.set_property("sync", False)
        sink.set_property("async", False)
        pipeline.add(sink)
        sink.sync_state_with_parent()

        def on_buffer(*_):
            counts[media] += 1
            if counts[media] == 1:
                print("playing", media, file=sys.stderr, flush=True)
            return Gst.PadProbeReturn.OK

        pad.add_probe(Gst.PadProbeType.BUFFER, on_buffer)
        pad.link(sink.get_static_pad("sink"))

    def on_message(_, message):
        if message.type == Gst.MessageType.ERROR:
            error, detail = message.parse_error()
            errors.append(f"{error.message} {detail}")
            loop.quit()
        elif message.type == Gst.MessageType.EOS:
            loop.quit()

    source.connect("pad-added", on_pad)
    bus = pipeline.get_bus()
    bus.add_signal_watch()
    bus.connect("message", on_message)
    GLib.timeout_add(int(seconds * 1000), loop.quit)
    GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGTERM, loop.quit)
    pipeline.set_state(Gst.State.PLAYING)
    loop.run()
    pipeline.set_state(Gst.State.NULL)
    print(json.dumps(counts), flush=True)
    for error in errors:
        print("error:", error, file=sys.stderr, flush=True)
    sys.exit(1 if errors or not counts or not all(counts.values()) else 0)


main()
