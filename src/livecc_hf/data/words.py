"""Timed words: the common form of captions, speech recognition and narration."""

from __future__ import annotations

import os
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# The best times first: YouTube's with times for words, a recogniser's, YouTube's WebVTT or plain, SubRip.
CAPTION_SUFFIXES = (".json3", ".json", ".vtt", ".srt")
# What yt-dlp puts beside a video that is JSON and no captions.
NOT_CAPTIONS = (".info.json", ".live_chat.json", ".comments.json")


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


def read_words(path: str | os.PathLike) -> list[Word]:
    """Read the words of a caption file: `.json3`, `.json`, `.vtt` or `.srt`.

    Word times in YouTube's json3 and WebVTT are kept; a line without is split evenly over its words. What is not
    spoken, such as [Music], and what rolling captions repeat is left out. JSON may be a list of `[start, end, text]`,
    a list of objects with `start`, `end` and `word` or `text`, or such a list under `words` or `segments` (as speech
    recognisers write it; `words` inside a segment win).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is none of these.
    """
    from ..production.caption_files import CaptionError, file_words, read_captions  # needs pyarrow

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: expected a caption file")
    if path.suffix.lower() not in CAPTION_SUFFIXES:
        raise ValueError(f"{path}: expected a file that ends in {', '.join(CAPTION_SUFFIXES)}")
    try:
        words = file_words(read_captions(path))
    except CaptionError as error:
        if error.reason == "empty_captions":
            return []
        raise
    return sorted((Word(*word) for word in words), key=lambda word: word.end_s)
