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
from livecc_hf.modeling.grammar import FRAME_STEP_S, TURN_FRAMES
from livecc_hf.pool.answers import MAX_WAITING, AnswerPart, PooledAnswers
from livecc_hf.pool.overload import OverloadedError, OverloadPolicy

if TYPE_CHECKING:
    from livecc_hf.modeling import CommentarySegment, CommentaryStream
    from livecc_hf.modeling.stream import Turn
    from livecc_hf.pool.stats import PoolStats

OnSegment = Callable[["CommentarySegment"], None]
OnEnd = Callable[[Exception | None], None]


class StreamEndedError(RuntimeError):
    """A stream was used after its end."""


class Scheduler(Protocol):
    """What a stream asks of its pool."""

    @property
    def stats(self) -> PoolStats: ...

    @property
    def is_running(self) -> bool: ...

    @property
    def is_this_thread(self) -> bool: ...

    def step(self) -> int: ...

    def wake(self) -> None: ...

    def end(self, stream: PooledStream, error: Exception | None = None) -> int: ...


class PooledStream:
    """One stream of a pool, made by `CommentaryPool.join`. Use it in a `with` statement, or :meth:`leave`.

    Left normally, a `with` statement waits until all frames have their words; left by an exception, it ends the stream.

    Attributes:
        number: of the stream in its pool.
        n_dropped_frames: frames dropped so far.
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
        self._on_segment, self._on_end = on_segment, on_end
        # Pushes go on while a turn is generated: this guards what waits, not the generation.
        self._lock = threading.Lock()
        self._stream: CommentaryStream | None = stream  # `None` after the end, so that its memory is free
        self._arrivals_s: deque[float] = deque()  # of the frames that wait, on the clock of time.monotonic
        self._n_pushed = 0
        self._n_in_turn = 0  # frames of the turn that is being generated; they wait until it is complete
        self._is_in_part = False  # whether part of an answer is being generated
        self._leaving: CommentaryStream | None = None  # ended while its turn is being generated
        self._is_finished = False
        self._answers = PooledAnswers()
        self._segments: deque[CommentarySegment] = deque()
        self._news = threading.Condition()  # guards the segments and the error

    @property
    def has_ended(self) -> bool:
        """Whether no frames are taken and no words will come any more."""
        return self._stream is None

    @property
    def is_finished(self) -> bool:
        """Whether :meth:`finish` was called."""
        return self._is_finished

    @property
    def is_ready(self) -> bool:
        """Whether a round has something to do for it."""
        with self._lock:
            if self._stream is None:
                return False
            return (
                self._is_finished
                or bool(self._answers)
                or len(self._stream.waiting) >= self._stream.waiting.turn_frames
            )

    @property
    def waiting_s(self) -> float:
        """Seconds of video that wait for their words."""
        with self._lock:
            return 0.0 if self._stream is None else len(self._stream.waiting) * FRAME_STEP_S

    def push(self, frames: Any, timestamps_s: Sequence[float] | None = None) -> int:
        """Let frames wait for their words, which come later.

        Args:
            frames: as in `CommentaryStream.push`.
            timestamps_s: when they were sampled, as in `CommentaryStream.push`.

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
            self._arrivals_s.extend([time.monotonic()] * len(frames))
            n_dropped = self._drop_surplus(stream) if self._policy.drops else 0
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
            self._is_finished = True
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
        """End the stream now; what waits gets no words.

        Returns:
            How many frames were dropped.
        """
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

    def begin(self) -> Turn | AnswerPart | None:
        """Prepare the next turn, or part of an answer, if there is one."""
        with self._lock:
            if self._stream is None:
                return None
            waiting = self._stream.waiting
            # A first turn that has come goes first: there is nothing to ask about before it.
            if waiting.n_turns or len(waiting) < waiting.turn_frames:
                part = self._answers.begin(self._stream)
                if part is not None:
                    self._is_in_part = True
                    return part
            turn = self._stream.begin_turn(is_last=self._is_finished)
            self._n_in_turn = 0 if turn is None else turn.n_frames
            return turn

    def settle(self) -> None:
        """End its part in a round, whatever came of it."""
        with self._lock:
            self._end_round()

    def undo(self, turn: Turn | AnswerPart) -> None:
        """Put the stream back to before a turn."""
        with self._lock:
            self._end_round()
            if self._stream is None:
                return
            if isinstance(turn, AnswerPart):
                self._answers.undo(self._stream)
            else:
                self._stream.undo_turn(turn)

    def fail_answer(self, error: Exception) -> None:
        """End an answer that failed, of which the last part was undone; the stream continues."""
        with self._lock:
            if self._stream is not None:
                self._answers.fail(self._stream, error)

    def complete(self, turn: Turn | AnswerPart) -> float | None:
        """Deliver the words of a turn; return its latency in seconds, `None` if there is nothing to report."""
        if isinstance(turn, AnswerPart):
            self._complete_part(turn)
            return None
        with self._lock:
            if self._stream is None:
                self._end_round()
                return None
            segment = self._stream.end_turn(turn)
            arrived_s = [self._arrivals_s.popleft() for _ in range(turn.n_frames)][-1]
            self._end_round()
        if self._on_segment is not None:
            self._on_segment(segment)
        else:
            with self._news:
                self._segments.append(segment)
                self._news.notify_all()
        return time.monotonic() - arrived_s

    def _complete_part(self, part: AnswerPart) -> None:
        answered = None
        with self._lock:
            if self._stream is not None:
                answered = self._answers.take(self._stream, part)
            self._end_round()
        if answered is not None:  # without the lock: who waits may call
            future, text = answered
            future.set_result(text)

    def close(self, error: Exception | None) -> int:
        """End the stream; the pool calls it once. Return how many frames had no words yet."""
        with self._lock:
            self.error = error  # before it has ended, for those who ask why
            stream, self._stream = self._stream, None
            n_unsaid = 0 if stream is None else len(stream.waiting)
            unanswered = self._answers.close()
            if self._n_in_turn or self._is_in_part:
                self._leaving = stream  # its memory is in use until the round is over
            elif stream is not None:
                stream.release()
            self._arrivals_s.clear()
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

    def _end_round(self) -> None:
        self._n_in_turn, self._is_in_part = 0, False
        if self._leaving is not None:
            leaving, self._leaving = self._leaving, None
            leaving.release()

    def _open_stream(self) -> CommentaryStream:
        stream = self._stream
        if stream is None or self._is_finished:
            raise StreamEndedError(f"stream {self.number} has ended: join the pool again") from self.error
        return stream

    def _check_room(self, stream: CommentaryStream, frames: Any) -> None:
        is_known = isinstance(frames, torch.Tensor | PreparedFrames)
        n_coming = len(frames) if is_known else 0  # `prepare` says what is wrong with others
        try:
            self._policy.check(self._n_waiting(stream), stream.waiting.turn_frames, n_coming, f"stream {self.number}")
        except OverloadedError:
            self._scheduler.stats.count(n_refused=1)
            raise

    def _n_waiting(self, stream: CommentaryStream) -> int:
        """Return how many frames wait beside those of the turn that is being generated."""
        return len(stream.waiting) - self._n_in_turn

    def _drop_surplus(self, stream: CommentaryStream) -> int:
        """Drop the oldest frames that wait, in whole turns."""
        n_waiting = self._n_waiting(stream)
        surplus = self._policy.surplus(n_waiting, stream.waiting.turn_frames)
        if surplus <= 0:
            return 0
        n_dropped = min(-(-surplus // TURN_FRAMES) * TURN_FRAMES, n_waiting)
        stream.waiting.drop(n_dropped, behind=self._n_in_turn)
        for _ in range(n_dropped):
            del self._arrivals_s[self._n_in_turn]
        self.n_dropped_frames += n_dropped
        self._scheduler.stats.count(n_dropped_frames=n_dropped)
        return n_dropped
