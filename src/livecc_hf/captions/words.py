"""Timed words: the common form of captions, speech recognition and narration."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np


class Word(NamedTuple):
    """One spoken word, in seconds from what a player shows as 0:00."""

    start_s: float
    end_s: float
    text: str


def timed_arrays(items: Sequence[Sequence[Any]], source: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return starts and ends, float64 of shape (items,), and stripped texts of `[start, end, text]`.

    Args:
        items: times in seconds.
        source: what they were read from, for the error.

    Raises:
        ValueError: if one is no such triple, ends before it starts, has a time that is not finite, or half a character.
    """
    try:
        start_s, end_s = (np.array([*map(itemgetter(i), items)], np.float64) for i in range(2))
        texts = [*map(str.strip, map(itemgetter(2), items))]
        if start_s.ndim > 1 or end_s.ndim > 1:
            raise TypeError
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        wrong = next(((i, item) for i, item in enumerate(items) if not _is_triple(item)), (0, items))
        raise ValueError(f"{source}: word {wrong[0]} is {wrong[1]!r:.80}: expected [start, end, word]") from None
    joined = "".join(texts)
    try:
        joined.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{source}: a word holds half of a character ({joined[error.start]!a})") from None
    if "\0" in joined:
        raise ValueError(f"{source}: a word holds a zero byte")
    wrong = np.flatnonzero(~(np.isfinite(start_s) & np.isfinite(end_s) & (end_s >= start_s)))
    if wrong.size:
        index = int(wrong[0])
        raise ValueError(
            f"{source}: word {index} runs from {start_s[index]} to {end_s[index]} s: expected an end after its start"
        )
    return start_s, end_s, texts


def checked_words(items: Sequence[Sequence[Any]], source: str) -> list[Word]:
    """Return `[start, end, word]` triples as words in the order spoken, blank ones left out; see `timed_arrays`.

    Raises:
        ValueError: if one is no such triple, ends before it starts, or has a time that is not finite.
    """
    start_s, end_s, texts = timed_arrays(items, source)
    words = map(Word, start_s.tolist(), end_s.tolist(), texts)
    return sorted((word for word in words if word.text), key=lambda word: word.end_s)


def _is_triple(item: Any) -> bool:
    try:
        return isinstance(item[2], str) and all(isinstance(float(item[i]), float) for i in range(2))
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        return False
