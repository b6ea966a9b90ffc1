"""Questions to one stream of a pool: they wait for their turn, and are answered a turn's worth of tokens a round."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from livecc_hf.modeling import CommentaryStream
    from livecc_hf.modeling.turn import TurnRequest

MAX_WAITING = 8  # questions of one stream


class PooledAnswers:
    """The questions of one stream, in order. Whoever calls holds the stream's lock."""

    def __init__(self):
        self._waiting: deque[tuple[str, int, Future[str]]] = deque()
        self._current: tuple[TurnRequest, Future[str]] | None = (
            None  # the answer that is being generated, and who waits for it
        )

    def __len__(self) -> int:
        return len(self._waiting) + (self._current is not None)

    def ask(self, question: str, max_new_tokens: int) -> Future[str]:
        """Let a question wait."""
        future: Future[str] = Future()
        self._waiting.append((question, max_new_tokens, future))
        return future

    def begin(self, stream: CommentaryStream) -> TurnRequest | None:
        """Return the answer that is due, of which a round adds a part; a question that cannot be asked fails."""
        while self._current is None and self._waiting:
            question, max_new_tokens, future = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                self._current = stream.begin_answer(question, max_new_tokens, in_parts=True), future
            except Exception as error:
                future.set_exception(error)
        return None if self._current is None else self._current[0]

    def end(self, stream: CommentaryStream) -> tuple[Future[str], str]:
        """End the current answer, which is over or failed; return who waits for it, and what was answered."""
        if self._current is None:
            raise RuntimeError("no answer is under way: begin one first")
        request, future = self._current
        text = stream.end_answer(request)
        self._current = None
        return future, text

    def close(self) -> list[Future[str]]:
        """Forget all; return who waits still."""
        futures = [future for _, _, future in self._waiting if future.set_running_or_notify_cancel()]
        if self._current is not None:
            futures.append(self._current[1])
        self._waiting.clear()
        self._current = None
        return futures
