"""Many live commentaries on one model: streams join, push, ask and leave; what is ready is generated together.

The work goes in rounds. A round takes the next turn of every stream that has one, prefills all of them in one pass and
decodes a token of each turn that is not over in each step. So no stream waits for more than one round, and each gets
the words that it would get alone.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import torch

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
    """The pool holds as many streams as it may."""


class PoolStoppedError(RuntimeError):
    """The thread that ran the rounds has died, or a round does not end."""


class CommentaryPool:
    """Streams that share a model.

    Call :meth:`step` until it returns 0, or :meth:`start` a thread that does; use the pool in a `with` statement then.
    Left normally, it comments on what waits before it ends the streams; left by an exception, it ends them at once.

    Attributes:
        max_streams: how many streams it holds at most.
        policy: what happens to frames that come too fast.
        failure: what the thread died of; `None` while it is well. No stream can join after it.

    Args:
        model: a `LiveCCForConditionalGeneration` in evaluation mode.
        processor: its `StreamingProcessor`.
        max_streams: how many streams it holds at most.
        overload: what happens to frames that come faster than they can be commented on: ``refuse`` (the push raises
            `OverloadedError`) or ``drop`` (the oldest that wait are dropped and counted; the time the model reads
            moves on).
        max_lag_s: how many seconds of video may wait beside the next turn.

    Raises:
        ValueError: if a value is out of range, or the model's code is of a version that this package cannot run.
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
                    f"the {name}'s code ({type(part).__module__}) is none that a pool can run, or an older version's: "
                    "load both with livecc_hf.load_model_and_processor, which takes a folder's weights, not its code"
                )
        self.policy = OverloadPolicy(overload, max_lag_s)
        self.max_streams = max_streams
        self._model, self._processor = model, processor
        self._rounds = Rounds(model, self.end)
        # One memory for the caches of all: a step of all streams is then one operation a layer.
        self._memory = new_kv_cache_pool(model, is_evictable=True, n_expected=max_streams)
        self._streams: dict[int, PooledStream] = {}
        self._n_joined = self._n_joining = 0
        self._changed = threading.Condition()  # guards the three above, and tells the thread of work
        self._thread: threading.Thread | None = None
        self._is_closing = self._is_draining = False  # the thread may outlive a close that had a time limit
        self.failure: PoolStoppedError | None = None

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def stats(self) -> PoolStats:
        """What was done and refused so far."""
        return self._rounds.stats

    @property
    def streams(self) -> tuple[PooledStream, ...]:
        """Those that have not ended."""
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
            options: a `StreamOptions`; keywords of the same names are laid over it.
            on_segment: called with each segment, by the thread that runs the rounds, instead of keeping them for
                `PooledStream.take`. What it raises ends the stream.
            on_end: called once with the error that ended the stream, or `None`.
            **keywords: as in `model.start_stream`.

        Raises:
            PoolFullError: if there is no room.
            PoolStoppedError: if the thread that runs the rounds has died.
            ValueError: if an option is not valid.
        """
        options = stream_options(options, keywords)
        with self._changed:
            self._check_room()
            self._n_joining += 1
        try:
            # Not before the check: each stream takes a slot of the memory, which would grow for one that is refused.
            stream = CommentaryStream(self._model, self._processor, options, self._memory)
            with self._changed:
                if self._is_closing or self.failure is not None:
                    stream.release()
                    self._check_room()
                pooled = PooledStream(self._n_joined, stream, self, self.policy, on_segment, on_end)
                self._streams[pooled.number] = pooled
                self._n_joined += 1
        finally:
            with self._changed:
                self._n_joining -= 1
        return pooled

    @property
    def is_running(self) -> bool:
        """Whether a thread runs the rounds."""
        return self._thread is not None

    @property
    def is_this_thread(self) -> bool:
        """Whether the caller is that thread, as in `on_segment`, and must not wait for it."""
        return self._thread is threading.current_thread()

    @property
    def round_s(self) -> float:
        """For how many seconds the current round has lasted; 0 if there is none."""
        return self._rounds.lasts_s

    def paused(self) -> AbstractContextManager[None]:
        """Keep rounds from beginning, such as until several streams have been shown something."""
        return self._rounds.paused()

    def step(self) -> int:
        """Run a round.

        Returns:
            How many turns were generated, parts of answers among them; 0 if no stream had one.
        """
        return self._rounds.run(lambda: self.streams)

    def warm_up(
        self,
        options: StreamOptions | None = None,
        frame_px: tuple[int, int] = LARGE_FRAME_PX,
        time_limit_s: float = 30.0,
    ) -> int:
        """Run dummy turns to pay one-time costs (kernel selection, graph capture) before the first stream.

        Turns of one stream, then of 2, 4, 8 ... at once up to `max_streams`, as long as the time allows. Where so many
        do not fit into the device's memory a warning says so. The pool's counts begin after it.

        Args:
            options: those of the streams that will come.
            frame_px: height and width of their frames; the default gives as many tokens as there may be.
            time_limit_s: how long to continue after the first stream, in seconds.

        Returns:
            How many streams at once have been tried.

        Raises:
            ValueError: if there are streams already, or `frame_px` is no size.
            TimeoutError: if the pool's thread generates nothing for half an hour.
            Exception: whatever keeps the model from generating.
        """
        if len(self):
            raise ValueError(f"warm_up() comes before the first stream, but {len(self)} have joined")
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
        """Run some turns of some streams together, and return how long that may take again, in seconds."""
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
                        raise TimeoutError(f"the model generated nothing in {_WARM_UP_TIMEOUT_S:g} s")
        if self.stats.n_rounds_apart:
            _log.warning("warm-up: %d streams at once fail, and will be slow one by one: allow fewer", n_streams)
        return 3 * (time.monotonic() - began_s)

    def start(self) -> CommentaryPool:
        """Run rounds in a thread of its own, as frames come, until :meth:`close`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="commentary-pool", daemon=True)
            self._thread.start()
        return self

    def close(self, timeout_s: float | None = None, drain: bool = True) -> int:
        """Comment on what waits, and end all streams and the thread. No stream can join from here on.

        Called by the thread that runs the rounds, such as from `on_segment`, it does not wait.

        Args:
            timeout_s: how long to wait for that; `None`: until nothing waits.
            drain: `False`: end the streams now, after the current round; what waits is dropped, and a warning is
                logged that says how much it was. The same happens when the time is up.

        Returns:
            How many frames were dropped.
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
        """End all streams; return how many frames were dropped, which is logged."""
        streams = self.streams
        n_frames = sum(self.end(stream) for stream in streams)
        if n_frames:
            _log.warning(
                "the pool was closed before %d frames (%.1f s of video) of %d streams had their words",
                n_frames,
                n_frames * FRAME_STEP_S,
                len(streams),
            )
        return n_frames

    def end(self, stream: PooledStream, error: Exception | None = None) -> int:
        """End a stream now, because of an error or none; return how many frames had no words yet."""
        with self._changed:
            if self._streams.pop(stream.number, None) is None:
                return 0
        n_unsaid = stream.close(error)
        self.stats.count(n_unsaid_frames=n_unsaid, n_failed=error is not None)
        return n_unsaid

    def wake(self) -> None:
        """Tell the thread that there may be something to do."""
        with self._changed:
            self._changed.notify_all()

    def _check_room(self) -> None:
        if self.failure is not None:
            raise self.failure
        if self._is_closing:
            raise PoolFullError("the pool is closed: make a new one")
        n_streams = len(self._streams) + self._n_joining
        if n_streams >= self.max_streams:
            self.stats.count(n_refused=1)
            raise PoolFullError(
                f"the pool holds {n_streams} streams, as many as it may (max_streams): wait until one "
                "leaves, or raise the limit if the device keeps up"
            )

    def _run(self) -> None:
        try:
            self._run_rounds()
        except BaseException as error:  # such as a panic in a tokenizer, which is no `Exception`
            failure = PoolStoppedError(f"the thread that runs the rounds has died ({type(error).__name__}: {error})")
            failure.__cause__ = error
            with self._changed:
                self.failure = failure
            for stream in self.streams:
                self.end(stream, failure)
            raise

    def _run_rounds(self) -> None:
        while not self._is_closing or (self._is_draining and self._streams):
            try:
                if self.step():
                    continue
            except Exception as error:  # of no single stream: untold, it would leave all waiting indefinitely
                for stream in self.streams:
                    self.end(stream, error)
            with self._changed:
                self._changed.wait_for(lambda: self._is_closing or any(s.is_ready for s in self._streams.values()))
