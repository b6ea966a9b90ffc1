"""Many live commentaries on one model: streams join, push, ask and leave; their turns are generated together.

The work is done in rounds. A round takes the next turn of every stream that has one, prefills all of them in one pass
and then decodes one token of each unfinished turn per step. So no stream waits longer than one round, and each gets the
words that it would get alone.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch

from livecc_hf.acceleration.slot_batch import SlotBatch
from livecc_hf.modeling.frames import gray_frames
from livecc_hf.modeling.grammar import FRAME_STEP_S, TURN_FRAMES
from livecc_hf.modeling.model_runner import new_kv_cache_pool
from livecc_hf.modeling.stream import LARGE_FRAME_PX, CommentaryStream
from livecc_hf.modeling.stream_options import stream_options
from livecc_hf.pool.overload import OverloadPolicy
from livecc_hf.pool.rounds import Rounds
from livecc_hf.pool.stats import PoolStats
from livecc_hf.pool.stream import OnEnd, OnSegment, PooledStream

if TYPE_CHECKING:
    from livecc_hf.modeling import LiveCCForConditionalGeneration, StreamingProcessor, StreamOptions

_log = logging.getLogger(__name__)
_WARM_UP_TIMEOUT_S = 1800.0


class PoolFullError(RuntimeError):
    """The pool has no room for another stream, or is closed."""


class PoolStoppedError(RuntimeError):
    """The thread that ran the rounds has died, or a round does not end."""


class CommentaryPool:
    """Streams that share a model.

    Call :meth:`step` until it returns 0, or :meth:`start` a thread that does, in a `with` statement. Leaving the
    statement normally comments on all waiting frames before the streams end; an exception ends them at once.

    Attributes:
        max_streams: most streams at a time.
        policy: what happens to frames that arrive too fast.
        failure: why the thread died, or `None`; after a failure no stream can join.

    Args:
        model: a `LiveCCForConditionalGeneration` in evaluation mode.
        processor: its `StreamingProcessor`.
        max_streams: most streams at a time.
        overload: what happens to frames that arrive faster than they can be commented on: ``refuse`` (the push raises
            `OverloadedError`) or ``drop`` (the oldest waiting frames are dropped and counted; the time labels that the
            model reads skip their time).
        max_lag_s: how many seconds of video may wait in addition to the next turn.

    Raises:
        ValueError: if a value is out of range, or the code of model or processor is a version that this package cannot
            run.
    """

    def __init__(
        self,
        model: LiveCCForConditionalGeneration,
        processor: StreamingProcessor,
        max_streams: int,
        overload: str = "refuse",
        max_lag_s: float = 4.0,
    ):
        if not isinstance(max_streams, int) or isinstance(max_streams, bool) or max_streams < 1:
            raise ValueError(f"max_streams={max_streams!r}: expected a whole number, at least 1")
        for name, part, needed in (("model", model, "decode_step"), ("processor", processor, "find_grammar")):
            if not hasattr(part, needed):
                raise ValueError(
                    f"a pool cannot run the {name}'s code ({type(part).__module__}), which may be an older version: "
                    "load both with livecc_hf.load_model_and_processor, which takes a folder's weights, not its code"
                )
        self.policy = OverloadPolicy(overload, max_lag_s)
        self.max_streams = max_streams
        if not issubclass(getattr(model, "packed_batch", object), SlotBatch):
            model.packed_batch = SlotBatch
        self._model, self._processor = model, processor
        self._rounds = Rounds(model, self.end)
        self._renew_memory()
        self._streams: dict[int, PooledStream] = {}
        self._n_joined = self._n_joining = 0
        self._changed = threading.Condition()  # guards the three above, and wakes the thread
        self._thread: threading.Thread | None = None
        self._is_closing = self._is_draining = False  # read by the thread, which may outlive a close with a time limit
        self.failure: PoolStoppedError | None = None

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def stats(self) -> PoolStats:
        """The pool's counts so far."""
        return self._rounds.stats

    @property
    def streams(self) -> tuple[PooledStream, ...]:
        """The streams that have not ended."""
        with self._changed:
            return tuple(self._streams.values())

    def join(
        self,
        options: StreamOptions | None = None,
        on_segment: OnSegment | None = None,
        on_end: OnEnd | None = None,
        **keywords,
    ) -> PooledStream:
        """Add a stream.

        Args:
            options: the stream's options.
            on_segment: called with each segment by the thread that runs the rounds; without it, segments are kept for
                `PooledStream.take`. An exception that it raises ends the stream.
            on_end: called once with the error that ended the stream, or `None`.
            **keywords: fields of `StreamOptions` that override `options`.

        Raises:
            PoolFullError: if there is no room, or the pool is closed.
            PoolStoppedError: if the thread that runs the rounds has died.
            ValueError: if an option is invalid.
        """
        options = stream_options(options, keywords)
        with self._changed:
            self._check_room()
            self._n_joining += 1
        try:
            # After the check, because a stream takes a slot of the KV cache pool, which may grow for it.
            stream = CommentaryStream(self._model, self._processor, options, self._memory)
        except BaseException:
            with self._changed:
                self._n_joining -= 1
            raise
        with self._changed:  # at no time is the stream counted twice
            self._n_joining -= 1
            if self._is_closing or self.failure is not None:
                stream.release()
                self._check_room()
            pooled = PooledStream(self._n_joined, stream, self, self.policy, on_segment, on_end)
            self._streams[pooled.number] = pooled
            self._n_joined += 1
        return pooled

    @property
    def is_running(self) -> bool:
        """Whether a thread runs the rounds."""
        return self._thread is not None

    @property
    def is_this_thread(self) -> bool:
        """Whether rounds wait for the caller, as in `on_segment` or :meth:`paused`, so it must not wait for them."""
        return self._thread is threading.current_thread() or self._rounds.is_this_thread

    @property
    def round_s(self) -> float:
        """Seconds since the current round began; 0 if there is none."""
        return self._rounds.lasts_s

    def paused(self) -> AbstractContextManager[None]:
        """Start no rounds inside the context, for example until several streams have frames.

        Raises:
            RuntimeError: within a round, as in `on_segment`, or within another pause of this thread.
        """
        return self._rounds.paused()

    def step(self) -> int:
        """Run a round.

        Returns:
            Number of generated turns and parts of answers; 0 if no stream had one.

        Raises:
            RuntimeError: as :meth:`paused`.
        """
        return self._rounds.run(lambda: self.streams)

    def warm_up(
        self,
        options: StreamOptions | None = None,
        frame_px: tuple[int, int] = LARGE_FRAME_PX,
        time_limit_s: float = 30.0,
    ) -> int:
        """Run dummy turns to pay one-time costs (kernel selection, graph capture) before the first stream.

        Turns of one stream, then of 2, 4, 8 ... streams at once up to `max_streams`, as long as time allows. A warning
        is logged if that many do not fit into the device's memory. The pool's counts start after it.

        Args:
            options: the expected streams' options.
            frame_px: expected (height, width) of their frames; the default makes the most tokens per frame.
            time_limit_s: seconds in which to try more streams, after the first one.

        Returns:
            How many streams at once have been tried.

        Raises:
            ValueError: if streams have joined already, or `frame_px` is not a size.
            PoolFullError: if the pool is closed meanwhile.
            TimeoutError: if the pool's thread generates nothing for half an hour.
            Exception: an error of the model that keeps it from generating.
        """
        if len(self):
            raise ValueError(f"warm_up() was called after {len(self)} streams had joined: call it before the first")
        frame = gray_frames(1, frame_px)
        n_streams, took_s = 1, self._run_dummy_turns(1, options, frame)
        began_s = time.monotonic()
        while n_streams < self.max_streams:
            n_next = min(2 * n_streams, self.max_streams)
            if time.monotonic() - began_s + 2 * took_s > time_limit_s:
                _log.warning("warm-up: %d streams at once would take too long to try", n_next)
                break
            n_streams, took_s = n_next, self._run_dummy_turns(n_next, options, frame)
        with self.paused():
            self._rounds.stats = PoolStats()
        return n_streams

    def _run_dummy_turns(self, n_streams: int, options: StreamOptions | None, frame: torch.Tensor) -> float:
        """Run dummy turns of some streams together; return how many seconds the next such run may take."""
        with contextlib.ExitStack() as stack:
            streams = [stack.enter_context(self.join(options)) for _ in range(n_streams)]
            prepared = streams[0].prepare(frame)
            for n_frames in (self._processor.find_grammar().first_turn_frames, TURN_FRAMES, TURN_FRAMES):
                with self.paused():
                    for stream in streams:
                        stream.push(prepared.expand(n_frames))
                began_s = time.monotonic()
                if self._thread is None:
                    self.step()
                for stream in streams:
                    if stream.take(_WARM_UP_TIMEOUT_S) is None:
                        self._check_open()
                        raise TimeoutError(f"the model generated nothing in {_WARM_UP_TIMEOUT_S:g} s")
        if self.stats.n_rounds_apart:
            _log.warning("warm-up: %d streams at once fail, and will be slow one by one: allow fewer", n_streams)
        return 3 * (time.monotonic() - began_s)

    def start(self) -> CommentaryPool:
        """Start a thread that runs rounds as frames arrive, until :meth:`close`; return the pool."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="commentary-pool", daemon=True)
            self._thread.start()
        return self

    def close(self, timeout_s: float | None = None, drain: bool = True) -> int:
        """Comment on all waiting frames, then end all streams and the thread; no stream can join any more.

        If rounds wait for the caller, for example in `on_segment`, it does not wait.

        Args:
            timeout_s: seconds after which to end the streams anyway; `None`: no limit.
            drain: `False`: end the streams after the current round. Waiting frames are then dropped, with a warning in
                the log, as they are after `timeout_s`.

        Returns:
            Number of dropped frames.
        """
        with self._changed:
            self._is_draining, self._is_closing = drain, True
            self._changed.notify_all()
        if drain:
            for stream in self.streams:
                stream.finish()
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        if self.is_this_thread:
            return 0 if drain else self._end_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
            self._thread = None
        while drain and self._streams and (end_s is None or time.monotonic() < end_s):
            self.step()
        self._is_draining = False
        return self._end_all()

    def __enter__(self) -> CommentaryPool:
        return self

    def __exit__(self, error_type: object, *_: object) -> None:
        self.close(drain=error_type is None)

    def _end_all(self) -> int:
        """End all streams; log and return the number of dropped frames."""
        streams = self.streams
        n_frames = sum(self.end(stream) for stream in streams)
        self._renew_memory()
        if n_frames:
            _log.warning(
                "the pool was closed before %d frames (%.1f s of video) of %d streams had their words",
                n_frames,
                n_frames * FRAME_STEP_S,
                len(streams),
            )
        return n_frames

    def end(self, stream: PooledStream, error: Exception | None = None) -> int:
        """End a stream now, with the error that caused it, if any; return how many frames had no words yet."""
        with self._changed:
            if self._streams.pop(stream.number, None) is None:
                return 0
        n_unsaid = stream.close(error)
        self.stats.count(n_unsaid_frames=n_unsaid, n_failed=error is not None)
        return n_unsaid

    def _renew_memory(self) -> None:
        """Free the KV cache pool, and make an empty one; streams share it so that a step is one operation per layer."""
        self._memory = new_kv_cache_pool(self._model, is_evictable=True, n_expected=self.max_streams)

    def wake(self) -> None:
        """Wake the thread, because a stream may be ready."""
        with self._changed:
            self._changed.notify_all()

    def _check_open(self) -> None:
        if self.failure is not None:
            raise self.failure
        if self._is_closing:
            raise PoolFullError("the pool is closed: make a new one")

    def _check_room(self) -> None:
        self._check_open()
        n_streams = len(self._streams) + self._n_joining
        if n_streams >= self.max_streams:
            self.stats.count(n_refused=1)
            raise PoolFullError(
                f"the pool has {n_streams} streams, its maximum (max_streams): wait until one leaves, or raise the "
                "limit if the device keeps up"
            )

    def _run(self) -> None:
        try:
            self._run_rounds()
        except BaseException as error:  # for example a panic in a tokenizer, which is not an `Exception`
            failure = PoolStoppedError(f"the thread that runs the rounds has died ({type(error).__name__}: {error})")
            failure.__cause__ = error
            with self._changed:
                self.failure = failure
            for stream in self.streams:
                self.end(stream, failure)
            raise
        finally:
            self._renew_memory()

    def _run_rounds(self) -> None:
        while not self._is_closing or (self._is_draining and self._streams):
            try:
                if self.step():
                    continue
            except Exception as error:  # not of a single stream: end all, or they would wait indefinitely
                for stream in self.streams:
                    self.end(stream, error)
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing or any(s.is_ready for s in self._streams.values()))
