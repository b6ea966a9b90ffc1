"""Scores whether a commentary reports each known event once and in time, and is silent when nothing happens.

For references that are events instead of words, such as those of a synthetic world. Formulas: docs/evaluation.md.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..predictions.rows import SpokenSpan
from .ratios import Ratio


class Mention(NamedTuple):
    """An event, or a phrase that reports one.

    Attributes:
        time_s: when the event happens, or when the phrase is said.
        what: identifies the event; equal for an event and a phrase that reports it.
    """

    time_s: float
    what: Hashable


@dataclass(frozen=True)
class EventCounts:
    """Counts of one commentary.

    Attributes:
        events: number of events.
        phrases: number of phrases that report an event.
        told: number of events reported in time.
        quiet_turns: number of turns without a recent event.
        silent_turns: number of quiet turns without words.
    """

    events: int
    phrases: int
    told: int
    quiet_turns: int
    silent_turns: int


def match_mentions(phrases: Sequence[Mention], events: Sequence[Mention], window_s: float) -> list[tuple[int, int]]:
    """Return pairs of the indices of a phrase and the event it reports, in the order of the phrases.

    A phrase reports the first event with the same `what` that is not reported yet and at most `window_s` seconds old.
    """
    unreported = list(range(len(events)))
    pairs = []
    for number, phrase in enumerate(phrases):
        for index in unreported:
            event = events[index]
            if event.what == phrase.what and 0 <= phrase.time_s - event.time_s <= window_s:
                pairs.append((number, index))
                unreported.remove(index)
                break
    return pairs


def quiet_turns(turns: Sequence[SpokenSpan], events: Sequence[Mention], after_s: float) -> tuple[int, int]:
    """Return the number of turns without an event in their last `after_s` seconds, and how many of them are silent.

    Args:
        turns: the turns; `end_s` is the time of a turn's last frame.
        events: the known events.
        after_s: how long after an event a turn is not quiet, in seconds.
    """
    quiet = [turn for turn in turns if not any(0 <= turn.end_s - event.time_s <= after_s for event in events)]
    return len(quiet), sum(not turn.text.strip() for turn in quiet)


def event_ratios(counts: Sequence[EventCounts]) -> list[Ratio]:
    """Return event recall, event precision and the share of quiet turns kept silent, each from 0 to 1."""
    columns = ("events", "phrases", "told", "quiet_turns", "silent_turns")
    events, phrases, told, quiet, silent = (
        np.array([getattr(item, name) for item in counts], dtype=float) for name in columns
    )
    return [
        Ratio("event recall", told, events, ""),
        Ratio("event precision", told, phrases, ""),
        Ratio("quiet turns kept silent", silent, quiet, ""),
    ]
