"""One stream of a pool, as its owner sees it: push frames from any thread, take words."""

from __future__ import annotations

import contextlib
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

if TYPE_CHECKING:
    from livecc_hf.modeling import CommentarySegment, CommentaryStream
    from livecc_hf.modeling.turn import TurnRequest
    from livecc_hf.pool.stats import PoolStats

OnSegment = Callable[["CommentarySegment"], None]
OnEnd = Callable[[Exception | None], None]


class StreamEndedError(RuntimeError):
    """A stream was used after its end."""


class Scheduler(Protocol):
    """What a stream asks of its pool."""

    @property
    def stats(self) -> PoolStats:
        """What was done and refused so far."""

    @property
    def is_running(self) -> bool:
        """Whether a thread runs the rounds."""

    @property
    def is_this_thread(self) -> bool:
        """Whether the caller is that thread."""

    def step(self) -> int:
        """Run a round; return the number of turns and parts of answers that were generated."""

    def wake(self) -> None:
        """Tell the thread that there may be something to do."""

    def end(self, stream: PooledStream, error: Exception | None = None) -> int:
        """End a stream now; return how many frames had no words yet."""


class PooledStream:
    """One stream of a pool, made by `CommentaryPool.join`. Use it in a `with` statement, or :meth:`leave`.

    Left normally, a `with` statement waits until all frames have their words; left by an exception, it ends the stream.

    Attributes:
        number: of the stream in its pool.
        n_dropped_frames: frames dropped so far.
        is_finished: whether :meth:`finish` was called.
        error: what ended it, if an error did.
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
        # Pushes go on while a turn is generated: this guards what waits, not the generation.
        self._lock = threading.Lock()
        self._stream: CommentaryStream | None = stream  # `None` after the end, so that its memory is free
        self._n_pushed = 0
        self._is_in_round = False  # whether a turn, or part of an answer, is being generated
        self._leaving: CommentaryStream | None = None  # ended meanwhile
        self.is_finished = False
        self._answers = PooledAnswers()
        self._segments: deque[CommentarySegment] = deque()
        self._news = threading.Condition()  # guards the segments and the error

    @property
    def has_ended(self) -> bool:
        """Whether no frames are taken and no words will come any more."""
        return self._stream is None

    @property
    def is_ready(self) -> bool:
        """Whether a round has something to do for it."""
        with self._lock:
            has_work = self.is_finished or bool(self._answers)
            return self._stream is not None and (has_work or self._stream.waiting.n_ready() > 0)

    @property
    def waiting_s(self) -> float:
        """Seconds of video that wait for their words."""
        return len(self._backlog) * FRAME_STEP_S

    def push(self, frames: Any, timestamps_s: Sequence[float] | None = None) -> int:
        """Let frames wait for their words, which come later.

        Args:
            frames, timestamps_s: as in `CommentaryStream.push`.

        Returns:
            How many frames were dropped, with policy ``drop``.

        Raises:
            StreamEndedError: after the end, or after :meth:`finish`.
            ValueError: if frames or times are not valid; the stream is as before.
            OverloadedError: with policy ``refuse``, if too much waits already; these frames were not taken.
        """
        frames = as_tensor(frames)
        with self._lock:
            self._check_room(self._open_stream(), frames)
        frames = self.prepare(frames)  # without the lock, for which the rounds of all wait
        with self._lock:
            stream = self._open_stream()
            self._check_room(stream, frames)
            if self._policy.drops and timestamps_s is None:  # or dropped frames would not move the time that is read
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
        """Return frames in the size in which the model sees them; a push takes them as they are then.

        Raises:
            StreamEndedError: after the end, or after :meth:`finish`.
            ValueError: if the frames have another form.
        """
        return self._open_stream().prepare(frames)

    def ask(self, query: str) -> None:
        """Change what the commentary is about, from the next turn on.

        Raises:
            StreamEndedError: after the end, or after :meth:`finish`.
            ValueError: if the query is empty or holds a special token.
        """
        with self._lock:
            self._open_stream().ask(query)

    def answer(self, question: str, max_new_tokens: int = 512) -> Future[str]:
        """Ask about what was seen so far; the commentary continues as if that had not been asked.

        It is answered between two turns, as many tokens a round as a turn has, so that no other stream waits longer
        than for a turn. The turns of this stream wait until it is answered; questions before :meth:`finish` are too.

        Args:
            question: the question.
            max_new_tokens: the answer's longest length in tokens.

        Returns:
            The answer to come: `result()` waits for it where a thread runs the rounds (`CommentaryPool.start`), and
            raises what `CommentaryStream.answer` raises, or `StreamEndedError` where the stream has ended before.
            A question that still waits can be cancelled.

        Raises:
            StreamEndedError: after the end, or after :meth:`finish`.
            ValueError: if the question is empty or cannot be asked.
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
        """Declare that no more frames come; the stream ends when what waits has its words, an incomplete turn too.

        It does not wait for that: :meth:`wait` does, and so does iterating over the stream.
        """
        with self._lock:
            self.is_finished = True
        self._scheduler.wake()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the stream has ended; where no thread runs the rounds (`CommentaryPool.start`), run them.

        The thread that runs them does not wait for itself.

        Args:
            timeout_s: how long, in seconds; `None`: as long as it takes.

        Returns:
            Whether it has ended.
        """
        if self._scheduler.is_this_thread:
            return self.has_ended
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not (self._scheduler.is_running or self.has_ended or (end_s is not None and time.monotonic() >= end_s)):
            if not self._scheduler.step() and not self.has_ended:
                break  # nothing to do: more must be shown first, or `finish` be called
        with self._news:
            left_s = None if end_s is None else max(0.0, end_s - time.monotonic())
            return (
                self._news.wait_for(lambda: self.has_ended or not self._scheduler.is_running, left_s) and self.has_ended
            )

    def leave(self) -> int:
        """End the stream now; return how many frames were dropped, which get no words."""
        return self._scheduler.end(self)

    def take(self, timeout_s: float | None = 0.0) -> CommentarySegment | None:
        """Return the next segment.

        Args:
            timeout_s: how long to wait for one; `None`: until there is one or the stream ends.

        Returns:
            The segment; `None` if none came in time, or the stream has ended.

        Raises:
            Exception: the error that ended the stream, after the segments before it.
        """
        with self._news:
            self._news.wait_for(lambda: self._segments or self.has_ended, timeout_s)
            if self._segments:
                return self._segments.popleft()
        if self.error is not None:
            raise self.error
        return None

    def __iter__(self) -> Iterator[CommentarySegment]:
        """Yield segments until the stream ends; something must run the rounds (`CommentaryPool.start`)."""
        while (segment := self.take(None)) is not None:
            yield segment

    def __enter__(self) -> PooledStream:
        return self

    def __exit__(self, error_type: object, *_: object) -> None:
        if error_type is None:
            self.finish()
            self.wait()
        self.leave()

    # What follows is called by the pool, in its rounds.

    def begin(self) -> TurnRequest | None:
        """Prepare the next turn, or part of an answer, if there is one."""
        with self._lock:
            if self._stream is None:
                return None
            waiting = self._stream.waiting
            # A first turn that has come goes first: there is nothing to ask about before it.
            turn = self._answers.begin(self._stream) if waiting.n_turns or not waiting.n_ready() else None
            if turn is None:
                turn = self._stream.begin_turn(is_last=self.is_finished)
            self._is_in_round = turn is not None
            self._backlog.n_in_turn = 0 if turn is None else turn.n_frames
            return turn

    def settle(self) -> None:
        """End its part in a round, whatever came of it."""
        with self._lock:
            self._backlog.n_in_turn, self._is_in_round = 0, False
            leaving, self._leaving = self._leaving, None
            if leaving is not None:
                leaving.release()

    def undo(self, turn: TurnRequest) -> None:
        """Put the stream back to before a turn."""
        with self._lock:
            if self._stream is not None:
                turn.undo()

    def fail_answer(self, error: Exception) -> None:
        """End an answer that failed, of which the last part was undone; the stream continues."""
        with self._lock:
            future = None if self._stream is None else self._answers.end(self._stream)[0]
        if future is not None:  # without the lock: who waits may call
            future.set_exception(error)

    def complete(self, turn: TurnRequest) -> float | None:
        """Deliver the words of a turn; return its latency in seconds, `None` if there is nothing to report."""
        segment = answered = None
        with self._lock:
            if self._stream is not None and not turn.is_answer:
                segment, arrived_s = self._stream.end_turn(turn), self._backlog.complete_turn()
            elif self._stream is not None and turn.is_over:
                answered = self._answers.end(self._stream)
        if answered is not None:  # without the lock: who waits may call
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
        """End the stream; the pool calls it once. Return how many frames had no words yet."""
        with self._lock:
            self.error = error  # before it has ended, for those who ask why
            stream, self._stream = self._stream, None
            n_unsaid = len(self._backlog)
            unanswered = self._answers.close()
            if self._is_in_round:
                self._leaving = stream  # its memory is in use until the round is over
            elif stream is not None:
                stream.release()
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
        n_coming = len(frames) if is_known else 0  # `prepare` says what is wrong with others
        try:
            self._backlog.check(stream.waiting.turn_frames, n_coming)
        except OverloadedError:
            self._scheduler.stats.count(n_refused=1)
            raise
