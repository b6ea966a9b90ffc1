"""The explicit state of one stream: what its context holds, where its positions are, and how it evicts.

Nothing of a stream lives on the model, so any number of them can take turns on it, or run in one batch.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch

from .kv_cache import KeptRun, KVCache
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
    """What the model has prefilled and decoded in one stream, less what was evicted.

    Attributes:
        cache: keys and values of `token_ids`.
        token_ids: every token in the cache, in order.
        spans: which turn and what kind the tokens are of, in order.
        positions: where the rotary positions have got to.
        pending_ids: generated tokens that are not in the cache yet; they open the next prefill.
        seen_from_s: where the oldest vision of the context began, where it is dropped all at once; in seconds from
            the stream's start.
        n_evicted: tokens evicted from the context so far.
    """

    cache: KVCache
    token_ids: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    positions: PositionState = field(default_factory=PositionState)
    pending_ids: list[int] = field(default_factory=list)
    seen_from_s: float = 0.0
    n_evicted: int = 0

    def snapshot(self) -> tuple:
        """Return what :meth:`restore` needs to undo everything that follows."""
        return len(self.token_ids), copy.copy(self.positions), list(self.pending_ids), list(self.spans)

    def restore(self, snapshot: tuple) -> None:
        """Go back to a snapshot taken of this state since the last :meth:`evict`."""
        n_tokens, positions, pending_ids, spans = snapshot
        self.cache.truncate(n_tokens)
        del self.token_ids[n_tokens:]
        self.positions, self.pending_ids, self.spans = copy.copy(positions), list(pending_ids), list(spans)

    def check(self) -> None:
        """Raise `RuntimeError` if an eviction was interrupted half-way."""
        if self.cache.length != len(self.token_ids):
            raise RuntimeError(
                "the stream was interrupted while it evicted tokens, and its cache is in disorder: call reset()"
            )

    def append_token(self, token_id: int) -> None:
        """Append a generated token whose keys and values are in the cache."""
        self.token_ids.append(token_id)
        self.positions.next_position += 1
        self.spans[-1] = self.spans[-1].longer(1, 1)

    def evict(self, kept: list[bool], inv_freq: torch.Tensor) -> None:
        """Evict spans from the context; what stays keeps its order and shifts to contiguous positions.

        Args:
            kept: which of `spans` stay.
            inv_freq: (head size / 2,) the rotary embedding's frequencies.
        """
        self.check()
        if all(kept):
            return
        runs: list[KeptRun] = []
        at = n_evicted_positions = 0
        for span, stays in zip(self.spans, kept):
            end = at + span.n_tokens
            if stays:
                if runs and runs[-1].end == at:
                    runs[-1] = runs[-1]._replace(end=end)
                else:
                    runs.append(KeptRun(at, end, n_evicted_positions))
            else:
                n_evicted_positions += span.n_positions
            at = end
        self.cache.evict(runs, inv_freq)
        token_ids: list[int] = []
        for run in runs:
            token_ids += self.token_ids[run.first : run.end]
        self.n_evicted += len(self.token_ids) - len(token_ids)
        self.token_ids = token_ids
        self.spans = [span for span, stays in zip(self.spans, kept) if stays]
        self.positions.next_position -= n_evicted_positions
