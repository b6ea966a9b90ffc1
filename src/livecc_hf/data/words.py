"""Timed words: the common form of captions, speech recognition and narration."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

CAPTION_SUFFIXES = (".json", ".vtt", ".srt", ".json3")


class Word(NamedTuple):
    """One spoken word, in seconds on the clock of its video."""

    start_s: float
    end_s: float
    text: str


def checked_words(items: Iterable[Sequence[Any]], source: str) -> list[Word]:
    """Return `[start, end, word]` triples as words in the order spoken, blank ones left out.

    Args:
        items: the triples, seconds and text.
        source: what they were read from, for the error.

    Raises:
        ValueError: if one is no such triple, ends before it starts, or has a time that is not finite.
    """
    words = []
    for index, item in enumerate(items):
        try:
            start_s, end_s, text = float(item[0]), float(item[1]), item[2].strip()
        except (TypeError, ValueError, IndexError, KeyError, AttributeError):
            raise ValueError(f"{source}: word {index} is {item!r}: expected [start, end, word]") from None
        if not (math.isfinite(start_s) and math.isfinite(end_s)) or end_s < start_s:
            raise ValueError(
                f"{source}: word {index} runs from {start_s} to {end_s} s: expected an end after its start"
            )
        if text:
            words.append(Word(start_s, end_s, text))
    return sorted(words, key=lambda word: word.end_s)


def split_line(start_s: float, end_s: float, text: str) -> list[Word]:
    """Spread the words of a line evenly over its time, as LiveCC does with captions that have no word times."""
    tokens = text.split()
    step_s = (end_s - start_s) / max(len(tokens), 1)
    return [Word(start_s + i * step_s, start_s + (i + 1) * step_s, token) for i, token in enumerate(tokens)]


def read_words(path: str | os.PathLike) -> list[Word]:
    """Read the words of a caption file: `.json`, `.vtt`, `.srt` or `.json3`.

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
