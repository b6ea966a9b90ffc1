"""What a stream remembers: which spans of its context stay, and which are evicted.

A context is a list of spans, each the text or the vision of one turn. As in StreamingVLM (arXiv 2510.09608) vision
stays for some seconds, text for some hundred tokens, and the beginning (the attention sink) for ever.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

WINDOWS = ("sliding", "reprefill", "none")
REPREFILL_S = 240.0  # the longest clip that LiveCC was trained on

TEXT, VISION = "text", "vision"


class Span(NamedTuple):
    """Consecutive tokens of a context.

    Attributes:
        kind: ``text``, or ``vision``: a turn's vision tokens with the markers around them.
        turn: number of the turn they belong to.
        end_s: where that turn ends, in seconds from the stream's start.
        n_tokens: how many tokens.
        n_positions: how many positions they take; what follows comes that much later.
    """

    kind: str
    turn: int
    end_s: float
    n_tokens: int
    n_positions: int

    def longer(self, n_tokens: int, n_positions: int) -> Span:
        """Return the span with more tokens at its end, and the positions these take."""
        return self._replace(n_tokens=self.n_tokens + n_tokens, n_positions=self.n_positions + n_positions)


@dataclass(frozen=True)
class Window:
    """How much of a stream is remembered.

    Attributes:
        kind: ``sliding`` (what has left the window is dropped before each turn), ``reprefill`` (every 240 s the vision
            is dropped and the text read again, as the LiveCC paper does) or ``none`` (all, until the positions end).
        vision_window_s: vision of turns that end longer ago goes.
        text_window: the newest tokens of text stay, in whole turns.
        text_sink: so do the first, in whole turns; the first turn always stays.

    Raises:
        ValueError: if a value is out of range.
    """

    kind: str = "sliding"
    vision_window_s: float = 16.0
    text_window: int = 512
    text_sink: int = 512

    def __post_init__(self):
        if self.kind not in WINDOWS:
            raise ValueError(f"window={self.kind!r}: expected one of {', '.join(WINDOWS)}")
        is_number = isinstance(self.vision_window_s, int | float) and not isinstance(self.vision_window_s, bool)
        if not is_number or not self.vision_window_s >= 1:
            raise ValueError(f"vision_window_s={self.vision_window_s!r}: expected a number of seconds, at least 1")
        for name in ("text_window", "text_sink"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name}={value!r}: expected a whole number of tokens, at least 0")

    def expected_tokens(self, n_first: int, n_vision: int, n_text: int) -> int:
        """Return about how many tokens a sliding window lets a context have; of vision, 240 s at most.

        Args:
            n_first: tokens of the first turn, vision and all.
            n_vision: vision tokens of a later turn, with the markers around them.
            n_text: tokens of its text, what is said included.
        """
        n_turns = math.ceil(min(self.vision_window_s, REPREFILL_S)) + 1
        return n_first + self.text_sink + self.text_window + n_turns * n_vision + 2 * n_text

    def kept(self, spans: Sequence[Span], now_s: float) -> list[bool]:
        """Return which spans stay while a turn is read.

        Args:
            spans: the context before that turn, in order.
            now_s: where that turn ends, in seconds from the stream's start.
        """
        turns = self._kept_turns(spans)
        oldest_s = now_s - self.vision_window_s
        return [span.turn in turns if span.kind == TEXT else span.end_s > oldest_s for span in spans]

    def kept_as_text(self, spans: Sequence[Span]) -> list[bool]:
        """Return which spans stay where all vision goes."""
        turns = self._kept_turns(spans)
        return [span.kind == TEXT and span.turn in turns for span in spans]

    def _kept_turns(self, spans: Sequence[Span]) -> set[int]:
        """Return the turns whose text stays."""
        n_tokens: dict[int, int] = {}
        for span in spans:
            if span.kind == TEXT:
                n_tokens[span.turn] = n_tokens.get(span.turn, 0) + span.n_tokens
        turns = list(n_tokens)
        # The first turn holds the query; the last one ends with the words that the next token may continue.
        kept = {*turns[:1], *turns[-1:]}
        for order, limit in ((turns, self.text_sink), (turns[::-1], self.text_window)):
            total = 0
            for turn in order:
                total += n_tokens[turn]
                if total > limit:
                    break
                kept.add(turn)
        return kept
