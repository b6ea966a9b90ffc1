"""Timed words, the common representation of captions, speech recognition and narration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

# Duration of a word if only its start or end is known; a drawn-out word takes about a second.
MAX_WORD_S = 1.0

START_KEYS, END_KEYS, TEXT_KEYS = ("start_s", "start"), ("end_s", "end"), ("word", "text")


class Word(NamedTuple):
    """One spoken word, in seconds from what a player shows as 0:00."""

    start_s: float
    end_s: float
    text: str


def timed_arrays(items: Sequence[Sequence[Any]], source: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return starts and ends, float64 seconds (items,), and stripped texts of timed items.

    Args:
        items: `[start, end, text]`, with times in seconds.
        source: where they were read, for error messages.

    Raises:
        ValueError: if an item has another form, ends before it starts, has a time that is not finite, or its text
            contains an unpaired surrogate or a zero byte.
    """
    try:
        start_s, end_s = (np.array([*map(itemgetter(i), items)], np.float64) for i in range(2))
        texts = [*map(str.strip, map(itemgetter(2), items))]
        if start_s.ndim > 1 or end_s.ndim > 1:
            raise TypeError
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        at, item = next(((i, item) for i, item in enumerate(items) if not _is_triple(item)), (0, items))
        raise ValueError(f"{source}: word {at} is {item!r:.80}: expected [start, end, word]") from None
    joined = "".join(texts)
    try:
        joined.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{source}: a word contains half of a character ({joined[error.start]!a})") from None
    if "\0" in joined:
        raise ValueError(f"{source}: a word contains a zero byte")
    wrong = np.flatnonzero(~(np.isfinite(start_s) & np.isfinite(end_s) & (end_s >= start_s)))
    if wrong.size:
        index = int(wrong[0])
        raise ValueError(
            f"{source}: word {index} runs from {start_s[index]} to {end_s[index]} s: expected an end after its start"
        )
    return start_s, end_s, texts


class Lost(NamedTuple):
    """The invalid items that were skipped in a list of words or captions.

    Attributes:
        n_lost: number of skipped items.
        of: number of items in the list.
        example: error message for one of them.
    """

    n_lost: int
    of: int
    example: str

    def __str__(self) -> str:
        return f"{self.n_lost:,} of {self.of:,} lost: {self.example}"


class TimedItems(NamedTuple):
    """The valid items of a list, in its order.

    Attributes:
        start_s, end_s: float64 (items,), in seconds.
        texts: stripped texts; may be empty.
        kept: int64 (items,), their indices in the list; `None` if all were kept.
        lost: the skipped items; `None` if there are none.
    """

    start_s: np.ndarray
    end_s: np.ndarray
    texts: list[str]
    kept: np.ndarray | None = None
    lost: Lost | None = None


def usable_items(
    items: Sequence[Any],
    source: str,
    bounds_s: np.ndarray | None = None,
    max_word_s: float = MAX_WORD_S,
) -> TimedItems:
    """Return the valid items of a list; missing times are interpolated by `filled_times`.

    Args:
        items: `[start, end, text]`, or mappings with these keys (also `start_s`, `end_s`, `word`), times in seconds.
        source: where they were read, for error messages.
        bounds_s: float64 (items, 2), the earliest start and latest end of each item, such as those of its segment; NaN
            if unknown.
        max_word_s: longest duration, in seconds, of an item whose start or end is unknown.

    Raises:
        ValueError: if no item is valid; the message says what is wrong with one of them.
    """
    try:
        return TimedItems(*timed_arrays(items, source))
    except ValueError as error:
        first_error = error
    found, kept, faults = [], [], []
    for number, item in enumerate(items):
        try:
            found.append(_parsed(item))
            kept.append(number)
        except (ValueError, TypeError, IndexError, KeyError, OverflowError) as error:
            detail = f": {error}" if isinstance(error, _BadItemError) else ": expected [start, end, word]"
            faults.append(f"word {number} is {item!a:.80}{detail}")
    numbers = np.array(kept, np.int64)
    times = np.array([entry[:2] for entry in found], np.float64).reshape(-1, 2)
    is_usable = ~(times[:, 1] < times[:, 0])
    for at in np.flatnonzero(~is_usable):
        span = f"{times[at, 0]} to {times[at, 1]} s"
        faults.append(f"word {numbers[at]} runs from {span}: expected an end after its start")
    times, numbers = times[is_usable], numbers[is_usable]
    texts = [found[at][2] for at in np.flatnonzero(is_usable)]
    bounds_s = np.full((len(texts), 2), np.nan) if bounds_s is None else bounds_s[numbers]
    start_s, end_s = filled_times(times[:, 0], times[:, 1], bounds_s, max_word_s)
    if np.isnan(start_s).any():
        start_s, end_s, texts, numbers = start_s[:0], end_s[:0], [], numbers[:0]
    if not texts and len(items):
        raise ValueError(f"{source}: {faults[0]}") if faults else first_error
    lost = Lost(len(items) - len(texts), len(items), f"{source}: {faults[0]}") if faults else None
    return TimedItems(start_s, end_s, texts, numbers, lost)


