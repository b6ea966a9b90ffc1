"""A server on this machine that speaks OpenAI's chat completions protocol, with faults on demand."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD = {"describes_video": True, "personal": False, "conversation": False, "garbled": False}


@dataclass
class Reply:
    """A reply of the server: a completion with `content`, or `body` unchanged."""

    content: str | None = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    delay_s: float = 0.0

    def text(self, model: str) -> str:
        if self.body is not None:
            return self.body
        message = {"role": "assistant", "content": self.content}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return json.dumps({"id": "1", "object": "chat.completion", "created": 0, "model": model, "choices": [choice]})


def verdict(query: str = "Please comment on the game.", **conditions: bool) -> Reply:
    """Return a valid answer."""
    return Reply(json.dumps(GOOD | conditions | {"query": query}))


@dataclass
class ChatServer:
    """The server's address and the requests that it received.

    Attributes:
        url: its base URL.
        requests: the bodies, in the order they came.
        headers: of the same.
        times_s: when they came.
        most_at_once: the most requests that were answered at the same time.
    """

    url: str
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    most_at_once: int = 0


@contextlib.contextmanager
def serve_chat(reply_to: Callable[[int, dict[str, Any]], Reply]) -> Iterator[ChatServer]:
    """Serve on a free port; `reply_to` maps the number of a request and its body to the reply."""
    lock = threading.Lock()
    now_open = 0

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            nonlocal now_open
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                number = len(server.requests)
                server.requests.append(body)
                server.headers.append({name.lower(): value for name, value in self.headers.items()})
                server.times_s.append(time.monotonic())
                now_open += 1
                server.most_at_once = max(server.most_at_once, now_open)
            reply = Reply(status=404, body="no such path") if self.path != "/v1/chat/completions" else None
            reply = reply or reply_to(number, body)
            time.sleep(reply.delay_s)
            with lock:
                now_open -= 1
            data = reply.text(body["model"]).encode()
            with contextlib.suppress(OSError):  # the client may have left
                self.send_response(reply.status)
                for name, value in {"content-length": str(len(data)), **reply.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = ChatServer(f"http://127.0.0.1:{httpd.server_port}/v1")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
