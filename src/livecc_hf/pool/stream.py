"""One stream of a pool: push frames from any thread, take segments."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

import torch

from livecc_hf.modeling.frames import PreparedFrames, as_tensor
from livecc_hf.modeling.grammar import FRAME_STEP_S
from livecc_hf.pool.answers import MAX_WAITING, PooledAnswers
from livecc_hf.pool.overload import Backlog, OverloadedError, OverloadPolicy
from livecc_hf.utils.text import one_line

if TYPE_CHECKING:
    from livecc_hf.modeling import CommentarySegment, CommentaryStream
    from livecc_hf.modeling.turn import TurnRequest
    from livecc_hf.pool.stats import PoolStats

_log = logging.getLogger(__name__)

OnSegment = Callable[["CommentarySegment"], None]
OnEnd = Callable[[Exception | None], None]


class StreamEndedError(RuntimeError):
    """A stream was used after its end."""


class Scheduler(Protocol):
    """The methods of a pool that its streams use."""

    @property
    def stats(self) -> PoolStats:
        """The pool's counts so far."""

    @property
    def is_running(self) -> bool:
        """Whether a thread runs the rounds."""

    @property
    def is_this_thread(self) -> bool:
        """Whether rounds wait for the caller."""

    def step(self) -> int:
        """Run a round; return the number of turns and parts of answers that were generated."""

    def wake(self) -> None:
        """Wake the thread, because a stream may be ready."""

    def end(self, stream: PooledStream, error: Exception | None = None) -> int:
        """End a stream now; return how many frames had no words yet."""


