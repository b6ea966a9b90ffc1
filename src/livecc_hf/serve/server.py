"""Runs the application on this machine, under uvicorn."""

from __future__ import annotations

import asyncio
import os
import signal
import socket

import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from livecc_hf.serve.app import create_app
from livecc_hf.serve.service import CommentaryService

_LINGER_S = 15.0  # for the closing handshake
_GRACE_S = 10  # for sessions to end when the server stops
_SPARE_BYTES = 64 * 1024


class _Protocol(WebSocketsSansIOProtocol):
    """Gives up a connection whose client does not read any more, for which closing would wait for ever."""

    _giving_up: asyncio.TimerHandle | None = None

    async def run_asgi(self) -> None:
        try:
            await super().run_asgi()
        finally:
            if not self.disconnected:
                self._giving_up = self.loop.call_later(_LINGER_S, self.transport.abort)

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
        super().connection_lost(exc)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Args:
        host: an address of this machine.
        port: the port; 0 for any that is free.

    Raises:
        OSError: if the address cannot be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number and number > 0 else str(error)
        raise OSError(f"cannot listen on {host}:{port} ({reason}): choose another --host or --port") from None


def make_server(service: CommentaryService, **options) -> uvicorn.Server:
    """Return a server of the application, to run with `server.run(sockets=[...])`.

    Args:
        service: what it serves.
        **options: of `uvicorn.Config`, such as `ssl_certfile`.
    """
    settings = service.settings
    config = uvicorn.Config(
        create_app(service),
        ws=_Protocol,
        # A frame that is too large is told so and the session goes on; only what is larger by far closes it.
        ws_max_size=2 * settings.max_frame_bytes + _SPARE_BYTES,
        ws_ping_interval=settings.ping_timeout_s,
        ws_ping_timeout=settings.ping_timeout_s,
        ws_per_message_deflate=False,  # images do not shrink further, and a bomb may not grow
        timeout_graceful_shutdown=_GRACE_S,
        **{"log_config": None, "access_log": False, "lifespan": "on", **options},
    )
    return uvicorn.Server(config)


def exit_on_sigterm() -> None:
    """Make SIGTERM end this process with exit code 0, after uvicorn has closed all."""

    def leave(*_: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, leave)
