"""Serves the page of `livecc serve` and its WebSocket from a Gradio server."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from livecc_hf.serve.app import create_app
from livecc_hf.serve.page_routes import READ, add_page
from livecc_hf.serve.service import CommentaryService
from livecc_hf.serve.settings import ServeSettings

if TYPE_CHECKING:
    from livecc_hf.modeling import LiveCCForConditionalGeneration, StreamingProcessor

# Paths of Gradio's clients; all others belong to the page.
_GRADIO_PREFIX = "/gradio_api"
_GRADIO_PATHS = ("/config",)
_NO_DEDICATED_GPU = (
    "this Space has a GPU for one call at a time only (ZeroGPU), so it cannot follow live video: send files to its "
    "endpoint /commentate, or run it on a dedicated GPU"
)


class _Division:
    """ASGI middleware that routes a request to Gradio or to the page."""

    def __init__(self, app: ASGIApp, live: FastAPI):
        self._app, self._live = app, live

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        is_for_gradio = scope["type"] == "lifespan" or path in _GRADIO_PATHS or path.startswith(_GRADIO_PREFIX)
        await (self._app if is_for_gradio else self._live)(scope, receive, send)


def add_live_page(
    server: FastAPI,
    model: LiveCCForConditionalGeneration,
    processor: StreamingProcessor,
    settings: ServeSettings | None = None,
) -> Callable[[FastAPI], Any]:
    """Serve the live page at all paths that are not Gradio's.

    Args:
        server: a `gradio.Server` that has not been launched yet.
        model: a `LiveCCForConditionalGeneration` in evaluation mode.
        processor: its `StreamingProcessor`.
        settings: limits of the server; default: those of `livecc serve`, and pages of the Space's own origin only.

    Returns:
        The lifespan to pass to `server.launch(app_kwargs={"lifespan": ...})`, which warms the model up and releases it.
    """
    service = CommentaryService(model, processor, settings or _settings_of_space())
    live = _page_only(service) if has_borrowed_gpu() else create_app(service)
    server.add_middleware(_Division, live=live)
    return live.router.lifespan_context


def has_borrowed_gpu() -> bool:
    """Return whether this process is a Space on ZeroGPU."""
    return os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")


def _settings_of_space() -> ServeSettings:
    host = os.environ.get("SPACE_HOST")  # set by the Hub, whose proxy has one address for all visitors
    return ServeSettings(allowed_origins=(f"https://{host}",) if host else ())


def _page_only(service: CommentaryService) -> FastAPI:
    """Return an application whose page says why live video is not possible."""
    app = FastAPI(title="livecc", docs_url=None, redoc_url=None, openapi_url=None)

    @app.api_route("/health", methods=READ)
    async def health() -> JSONResponse:
        return JSONResponse({"status": "failed", "reason": _NO_DEDICATED_GPU}, status_code=503)

    add_page(app, service)
    return app
