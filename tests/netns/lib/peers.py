"""Real programs as RTSP servers and clients."""

import json
import os
from collections import Counter

from .proc import Proc, wait_until

TOOLS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "tools")
PYTHON = "/usr/bin/python3"


class GstServer(Proc):
    """GStreamer's RTSP server: rtsp://…/av is live video and audio, rtsp://…/rec records."""

    def __init__(self, ns, log, *options):
        super().__init__([PYTHON, os.path.join(TOOLS, "gst_server.py"), *options], log, ns)
        self.wait_line(r"^listening", 30)

    def requests(self, name):
        """How many requests of this method have arrived."""
        return self.text().splitlines().count("request " + name)

    def packets(self):
        """RTP packets of the two streams that were published to /rec."""
        lines = self.text().splitlines()
        return [lines.count("packet depay0"), lines.count("packet depay1")]


class GstPlayer(Proc):
    """GStreamer's rtspsrc; counts RTP packets per stream."""

    def __init__(self, ns, url, seconds, log, *properties):
        super().__init__([PYTHON, os.path.join(TOOLS, "gst_player.py"), url, seconds, *properties],
                         log, ns, stdout=log + ".out")

    def result(self, timeout=40):
        self.wait(timeout)
        with open(self.stdout) as f:
            return json.loads(f.read() or "{}")


class Ffmpeg(Proc):
    """ffmpeg decoding a stream; counts decoded frames per stream (video, audio)."""

    def __init__(self, ns, url, seconds, log, *options, transport="udp"):
        # One line per decoded frame: "stream, dts, pts, duration, size, checksum".
        super().__init__(
            ["ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "warning",
             "-rtsp_transport", transport, "-timeout", "8000000", *options, "-i", url,
             "-map", "0:v?", "-map", "0:a?", "-t", seconds, "-flush_packets", "1",
             "-f", "framecrc", "-"], log, ns, stdout=log + ".frames")

    def frames(self):
        """{"video": n, "audio": n} decoded up to now."""
        with open(self.stdout, errors="replace") as f:
            lines = f.read().splitlines()
        kinds = {line.split()[1].rstrip(":"): line.split()[2] for line in lines
                 if line.startswith("#media_type")}
        seen = Counter(line.split(",")[0] for line in lines if line and line[0].isdigit())
        named = {kinds.get(index, index): n for index, n in seen.items()}
        return {"video": named.get("video", 0), "audio": named.get("audio", 0)}

    def wait_frames(self, least=1, timeout=20):
        """Waits until each of the two streams has `least` decoded frames."""
        def enough():
            if min(self.frames().values()) >= least:
                return True
            assert self.running(), f"ffmpeg ended:\n{self.text()[-2000:]}"
            return False
        wait_until(enough, timeout, f"{least} decoded frames of each stream", step=0.05)
        return self.frames()

    def finish(self, timeout=40):
        """Waits for its end; the decoded frames."""
        self.wait(timeout)
        return self.frames()


class FfmpegPublisher(Proc):
    """ffmpeg publishing live video and audio (VP8, PCMU)."""

    def __init__(self, ns, url, seconds, log, *options):
        super().__init__(
            ["ffmpeg", "-nostdin", "-hide_banner", "-loglevel", "warning", "-re",
             "-f", "lavfi", "-i", "testsrc=size=160x120:rate=15",
             "-f", "lavfi", "-i", "sine=sample_rate=8000", "-t", seconds,
             "-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-g", "15",
             "-c:a", "pcm_mulaw", "-f", "rtsp", "-rtsp_transport", "udp", *options, url],
            log, ns)


class GstPublisher(Proc):
    """GStreamer's rtspclientsink publishing the same; ends with 77 where it is not installed."""

    def __init__(self, ns, url, seconds, log, *properties):
        super().__init__([PYTHON, os.path.join(TOOLS, "gst_publisher.py"), url, seconds,
                          *properties], log, ns)


class FfmpegListener(Ffmpeg):
    """ffmpeg as a server for one publisher; counts the frames that it decodes."""

    def __init__(self, ns, url, log):
        super().__init__(ns, url, 60, log, "-rtsp_flags", "listen")
