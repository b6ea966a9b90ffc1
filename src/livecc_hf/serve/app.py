"""The web application: commentary by WebSocket, health and metrics."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import HTTPConnection

from livecc_hf import __version__
from livecc_hf.serve.addresses import network_of
from livecc_hf.serve.messages import (
    CLOSE_FAILED,
    PATH,
    SUBPROTOCOL,
    TOKEN_SUBPROTOCOL_PREFIX,
    ClientError,
    close_reason,
    error_message,
)
from livecc_hf.serve.origins import OriginCheck, deny
from livecc_hf.serve.page_routes import READ, add_page
from livecc_hf.serve.service import CommentaryService
from livecc_hf.serve.session import Session

_WATCH_EVERY_S = 1.0
_UNAUTHORIZED = (
    "a token is needed: send it as 'Authorization: Bearer TOKEN', or, from a browser, as the WebSocket subprotocol "
    f"'{TOKEN_SUBPROTOCOL_PREFIX}' followed by the token in base64url without padding\n"
)


def create_app(service: CommentaryService, has_page: bool = True, clip: Path | None = None) -> FastAPI:
    """Return the web application, which starts the service at its start-up and stops it at its shutdown.

    Args:
        service: the service; one that was started already is not started again.
        has_page: whether to serve the page at `/`.
        clip: the sample video of the page; `None`: the bundled clip.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = None
        try:
            if service.model.loads_later:  # the server listens while the model loads
                loading = asyncio.create_task(asyncio.to_thread(service.start_or_report))
            elif service.state == "starting":
                await asyncio.to_thread(service.start)
            watch = asyncio.create_task(_watch(service))
            try:
                yield
            finally:
                watch.cancel()
                service.end_sessions()
        finally:
            if loading is not None:
                await asyncio.to_thread(service.close_pool)  # ends a warm-up
                await loading  # a thread cannot be stopped
            await asyncio.to_thread(service.stop)

    app = FastAPI(
        title="livecc", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.service = service
    settings, refusals = service.settings, service.metrics.refusals
    app.add_middleware(CORSMiddleware, allow_origins=settings.allowed_origins, allow_headers=["Authorization"])
    app.add_middleware(OriginCheck, settings.allowed_origins, settings.token is not None, refusals.labels("origin").inc)

    @app.api_route("/health", methods=READ)
    async def health() -> Response:
        health = service.health()  # takes no lock, so it also answers while the model hangs
        return JSONResponse(health, status_code=200 if health["status"] == "ready" else 503)

    # Not `async`, so it runs in a thread: it waits for locks that rounds of the pool hold.
    @app.api_route("/metrics", methods=READ)
    def metrics(request: Request) -> Response:
        if not may_enter(request, settings.token):
            return PlainTextResponse(_UNAUTHORIZED, 401, {"WWW-Authenticate": "Bearer"})
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.websocket(PATH)
    async def commentary(websocket: WebSocket) -> None:
        if not may_enter(websocket, settings.token):
            refusals.labels("unauthorized").inc()
            await deny(websocket, PlainTextResponse(_UNAUTHORIZED, 401, {"WWW-Authenticate": "Bearer"}))
            return
        await websocket.accept(SUBPROTOCOL if SUBPROTOCOL in websocket.scope["subprotocols"] else None)
        await serve_client(service, websocket)

    if has_page:
        add_page(app, service, clip)
    return app


async def _watch(service: CommentaryService) -> None:
    while True:
        service.check()
        await asyncio.sleep(_WATCH_EVERY_S)


def may_enter(connection: HTTPConnection, token: str | None) -> bool:
    """Return whether a request carries the token, in its header or as a WebSocket subprotocol.

    Args:
        connection: the request.
        token: the server's token; `None`: every request is allowed.
    """
    if token is None:
        return True
    scheme, _, shown = connection.headers.get("authorization", "").partition(" ")
    candidates = [shown.strip().encode("latin-1")] if scheme.lower() == "bearer" else []
    for name in connection.scope.get("subprotocols", ()):
        if name.startswith(TOKEN_SUBPROTOCOL_PREFIX):
            encoded = name.removeprefix(TOKEN_SUBPROTOCOL_PREFIX)
            with contextlib.suppress(binascii.Error, ValueError):
                candidates.append(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    return any(hmac.compare_digest(candidate, token.encode()) for candidate in candidates)


async def serve_client(service: CommentaryService, websocket: WebSocket) -> None:
    """Run a client's session on its accepted connection, or send it the reason for a refusal.

    Args:
        service: the service.
        websocket: the accepted connection.
    """
    address = network_of(websocket.client)
    try:
        number = service.admit(address)
    except ClientError as error:
        service.metrics.refusals.labels(error.code).inc()
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
            await websocket.send_text(json.dumps(error_message(error)))
            await websocket.close(error.close_code or CLOSE_FAILED, close_reason(error))
        return
    session = Session(service, websocket, number)
    service.sessions.add(session)
    try:
        await session.run()
    finally:
        service.sessions.discard(session)
        service.discharge(address)
