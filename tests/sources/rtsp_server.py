"""A real RTSP server for tests: encodes video live and sends it over TCP (interleaved) or UDP."""

import base64
import contextlib
import re
import socket
import socketserver
import threading
import time

import av
from senders import FPS, LiveEncoder

_DESCRIPTION = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\na=control:track1\r\n"
)


class RtspServer:
    """Serves `/live`. Frame n is n tenths of a second after the server was created.

    Args:
        transports: which of `tcp` and `udp` it offers.
        login: `name:password` that it asks for.
    """

    def __init__(self, transports=("tcp", "udp"), login=None):
        self.transports = transports
        self.login = login
        self.began_s = time.monotonic()
        self.paused = threading.Event()
        self.is_on_air = True
        self.used = []  # the transports of the sessions so far
        self._open = set()
        server = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                server._open.add(self.connection)
                with contextlib.suppress(OSError, av.error.FFmpegError):
                    Session(server, self).run()
                server._open.discard(self.connection)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True
            block_on_close = False

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self.cut()

    def url(self, path="live", login=""):
        return f"rtsp://{login}127.0.0.1:{self.port}/{path}"

    def now_s(self):
        return time.monotonic() - self.began_s

    def cut(self):
        """Break every connection."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class Session:
    """One client."""

    def __init__(self, server, handler):
        self.server = server
        self.handler = handler
        self._is_over = threading.Event()
        self._write = threading.Lock()
        self._send = None  # called with a packet and whether it is RTCP

    def run(self):
        try:
            while not self._is_over.is_set() and (request := self._read()):
                getattr(self, f"_{request[0].lower()}", self._ok)(*request)
        finally:
            self._is_over.set()

    def _read(self):
        """Return the next request: (method, address, headers); RTCP reports of the client are skipped."""
        lines = []
        while True:
            first = self.handler.rfile.read(1)
            if first == b"$":
                self.handler.rfile.read(int.from_bytes(self.handler.rfile.read(3)[1:], "big"))
                continue
            line = (first + self.handler.rfile.readline()).decode().strip()
            if not first or (lines and not line):
                break
            lines += [line] if line else []
        if not lines:
            return None
        method, url, _ = lines[0].split()
        return method, url, {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}

    def _answer(self, headers, status="200 OK", body="", **more):
        head = [f"RTSP/1.0 {status}", f"CSeq: {headers['cseq']}", "Session: 1"]
        head += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
        if body:
            head += ["Content-Type: application/sdp", f"Content-Length: {len(body)}"]
        with self._write:
            self.handler.wfile.write(("\r\n".join(head) + "\r\n\r\n" + body).encode())

    def _ok(self, _method, _url, headers):
        self._answer(headers, Public="OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN")

    def _describe(self, _method, url, headers):
        login = self.server.login
        if login and headers.get("authorization") != f"Basic {base64.b64encode(login.encode()).decode()}":
            self._answer(headers, "401 Unauthorized", WWW_Authenticate='Basic realm="test"')
        elif not (url.endswith("/live") and self.server.is_on_air):
            self._answer(headers, "404 Not Found")
        else:
            self._answer(headers, body=_DESCRIPTION)

    def _setup(self, _method, _url, headers):
        asked = headers["transport"]
        kind = "tcp" if "TCP" in asked else "udp"
        if kind not in self.server.transports:
            return self._answer(headers, "461 Unsupported Transport")
        self.server.used.append(kind)
        if kind == "tcp":
            self._send = self._send_within
            return self._answer(headers, Transport="RTP/AVP/TCP;unicast;interleaved=0-1")
        ports = [int(port) for port in re.search(r"client_port=(\d+)-(\d+)", asked).groups()]
        beside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        beside.bind(("127.0.0.1", 0))
        self._send = lambda packet, is_rtcp: beside.sendto(packet, ("127.0.0.1", ports[is_rtcp]))
        own = beside.getsockname()[1]
        return self._answer(headers, Transport=f"RTP/AVP;unicast;client_port={ports[0]}-{ports[1]};server_port={own}")

    def _play(self, _method, _url, headers):
        self._answer(headers)
        threading.Thread(target=self._encode, daemon=True).start()

    def _teardown(self, _method, _url, headers):
        self._is_over.set()
        self._answer(headers)

    def _send_within(self, packet, is_rtcp):
        with self._write:
            self.handler.wfile.write(b"$" + bytes([is_rtcp]) + len(packet).to_bytes(2, "big") + packet)

    def _encode(self):
        """Have FFmpeg packetise the video as RTP, and forward the packets until the server is stopped."""
        server = self.server
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError, av.error.FFmpegError):
            sockets = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
                each.setblocking(False)
            ports = [each.getsockname()[1] for each in sockets]
            encoder = LiveEncoder(f"rtp://127.0.0.1:{ports[0]}?rtcpport={ports[1]}", muxer="rtp")
            stack.enter_context(encoder)
            n = round(server.now_s() * FPS)
            while server.is_on_air and not self._is_over.is_set():
                time.sleep(max(0.0, n / FPS - server.now_s()))
                if not server.paused.is_set():
                    encoder.send(n)
                    self._pass_on(sockets)
                n += 1
        self._is_over.set()
        with contextlib.suppress(OSError):
            self.handler.connection.shutdown(socket.SHUT_RDWR)

    def _pass_on(self, sockets):
        for is_rtcp, each in enumerate(sockets):
            with contextlib.suppress(BlockingIOError):
                while True:
                    self._send(each.recv(65536), is_rtcp)
