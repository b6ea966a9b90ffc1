"""uvicorn protocols with limits for untrusted connections: their number, idle time and size of requests.

uvicorn itself has no such limits: a connection without a request stays open indefinitely, headers have any length, and
pings and empty fragments bypass every limit on messages.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from livecc_hf.serve.addresses import network_of
from livecc_hf.serve.messages import CLOSE_POLICY, CLOSE_TOO_LARGE
from livecc_hf.serve.sampling import RateLimit

_LINGER_S = 15.0  # time limit for a closing handshake, or without that a client reads more of a response
_REFUSAL_S = 1.0  # time for a client to read a refusal
_MAX_REFUSALS = 64  # refused connections that stay open to be read; further ones are closed without a response
_MAX_REQUEST_BYTES = 64 * 1024  # bytes received before the WebSocket handshake, or on a connection without one
_MAX_FRAGMENTS = 4096  # per message
_MAX_PINGS_PER_S = 10.0

_PHRASES = {408: "Request Timeout", 431: "Request Header Fields Too Large", 503: "Service Unavailable"}


class Connections:
    """Counts the open connections of a server.

    Args:
        max_connections: maximum number of open connections.
        max_per_address: maximum from one IPv4 address or /64 IPv6 network.
        refusals: Prometheus counter of refused connections, labelled with the reason.

    Attributes:
        n_lingering: number of refused connections that are still open.
    """

    def __init__(self, max_connections: int, max_per_address: int, refusals: Any):
        self._max_connections, self._max_per_address, self._refusals = max_connections, max_per_address, refusals
        self._open: dict[asyncio.Transport, str] = {}
        self._of_address: Counter[str] = Counter()
        self.n_lingering = 0

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, transport: asyncio.Transport) -> str | None:
        """Admit a connection; return `None`, or the reason if it must be refused."""
        address = network_of(transport.get_extra_info("peername"))
        if len(self._open) >= self._max_connections:
            self._refusals.labels("connections").inc()
            return f"the server has {len(self._open)} connections, which is its limit: try again later"
        if self._of_address[address] >= self._max_per_address:
            self._refusals.labels("connections_of_address").inc()
            n_open = self._of_address[address]
            return f"{n_open} connections come from your address, which is the limit: close some, or try again later"
        self._open[transport] = address
        self._of_address[address] += 1
        return None

    def leave(self, transport: asyncio.Transport) -> None:
        """Remove a connection; one that was refused is ignored."""
        address = self._open.pop(transport, None)
        if address is not None:
            self._of_address -= Counter([address])  # drops entries that reach 0


class HttpProtocol(HttpToolsProtocol):
    """HTTP with limits on the number of connections, their duration and the size of requests.

    Args:
        connections: the server's connections.
        request_s: longest duration of a connection that does not become a WebSocket, in seconds; a response that is
            being sent then may go on for 15 s, and for as long as the client reads more of it in each 15 s.
    """

    def __init__(self, *args: Any, connections: Connections, request_s: float, **keywords: Any):
        super().__init__(*args, **keywords)
        self._connections, self._request_s = connections, request_s
        self._timer: asyncio.TimerHandle | None = None
        self._n_bytes = 0
        self._answer = b""  # the refusal, held back until the request has come
        self._is_refused = self._is_lingering = False
        self._seen: tuple[Any, int] | None = None  # the response at the last check of the time, and its bytes to send

    def connection_made(self, transport: Any) -> None:  # of asyncio or uvloop
        """Admit the connection, or refuse it if there are too many."""
        super().connection_made(transport)
        refusal = self._connections.enter(transport)
        if refusal is not None:
            self._refuse(503, refusal, has_asked=False)
        else:
            self._timer = self.loop.call_later(self._request_s, self._time_is_up)

    def data_received(self, data: bytes) -> None:
        """Pass received bytes on, up to the limit for a request."""
        self._n_bytes += len(data)
        if self._is_refused:
            # Clients expect no response before their request, and lose one that is followed by a reset.
            if self._answer and data.endswith(b"\r\n\r\n"):
                self.transport.write(self._answer)
                self.transport.close()
            elif self._n_bytes > 16 * _MAX_REQUEST_BYTES:
                self.transport.abort()
        elif self._n_bytes > _MAX_REQUEST_BYTES:
            self._refuse(431, f"the request has more than {_MAX_REQUEST_BYTES} bytes")
        else:
            super().data_received(data)

    def handle_websocket_upgrade(self) -> None:
        """Hand the connection to the WebSocket protocol, which has no limit on its duration."""
        self._stop_timer()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection as closed."""
        self._stop_timer()
        self._connections.leave(self.transport)
        if self._is_lingering:
            self._connections.n_lingering -= 1
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _time_is_up(self) -> None:
        before, self._seen = self._seen, None
        if self.cycle is not None and not self.cycle.response_complete:
            self._seen = self.cycle, self.cycle.expected_content_length
        if self._seen is not None and self._seen != before:  # not at the same place as before
            self._timer = self.loop.call_later(_LINGER_S, self._time_is_up)
        elif self.cycle is None and self._n_bytes:
            self._refuse(408, f"no complete request came within {self._request_s:g} s")
        else:
            self.transport.abort()

    def _refuse(self, status: int, reason: str, has_asked: bool = True) -> None:
        """Respond instead of the application, and close the connection soon after."""
        self._is_refused = True
        self._stop_timer()
        if self._connections.n_lingering >= _MAX_REFUSALS:
            self.transport.abort()
            return
        self._is_lingering = True
        self._connections.n_lingering += 1
        body = f"{reason}\n".encode()
        head = (
            f"HTTP/1.1 {status} {_PHRASES[status]}\r\ncontent-type: text/plain; charset=utf-8\r\n"
            f"content-length: {len(body)}\r\nretry-after: 5\r\nconnection: close\r\n\r\n"
        )
        if has_asked:
            self.transport.write(head.encode() + body)
        else:
            self._answer = head.encode() + body
        self._timer = self.loop.call_later(_REFUSAL_S, self.transport.abort)


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """WebSockets with limits on pings and fragments; aborts a connection whose client does not complete its closing.

    Args:
        connections: the server's connections.
    """

    def __init__(self, *args: Any, connections: Connections, **keywords: Any):
        super().__init__(*args, **keywords)
        self._connections = connections
        self._pings = RateLimit(_MAX_PINGS_PER_S)
        self._abort_timer: asyncio.TimerHandle | None = None

    async def run_asgi(self) -> None:
        """Run the application, then close the connection within 15 s."""
        try:
            await super().run_asgi()
        finally:
            self._abort_later()

    def handle_ping(self) -> None:
        """Answer a ping, or close if they come too fast."""
        if self._pings.allows():
            super().handle_ping()
        else:
            self._fail(CLOSE_POLICY, f"too_fast: more than {_MAX_PINGS_PER_S:g} pings a second")

    def handle_cont(self, event: Any) -> None:
        """Accept a fragment of a message, or close if there are too many."""
        if len(self.frames) >= _MAX_FRAGMENTS:
            self._fail(CLOSE_TOO_LARGE, f"a message has more than {_MAX_FRAGMENTS} fragments")
        else:
            super().handle_cont(event)

    def keepalive_timeout(self) -> None:
        """Abort a connection whose client does not answer pings."""
        super().keepalive_timeout()
        self.transport.abort()

    def shutdown(self) -> None:
        """Close a connection without a session when the server stops; sessions close theirs themselves."""
        if not self.handshake_complete or self.close_sent:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count the connection as closed."""
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        self._connections.leave(self.transport)
        super().connection_lost(exc)

    def _fail(self, code: int, reason: str) -> None:
        """Close because the client broke a limit; nothing more is read from it."""
        if self.close_sent:
            return
        self.conn.fail(code, reason)
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        # Not at once: data that still arrives would cause a reset, and the client would lose the reason.
        self.close_timer = self.loop.call_later(_REFUSAL_S, self.transport.close)
        self._abort_later()

    def _abort_later(self) -> None:
        if not self.disconnected and self._abort_timer is None:
            self._abort_timer = self.loop.call_later(_LINGER_S, self.transport.abort)
