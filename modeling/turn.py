"""One turn of a stream: the request to generate it, and its result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from .context import StreamState
from .sampling import Sampler

if TYPE_CHECKING:
    from . import interfaces  # this form keeps the file out of a model's folder


@dataclass(frozen=True)
class CommentarySegment:
    """The result of one turn.

    Attributes:
        start_s: start of the turn in seconds, on the clock of the timestamps given to `push`; without them, from the
            stream's start.
        end_s: end of the turn, on the same clock.
        text: the words; empty for a silent turn.
        token_ids: all generated tokens, including the one that ended the turn.
        was_cut: whether `max_new_tokens` ended the turn.
        logits: (tokens, vocabulary) in float32, before penalties; only with `output_logits=True`.
    """

    start_s: float
    end_s: float
    text: str
    token_ids: tuple[int, ...]
    was_cut: bool = False
    logits: torch.Tensor | None = field(default=None, repr=False, compare=False)


@dataclass
class TurnRequest:
    """A turn to generate, or an answer to a question, which has no frames and may be generated in parts.

    Attributes:
        state: the stream's state, which `generate` advances.
        processor: cuts the frames into patches.
        sampler: samples the tokens.
        prompt_ids: the prompt; `state.pending_ids` are prefilled before it.
        stop_ids: tokens that end the turn.
        max_new_tokens: most tokens to generate.
        turn: number of the turn.
        start_s, end_s: its time span, in seconds from the stream's start.
        query: the query from this turn on.
        frames: uint8 (T, 3, H, W), resized; T is even.
        n_frames: number of waiting frames that it takes: T, or T - 1 if the last was repeated.
        vision_first: index in `prompt_ids` of the first token that is evicted with the frames; default: the marker
            before the first vision token.
        keep_logits: whether to keep the logits.
        max_at_once: most tokens to generate in one call of `generate`; `None`: all.
        token_ids: the generated tokens; the last one is not in the cache.
        logits: those of each generated token, (vocabulary,) in float32 on the CPU.
        error: the error that ended this turn alone.
        before: snapshot of the state before the prompt.
    """

    state: StreamState
    processor: interfaces.ProcessorForStreams
    sampler: Sampler
    prompt_ids: list[int]
    stop_ids: frozenset[int] = frozenset()
    max_new_tokens: int = 1
    turn: int = 0
    start_s: float = 0.0
    end_s: float = 0.0
    query: str = ""
    frames: torch.Tensor | None = None
    n_frames: int = 0
    vision_first: int | None = None
    keep_logits: bool = False
    max_at_once: int | None = None
    token_ids: list[int] = field(default_factory=list)
    logits: list[torch.Tensor] = field(default_factory=list)
    error: Exception | None = None

    def __post_init__(self):
        self.begin()

    @property
    def is_answer(self) -> bool:
        """Whether this is an answer to a question, not a turn."""
        return self.frames is None

    @property
    def is_over(self) -> bool:
        """Whether generation has ended."""
        is_ended = bool(self.token_ids) and self.token_ids[-1] in self.stop_ids
        return is_ended or len(self.token_ids) >= self.max_new_tokens or self.error is not None

    @property
    def n_left(self) -> int:
        """Most tokens that the current call of `generate` may still add."""
        at_once = self.max_new_tokens if self.max_at_once is None else self._n_begun + self.max_at_once
        return 0 if self.is_over else min(self.max_new_tokens, at_once) - len(self.token_ids)

    @property
    def new_ids(self) -> list[int]:
        """The tokens that the last call of `generate` added."""
        return self.token_ids[self._n_begun :]

    def begin(self) -> None:
        """Take the snapshots that :meth:`undo` restores; called by `generate`."""
        self._n_begun = len(self.token_ids)
        self._begun = self.state.snapshot(), self.sampler.snapshot()
        if not self.token_ids:
            self.before = self._begun[0]

    def undo(self) -> None:
        """Restore stream and sampler to before the last call of `generate`, after a failure."""
        del self.token_ids[self._n_begun :], self.logits[self._n_begun :]
        self.error = None
        state, sampler = self._begun
        self.state.restore(state)
        self.sampler.restore(sampler)
        cache = self.state.cache
        cache.memory.clear_slot(cache.slot, cache.length)

    def segment(self, clock_start_s: float) -> CommentarySegment:
        """Return the turn's result, on a clock that shows `clock_start_s` (seconds) at the stream's start."""
        return CommentarySegment(
            clock_start_s + self.start_s,
            clock_start_s + self.end_s,
            self.processor.decode_turn(self.token_ids),
            tuple(self.token_ids),
            self.token_ids[-1] not in self.stop_ids,
            torch.stack(self.logits) if self.logits else None,
        )
