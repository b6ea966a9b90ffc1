"""The page at `/`, where people watch a model comment: its files, the sample clip, and what it asks of its server."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.staticfiles import StaticFiles

from livecc_hf import __version__
from livecc_hf.assets import demo_clip_path
from livecc_hf.modeling.stream_options import LIVE_MAX_PIXELS

if TYPE_CHECKING:
    from livecc_hf.serve.service import CommentaryService

PAGE_FOLDER = Path(__file__).parent / "page"
CONFIG_PATH = "/v1/config"
_CLIP_PATH = "/clip.mp4"
# As the page says of itself. It may stand in a frame: a Space's does.
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
    """Files that browsers ask for again: after an update no page runs with old parts."""

    def file_response(self, *args: Any, **keywords: Any) -> Response:
        response = super().file_response(*args, **keywords)
        response.headers.update(_HEADERS)
        return response


def add_page(app: FastAPI, service: CommentaryService, clip: Path | None = None) -> None:
    """Serve the page. Call it after all other routes were added: it answers whatever is left.

    Args:
        app: the application.
        service: what the page shows.
        clip: a video that it offers; `None`: the bundled one.
    """
    clip_path = demo_clip_path() if clip is None else clip

    @app.get(CONFIG_PATH)
    async def config(request: Request) -> Response:
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

    @app.get(_CLIP_PATH)
    async def clip_file() -> Response:
        kind = mimetypes.guess_type(clip_path.name)[0] or "application/octet-stream"
        return FileResponse(clip_path, media_type=kind, headers={"Cache-Control": "no-cache"})

    app.mount("/", _PageFiles(directory=PAGE_FOLDER, html=True))
