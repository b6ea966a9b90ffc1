"""An answer to a question about a stream: generated beside the commentary, whole or a few tokens at a time."""

from __future__ import annotations

import torch

from .generation import TurnRequest
from .model_runner import PrefillInput
from .sampling import Sampler


class Answer:
    """An answer that is being generated. Made by `CommentaryStream.begin_answer`.

    Until it is ended the stream's state holds the question, so no turn may begin meanwhile. Take a request from
    :meth:`next_request`, run it with `generate`, and :meth:`take` it, until :attr:`is_over`; then end it with
    `CommentaryStream.end_answer`, which puts the stream back.

    Args:
        prefill_input: the question; its `n_new_tokens` is how long the answer may become.
        sampler: samples its tokens.

    Attributes:
        token_ids: what was generated so far.
        before: the stream's state before the question.
    """

    def __init__(self, prefill_input: PrefillInput, sampler: Sampler):
        self._prefill_input, self._sampler = prefill_input, sampler
        self.token_ids: list[int] = []
        self.before = self._before_request = prefill_input.state.snapshot()
        self._sampler_snapshot: torch.Tensor | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more is generated."""
        is_ended = bool(self.token_ids) and self.token_ids[-1] in self._sampler.end_ids
        return is_ended or len(self.token_ids) >= self._prefill_input.n_new_tokens

    def next_request(self, n_tokens: int | None = None) -> TurnRequest:
        """Return what generates the next tokens.

        Args:
            n_tokens: how many at most; `None`: all.
        """
        question, sampler = self._prefill_input, self._sampler
        n_left = question.n_new_tokens - len(self.token_ids)
        self._before_request, self._sampler_snapshot = question.state.snapshot(), sampler.snapshot()
        prefill_input = question
        if self.token_ids:  # the last of them was not read yet
            prefill_input = PrefillInput(
                question.state,
                self.token_ids[-1:],
                question.turn,
                question.end_s,
                question.message_end_id,
                n_closing=1,
                n_new_tokens=n_left,
            )
        return TurnRequest(
            prefill_input, sampler, sampler.end_ids, n_left if n_tokens is None else min(n_left, n_tokens)
        )

    def take(self, request: TurnRequest) -> None:
        """Take what a request generated."""
        self.token_ids += request.token_ids

    def undo(self) -> tuple:
        """Put the sampler back to before the request that failed, and return the stream's snapshot of then."""
        self._sampler.restore(self._sampler_snapshot)
        return self._before_request
