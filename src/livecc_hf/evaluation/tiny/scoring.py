"""Scores a commentary on the synthetic world against its true events."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from livecc_hf.evaluation.predictions.rows import SpokenSpan
from livecc_hf.evaluation.scorers.events import EventCounts, Mention, match_mentions, quiet_turns
from livecc_hf.tiny.narration import DEFAULT_NARRATOR, narrator_verbs
from livecc_hf.tiny.scene import COLOURS, SHAPES, VERBS, Event

WINDOW_S = 3.0
SILENCE_S = 5.0


@dataclass(frozen=True)
class SpokenTurn:
    """The words of a turn.

    Attributes:
        seen_s: presentation time of the turn's last frame, in seconds; its words count as spoken then.
        text: the words; empty for a silent turn.
    """

    seen_s: float
    text: str


@dataclass
class NarrationScore:
    """Counts of events, phrases and turns, which can be added over clips.

    Attributes:
        events: number of events, by verb.
        told: number of events reported in time, by verb.
        phrases: number of spoken phrases, by verb.
        right: number of phrases that report an event in time, by verb.
        delays_s: seconds from each reported event to its phrase.
        quiet_turns: number of turns without an event in the last `SILENCE_S` seconds.
        silent_turns: number of quiet turns without words.

    The rates `recall`, `precision` and `silence` are 1.0 if there is nothing to count.
    """

    events: Counter = field(default_factory=Counter)
    told: Counter = field(default_factory=Counter)
    phrases: Counter = field(default_factory=Counter)
    right: Counter = field(default_factory=Counter)
    delays_s: list[float] = field(default_factory=list)
    quiet_turns: int = 0
    silent_turns: int = 0

    @property
    def recall(self) -> float:
        """Share of events reported in time, with colour, shape and verb."""
        return _rate(self.told.total(), self.events.total())

    @property
    def precision(self) -> float:
        """Share of spoken phrases that report an event in time; each event can be reported once."""
        return _rate(self.right.total(), self.phrases.total())

    @property
    def silence(self) -> float:
        """Share of turns without an event in the last `SILENCE_S` seconds that are silent."""
        return _rate(self.silent_turns, self.quiet_turns)

    def add(self, other: NarrationScore) -> None:
        """Add another clip's counts."""
        for name in ("events", "told", "phrases", "right"):
            getattr(self, name).update(getattr(other, name))
        self.delays_s += other.delays_s
        self.quiet_turns += other.quiet_turns
        self.silent_turns += other.silent_turns

    def counts(self) -> EventCounts:
        """Return the total counts, for `event_ratios`."""
        totals = (self.events.total(), self.phrases.total(), self.told.total())
        return EventCounts(*totals, self.quiet_turns, self.silent_turns)

    def by_verb(self) -> dict[str, dict[str, float | int]]:
        """Return the counts of events and phrases, recall and precision of each verb."""
        return {
            verb: {
                "events": self.events[verb],
                "recall": round(_rate(self.told[verb], self.events[verb]), 4),
                "phrases": self.phrases[verb],
                "precision": round(_rate(self.right[verb], self.phrases[verb]), 4),
            }
            for verb in VERBS
        }


def score_clip(
    turns: list[SpokenTurn], events: list[Event], narrator: str = DEFAULT_NARRATOR, window_s: float = WINDOW_S
) -> NarrationScore:
    """Score the commentary on a clip.

    A phrase is a colour, a shape and a verb in sequence. It may continue over the end of a turn, and counts as spoken
    in the turn that completes it. It reports the oldest matching event that is not reported yet.

    Args:
        turns: the turns, in time order.
        events: the clip's true events, in time order.
        narrator: the narrator whose verbs count, one of `NARRATORS`; the counts use the world's own verbs.
        window_s: longest time from an event to its phrase, in seconds; infinite for no limit.

    Raises:
        ValueError: if the narrator is unknown.
    """
    spoken = spoken_phrases(turns, narrator)
    phrases = [Mention(seen_s, tuple(what)) for seen_s, *what in spoken]
    happened = [Mention(event.time_s, (event.colour, event.shape, event.verb)) for event in events]
    score = NarrationScore(Counter(event.verb for event in events), phrases=Counter(verb for *_, verb in spoken))
    for number, index in match_mentions(phrases, happened, window_s):
        verb = events[index].verb
        score.right[verb] += 1
        score.told[verb] += 1
        score.delays_s.append(phrases[number].time_s - happened[index].time_s)
    spans = [SpokenSpan(turn.seen_s, turn.seen_s, turn.text) for turn in turns]
    score.quiet_turns, score.silent_turns = quiet_turns(spans, happened, SILENCE_S)
    return score


def spoken_phrases(turns: list[SpokenTurn], narrator: str = DEFAULT_NARRATOR) -> list[tuple[float, str, str, str]]:
    """Return (seen_s, colour, shape, verb) of each spoken phrase, in order; `verb` is the world's own verb.

    Raises:
        ValueError: if the narrator is unknown.
    """
    verbs = {spoken: verb for verb, spoken in narrator_verbs(narrator).items()}
    pattern = rf"\b({'|'.join(COLOURS)})\s+({'|'.join(SHAPES)})\s+({'|'.join(verbs)})\b"
    text, ends = "", []
    for turn in turns:
        if turn.text.strip():
            text += " " + turn.text.strip()
        ends.append(len(text))
    phrases = []
    for match in re.finditer(pattern, text, re.IGNORECASE):
        index = next(i for i, end in enumerate(ends) if match.end() <= end)
        colour, shape, spoken = (group.lower() for group in match.groups())
        phrases.append((turns[index].seen_s, colour, shape, verbs[spoken]))
    return phrases


def _rate(part: int, whole: int) -> float:
    return part / whole if whole else 1.0
