"""Narrates the small world: short sentences with timed words, shortly after each event."""

from __future__ import annotations

import math

from .scene import VERBS, Event

WORD_S = 0.25
REACTION_S = 0.1
BEAT_S = 1.0
BEAT_OFFSET_S = 0.5
QUERY = "Commentate what happens."

Word = tuple[float, float, str]

DEFAULT_NARRATOR = "plain"
# Each narrator's verb for every verb of the world; distinct, so that a phrase identifies its event.
NARRATORS: dict[str, dict[str, str]] = {
    DEFAULT_NARRATOR: {verb: verb for verb in VERBS},
    "other": {
        "appears": "emerges",
        "enters": "arrives",
        "moves": "glides",
        "stops": "halts",
        "turns": "veers",
        "bounces": "rebounds",
        "hits": "strikes",
        "leaves": "exits",
        "disappears": "fades",
        "changes": "alters",
    },
}


def narrator_verbs(narrator: str) -> dict[str, str]:
    """Return a narrator's verb for each verb of the world.

    Raises:
        ValueError: if the narrator is unknown.
    """
    if narrator not in NARRATORS:
        raise ValueError(f"narrator is {narrator!r}; expected one of: {', '.join(NARRATORS)}")
    return NARRATORS[narrator]


def sentence(event: Event, narrator: str = DEFAULT_NARRATOR) -> str:
    """Return a narrator's sentence for an event, such as ``Red ball hits square.``.

    Raises:
        ValueError: if the narrator is unknown.
    """
    words = [event.colour.capitalize(), event.shape, narrator_verbs(narrator)[event.verb], event.detail]
    return " ".join(word for word in words if word) + "."


def narrate(events: list[Event], duration_s: float, narrator: str = DEFAULT_NARRATOR) -> list[Word]:
    """Return the spoken words of a clip.

    A narrator starts at most one sentence per beat. Beats start at 0.5 s, 1.5 s ..., so that a sentence of four words
    ends with the last frame of its one-second turn. An event during a sentence waits for the next beat.

    Args:
        events: in time order.
        duration_s: length of the clip in seconds; words that would end later are dropped.
        narrator: one of `NARRATORS`; it does not affect the times.

    Returns:
        (start_s, end_s, word) in time order, without overlap.

    Raises:
        ValueError: if the narrator is unknown.
    """
    words: list[Word] = []
    beat = -1
    for event in events:
        ready_s = event.time_s + REACTION_S
        beat = max(beat + 1, math.ceil((ready_s - BEAT_OFFSET_S) / BEAT_S - 1e-9))
        start_s = BEAT_OFFSET_S + beat * BEAT_S
        for index, word in enumerate(sentence(event, narrator).split()):
            word_start_s = start_s + index * WORD_S
            if word_start_s + WORD_S <= duration_s:
                words.append((word_start_s, word_start_s + WORD_S, word))
    return words
