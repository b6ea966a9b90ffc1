"""The explicit state of one stream: what its context holds, where its positions are, and how it is thinned out.

Nothing of a stream lives on the model, so any number of them can take turns on it, or read together.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch

from .kv_cache import Run, StreamCache
from .positions import PositionState
from .window import Span


class ContextFullError(ValueError):
    """The next turn does not fit into the positions that the model knows.

    Attributes:
        segments: the turns that were completed before, where a `push` held several.
    """

    segments: tuple = ()


@dataclass
class StreamState:
    """What the model has read and said in one stream, as far as it remembers.

    Attributes:
        cache: keys and values of `token_ids`.
        token_ids: every token in the cache, in order.
        spans: which turn and what kind the tokens are of, in order.
        positions: where the rotary positions have got to.
        pending_ids: generated tokens that are not in the cache yet; they open the next reading.
        seen_from_s: where the oldest vision of the context began, where it is dropped all at once; in seconds from
            the stream's start.
        n_dropped: tokens dropped from the context so far.
    """

    cache: StreamCache
    token_ids: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    positions: PositionState = field(default_factory=PositionState)
    pending_ids: list[int] = field(default_factory=list)
    seen_from_s: float = 0.0
    n_dropped: int = 0

    def snapshot(self) -> tuple:
        """Return what :meth:`restore` needs to undo everything read after."""
        return len(self.token_ids), copy.copy(self.positions), list(self.pending_ids), list(self.spans)

    def restore(self, snapshot: tuple) -> None:
        """Go back to a snapshot taken of this state since the last :meth:`drop`."""
        n_tokens, positions, pending_ids, spans = snapshot
        self.cache.truncate(n_tokens)
        del self.token_ids[n_tokens:]
        self.positions, self.pending_ids, self.spans = copy.copy(positions), list(pending_ids), list(spans)

    def check(self) -> None:
        """Raise `RuntimeError` if a drop was interrupted half-way."""
        if self.cache.length != len(self.token_ids):
            raise RuntimeError(
                "the stream was interrupted while it forgot, and its memory is in disorder: call reset()"
            )

    def note_said(self, token_id: int) -> None:
        """Count a generated token that was read into the cache."""
        self.token_ids.append(token_id)
        self.positions.next_position += 1
        self.spans[-1] = self.spans[-1].longer(1, 1)

    def drop(self, kept: list[bool], inv_freq: torch.Tensor) -> None:
        """Drop spans from the context; what stays keeps its order and moves up to contiguous positions.

        Args:
            kept: which of `spans` stay.
            inv_freq: (head size / 2,) the rotary embedding's frequencies.
        """
        self.check()
        if all(kept):
            return
        runs: list[Run] = []
        at = dropped_extent = 0
        for span, stays in zip(self.spans, kept):
            end = at + span.n_tokens
            if stays:
                if runs and runs[-1].end == at:
                    runs[-1] = runs[-1]._replace(end=end)
                else:
                    runs.append(Run(at, end, dropped_extent))
            else:
                dropped_extent += span.extent
            at = end
        self.cache.keep(runs, inv_freq)
        token_ids: list[int] = []
        for run in runs:
            token_ids += self.token_ids[run.first : run.end]
        self.n_dropped += len(self.token_ids) - len(token_ids)
        self.token_ids = token_ids
        self.spans = [span for span, stays in zip(self.spans, kept) if stays]
        self.positions.next_position -= dropped_extent
