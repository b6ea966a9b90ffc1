"""Scores a commentary of the small world against its true events."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from .scene import COLOURS, SHAPES, VERBS, Event

WINDOW_S = 3.0
SILENCE_S = 5.0

_PHRASE = re.compile(rf"\b({'|'.join(COLOURS)})\s+({'|'.join(SHAPES)})\s+({'|'.join(VERBS)})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Turn:
    """What was said in one turn.

    Args:
        seen_s: presentation time of the turn's last frame, by which its words had been spoken.
        text: the words; empty for a silent turn.
    """

    seen_s: float
    text: str


@dataclass
class Score:
    """Counts that add up over clips; the rates are properties (1.0 where there is nothing to count)."""

    events: Counter = field(default_factory=Counter)
    told: Counter = field(default_factory=Counter)
    phrases: Counter = field(default_factory=Counter)
    right: Counter = field(default_factory=Counter)
    quiet_turns: int = 0
    silent_turns: int = 0

    @property
    def recall(self) -> float:
        """Share of events whose colour, shape and verb were spoken within `WINDOW_S` after them."""
        return _rate(self.told.total(), self.events.total())

    @property
    def precision(self) -> float:
        """Share of spoken phrases that match an event at most `WINDOW_S` old, each event once."""
        return _rate(self.right.total(), self.phrases.total())

    @property
    def silence(self) -> float:
        """Share of turns without an event in the last `SILENCE_S` that were kept silent."""
        return _rate(self.silent_turns, self.quiet_turns)

    def add(self, other: Score) -> None:
        """Adds another clip's counts."""
        for name in ("events", "told", "phrases", "right"):
            getattr(self, name).update(getattr(other, name))
        self.quiet_turns += other.quiet_turns
        self.silent_turns += other.silent_turns

    def by_verb(self) -> dict[str, dict[str, float | int]]:
        """Recall and precision of each verb."""
        return {
            verb: {
                "events": self.events[verb],
                "recall": round(_rate(self.told[verb], self.events[verb]), 4),
                "phrases": self.phrases[verb],
                "precision": round(_rate(self.right[verb], self.phrases[verb]), 4),
            }
            for verb in VERBS
        }


def score_clip(turns: list[Turn], events: list[Event]) -> Score:
    """Scores one clip.

    A phrase is colour, shape and verb in a row; it may run over a turn's end and counts at the time of
    the turn that completes it. It takes the oldest matching event not told yet.

    Args:
        turns: in time order.
        events: the clip's true events in time order.
    """
    score = Score(events=Counter(event.verb for event in events))
    open_events = list(events)
    for seen_s, colour, shape, verb in spoken_phrases(turns):
        score.phrases[verb] += 1
        for event in open_events:
            fresh = 0 <= seen_s - event.time_s <= WINDOW_S
            if fresh and (event.colour, event.shape, event.verb) == (colour, shape, verb):
                score.right[verb] += 1
                score.told[verb] += 1
                open_events.remove(event)
                break
    for turn in turns:
        if not any(0 <= turn.seen_s - event.time_s <= SILENCE_S for event in events):
            score.quiet_turns += 1
            score.silent_turns += not turn.text.strip()
    return score


def spoken_phrases(turns: list[Turn]) -> list[tuple[float, str, str, str]]:
    """Every (seen_s, colour, shape, verb) that was spoken, in order."""
    text, ends = "", []
    for turn in turns:
        if turn.text.strip():
            text += " " + turn.text.strip()
        ends.append(len(text))
    phrases = []
    for match in _PHRASE.finditer(text):
        index = next(i for i, end in enumerate(ends) if match.end() <= end)
        phrases.append((turns[index].seen_s, *(group.lower() for group in match.groups())))
    return phrases


def _rate(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
