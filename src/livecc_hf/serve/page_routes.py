"""Routes of the web page at `/`: its files, the sample clip, and its configuration."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.staticfiles import StaticFiles

from livecc_hf import __version__
from livecc_hf.assets import demo_clip_path
from livecc_hf.modeling.stream_options import LIVE_MAX_PIXELS

if TYPE_CHECKING:
    from livecc_hf.serve.service import CommentaryService

PAGE_FOLDER = Path(__file__).parent / "page"
READ = ["GET", "HEAD"]  # `wget --spider` and some load balancers check with HEAD
CONFIG_PATH = "/v1/config"
_CLIP_PATH = "/clip.mp4"
# The policy equals that of index.html. Framing is allowed: a Space shows the page in a frame.
_HEADERS = {
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "media-src 'self' blob: mediastream:; connect-src 'self' ws: wss:; form-action 'none'; base-uri 'none'"
    ),
}


class _PageFiles(StaticFiles):
    """Static files that browsers revalidate, so that an updated page never runs old scripts."""

    def file_response(self, *args: Any, **keywords: Any) -> Response:
        response = super().file_response(*args, **keywords)
        response.headers.update(_HEADERS)
        return response


def add_page(app: FastAPI, service: CommentaryService, clip: Path | None = None) -> None:
    """Add the routes of the page. Call it after all other routes were added: it answers every remaining path.

    Args:
        app: the application.
        service: the service that the page describes.
        clip: the sample video; `None`: the bundled clip.
    """
    clip_path = demo_clip_path() if clip is None else clip

    @app.api_route(CONFIG_PATH, methods=READ)
    async def config() -> Response:
        options = service.model.options
        answer = {
            "version": __version__,
            "model": service.model.name,
            "query": options.query if options else None,
            "max_pixels": (options.max_pixels if options else None) or LIVE_MAX_PIXELS,
            "max_sessions": service.settings.max_sessions,
            "needs_token": service.settings.token is not None,
            "clip": _CLIP_PATH.removeprefix("/"),
            "clip_name": None if clip is None else clip.name,
        }
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    @app.api_route(_CLIP_PATH, methods=READ)
    async def clip_file() -> Response:
        kind = mimetypes.guess_type(clip_path.name)[0] or "application/octet-stream"
        return FileResponse(clip_path, media_type=kind, headers={"Cache-Control": "no-cache"})

    app.mount("/", _PageFiles(directory=PAGE_FOLDER, html=True))
