"""Prometheus metrics of a server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from livecc_hf.pool import CommentaryPool

LATENCY_BUCKETS_S = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10)


class ServeMetrics:
    """Metrics of one server, in their own registry.

    Args:
        pool: returns the pool, whose statistics are exported too, or `None` while there is no pool yet.
    """

    def __init__(self, pool: Callable[[], CommentaryPool | None]):
        self.registry = registry = CollectorRegistry()
        self.sessions = Gauge("livecc_sessions", "Clients connected", registry=registry)
        self.endings = Counter("livecc_sessions_ended", "Sessions that ended, by reason", ["reason"], registry=registry)
        self.refusals = Counter("livecc_refusals", "Connections refused, by reason", ["reason"], registry=registry)
        self.errors = Counter("livecc_client_errors", "Errors sent to clients, by code", ["code"], registry=registry)
        self.frames = Counter(
            "livecc_frames",
            "Received frames: shown to the model, skipped (more than 2 a second), dropped or refused (overload), bad",
            ["result"],
            registry=registry,
        )
        self.latency_s = Histogram(
            "livecc_turn_latency_seconds",
            "Time from the arrival of a turn's last frame to its words",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.answer_s = Histogram(
            "livecc_answer_seconds",
            "Time from a question to its answer",
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self.is_ready = Gauge("livecc_ready", "Whether clients are served, as in /health", registry=registry)
        for result in ("shown", "skipped", "dropped", "refused", "bad"):
            self.frames.labels(result)
        registry.register(_PoolCollector(pool))

    def count_frames(self, result: str, n: int = 1) -> None:
        """Count frames by result: ``shown``, ``skipped``, ``dropped``, ``refused`` or ``bad``."""
        self.frames.labels(result).inc(n)


class _PoolCollector:
    def __init__(self, pool: Callable[[], CommentaryPool | None]):
        self._pool = pool

    def collect(self) -> Iterator[Metric]:
        if (pool := self._pool()) is None:
            return
        stats, streams = pool.stats, pool.streams
        lag_s = max((stream.waiting_s for stream in streams), default=0.0)
        yield GaugeMetricFamily("livecc_streams", "Streams on the model", len(streams))
        yield GaugeMetricFamily("livecc_lag_seconds", "Seconds of video that wait, in the slowest stream", lag_s)
        for name, help, value in (
            ("livecc_rounds", "Rounds of generation", stats.n_rounds),
            (
                "livecc_rounds_apart",
                "Rounds that failed as a batch and were retried stream by stream",
                stats.n_rounds_apart,
            ),
            ("livecc_turns", "Turns generated", stats.n_turns),
            ("livecc_tokens", "Tokens generated", stats.n_tokens),
            ("livecc_streams_failed", "Streams that an error ended", stats.n_failed),
            ("livecc_busy_seconds", "Time spent in rounds", stats.busy_s),
        ):
            yield CounterMetricFamily(name, help, value)
