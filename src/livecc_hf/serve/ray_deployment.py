"""Ray Serve deployment: each replica holds a model, and a connection stays on its replica."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from ray import serve
from ray.util.metrics import Gauge

from livecc_hf.assets import bundled_model_path
from livecc_hf.modeling import StreamOptions
from livecc_hf.serve.settings import TOKEN_VARIABLE, settings_from

# Room for requests other than sessions: health checks, and clients that a full replica refuses.
SPARE_REQUESTS = 16
_EXPORT_EVERY_S = 5.0


class CommentaryDeployment:
    """One replica of the server.

    Args:
        model: folder or Hub id of the model; `None`: the bundled livecc-tiny.
        settings: fields of `ServeSettings`.
        options: fields of `StreamOptions`, the defaults of sessions.
        loading: further arguments of `load_model_and_processor`, such as `dtype`.
        insecure: serve without a token. Without it a token is required, since others can reach a cluster too.

    Raises:
        ValueError: if there is no token, a name is unknown or a value is out of range.
    """

    def __init__(
        self,
        model: str | None = None,
        settings: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        loading: dict[str, Any] | None = None,
        insecure: bool = False,
    ):
        chosen = settings_from(settings or {})
        if insecure == (chosen.token is not None):
            what = "insecure: true is set, but there is a token" if insecure else "there is no token"
            raise ValueError(f"{what}: set either {TOKEN_VARIABLE} on every node, or insecure: true")
        from livecc_hf.checkpoints.loading import load_model_and_processor
        from livecc_hf.serve.service import CommentaryService

        found, processor, _ = load_model_and_processor(model or bundled_model_path(), **(loading or {}))
        stream_options = StreamOptions(**(options or {}))
        self._service = CommentaryService(found, processor, chosen, stream_options)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application; Ray calls this in the replica after the model was loaded."""
        from livecc_hf.serve.app import create_app

        app = create_app(self._service)
        inner = app.router.lifespan_context

        @contextlib.asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            async with inner(app):
                exporter = asyncio.create_task(_export(self._service.metrics.registry))
                try:
                    yield
                finally:
                    exporter.cancel()

        app.router.lifespan_context = lifespan
        return app

    def check_health(self) -> None:
        """Check the health of the replica for Ray, which replaces it on an error.

        Raises:
            RuntimeError: if the service has stopped, or its model does not generate.
        """
        if self._service.state == "stopping":
            raise RuntimeError("the service has stopped")
        health = self._service.health()
        if health["status"] == "failed":
            raise RuntimeError(health["reason"])


async def _export(registry: CollectorRegistry) -> None:
    """Copy the metrics to Ray's metrics, which are exported on every node with the replica's name."""
    gauges: dict[str, Gauge] = {}
    while True:
        for metric in await asyncio.to_thread(lambda: list(registry.collect())):
            for sample in metric.samples:
                if sample.name.endswith("_created"):
                    continue
                if sample.name not in gauges:
                    gauges[sample.name] = Gauge(sample.name, metric.documentation, tuple(sample.labels))
                gauges[sample.name].set(sample.value, tags=dict(sample.labels))
        await asyncio.sleep(_EXPORT_EVERY_S)


def build(args: dict[str, Any]) -> serve.Application:
    """Return the application for `serve run` and `serve deploy`.

    Args:
        args: `model`, `settings`, `options`, `loading` and `insecure` of :class:`CommentaryDeployment`, and
            `deployment`: options of `serve.deployment`, such as `num_replicas`, `autoscaling_config` and
            `ray_actor_options`.

    Raises:
        ValueError: if a name is unknown or a setting is out of range.
    """
    args = dict(args)
    deployment = dict(args.pop("deployment", None) or {})
    unknown = sorted(set(args) - {"model", "settings", "options", "loading", "insecure"})
    if unknown:
        raise ValueError(
            f"unknown argument {', '.join(unknown)}: expected some of model, settings, options, loading, "
            "insecure, deployment"
        )
    settings = settings_from(args.get("settings") or {})  # checked before any replica starts
    given: dict[str, Any] = {
        "name": "livecc",
        "max_ongoing_requests": settings.max_sessions + SPARE_REQUESTS,
    } | deployment
    return serve.deployment(**given)(serve.ingress()(CommentaryDeployment)).bind(**args)
