"""Questions to one stream of a pool: they wait for their turn, and are answered a turn's worth of tokens a round."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from livecc_hf.modeling import CommentaryStream
    from livecc_hf.modeling.answer import Answer
    from livecc_hf.modeling.generation import TurnRequest

MAX_WAITING = 8  # questions of one stream


@dataclass(frozen=True)
class AnswerPart:
    """What a round adds to an answer; a pool treats it as it does a turn.

    Attributes:
        request: what `generate` takes.
    """

    request: TurnRequest


class PooledAnswers:
    """The questions of one stream, in order. Whoever calls holds the stream's lock."""

    def __init__(self):
        self._waiting: deque[tuple[str, int, Future[str]]] = deque()
        self._current: tuple[Answer, Future[str]] | None = None  # the answer and who waits for it

    def __len__(self) -> int:
        return len(self._waiting) + (self._current is not None)

    def ask(self, question: str, max_new_tokens: int) -> Future[str]:
        """Let a question wait."""
        future: Future[str] = Future()
        self._waiting.append((question, max_new_tokens, future))
        return future

    def begin(self, stream: CommentaryStream) -> AnswerPart | None:
        """Return the next part of the answer that is due, if there is one; a question that cannot be asked fails."""
        while self._current is None and self._waiting:
            question, max_new_tokens, future = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                self._current = stream.begin_answer(question, max_new_tokens), future
            except Exception as error:
                future.set_exception(error)
        return None if self._current is None else AnswerPart(self._current[0].next_request(stream.turn_tokens))

    def undo(self, stream: CommentaryStream) -> None:
        """Put the stream back to before the part."""
        stream.undo_answer(self._under_way()[0])

    def fail(self, stream: CommentaryStream, error: Exception) -> None:
        """Give up the answer, the last part of which was undone; the stream continues as if it had not been asked."""
        answer, future = self._under_way()
        stream.end_answer(answer)
        self._current = None
        future.set_exception(error)

    def take(self, stream: CommentaryStream, part: AnswerPart) -> tuple[Future[str], str] | None:
        """Take what a part has added; return the answer and who waits for it, if that was the last."""
        answer, future = self._under_way()
        answer.take(part.request)
        if not answer.is_over:
            return None
        text = stream.end_answer(answer)
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

    def _under_way(self) -> tuple[Answer, Future[str]]:
        if self._current is None:
            raise RuntimeError("no answer is under way: begin one first")
        return self._current
