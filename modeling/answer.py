"""An answer to a question about a stream: generated beside the commentary, whole or a few tokens at a time."""

from __future__ import annotations

import torch

from .generation import TurnJob
from .model_runner import Reading
from .sampling import TokenChooser


class Answer:
    """An answer that is being generated. Made by `CommentaryStream.begin_answer`.

    Until it is ended the stream's state holds the question, so no turn may begin meanwhile. Take a job from
    :meth:`next_job`, run it with `generate`, and :meth:`take` it, until :attr:`is_over`; then end it with
    `CommentaryStream.end_answer`, which puts the stream back.

    Args:
        reading: of the question; its `n_new_tokens` is how long the answer may become.
        chooser: how its tokens are chosen.

    Attributes:
        token_ids: what was generated so far.
        before: the stream's state before the question.
    """

    def __init__(self, reading: Reading, chooser: TokenChooser):
        self._reading, self._chooser = reading, chooser
        self.token_ids: list[int] = []
        self.before = self._before_job = reading.state.snapshot()
        self._drawn: torch.Tensor | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more is generated."""
        is_ended = bool(self.token_ids) and self.token_ids[-1] in self._chooser.end_ids
        return is_ended or len(self.token_ids) >= self._reading.n_new_tokens

    def next_job(self, n_tokens: int | None = None) -> TurnJob:
        """Return what generates the next tokens.

        Args:
            n_tokens: how many at most; `None`: all.
        """
        question, chooser = self._reading, self._chooser
        n_left = question.n_new_tokens - len(self.token_ids)
        self._before_job, self._drawn = question.state.snapshot(), chooser.snapshot()
        reading = question
        if self.token_ids:  # the last of them was not read yet
            reading = Reading(
                question.state,
                self.token_ids[-1:],
                question.turn,
                question.end_s,
                question.message_end_id,
                n_closing=1,
                n_new_tokens=n_left,
            )
        return TurnJob(reading, chooser, chooser.end_ids, n_left if n_tokens is None else min(n_left, n_tokens))

    def take(self, job: TurnJob) -> None:
        """Take what a job generated."""
        self.token_ids += job.token_ids

    def undo(self) -> tuple:
        """Put the choice back to before the job that failed, and return the snapshot of the stream's state then."""
        self._chooser.restore(self._drawn)
        return self._before_job
