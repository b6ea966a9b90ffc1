"""Rounds: the next turns of many streams, generated together."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from livecc_hf.modeling.generation import generate
from livecc_hf.pool.stats import PoolStats
from livecc_hf.utils.text import one_line

if TYPE_CHECKING:
    from livecc_hf.modeling import LiveCCForConditionalGeneration
    from livecc_hf.modeling.turn import TurnRequest
    from livecc_hf.pool.stream import PooledStream

    _Begun = tuple[PooledStream, TurnRequest]

_log = logging.getLogger(__name__)


class Rounds:
    """Runs rounds, one at a time.

    Attributes:
        stats: the pool's counts so far.

    Args:
        model: a `LiveCCForConditionalGeneration` in evaluation mode.
        end: ends a stream, with the error that caused it or `None`.
    """

    def __init__(self, model: LiveCCForConditionalGeneration, end: Callable[[PooledStream, Exception | None], object]):
        self.stats = PoolStats()
        self._model, self._end = model, end
        self._lock = threading.Lock()
        self._owner: threading.Thread | None = None  # the thread that holds the lock
        self._began_s: float | None = None

    @property
    def lasts_s(self) -> float:
        """Seconds since the current round began; 0 if there is none."""
        began_s = self._began_s
        return 0.0 if began_s is None else time.monotonic() - began_s

    @property
    def is_this_thread(self) -> bool:
        """Whether the caller runs a round, as in `on_segment`, or has paused the rounds."""
        return self._owner is threading.current_thread()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Start no rounds inside the context.

        Raises:
            RuntimeError: if this thread runs a round, or has paused the rounds.
        """
        if self.is_this_thread:
            raise RuntimeError(
                "this thread runs a round, as in on_segment, or has paused the rounds: wait for its end before the next"
            )
        with self._lock:
            self._owner = threading.current_thread()
            try:
                yield
            finally:
                self._owner = None

    def run(self, streams: Callable[[], Sequence[PooledStream]]) -> int:
        """Run a round.

        Args:
            streams: returns the streams of the pool.

        Returns:
            Number of generated turns and parts of answers; 0 if no stream had one.

        Raises:
            RuntimeError: as :meth:`paused`.
        """
        with self.paused():
            self._began_s = began_s = time.monotonic()
            begun: list[_Begun] = []
            try:
                for stream in streams():
                    if (turn := self._begin(stream)) is not None:
                        begun.append((stream, turn))
                if not begun:
                    return 0
                done = self._generate(begun)
                for stream, turn in done:
                    self._deliver(stream, turn)
                self.stats.n_rounds += 1
                self.stats.busy_s += time.monotonic() - began_s
                return len(done)
            finally:
                for stream, _ in begun:
                    stream.settle()
                self._began_s = None

    def _begin(self, stream: PooledStream) -> TurnRequest | None:
        try:
            turn = stream.begin()
        except Exception as error:
            self._end(stream, error)
            return None
        if turn is None and stream.is_finished:
            self._end(stream, None)
        return turn

    def _generate(self, begun: Sequence[_Begun]) -> list[_Begun]:
        """Generate turns and return those that succeeded; a failing stream is ended, the others continue."""
        failure = None
        try:
            generate(self._model, [turn for _, turn in begun])
        except BaseException as error:
            for stream, turn in begun:
                stream.undo(turn)
            if not isinstance(error, Exception):
                raise
            if len(begun) == 1:
                self._fail(*begun[0], error)
                return []
            failure = one_line(error)
        # Outside `except`: the error's traceback keeps tensors alive, which matters if memory was full.
        if failure is not None:  # try the turns one by one, to find the stream that fails
            _log.warning("%d turns at once failed (%s): trying each alone", len(begun), failure)
            self.stats.n_rounds_apart += 1
            done: list[_Begun] = []
            for stream, _ in begun:
                if (again := self._begin(stream)) is not None:
                    done += self._generate([(stream, again)])
            return done
        done = [(stream, turn) for stream, turn in begun if turn.error is None]
        for stream, turn in begun:
            if (cause := turn.error) is not None:
                stream.undo(turn)
                self._fail(stream, turn, cause)
        return done

    def _fail(self, stream: PooledStream, turn: TurnRequest, error: Exception) -> None:
        """End a stream whose turn failed and was undone; if it was an answer, end only the answer."""
        if turn.is_answer:
            stream.fail_answer(error)
        else:
            self._end(stream, error)

    def _deliver(self, stream: PooledStream, turn: TurnRequest) -> None:
        try:
            latency_s = stream.complete(turn)
        except Exception as error:
            self._end(stream, error)
            return
        if latency_s is None and not turn.is_answer:  # the stream has left during the round
            return
        self.stats.n_tokens += len(turn.new_ids)
        if latency_s is not None:
            self.stats.n_turns += 1
            self.stats.latencies_s.append(latency_s)
