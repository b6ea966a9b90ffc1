"""Runs the application on this machine, under uvicorn."""

from __future__ import annotations

import logging
import os
import signal
import socket
from pathlib import Path
from typing import Any

import uvicorn

from livecc_hf.serve.app import create_app
from livecc_hf.serve.protocols import Connections, HttpProtocol, WebSocketProtocol
from livecc_hf.serve.service import CommentaryService

_MAX_PORT = 65535
_GRACE_S = 10  # time limit for sessions to end when the server stops
_SPARE_BYTES = 64 * 1024
# Log messages of uvicorn that any client can cause; some have a traceback.
_OF_CLIENTS = ("Invalid UTF-8", "Invalid HTTP request", "Unsupported upgrade request")


class _Server(uvicorn.Server):
    """Ends the sessions before uvicorn closes their connections, so that clients learn the reason."""

    def __init__(self, config: uvicorn.Config, service: CommentaryService):
        super().__init__(config)
        self._service = service

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.end_sessions()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Args:
        host: an address of this machine.
        port: the port; 0: any free port.

    Raises:
        OSError: if the address cannot be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number and number > 0 else getattr(error, "strerror", None) or str(error)
        if not 0 <= port <= _MAX_PORT:
            reason = f"ports are numbers from 0 to {_MAX_PORT}"
        raise OSError(f"cannot listen on {host}:{port} ({reason}): choose another address or port") from None


def make_server(
    service: CommentaryService, has_page: bool = True, clip: Path | None = None, **options: Any
) -> uvicorn.Server:
    """Return a uvicorn server for the service, to run with `server.run(sockets=[...])`.

    Args:
        service: the service.
        has_page: whether to serve the page at `/`.
        clip: the sample video of the page; `None`: the bundled clip.
        **options: arguments of `uvicorn.Config`, such as `ssl_certfile`.
    """
    settings = service.settings
    connections = Connections(
        settings.max_sessions + settings.max_other_connections,
        settings.max_connections_per_address,
        service.metrics.refusals,
    )

    class Http(HttpProtocol):
        def __init__(self, *args: Any, **keywords: Any):
            super().__init__(*args, connections=connections, request_s=settings.start_timeout_s, **keywords)

    class WebSockets(WebSocketProtocol):
        def __init__(self, *args: Any, **keywords: Any):
            super().__init__(*args, connections=connections, **keywords)

    logging.getLogger("uvicorn.error").addFilter(_is_of_server)
    config = uvicorn.Config(
        create_app(service, has_page, clip),
        http=Http,
        ws=WebSockets,
        # Twice the limit, so that a frame that is somewhat too large gets an error and the session continues.
        ws_max_size=2 * settings.max_frame_bytes + _SPARE_BYTES,
        ws_ping_interval=settings.ping_timeout_s,
        ws_ping_timeout=settings.ping_timeout_s,
        ws_per_message_deflate=False,  # images are compressed already, and a compressed bomb could not be limited
        timeout_graceful_shutdown=_GRACE_S,
        **{"log_config": None, "log_level": "warning", "access_log": False, "lifespan": "on", **options},
    )
    return _Server(config, service)


def _is_of_server(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_OF_CLIENTS)


def exit_on_sigterm() -> None:
    """Make SIGTERM end this process with exit code 0 after uvicorn has shut down."""

    def leave(*_: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, leave)
