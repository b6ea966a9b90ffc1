"""The state shared by all sessions of a server: the pool, the decoding threads and the metrics."""

from __future__ import annotations

import concurrent.futures
import logging
import time
from typing import TYPE_CHECKING, Protocol

from livecc_hf.pool import CommentaryPool
from livecc_hf.serve.admission import Admission
from livecc_hf.serve.failures import FailureStreak
from livecc_hf.serve.messages import CLOSE_RESTART, ClientError
from livecc_hf.serve.metrics import ServeMetrics
from livecc_hf.serve.served_model import ServedModel
from livecc_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from livecc_hf.modeling import (
        CommentarySegment,
        LiveCCForConditionalGeneration,
        StreamingProcessor,
        StreamOptions,
    )
    from livecc_hf.pool.stream import PooledStream
    from livecc_hf.serve.messages import Start
    from livecc_hf.serve.settings import ServeSettings

_log = logging.getLogger(__name__)


class ClientSession(Protocol):
    """The methods of a session that the service calls."""

    def stop(self) -> None:
        """Tell the client that the server stops, and end."""

    def fail(self, reason: str) -> None:
        """Tell the client that the generation failed, and end."""


class CommentaryService:
    """A model that generates for the streams of many clients.

    Args:
        model: a `LiveCCForConditionalGeneration` in evaluation mode; `None`: :meth:`start` loads it.
        processor: its `StreamingProcessor`.
        settings: the limits for clients.
        options: default `StreamOptions` of sessions, which clients may override.
        load: returns model and processor, if they are not given. The application then listens while they load, and
            refuses clients with ``loading``.
        name: the model's name while it is not loaded.
        on_start: called in the loading thread with the error that kept the model from starting, or `None`.

    Attributes:
        model: the `ServedModel`.
        pool: the pool of streams; `None` until the model is loaded.
        state: ``starting``, ``ready``, ``failed`` (the model could not be loaded) or ``stopping``.
        sessions: the open sessions.
        warm_up_s: duration of the warm-up, in seconds.
        warm_up_streams: largest number of concurrent streams in the warm-up.
    """

    def __init__(
        self,
        model: LiveCCForConditionalGeneration | None,
        processor: StreamingProcessor | None,
        settings: ServeSettings,
        options: StreamOptions | None = None,
        load: Callable[[], tuple[LiveCCForConditionalGeneration, StreamingProcessor]] | None = None,
        name: str = "",
        on_start: Callable[[Exception | None], None] | None = None,
    ):
        self.settings = settings
        loaded = None if model is None or processor is None else (model, processor)
        self.model = ServedModel(loaded, settings, options, load, name)
        self.pool: CommentaryPool | None = None
        self._load_failure: str | None = None
        self._on_start = on_start
        if self.model.is_there:
            self._make_pool()
        self.metrics = ServeMetrics(lambda: self.pool)
        self.threads = concurrent.futures.ThreadPoolExecutor(settings.decode_threads, "livecc-decode")
        self.state = "starting"
        self.sessions: set[ClientSession] = set()
        self.warm_up_s, self.warm_up_streams = 0.0, 0
        self._admission = Admission(settings, self.metrics.sessions)
        self._failures = FailureStreak()
        self._logged_trouble: str | None = None
        self.metrics.is_ready.set_function(lambda: float(self.health()["status"] == "ready"))

    def start(self) -> None:
        """Load the model unless it is loaded, and warm up the pool, so that the first client does not wait.

        Once the service stops, this returns without a warm-up, or raises the error of its closed pool.

        Raises:
            Exception: whatever loading or warm-up raises.
        """
        self.model.load()
        began_s = time.monotonic()
        pool = self._make_pool() if self.pool is None else self.pool
        if self.state != "starting":  # `close_pool` may have come before there was a pool
            return
        pool.start()
        self.warm_up_streams = pool.warm_up(self.model.options)
        self.warm_up_s = time.monotonic() - began_s
        if self.state == "starting":
            self.state = "ready"

    def start_or_report(self) -> None:
        """Start; report a failure to clients, and to `on_start` or else the log, instead of raising it."""
        failure = None
        try:
            self.start()
        except Exception as error:
            failure = None if self.state == "stopping" else error
        if failure is not None:
            if self._on_start is None:
                _log.error("the model could not be loaded", exc_info=failure)
            self._load_failure = f"the model could not be loaded ({one_line(failure)})"
            self.state = "failed"
        if self._on_start is not None:
            self._on_start(failure)

    def _make_pool(self) -> CommentaryPool:
        (model, processor), limits = self.model.loaded, self.settings
        self.pool = CommentaryPool(model, processor, limits.max_sessions, limits.overload, limits.max_lag_s)
        return self.pool

    def _running_pool(self) -> CommentaryPool:
        if self.pool is None:
            raise RuntimeError("the model is not loaded yet: call start first")
        return self.pool

    def close_pool(self) -> None:
        """End all streams, also of a warm-up, after the round in progress."""
        self.state = "stopping"
        if self.pool is not None:
            self.pool.close(self.settings.max_round_s, drain=False)

    def stop(self) -> None:
        """End all streams and threads."""
        self.close_pool()
        self.threads.shutdown()

    def end_sessions(self) -> None:
        """Tell all clients that the server stops, and end their sessions. Call it from the event loop's thread only."""
        self.state = "stopping"
        for session in tuple(self.sessions):
            session.stop()

    @property
    def trouble(self) -> str | None:
        """Why the model does not generate; `None` if it does."""
        if self.pool is None:
            return self._load_failure
        if self.pool.failure is not None:
            return str(self.pool.failure)
        round_s = self.pool.round_s
        if self.state != "starting" and round_s > self.settings.max_round_s:
            return f"the model has been silent for {round_s:.0f} s (max_round_s: {self.settings.max_round_s:g})"
        return None

    def check(self) -> None:
        """End all sessions if the model does not generate. Call it from the event loop's thread only."""
        trouble = self.trouble
        if trouble is not None:
            if self._logged_trouble is None:
                _log.error("not serving: %s", trouble)
            for session in tuple(self.sessions):
                session.fail(trouble)
        elif self._logged_trouble is not None:
            _log.warning("serving again")
        self._logged_trouble = trouble

    @property
    def n_connected(self) -> int:
        """Number of connected clients."""
        return self._admission.n_connected

    def admit(self, address: str) -> int:
        """Admit a client and return its number; call :meth:`discharge` when it disconnects.

        Args:
            address: the client's address, from `network_of`.

        Raises:
            ClientError: if the model does not generate, or the server is full.
        """
        if (refusal := self._refusal()) is not None:
            raise ClientError(*refusal, CLOSE_RESTART)
        return self._admission.enter(address, len(self._running_pool()))

    def discharge(self, address: str) -> None:
        """Note that a client has disconnected."""
        self._admission.leave(address)

    def _refusal(self) -> tuple[str, str] | None:
        """Return code and message of the refusal while the model does not generate; `None` if it does."""
        if self.state == "starting":
            return "loading", "the model is still loading: try again in a moment"
        if self.state == "failed":
            return "not_ready", f"{self._load_failure}: start the server again"
        if self.state != "ready":
            return "not_ready", f"the server is {self.state}: try again later"
        return None if (trouble := self.trouble) is None else ("not_ready", f"{trouble}: try again later")

    def full(self) -> ClientError:
        """Return the error for a client when every slot is taken."""
        return self._admission.full()

    def join(
        self,
        start: Start,
        on_segment: Callable[[CommentarySegment], None],
        on_end: Callable[[Exception | None], None],
    ) -> PooledStream:
        """Start a client's stream in the pool.

        Args:
            start: the client's `Start` message.
            on_segment, on_end: as in `CommentaryPool.join`.

        Raises:
            ValueError: if an option or text is not valid.
            PoolFullError: if all slots are taken, or the pool is closed.
            PoolStoppedError: if its thread has died.
        """

        def delivered(segment: CommentarySegment) -> None:
            self._failures.clear()
            on_segment(segment)

        def ended(error: Exception | None) -> None:
            self._failures.count(error)
            on_end(error)

        return self._running_pool().join(self.model.options_of(start), delivered, ended)

    def health(self) -> dict:
        """Return the body of `/health`: `status`, with a `reason` if it is ``failed``, and counts."""
        trouble = self.trouble
        reason = self._failures.reason if trouble is None else trouble
        has_failed = self.state in ("ready", "failed") and reason is not None
        return {
            "status": "failed" if has_failed else self.state,
            **({"reason": reason} if has_failed else {}),
            "sessions": self.n_connected,
            "max_sessions": self.settings.max_sessions,
            "warm_up_s": round(self.warm_up_s, 3),
            "warm_up_streams": self.warm_up_streams,
        }
