"""Timed words: the common form of captions, speech recognition and narration."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

CAPTION_SUFFIXES = (".json", ".vtt", ".srt")


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
            start_s, end_s, text = float(item[0]), float(item[1]), str(item[2]).strip()
        except (TypeError, ValueError, IndexError, KeyError):
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
    """Read the words of a caption file: `.json`, `.vtt` or `.srt`.

    JSON may be a list of `[start, end, text]`, a list of objects with `start`, `end` and `word` or `text`, or such
    a list under `words` or `segments` (as speech recognisers write it; `words` inside a segment win). A text
    of several words is a line, and is split evenly over its time.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is none of these.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: expected a caption file")
    if path.suffix.lower() == ".json":
        try:
            lines = _json_lines(json.loads(path.read_text(encoding="utf-8")), str(path))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
    elif path.suffix.lower() in CAPTION_SUFFIXES:
        lines = _caption_lines(path)
    else:
        raise ValueError(f"{path}: expected a file that ends in {', '.join(CAPTION_SUFFIXES)}")
    words = []
    for line in checked_words(lines, str(path)):
        words += split_line(*line)
    return words


def _json_lines(value: Any, source: str) -> list[Sequence[Any]]:
    if isinstance(value, dict):
        found = next((value[key] for key in ("words", "segments") if isinstance(value.get(key), list)), None)
        if found is None:
            raise ValueError(f"{source} holds an object without 'words' or 'segments': expected a list of timed words")
        value = found
    if not isinstance(value, list):
        raise ValueError(f"{source} holds {type(value).__name__}: expected a list of timed words")
    lines: list[Sequence[Any]] = []
    for item in value:
        if not isinstance(item, dict):
            lines.append(item)
        elif isinstance(item.get("words"), list):
            lines += _json_lines(item["words"], source)
        else:
            lines.append((item.get("start"), item.get("end"), item.get("word", item.get("text"))))
    return lines


def _caption_lines(path: Path) -> list[tuple[float, float, str]]:
    import webvtt
    from webvtt.errors import MalformedCaptionError, MalformedFileError

    read = webvtt.from_srt if path.suffix.lower() == ".srt" else webvtt.read
    try:
        captions = read(str(path))
    except (MalformedFileError, MalformedCaptionError, UnicodeDecodeError) as error:
        kind = path.suffix.lower().lstrip(".").upper()
        raise ValueError(f"{path} is not a valid {kind} file: {error}") from error
    return [(_seconds(caption.start_time), _seconds(caption.end_time), caption.text) for caption in captions]


def _seconds(time: Any) -> float:
    return time.hours * 3600 + time.minutes * 60 + time.seconds + time.milliseconds / 1000
