"""Real senders for tests: an HTTP server that encodes video live with PyAV and can be interrupted and stalled."""

import contextlib
import functools
import io
import socket
import socketserver
import sys
import threading
import time
from fractions import Fraction
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av

sys.path.insert(0, str(Path(__file__).parents[1]))
from media import numbered_picture

FPS = 10


class LiveServer:
    """Serves live video as MPEG-TS. Frame n is n tenths of a second after the server was first started.

    Paths: `/live.ts` without end; `/end.ts` ends `end_s` after the start, and then is not found; `/burst.ts` sends
    two seconds at once and ends; `/back.ts` whose times restart after 2 s; `/text`; `/tone.ts` without video;
    `/file.ts` sends two seconds at once, and their length before; `/401`, `/403`, `/404`, `/500`; `/silent` answers
    nothing. While `refuse` is a status, every answer is that.
    """

    def __init__(self, size_px=(96, 64), end_s=3.0, port=0):
        self.size_px = size_px
        self.end_s = end_s
        self.began_s = time.monotonic()
        self.paused = threading.Event()
        self.n_connections = 0
        self.refuse = None
        self.port = port
        self._server = None
        self._open = set()
        self.start()

    def start(self):
        """Listen on the same port as before."""
        live = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                live._answer(self)

            def log_message(self, *_):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, *_):
                pass  # clients and tests break connections

            def process_request(self, request, address):
                live._open.add(request)
                super().process_request(request, address)

            def shutdown_request(self, request):
                live._open.discard(request)
                super().shutdown_request(request)

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def cut(self):
        """Break every connection."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def stop(self):
        """Stop listening, and break every connection."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        self.cut()

    def url(self, path="live.ts", login=""):
        return f"http://{login}127.0.0.1:{self.port}/{path}"

    def now_s(self):
        return time.monotonic() - self.began_s

    def _answer(self, handler):
        path = handler.path.partition("?")[0].strip("/")
        self.n_connections += 1
        if path == "silent":
            time.sleep(5)
            return
        status = self.refuse or (int(path) if path.isdigit() else 200)
        if path == "end.ts" and self.now_s() >= self.end_s:
            status = self.refuse or 404
        if status != 200:
            handler.send_error(status)
            return
        handler.send_response(200)
        if path == "file.ts":
            body = recording(20, self.size_px)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
            return
        handler.send_header("Connection", "close")
        handler.end_headers()
        with contextlib.suppress(OSError, av.error.FFmpegError):
            if path == "text":
                handler.wfile.write(b"nothing to see here\n" * 5000)
            elif path == "burst.ts":
                handler.wfile.write(recording(20, self.size_px))
            elif path == "tone.ts":
                send_tone(handler.wfile)
            else:
                self._send(handler.wfile, path)

    def _send(self, file, path):
        with contextlib.ExitStack() as stack:
            encoder = stack.enter_context(LiveEncoder(file, self.size_px))
            first = round(self.now_s() * FPS)
            n = first
            while path != "end.ts" or n < self.end_s * FPS:
                time.sleep(max(0.0, n / FPS - self.now_s()))
                while self.paused.is_set():
                    time.sleep(0.02)
                late = self.now_s() - n / FPS > 0.5
                n = round(self.now_s() * FPS) if late else n  # like a camera, skip frames that were not sent in time
                if path == "back.ts" and n == first + 2 * FPS:
                    encoder = stack.enter_context(LiveEncoder(file, self.size_px))
                restarted = path == "back.ts" and n >= first + 2 * FPS
                encoder.send(n, n - first - 2 * FPS if restarted else n + 600)
                n += 1


class LiveEncoder:
    """Encodes numbered frames into a stream, each sent at once."""

    def __init__(self, file, size_px=(96, 64), muxer="mpegts", options=None, key_frames=5):
        self._container = av.open(file, "w", format=muxer, options={"flush_packets": "1"} | (options or {}))
        self._video = self._container.add_stream("libx264", rate=FPS)
        self._video.options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "log-level=none"}
        self._video.options |= {"g": str(key_frames)}
        self._video.width, self._video.height = self.size_px = size_px
        self._video.pix_fmt = "yuv420p"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError, av.error.FFmpegError):
            self._container.close()

    def send(self, number, tick=None):
        """Send frame `number` with the time `tick` / FPS."""
        picture = numbered_picture(number % 4096, *self.size_px)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")
        frame.pts, frame.time_base = number if tick is None else tick, Fraction(1, FPS)
        self._container.mux(self._video.encode(frame))


@functools.cache
def recording(n_frames, size_px=(96, 64)):
    """Return a video as MPEG-TS."""
    file = io.BytesIO()
    with LiveEncoder(file, size_px) as encoder:
        for n in range(n_frames):
            encoder.send(n)
    return file.getvalue()


def send_tone(file):
    """Send a second of sound."""
    from media import write_tone

    with av.open(file, "w", format="mpegts") as container:
        write_tone(container, container.add_stream("mp2", rate=16_000), 1.0)


def free_port():
    """Return a port on which nothing listens."""
    with socketserver.TCPServer(("127.0.0.1", 0), None) as server:
        return server.server_address[1]


def main():
    """Serve `/live.ts` on the port in the argument until killed."""
    LiveServer(port=int(sys.argv[1]))
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
