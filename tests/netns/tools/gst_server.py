#!/usr/bin/python3
"""A GStreamer RTSP server: rtsp://ADDRESS:PORT/av serves live VP8 video and PCMU audio,
rtsp://ADDRESS:PORT/rec takes what is published and counts its packets."""

import argparse

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
gi.require_version("GstRtsp", "1.0")
from gi.repository import Gio, GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

VIDEO = ("videotestsrc is-live=true ! video/x-raw,width=160,height=120,framerate=15/1 ! "
         "vp8enc deadline=1 cpu-used=8 threads=1 keyframe-max-dist=15 ! "
         "rtpvp8pay name=pay0 pt=96")
AUDIO = ("audiotestsrc is-live=true ! audio/x-raw,rate=8000,channels=1 ! mulawenc ! "
         "rtppcmupay name=pay1 pt=0")
REQUESTS = ("options", "describe", "setup", "play", "pause", "teardown", "get-parameter",
            "announce", "record")


def protect(server, mounts, digest, certificate):
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    if digest:
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(*digest.split(":"), token)
    else:
        auth.set_default_token(token)
    if certificate:
        auth.set_tls_certificate(Gio.TlsCertificate.new_from_files(*certificate))
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_role("user")
    for what in ("access", "construct"):
        permissions.add_permission_for_role("user", "media.factory." + what, True)
    for path in ("/av", "/rec"):
        mounts.match(path)[0].set_permissions(permissions)
    server.set_auth(auth)


def count_packets(_, media):
    for name in ("depay0", "depay1"):
        element = media.get_element().get_by_name(name)
        element.connect("handoff", lambda *_, name=name: print("packet", name, flush=True))


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--address", default="0.0.0.0")
    options.add_argument("--port", default="554")
    options.add_argument("--digest", help="USER:PASSWORD")
    options.add_argument("--timeout", type=int, help="session timeout in seconds")
    options.add_argument("--tls", nargs=2, metavar=("CERTIFICATE", "KEY"))
    args = options.parse_args()

    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address(args.address)
    server.set_service(args.port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f"( {VIDEO} {AUDIO} )")
    mounts = server.get_mount_points()
    mounts.add_factory("/av", factory)
    recorder = GstRtspServer.RTSPMediaFactory()
    recorder.set_transport_mode(GstRtspServer.RTSPTransportMode.RECORD)
    recorder.set_launch("( identity name=depay0 silent=false ! fakesink sync=false async=false "
                        "identity name=depay1 silent=false ! fakesink sync=false async=false )")
    recorder.connect("media-configure", count_packets)
    mounts.add_factory("/rec", recorder)
    if args.digest or args.tls:
        protect(server, mounts, args.digest, args.tls)

    def on_client(_, client):
        print("client", client.get_connection().get_ip(), flush=True)
        for name in REQUESTS:
            client.connect(name + "-request",
                           lambda *_, name=name: print("request", name, flush=True))
        if args.timeout:
            client.connect("new-session", lambda _, session: session.set_timeout(args.timeout))
        client.connect("closed", lambda _: print("closed", flush=True))

    server.connect("client-connected", on_client)
    # The library ends timed-out sessions only when it is asked to.
    GLib.timeout_add_seconds(1, lambda: (server.get_session_pool().cleanup(), True)[1])
    if not server.attach(None):
        raise SystemExit("cannot listen")
    print("listening", server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


main()
