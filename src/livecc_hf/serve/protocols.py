"""Connections of strangers, held within limits: how many there are, how long they say nothing, how much they waste.

uvicorn's protocols leave these open: a connection without a request stays indefinitely, headers have any length,
and pings and empty fragments pass every limit on messages.
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

_LINGER_S = 15.0  # for the closing handshake, and for an answer to be read
_REFUSAL_S = 1.0  # for a client to read why it is refused
_MAX_REFUSALS = 64  # that linger at once; more are closed without a word
_MAX_REQUEST_BYTES = 64 * 1024  # all that comes before a WebSocket, or on a connection without one
_MAX_FRAGMENTS = 4096  # of a message
_MAX_PINGS_PER_S = 10.0

_PHRASES = {408: "Request Timeout", 431: "Request Header Fields Too Large", 503: "Service Unavailable"}


class Connections:
    """The open connections of a server.

    Args:
        max_connections: how many there may be at once.
        max_per_address: how many of them from one address; of IPv6, from one network of 64 bits.
        refusals: a counter of refused ones, labelled with the reason.
    """

    def __init__(self, max_connections: int, max_per_address: int, refusals: Any):
        self._max_connections, self._max_per_address, self._refusals = max_connections, max_per_address, refusals
        self._open: dict[asyncio.Transport, str] = {}
        self._of_address: Counter[str] = Counter()
        self.n_lingering = 0  # refused ones

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, transport: asyncio.Transport) -> str | None:
        """Count a connection in; or return why not."""
        address = network_of(transport.get_extra_info("peername"))
        if len(self._open) >= self._max_connections:
            self._refusals.labels("connections").inc()
            return f"the server has {len(self._open)} connections, as many as it may: try again later"
        if self._of_address[address] >= self._max_per_address:
            self._refusals.labels("connections_of_address").inc()
            n_open = self._of_address[address]
            return f"{n_open} connections come from your address, as many as may: close some, or try again later"
        self._open[transport] = address
        self._of_address[address] += 1
        return None

    def leave(self, transport: asyncio.Transport) -> None:
        """Count a connection out, if it is counted."""
        address = self._open.pop(transport, None)
        if address is not None:
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]


class HttpProtocol(HttpToolsProtocol):
    """Requests, and what comes before a WebSocket.

    Args:
        connections: those of the server.
        request_s: how long a connection may last, in seconds, if it does not become a WebSocket; an answer that is
            being sent may take longer.
    """

    def __init__(self, *args: Any, connections: Connections, request_s: float, **keywords: Any):
        super().__init__(*args, **keywords)
        self._connections, self._request_s = connections, request_s
        self._timer: asyncio.TimerHandle | None = None
        self._n_bytes = 0
        self._answer = b""  # to a request that is refused and has not come yet
        self._is_refused = self._is_lingering = self._is_late = False

    def connection_made(self, transport: Any) -> None:  # asyncio's or uvloop's
        """Admit a connection, or refuse it if there are too many."""
        super().connection_made(transport)
        refusal = self._connections.enter(transport)
        if refusal is not None:
            self._refuse(503, refusal, has_asked=False)
        else:
            self._timer = self.loop.call_later(self._request_s, self._time_is_up)

    def data_received(self, data: bytes) -> None:
        """Read a part of a request, up to the limit of bytes."""
        self._n_bytes += len(data)
        if self._is_refused:
            # Clients take no answer before they have asked, and lose it where it comes with a reset.
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
        """Hand the connection to the WebSocket protocol, without the time limit of requests."""
        self._stop_timer()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        """Free the connection's place."""
        self._stop_timer()
        self._connections.leave(self.transport)
        if self._is_lingering:
            self._connections.n_lingering -= 1
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _time_is_up(self) -> None:
        is_answering = self.cycle is not None and not self.cycle.response_complete
        if is_answering and not self._is_late:
            self._is_late = True
            self._timer = self.loop.call_later(_LINGER_S, self._time_is_up)
        elif self.cycle is None and self._n_bytes:
            self._refuse(408, f"no whole request came in {self._request_s:g} s")
        else:
            self.transport.abort()

    def _refuse(self, status: int, reason: str, has_asked: bool = True) -> None:
        """Answer in place of the application, and close, both soon."""
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
    """WebSockets; also gives up one whose client does not read any more, for which closing would wait indefinitely.

    Args:
        connections: those of the server.
    """

    def __init__(self, *args: Any, connections: Connections, **keywords: Any):
        super().__init__(*args, **keywords)
        self._connections = connections
        self._pings = RateLimit(_MAX_PINGS_PER_S)
        self._giving_up: asyncio.TimerHandle | None = None

    async def run_asgi(self) -> None:
        """Run the application, then close within a limited time."""
        try:
            await super().run_asgi()
        finally:
            self._give_up_later()

    def handle_ping(self) -> None:
        """Answer a ping, or close if they come too fast."""
        if self._pings.allows():
            super().handle_ping()
        else:
            self._fail(CLOSE_POLICY, f"too_fast: more than {_MAX_PINGS_PER_S:g} pings a second")

    def handle_cont(self, event: Any) -> None:
        """Take a fragment of a message, or close if there are too many."""
        if len(self.frames) >= _MAX_FRAGMENTS:
            self._fail(CLOSE_TOO_LARGE, f"a message in more than {_MAX_FRAGMENTS} fragments")
        else:
            super().handle_cont(event)

    def keepalive_timeout(self) -> None:
        """Drop a connection whose client does not answer pings."""
        super().keepalive_timeout()
        self.transport.abort()

    def shutdown(self) -> None:
        """Close what has no session when the server stops; a session tells its client and closes by itself."""
        if not self.handshake_complete or self.close_sent:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Free the connection's place."""
        if self._giving_up is not None:
            self._giving_up.cancel()
        self._connections.leave(self.transport)
        super().connection_lost(exc)

    def _fail(self, code: int, reason: str) -> None:
        """Close because of what the client does; what comes after it is not read."""
        if self.close_sent:
            return
        self.conn.fail(code, reason)
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        # Not at once: what it still sends would be answered with a reset, in which the reason is lost.
        self.close_timer = self.loop.call_later(_REFUSAL_S, self.transport.close)
        self._give_up_later()

    def _give_up_later(self) -> None:
        if not self.disconnected and self._giving_up is None:
            self._giving_up = self.loop.call_later(_LINGER_S, self.transport.abort)