class PooledStream:
    """One stream of a pool, made by `CommentaryPool.join`. Use it in a `with` statement, or call :meth:`leave`.

    Leaving the `with` statement normally waits until all frames have their words; an exception ends the stream at once.

    Attributes:
        number: the stream's number in its pool.
        n_dropped_frames: frames dropped so far.
        is_finished: whether :meth:`finish` was called.
        error: the error that ended it, if any.
    """

    def __init__(
        self,
        number: int,
        stream: CommentaryStream,
        scheduler: Scheduler,
        policy: OverloadPolicy,
        on_segment: OnSegment | None,
        on_end: OnEnd | None,
    ):
        self.number = number
        self.n_dropped_frames = 0
        self.error: Exception | None = None
        self._scheduler, self._policy = scheduler, policy
        self._backlog = Backlog(policy, f"stream {number}")
        self._on_segment, self._on_end = on_segment, on_end
        # Guards the waiting frames, not the generation: pushes continue while a turn is generated.
        self._lock = threading.Lock()
        self._stream: CommentaryStream | None = stream  # `None` after the end, so that its memory is freed
        self._n_pushed = 0
        self._is_in_round = False  # whether a turn, or part of an answer, is being generated
        self._leaving: CommentaryStream | None = None  # ended during a round, released after it
        self.is_finished = False
        self._answers = PooledAnswers()
        self._segments: deque[CommentarySegment] = deque()
        self._news = threading.Condition()  # guards the segments and the error

    @property
    def has_ended(self) -> bool:
        """Whether the stream takes no more frames and gives no more words."""
        return self._stream is None

    @property
    def is_ready(self) -> bool:
        """Whether the next round has work for it."""
        with self._lock:
            has_work = self.is_finished or bool(self._answers)
            return self._stream is not None and (has_work or self._stream.waiting.n_ready() > 0)

    @property
    def waiting_s(self) -> float:
        """Seconds of video without words yet."""
        return len(self._backlog) * FRAME_STEP_S

    def push(self, frames: Any, timestamps_s: Sequence[float] | None = None) -> int:
        """Queue frames; their words come later.

        Args:
            frames, timestamps_s: as in `CommentaryStream.push`.

        Returns:
            Number of frames dropped by policy ``drop``.

        Raises:
            StreamEndedError: after the end, or after :meth:`finish`.
            ValueError: if frames or times are invalid; the stream is unchanged.
            OverloadedError: with policy ``refuse``, if too many frames wait; the new ones are not queued.
        """
        frames = as_tensor(frames)
        with self._lock:
            self._check_room(self._open_stream(), frames)
        frames = self.prepare(frames)  # without the lock, for which rounds wait
        with self._lock:
            stream = self._open_stream()
            self._check_room(stream, frames)
            if self._policy.drops and timestamps_s is None:  # so that time labels skip the time of dropped frames
                timestamps_s = [(self._n_pushed + n) * FRAME_STEP_S for n in range(len(frames))]
            stream.feed(frames, timestamps_s)
            self._n_pushed += len(frames)
            self._backlog.add(len(frames))
            n_dropped = self._backlog.drop_surplus(stream.waiting.turn_frames)
            stream.waiting.drop(n_dropped, behind=self._backlog.n_in_turn)
            self.n_dropped_frames += n_dropped
        self._scheduler.stats.count(n_dropped_frames=n_dropped)
        self._scheduler.wake()
        return n_dropped

    def prepare(self, frames: Any) -> PreparedFrames:
        """Return frames resized for the model, which :meth:`push` does not resize again.

        Raises:
            StreamEndedError: after the end, or after :meth:`finish`.
            ValueError: if the frames are invalid.
        """
        return self._open_stream().prepare(frames)

    def ask(self, query: str) -> None:
        """Change the query from the next turn on.

        Raises:
            StreamEndedError: after the end, or after :meth:`finish`.
            ValueError: if the query is empty, holds a special token or cannot be encoded.
        """
        with self._lock:
            self._open_stream().ask(query)

    def answer(self, question: str, max_new_tokens: int = 512) -> Future[str]:
        """Ask about the completed turns; the commentary continues as if the question had not been asked.

        The answer is generated between two turns, in each round at most as many tokens as a turn has, so that other
        streams wait no longer than for a turn. This stream's turns wait for it. Questions asked before :meth:`finish`
        are still answered.

        Args:
            question: the question.
            max_new_tokens: most tokens of the answer.

        Returns:
            The future answer. If a thread runs the rounds (`CommentaryPool.start`), `result()` waits for it; it raises
            what `CommentaryStream.answer` raises, or `StreamEndedError` if the stream ends first. `cancel()` works
            while the question waits.

        Raises:
            StreamEndedError: after the end, or after :meth:`finish`.
            ValueError: if the question is empty, holds a special token or cannot be encoded.
            OverloadedError: if 8 questions wait.
        """
        with self._lock:
            self._open_stream().check_question(question, max_new_tokens)
            if len(self._answers) >= MAX_WAITING:
                raise OverloadedError(f"{len(self._answers)} questions wait on stream {self.number}: ask again later")
            future = self._answers.ask(question, max_new_tokens)
        self._scheduler.wake()
        return future

    def finish(self) -> None:
        """Declare that no more frames will come; the stream ends once all waiting frames have their words.

        An incomplete turn is generated too. This returns at once; :meth:`wait` and iterating over the stream wait.
        """
        with self._lock:
            self.is_finished = True
        self._scheduler.wake()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the stream has ended; if no thread runs the rounds (`CommentaryPool.start`), run them.

        If rounds wait for the caller, for example in `on_segment`, it returns at once.

        Args:
            timeout_s: most seconds to wait; `None`: no limit.

        Returns:
            Whether the stream has ended.
        """
        if self._scheduler.is_this_thread:
            return self.has_ended
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not (self._scheduler.is_running or self.has_ended or (end_s is not None and time.monotonic() >= end_s)):
            if not self._scheduler.step() and not self.has_ended:
                break  # nothing to generate until more frames come, or `finish` is called
        with self._news:
            left_s = None if end_s is None else max(0.0, end_s - time.monotonic())
            return (
                self._news.wait_for(lambda: self.has_ended or not self._scheduler.is_running, left_s) and self.has_ended
            )

    def leave(self) -> int:
        """End the stream now; return how many waiting frames were dropped."""
        return self._scheduler.end(self)

    def take(self, timeout_s: float | None = 0.0) -> CommentarySegment | None:
        """Return the next segment.

        Args:
            timeout_s: most seconds to wait for one; `None`: until there is one or the stream ends.

        Returns:
            The segment, or `None` if there was none in time or the stream has ended.

        Raises:
            Exception: the error that ended the stream, once all earlier segments are taken.
        """
        with self._news:
            self._news.wait_for(lambda: self._segments or self.has_ended, timeout_s)
            if self._segments:
                return self._segments.popleft()
        if self.error is not None:
            raise self.error
        return None

    def __iter__(self) -> Iterator[CommentarySegment]:
        """Yield segments until the stream ends; a thread must run the rounds (`CommentaryPool.start`)."""
        while (segment := self.take(None)) is not None:
            yield segment

    def __enter__(self) -> PooledStream:
        return self

    def __exit__(self, error_type: object, *_: object) -> None:
        if error_type is None:
            self.finish()
            self.wait()
        self.leave()

    # The pool calls the following methods, in its rounds.

    def begin(self) -> TurnRequest | None:
        """Prepare the next turn, or part of an answer, if there is one."""
        turn: TurnRequest | None = None
        invalid: list[tuple[Future[str], Exception]] = []
        try:
            with self._lock:
                if self._stream is None:
                    return None
                waiting = self._stream.waiting
                if waiting.n_turns or not waiting.n_ready():  # a ready first turn goes before questions, which need one
                    turn, invalid = self._answers.begin(self._stream)
                if turn is None:
                    turn = self._stream.begin_turn(is_last=self.is_finished)
                self._is_in_round = turn is not None
                self._backlog.n_in_turn = 0 if turn is None else turn.n_frames
                return turn
        finally:
            for future, error in invalid:
                future.set_exception(error)

    def settle(self) -> None:
        """End the stream's part in a round, also after a failure."""
        with self._lock:
            self._backlog.n_in_turn, self._is_in_round = 0, False
            leaving, self._leaving = self._leaving, None
            _release(leaving)

    def undo(self, turn: TurnRequest) -> None:
        """Restore the stream to before a turn."""
        with self._lock:
            if self._stream is not None:
                turn.undo()

    def fail_answer(self, error: Exception) -> None:
        """End an answer that failed and whose last part was undone; the stream continues."""
        with self._lock:
            future = None if self._stream is None else self._answers.end(self._stream)[0]
        if future is not None:
            future.set_exception(error)

    def complete(self, turn: TurnRequest) -> float | None:
        """Deliver a turn's segment, or a complete answer; return the turn's latency in seconds, if it is a turn."""
        segment = answered = None
        with self._lock:
            if self._stream is not None and not turn.is_answer:
                segment, arrived_s = self._stream.end_turn(turn), self._backlog.complete_turn()
            elif self._stream is not None and turn.is_over:
                answered = self._answers.end(self._stream)
        if answered is not None:
            future, text = answered
            future.set_result(text)
        if segment is None:
            return None
        if self._on_segment is not None:
            self._on_segment(segment)
        else:
            with self._news:
                self._segments.append(segment)
                self._news.notify_all()
        return time.monotonic() - arrived_s

    def close(self, error: Exception | None) -> int:
        """End the stream, and return how many frames had no words yet; the pool calls it once."""
        with self._lock:
            self.error = error  # before `has_ended` turns true, for other threads that then read it
            stream, self._stream = self._stream, None
            n_unsaid = len(self._backlog)
            unanswered = self._answers.close()
            if self._is_in_round:
                self._leaving = stream  # the round still uses its memory
            else:
                _release(stream)
            self._backlog.clear()
        with self._news:
            self._news.notify_all()
        for future in unanswered:
            ended = StreamEndedError(f"stream {self.number} has ended before it was answered")
            ended.__cause__ = error
            future.set_exception(ended)
        if self._on_end is not None:
            with contextlib.suppress(Exception):
                self._on_end(error)
        return n_unsaid

    def _open_stream(self) -> CommentaryStream:
        if (stream := self._stream) is None or self.is_finished:
            raise StreamEndedError(f"stream {self.number} has ended: join the pool again") from self.error
        return stream

    def _check_room(self, stream: CommentaryStream, frames: Any) -> None:
        is_known = isinstance(frames, torch.Tensor | PreparedFrames)
        n_coming = len(frames) if is_known else 0  # `prepare` raises an error for others
        try:
            self._backlog.check(stream.waiting.turn_frames, n_coming)
        except OverloadedError:
            self._scheduler.stats.count(n_refused=1)
            raise


def _release(stream: CommentaryStream | None) -> None:
    """Return a stream's memory to its pool; log a failure, such as of a lost device, since the stream ends anyway."""
    if stream is not None:
        try:
            stream.release()
        except Exception as error:
            _log.warning("the memory of an ended stream cannot be used again: %s", one_line(error))
