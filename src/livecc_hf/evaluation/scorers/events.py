"""Scores how well a commentary tells known events, each in time and once, and is silent where nothing happens.

For references that are events rather than words, such as those of a made-up world. Formulas: docs/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..predictions.rows import SpokenSpan
from .ratios import Ratio


class Mention(NamedTuple):
    """An event, or a phrase that names one.

    Attributes:
        time_s: when it happens, or is said.
        what: equal for an event and the phrase that names it.
    """

    time_s: float
    what: Hashable


@dataclass(frozen=True)
class EventCounts:
    """Counts of one commentary.

    Attributes:
        events: number of events.
        phrases: number of phrases that name an event.
        told: phrases that name an event in time, each event once.
        quiet_turns: turns without an event in them or shortly before.
        silent_turns: quiet turns without words.
    """

    events: int
    phrases: int
    told: int
    quiet_turns: int
    silent_turns: int


def match_mentions(phrases: Sequence[Mention], events: Sequence[Mention], window_s: float) -> list[tuple[int, int]]:
    """Return which phrase tells which event, as pairs of their numbers, in the order of the phrases.

    A phrase takes the first event given that is of the same kind, not told yet, and not more than `window_s` past.
    """
    left = list(range(len(events)))
    pairs = []
    for number, phrase in enumerate(phrases):
        for index in left:
            event = events[index]
            if event.what == phrase.what and 0 <= phrase.time_s - event.time_s <= window_s:
                pairs.append((number, index))
                left.remove(index)
                break
    return pairs


def quiet_turns(turns: Sequence[SpokenSpan], events: Sequence[Mention], after_s: float) -> tuple[int, int]:
    """Return how many turns end with no event in the last `after_s` seconds, and how many of these are silent.

    Args:
        turns: a turn's `end_s` is when its last frame is shown.
        events: what happens.
        after_s: how long an event may be spoken of.
    """
    quiet = [turn for turn in turns if not any(0 <= turn.end_s - event.time_s <= after_s for event in events)]
    return len(quiet), sum(not turn.text.strip() for turn in quiet)


def event_ratios(counts: Sequence[EventCounts]) -> list[Ratio]:
    """Return event recall, event precision and the share of quiet turns kept silent, from 0 to 1."""
    columns = ("events", "phrases", "told", "quiet_turns", "silent_turns")
    events, phrases, told, quiet, silent = (
        np.array([getattr(item, name) for item in counts], dtype=float) for name in columns
    )
    return [
        Ratio("event recall", told, events, ""),
        Ratio("event precision", told, phrases, ""),
        Ratio("quiet turns kept silent", silent, quiet, ""),
    ]
