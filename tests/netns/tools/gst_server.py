#!/usr/bin/python3
"""A GStreamer RTSP server: rtsp://ADDRESS:PORT/av serves live VP8 video and PCMU audio."""

import argparse

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
gi.require_version("GstRtsp", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

VIDEO = ("videotestsrc is-live=true ! video/x-raw,width=160,height=120,framerate=15/1 ! "
         "vp8enc deadline=1 cpu-used=8 threads=1 keyframe-max-dist=15 ! "
         "rtpvp8pay name=pay0 pt=96")
AUDIO = ("audiotestsrc is-live=true ! audio/x-raw,rate=8000,channels=1 ! mulawenc ! "
         "rtppcmupay name=pay1 pt=0")
REQUESTS = ("options", "describe", "setup", "play", "pause", "teardown", "get-parameter")


def require_digest(server, mounts, user, password):
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth.add_digest(user, password, token)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_role("user")
    for what in ("access", "construct"):
        permissions.add_permission_for_role("user", "media.factory." + what, True)
    mounts.match("/av")[0].set_permissions(permissions)
    server.set_auth(auth)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--address", default="0.0.0.0")
    options.add_argument("--port", default="554")
    options.add_argument("--digest", help="USER:PASSWORD")
    options.add_argument("--timeout", type=int, help="session timeout in seconds")
    args = options.parse_args()

    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address(args.address)
    server.set_service(args.port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f"( {VIDEO} {AUDIO} )")
    mounts = server.get_mount_points()
    mounts.add_factory("/av", factory)
    if args.digest:
        require_digest(server, mounts, *args.digest.split(":"))

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
