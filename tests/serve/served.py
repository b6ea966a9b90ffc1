"""A server on a loopback port in a thread, and clients that talk to it."""

import contextlib
import io
import json
import os
import socket
import struct
import threading
import time
import urllib.request
from pathlib import Path

import torch
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from livecc_hf.modeling import StreamOptions
from livecc_hf.serve.messages import pack_frame
from livecc_hf.serve.server import listen, make_server
from livecc_hf.serve.service import CommentaryService
from livecc_hf.serve.settings import ServeSettings

OPTIONS = StreamOptions(
    do_sample=False,
    max_new_tokens=5,
    repetition_penalty=1.1,
    max_pixels=28 * 28 * 6,
    min_pixels=28 * 28 * 4,
    vision_window_s=4,
    text_window=80,
    text_sink=40,
)


class Served:
    """A running server, for tests."""

    def __init__(self, service, port):
        self.service, self.port = service, port
        self.url = f"ws://127.0.0.1:{port}/v1/commentary"

    def get(self, path, headers=None):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers or {})
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()

    def metric(self, name):
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith(name + " ")]
        return float(lines[0].split()[-1]) if lines else 0.0

    def client(self, start=None, **options):
        return Client(self.url, start, **options)


class Client:
    """A connection; `start` has fields of the start message, `False`: no start message is sent."""

    def __init__(self, url, start=None, **options):
        self.connection = connect(url, **options).__enter__()  # closed in __exit__, or by the server
        if start is not False:
            self.say({"type": "start", **(start or {})})
            answer = self.hear()
            assert answer["type"] == "started", answer

    def say(self, message):
        self.connection.send(json.dumps(message))

    def show(self, time_s, frame, format="PNG"):
        self.connection.send(pack_frame(time_s, encoded(frame, format)))

    def show_a_first(self, frame, server):
        """Show the first frame, wait for its stream in the pool, and return the stream."""
        before = server.service.pool.streams
        self.show(0, frame)
        wait_for(lambda: len(server.service.pool.streams) > len(before))
        return server.service.pool.streams[-1]

    def hear(self, timeout_s=20):
        return json.loads(self.connection.recv(timeout_s))

    def hear_until(self, type):
        """Return the messages up to the first one of a type."""
        heard = [self.hear()]
        while heard[-1]["type"] != type:
            heard.append(self.hear())
        return heard

    def hear_all(self):
        """Return the messages up to the close, and its code and reason."""
        heard = []
        try:
            while True:
                heard.append(self.hear())
        except ConnectionClosed as closed:
            return heard, closed.rcvd.code if closed.rcvd else None, closed.rcvd.reason if closed.rcvd else ""

    def watch(self, frames, start_s=0.0):
        """Show frames, finish, and return the segments."""
        for n, frame in enumerate(frames):
            self.show(start_s + n / 2, frame)
        self.say({"type": "finish"})
        heard, code, _ = self.hear_all()
        assert code == 1000 and heard[-1]["type"] == "end", heard[-1]
        return [(m["start_s"], m["end_s"], m["text"]) for m in heard if m["type"] == "segment"]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.connection.close()


def encoded(frame, format="PNG", **options):
    """Return a uint8 (3, H, W) frame as an image file."""
    file = io.BytesIO()
    Image.fromarray(frame.permute(1, 2, 0).numpy()).save(file, format, **options)
    return file.getvalue()


@contextlib.contextmanager
def serving(model, processor, options=OPTIONS, listener=None, config=None, clip=None, **settings):
    """Run a server, with generous limits by default."""
    generous = {"max_sessions": 4, "max_lag_s": 120.0, "max_messages_per_s": 1000.0, "max_bytes_per_s": 1e8}
    service = CommentaryService(model, processor, ServeSettings(**(generous | settings)), options)
    listener = listener or listen("127.0.0.1", 0)
    server = make_server(service, clip=clip, **(config or {}))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    port = listener.getsockname()[1]
    thread.start()
    try:
        wait_for(lambda: server.started or not thread.is_alive(), 60)
        assert server.started
        yield Served(service, port)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def wait_for(condition, timeout_s=10):
    """Wait until a condition holds."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "the condition did not hold in time"
        time.sleep(0.01)


def alone(model, processor, frames, options=OPTIONS, start_s=0.0, **keywords):
    """Return the segments of a stream that runs alone."""
    stream = model.start_stream(processor, options, **keywords)
    said = stream.push(frames, [start_s + n / 2 for n in range(len(frames))]) + stream.finish()
    return [(s.start_s, s.end_s, s.text) for s in said]


def some_frames(n_frames, size_px=(56, 84)):
    """Return random frames."""
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (n_frames, 3, *size_px), dtype=torch.uint8, generator=generator)


def raw_client(port):
    """Return a raw WebSocket connection, which answers no pings."""
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", port))
    raw.sendall(
        b"GET /v1/commentary HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += raw.recv(1)
    assert b" 101 " in answer
    return raw


def send_raw(raw, opcode, data):
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
    raw.sendall(bytes([0x80 | opcode]) + length + b"\0\0\0\0" + data)


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def n_handles():
    return len(list(Path("/proc/self/fd").iterdir()))
