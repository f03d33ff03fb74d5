#!/usr/bin/python3
"""Publishes live VP8 video and PCMU audio over UDP with GStreamer's rtspclientsink.

gst_publisher.py URL SECONDS [PROPERTY=VALUE ...]    exits with 77 where there is no such element
"""

import signal
import sys

import gi

gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst  # noqa: E402

PIPELINE = ("videotestsrc is-live=true ! video/x-raw,width=160,height=120,framerate=15/1 ! "
            "vp8enc deadline=1 cpu-used=8 threads=1 keyframe-max-dist=15 ! "
            "video/x-vp8,profile=(string)0 ! sink.sink_0 "
            "audiotestsrc is-live=true ! audio/x-raw,rate=8000,channels=1 ! mulawenc ! "
            "sink.sink_1 rtspclientsink name=sink")


def main():
    url, seconds = sys.argv[1], float(sys.argv[2])
    Gst.init(None)
    if not Gst.ElementFactory.find("rtspclientsink"):
        sys.exit(77)
    pipeline, loop, errors = Gst.parse_launch(PIPELINE), GLib.MainLoop(), []
    sink = pipeline.get_by_name("sink")
    sink.set_property("location", url)
    for setting in ["protocols=udp", *sys.argv[3:]]:
        Gst.util_set_object_arg(sink, *setting.split("=", 1))

    def on_message(_, message):
        if message.type == Gst.MessageType.ERROR:
            error, detail = message.parse_error()
            errors.append(f"{error.message} {detail}")
            loop.quit()

    bus = pipeline.get_bus()
    bus.add_signal_watch()
    bus.connect("message", on_message)
    GLib.timeout_add(int(seconds * 1000), loop.quit)
    GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, signal.SIGTERM, loop.quit)
    pipeline.set_state(Gst.State.PLAYING)
    loop.run()
    pipeline.set_state(Gst.State.NULL)
    for error in errors:
        print("error:", error, file=sys.stderr, flush=True)
    sys.exit(1 if errors else 0)


main()