def filled_times(
    start_s: np.ndarray, end_s: np.ndarray, bounds_s: np.ndarray, max_word_s: float = MAX_WORD_S
) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and ends with unknown times (NaN) filled in from the neighbours.

    Consecutive items without times split the gap between the end of the item before and the start of the item after,
    each at most `max_word_s` long. An item with only a start or an end lasts `max_word_s`, or up to its neighbour.

    Args:
        start_s, end_s: float64 (items,), in seconds; not changed in place.
        bounds_s: float64 (items, 2), the earliest start and latest end of each item; NaN if unknown.
        max_word_s: longest duration of a filled item, in seconds.

    Returns:
        Starts and ends, float64 (items,); all NaN if no time is known.
    """
    start_s, end_s = start_s.copy(), end_s.copy()
    if np.isnan(np.concatenate([start_s, end_s, bounds_s.ravel()])).all():
        return np.full_like(start_s, np.nan), np.full_like(end_s, np.nan)
    at, n_items = 0, len(start_s)
    while at < n_items:
        stop = at + 1
        if np.isnan(start_s[at]) and np.isnan(end_s[at]):
            while stop < n_items and np.isnan(start_s[stop]) and np.isnan(end_s[stop]):
                stop += 1
        if np.isnan(start_s[at]) or np.isnan(end_s[at]):
            # The outer times of the run if known, otherwise the limits set by its neighbours and bounds.
            begin = _first_known(start_s[at], np.fmax(end_s[at - 1] if at else np.nan, bounds_s[at, 0]))
            after = _first_known(start_s[stop], end_s[stop] - max_word_s) if stop < n_items else np.nan
            end = _first_known(end_s[stop - 1], np.fmin(after, bounds_s[stop - 1, 1]))
            most_s = max_word_s * (stop - at)
            if np.isnan(begin):
                begin = end - most_s if not np.isnan(end) else 0.0
                begin = max(begin, 0.0)
            elif not np.isnan(end_s[at]) and np.isnan(start_s[at]):
                begin = min(max(begin, end - most_s), end)
            end = begin + most_s if np.isnan(end) else min(max(end, begin), begin + most_s)
            edges = np.linspace(begin, end, stop - at + 1)
            start_s[at:stop], end_s[at:stop] = edges[:-1], edges[1:]
        at = stop
    return start_s, end_s


def _first_known(value: float, otherwise: float) -> float:
    return otherwise if np.isnan(value) else value


class _BadItemError(ValueError):
    """An invalid item; the message says what is wrong with it."""


def _parsed(item: Any) -> tuple[float, float, str]:
    """Return an item's times, NaN where they are missing, and its text."""
    if isinstance(item, Mapping):
        item = [next((item[key] for key in keys if key in item), None) for keys in (START_KEYS, END_KEYS, TEXT_KEYS)]
    start, end, text = item[0], item[1], item[2]
    if not isinstance(text, str):
        raise TypeError
    times = [math.nan if time is None else float(time) for time in (start, end)]
    if any(map(math.isinf, times)):
        raise _BadItemError("expected finite times")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _BadItemError("it contains half of a character") from None
    if "\0" in text:
        raise _BadItemError("it contains a zero byte")
    return times[0], times[1], text.strip()


def checked_words(items: Sequence[Sequence[Any]], source: str) -> list[Word]:
    """Return `[start, end, word]` items as words, ordered by their ends, without blank ones.

    Args:
        items: triples or mappings as for `usable_items`; missing times are interpolated.
        source: where they were read, for error messages.

    Raises:
        ValueError: if any item is invalid.
    """
    start_s, end_s, texts, _, lost = usable_items(items, source)
    if lost:  # a training sample with gaps in its words would teach silence
        raise ValueError(lost.example)
    words = map(Word, start_s.tolist(), end_s.tolist(), texts)
    return sorted((word for word in words if word.text), key=lambda word: word.end_s)


def _is_triple(item: Any) -> bool:
    try:
        return isinstance(item[2], str) and all(isinstance(float(item[i]), float) for i in range(2))
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        return False
