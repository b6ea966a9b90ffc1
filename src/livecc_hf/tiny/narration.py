"""The narrators of the small world: short sentences, timed word by word, a little after each event."""

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
# Which verb a narrator has for each of the world's. No two share one, so that a phrase still names its event.
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
        ValueError: if there is no such narrator.
    """
    if narrator not in NARRATORS:
        raise ValueError(f"narrator is {narrator!r}; expected one of: {', '.join(NARRATORS)}")
    return NARRATORS[narrator]


def sentence(event: Event, narrator: str = DEFAULT_NARRATOR) -> str:
    """Return a narrator's sentence for an event, such as ``Red ball hits square.``.

    Raises:
        ValueError: if there is no such narrator.
    """
    words = [event.colour.capitalize(), event.shape, narrator_verbs(narrator)[event.verb], event.detail]
    return " ".join(word for word in words if word) + "."


def narrate(events: list[Event], duration_s: float, narrator: str = DEFAULT_NARRATOR) -> list[Word]:
    """Return the spoken words of a clip.

    A narrator speaks one sentence a beat; beats start at 0.5 s, 1.5 s ..., so that a sentence of four
    words ends with the last frame of the one-second turn it belongs to. An event that finds the
    narrator speaking waits for the next beat.

    Args:
        events: in time order.
        duration_s: words that would end after it are not spoken.
        narrator: who speaks, one of `NARRATORS`; all speak at the same times.

    Returns:
        (start_s, end_s, word) in time order, without overlap.

    Raises:
        ValueError: if there is no such narrator.
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
