"""Questions to one stream of a pool: queued, and answered in parts of at most a turn's tokens per round."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from livecc_hf.modeling import CommentaryStream
    from livecc_hf.modeling.turn import TurnRequest

MAX_WAITING = 8  # questions per stream


class PooledAnswers:
    """The questions of one stream, in order. The caller holds the stream's lock.

    It completes the futures that the methods return without the lock, because their callbacks may use the stream.
    """

    def __init__(self):
        self._waiting: deque[tuple[str, int, Future[str]]] = deque()
        self._current: tuple[TurnRequest, Future[str]] | None = None  # the answer that is being generated

    def __len__(self) -> int:
        return len(self._waiting) + (self._current is not None)

    def ask(self, question: str, max_new_tokens: int) -> Future[str]:
        """Queue a question, and return its future answer."""
        future: Future[str] = Future()
        self._waiting.append((question, max_new_tokens, future))
        return future

    def begin(self, stream: CommentaryStream) -> tuple[TurnRequest | None, list[tuple[Future[str], Exception]]]:
        """Return the answer to generate a part of in this round, if any, and the futures of invalid questions."""
        invalid: list[tuple[Future[str], Exception]] = []
        while self._current is None and self._waiting:
            question, max_new_tokens, future = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                self._current = stream.begin_answer(question, max_new_tokens, in_parts=True), future
            except Exception as error:
                invalid.append((future, error))
        return None if self._current is None else self._current[0], invalid

    def end(self, stream: CommentaryStream) -> tuple[Future[str], str]:
        """End the current answer, which is over or failed; return its future, and the text generated so far."""
        if self._current is None:
            raise RuntimeError("no answer is being generated: call begin() first")
        request, future = self._current
        text = stream.end_answer(request)
        self._current = None
        return future, text

    def close(self) -> list[Future[str]]:
        """Drop all questions, and return the futures that are still waited for."""
        futures = [future for _, _, future in self._waiting if future.set_running_or_notify_cancel()]
        if self._current is not None:
            futures.append(self._current[1])
        self._waiting.clear()
        self._current = None
        return futures
