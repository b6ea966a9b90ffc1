"""The page at `/`, where people watch a model comment: its files, the sample clip, and what it asks of its server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.staticfiles import StaticFiles

from livecc_hf import __version__
from livecc_hf.assets import demo_clip_path
from livecc_hf.modeling.streaming_livecc import LIVE_MAX_PIXELS

if TYPE_CHECKING:
    from livecc_hf.serve.service import CommentaryService

PAGE_FOLDER = Path(__file__).parent / "page"
CONFIG_PATH = "/v1/config"
_CLIP_PATH = "/clip.mp4"


class _PageFiles(StaticFiles):
    """Files that browsers ask for again: after an update no page runs with old parts."""

    def file_response(self, *args, **keywords) -> Response:
        response = super().file_response(*args, **keywords)
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def add_page(app: FastAPI, service: CommentaryService) -> None:
    """Serve the page. Call it after all other routes were added: it answers whatever is left.

    Args:
        app: the application.
        service: what the page shows.
    """

    @app.get(CONFIG_PATH)
    async def config(request: Request) -> Response:
        options = service.options
        answer = {
            "version": __version__,
            "model": service.model_name,
            "query": options.query if options else None,
            "max_pixels": (options.max_pixels if options else None) or LIVE_MAX_PIXELS,
            "max_sessions": service.settings.max_sessions,
            "needs_token": service.settings.token is not None,
            "clip": _CLIP_PATH.removeprefix("/"),
        }
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    @app.get(_CLIP_PATH)
    async def clip() -> Response:
        return FileResponse(demo_clip_path(), media_type="video/mp4")

    app.mount("/", _PageFiles(directory=PAGE_FOLDER, html=True))
