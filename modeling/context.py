"""The explicit state of one stream: its context, its positions, and the window that decides what is evicted.

No stream state lives on the model, so any number of streams can share it, one after the other or in a batch. A context
is a list of spans, each the text or the vision of one turn. As in StreamingVLM (arXiv 2510.09608), vision is kept for
some seconds, text for some hundred tokens, and the beginning (the attention sink) indefinitely.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from .kv_cache import KVCache
from .positions import PositionState
from .stream_options import StreamOptions

REPREFILL_S = 240.0  # the longest clip that LiveCC was trained on
TEXT, VISION = "text", "vision"


class ContextFullError(ValueError):
    """The next turn would exceed the model's `max_position_embeddings`.

    Attributes:
        segments: the turns that the same `push` completed before.
    """

    segments: tuple = ()


class Span(NamedTuple):
    """Consecutive tokens of a context.

    Attributes:
        kind: ``text``, or ``vision``: a turn's vision tokens with the markers around them.
        turn: number of their turn.
        end_s: end of that turn, in seconds from the stream's start.
        n_tokens: how many tokens.
        n_positions: by how many positions they advance the next token.
    """

    kind: str
    turn: int
    end_s: float
    n_tokens: int
    n_positions: int

    def longer(self, n_tokens: int, n_positions: int) -> Span:
        """Return the span with tokens added at its end, and their positions."""
        return self._replace(n_tokens=self.n_tokens + n_tokens, n_positions=self.n_positions + n_positions)


@dataclass
class StreamState(PositionState):
    """The context of one stream: what was prefilled and decoded and not evicted, and the next position.

    Attributes:
        cache: keys and values of `token_ids`.
        token_ids: every token in the cache, in order.
        spans: the turn and kind of these tokens, in order.
        pending_ids: generated tokens that are not in the cache yet; the next prefill begins with them.
        seen_from_s: start of the oldest vision in the context, in seconds from the stream's start (only for window
            ``reprefill``).
        n_evicted: tokens evicted so far.
        query_turn: number of the turn with the present query, which is not evicted.
    """

    cache: KVCache = field(kw_only=True)
    token_ids: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    pending_ids: list[int] = field(default_factory=list)
    seen_from_s: float = 0.0
    n_evicted: int = 0
    query_turn: int = 0

    def snapshot(self) -> tuple:
        """Return what :meth:`restore` needs to come back to this state."""
        positions = self.next_position, self.seen_vision, self.flat
        return len(self.token_ids), positions, list(self.pending_ids), list(self.spans)

    def restore(self, snapshot: tuple) -> None:
        """Go back to a snapshot; it must have been taken after the last :meth:`evict`."""
        n_tokens, positions, pending_ids, spans = snapshot
        self.cache.truncate(n_tokens)
        del self.token_ids[n_tokens:]
        self.next_position, self.seen_vision, self.flat = positions
        self.pending_ids, self.spans = list(pending_ids), list(spans)

    def check(self) -> None:
        """Raise `RuntimeError` if an eviction was interrupted."""
        if self.cache.length != len(self.token_ids):
            raise RuntimeError("an eviction was interrupted and left the stream's cache inconsistent: call reset()")

    def append_token(self, token_id: int) -> None:
        """Append a generated token whose keys and values are in the cache."""
        self.token_ids.append(token_id)
        self.next_position += 1
        self.spans[-1] = self.spans[-1].longer(1, 1)

    def evict(self, kept: list[bool], inv_freq: torch.Tensor) -> None:
        """Evict spans from the context; the kept ones shift to contiguous positions.

        Args:
            kept: for each of `spans`, whether to keep it.
            inv_freq: (head size / 2,) the rotary embedding's frequencies.

        Raises:
            RuntimeError: if an earlier eviction was interrupted.
        """
        self.check()
        if all(kept):
            return
        runs: list[tuple[int, int, int]] = []
        at = n_evicted_positions = 0
        for span, stays in zip(self.spans, kept):
            end = at + span.n_tokens
            if stays:
                if runs and runs[-1][1] == at:
                    at, _, _ = runs.pop()
                runs.append((at, end, n_evicted_positions))
            else:
                n_evicted_positions += span.n_positions
            at = end
        self.cache.evict(runs, inv_freq)
        token_ids: list[int] = []
        for first, end, _ in runs:
            token_ids += self.token_ids[first:end]
        self.n_evicted += len(self.token_ids) - len(token_ids)
        self.token_ids = token_ids
        self.spans = [span for span, stays in zip(self.spans, kept) if stays]
        self.next_position -= n_evicted_positions


def kept_spans(state: StreamState, options: StreamOptions, oldest_s: float) -> list[bool]:
    """Return for each span of a context whether it stays in the window.

    Args:
        state: the context.
        options: the stream's options.
        oldest_s: vision of turns that end at or before this time is evicted; in seconds from the stream's start.
    """
    n_tokens: dict[int, int] = {}  # text tokens, by turn
    for span in state.spans:
        if span.kind == TEXT:
            n_tokens[span.turn] = n_tokens.get(span.turn, 0) + span.n_tokens
    turns = list(n_tokens)
    # The first turn holds the first query; the last one holds the words that the next turn may continue.
    kept = {*turns[:1], state.query_turn, *turns[-1:]}
    for order, limit in ((turns, options.text_sink), (turns[::-1], options.text_window)):
        total = 0
        for turn in order:
            total += n_tokens[turn]
            if total > limit:
                break
            kept.add(turn)
    return [span.turn in kept if span.kind == TEXT else span.end_s > oldest_s for span in state.spans]


def expected_tokens(options: StreamOptions, n_first: int, n_vision: int, n_text: int) -> int:
    """Return about how many tokens a sliding window keeps in a context, counting at most 240 s of vision.

    Args:
        options: the stream's options.
        n_first: all tokens of the first turn.
        n_vision: vision tokens of a later turn, with the markers around them.
        n_text: text tokens of a later turn, including the generated ones.
    """
    n_turns = math.ceil(min(options.vision_window_s, REPREFILL_S)) + 1
    return n_first + options.text_sink + options.text_window + n_turns * n_vision + 2 * n_text
