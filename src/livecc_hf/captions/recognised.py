"""Reads the JSON output of speech recognisers: words, segments or chunks with times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .segmentation import has_unspaced_words
from .words import END_KEYS, MAX_WORD_S, START_KEYS, TEXT_KEYS, TimedItems, usable_items

# keys of Whisper and faster-whisper, of transformers' pipelines ("chunks"), and of WhisperX ("word_segments")
_LIST_KEYS = ("words", "segments", "chunks", "word_segments")
_NO_TIMES = (None, None)


class _Item(NamedTuple):
    value: Any  # in a form that `usable_items` accepts
    is_word: bool  # listed as a word, even if its text has several
    start: Any = None  # start of its segment, in seconds
    end: Any = None  # end of its segment, in seconds


def recognised_items(value: Any, source: str, max_word_s: float = MAX_WORD_S) -> tuple[TimedItems, np.ndarray]:
    """Return the words or lines of a recogniser's output.

    A segment with word times gives its words, another one its text. If any text of a plain list has several words, the
    list is one of lines.

    Args:
        value: the parsed JSON.
        source: where it was read, for error messages.
        max_word_s: longest duration, in seconds, of a word whose start or end is unknown.

    Returns:
        The usable items, and which of them are words with their own times, bool (items,).

    Raises:
        ValueError: if the value has another structure, or no item can be used.
    """
    items = list(_items(_list_of(value, source)))
    bounds_s = np.array([[_number(item.start), _number(item.end)] for item in items]).reshape(-1, 2)
    found = usable_items([item.value for item in items], source, bounds_s, max_word_s)
    is_word = np.array([item.is_word for item in items], bool)
    if found.kept is not None:
        is_word = is_word[found.kept]
    others = [text for text, given in zip(found.texts, is_word.tolist(), strict=True) if not given]
    if not any(len(text.split()) > 1 or has_unspaced_words(text) for text in others):
        is_word[:] = True
    return found, is_word


def _list_of(value: Any, source: str) -> list[Any]:
    if isinstance(value, Mapping):
        lists = [value[key] for key in _LIST_KEYS if isinstance(value.get(key), list)]
        if not lists:
            raise ValueError(
                f"{source} contains an object without 'words' or 'segments': expected a list of timed words, or "
                "YouTube's json3 with 'events'"
            )
        is_words = bool(value.get("words")) and lists[0] is value["words"]
        value = next((found for found in lists if found), lists[0])
        return [{"words": value}] if is_words else value
    if not isinstance(value, list):
        raise ValueError(f"{source} contains a JSON {type(value).__name__}: expected a list of timed words")
    return value


def _items(values: Sequence[Any]) -> Iterator[_Item]:
    for value in values:
        if not isinstance(value, Mapping):
            yield _Item(value, False)
            continue
        start, end, text = _triple(value)
        listed = value.get("words")
        listed = listed if isinstance(listed, list) else []
        words = [_triple(word) if isinstance(word, Mapping) else word for word in listed]
        if any(_has_time(word) for word in words) or (words and text is None):
            yield from (_Item(word, True, start, end) for word in words)
        else:
            yield _Item((start, end, text), False)


def _triple(value: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    start, end = (next((value[key] for key in keys if key in value), None) for keys in (START_KEYS, END_KEYS))
    if start is None and end is None and isinstance(stamp := value.get("timestamp"), list | tuple):
        start, end = [*stamp, *_NO_TIMES][:2]
    text = next((value[key] for key in TEXT_KEYS if value.get(key) is not None), None)
    return start, end, text


def _has_time(word: Any) -> bool:
    return isinstance(word, Sequence) and any(isinstance(time, int | float) for time in word[:2])


def _number(value: Any) -> float:
    try:
        return float(value) if isinstance(value, int | float) else np.nan
    except OverflowError:
        return np.nan
