"""What all sessions of a server share: the pool, the threads that decode, the counts."""

from __future__ import annotations

import concurrent.futures
import time
from typing import TYPE_CHECKING

import torch

from livecc_hf.modeling.grammar_livecc import FIRST_TURN_FRAMES, TURN_FRAMES
from livecc_hf.pool import CommentaryPool, PoolStats
from livecc_hf.serve.messages import CLOSE_RESTART, CLOSE_TRY_LATER, ClientError
from livecc_hf.serve.metrics import ServeMetrics

if TYPE_CHECKING:
    from livecc_hf.modeling import LiveCCForConditionalGeneration, StreamingProcessor, StreamOptions
    from livecc_hf.pooled_stream import PooledStream
    from livecc_hf.serve.messages import Start
    from livecc_hf.serve.settings import ServeSettings

_WARM_UP_SIZE_PX = (720, 1280)  # (H, W): as many tokens a frame as there may be
_WARM_UP_TIMEOUT_S = 1800  # compiling takes minutes


class CommentaryService:
    """A model that is ready to serve.

    Args:
        model: a `LiveCCForConditionalGeneration` in evaluation mode.
        processor: its `StreamingProcessor`.
        settings: a `ServeSettings`.
        options: the `StreamOptions` of sessions, where clients do not choose.

    Attributes:
        state: ``starting``, ``ready`` or ``stopping``.
        warm_up_s: how long the first turns took, in seconds.
    """

    def __init__(
        self,
        model: LiveCCForConditionalGeneration,
        processor: StreamingProcessor,
        settings: ServeSettings,
        options: StreamOptions | None = None,
    ):
        self.settings, self.options = settings, options
        self.pool = CommentaryPool(model, processor, settings.max_sessions, settings.overload, settings.max_lag_s)
        self.metrics = ServeMetrics(self.pool)
        self.threads = concurrent.futures.ThreadPoolExecutor(settings.decode_threads, "livecc-decode")
        self.state = "starting"
        self.warm_up_s = 0.0
        self.n_connected = 0
        self._n_admitted = 0

    def start(self) -> None:
        """Say a few turns for nobody, so that the first client does not wait for what only happens once.

        Raises:
            Exception: whatever keeps the model from speaking.
        """
        began_s = time.monotonic()
        self.pool.start()
        frame = torch.full((1, 3, *_WARM_UP_SIZE_PX), 128, dtype=torch.uint8)
        with self.pool.join(self.options) as stream:
            for n_frames in (FIRST_TURN_FRAMES, TURN_FRAMES, TURN_FRAMES):
                stream.push(frame.expand(n_frames, -1, -1, -1))
                if stream.take(_WARM_UP_TIMEOUT_S) is None:
                    raise TimeoutError(f"the model said nothing in {_WARM_UP_TIMEOUT_S} s")
        self.pool.stats = PoolStats()
        self.warm_up_s = time.monotonic() - began_s
        self.state = "ready"

    def stop(self) -> None:
        """End all streams and threads."""
        self.state = "stopping"
        self.pool.close()
        self.threads.shutdown()

    def admit(self) -> int:
        """Count a client in, and return its number; :meth:`discharge` it later.

        Raises:
            ClientError: if there is no room.
        """
        if self.state != "ready":
            raise ClientError("not_ready", f"the server is {self.state}: try again later", CLOSE_RESTART)
        if self.n_connected >= self.settings.max_sessions:
            raise ClientError(
                "full",
                f"the server has {self.n_connected} clients, as many as it may: try again later",
                CLOSE_TRY_LATER,
            )
        self.n_connected += 1
        self._n_admitted += 1
        self.metrics.sessions.set(self.n_connected)
        return self._n_admitted

    def discharge(self) -> None:
        """Count a client out."""
        self.n_connected -= 1
        self.metrics.sessions.set(self.n_connected)

    def join(self, start: Start, on_segment, on_end) -> PooledStream:
        """Start a client's stream.

        Raises:
            ValueError: if an option or text is not valid.
            PoolFullError: if the pool is closed.
        """
        chosen = start.model_dump(include={"query", "title", "previous"}, exclude_none=True)
        chosen |= start.options.model_dump(exclude_none=True)
        limit = self.settings.max_new_tokens
        if chosen.get("max_new_tokens", 0) > limit:
            raise ValueError(f"max_new_tokens={chosen['max_new_tokens']}: expected at most {limit} on this server")
        return self.pool.join(self.options, on_segment, on_end, **chosen)

    def health(self) -> dict:
        """Return what a load balancer wants to know."""
        return {
            "status": self.state,
            "sessions": self.n_connected,
            "max_sessions": self.settings.max_sessions,
            "warm_up_s": round(self.warm_up_s, 3),
        }
