"""Reads caption files: YouTube's json3, WebVTT, SubRip, and JSON lists of timed words.

The text is returned as it is in the file; `cleaning` turns it into timed words.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..utils.extras import MissingExtraError
from .cleaning import CaptionLines, rows_to_segment, spread_lines
from .cues import read_cues
from .json3 import read_json3
from .naming import CAPTION_SUFFIXES
from .recognised import recognised_items
from .segmentation import segmenter_fault
from .timed_text import CaptionError, TimedText
from .words import MAX_WORD_S, Lost, Word

_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def read_captions(path: str | os.PathLike, max_word_s: float = MAX_WORD_S) -> TimedText:
    """Read a caption file in the format of its content, or of its suffix if that is ambiguous.

    Formats: YouTube's json3 and WebVTT with word times, in which a word ends where the next one starts; plain WebVTT
    and SubRip; JSON lists of `[start, end, text]` or of objects with `start`, `end` and `word` or `text`, also under
    `words`, `segments` or `chunks`, as written by speech recognisers.

    Invalid items are skipped and counted in `lost`; missing times are interpolated between their neighbours.

    Args:
        path: a file in UTF-8, or in UTF-16 with a byte order mark.
        max_word_s: longest duration, in seconds, of a word whose end is unknown.

    Raises:
        CaptionError: if the file does not exist, is empty, or contains no usable item.
    """
    path = Path(path)
    text = _read_text(path)
    suffix = path.suffix.lower()
    if text.lstrip().startswith("WEBVTT"):
        return read_cues(text.lstrip(), path, "VTT", max_word_s)
    if suffix in (".json", ".json3") or (suffix not in CAPTION_SUFFIXES and text.lstrip()[0] in "{["):
        return _json(text, path, max_word_s)
    if suffix == ".vtt":
        raise CaptionError("corrupt_captions", f"{path} is not a valid VTT file: it starts with {text[:20]!r}")
    return read_cues(text, path, "SRT", max_word_s)


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise CaptionError("no_captions", f"{path} does not exist: expected a caption file") from None
    except OSError as error:
        raise CaptionError("corrupt_captions", f"{path} cannot be read: {error.strerror}") from error
    mark, encoding = next((pair for pair in _BYTE_ORDER_MARKS if raw.startswith(pair[0])), (b"", "utf-8"))
    try:
        text = raw[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        detail = f"{path} is not {encoding.upper()}: {error.reason} at byte {error.start}; save it as UTF-8"
        raise CaptionError("caption_encoding", detail) from error
    if "\0" in text:
        detail = f"{path} contains NUL characters: expected UTF-8, or UTF-16 with a byte order mark"
        raise CaptionError("caption_encoding", detail)
    if not text.strip():
        raise CaptionError("empty_captions", f"{path} is empty")
    return re.sub("\r+\n|\r", "\n", text) if "\r" in text else text  # some tools convert line ends twice


def _json(text: str, path: Path, max_word_s: float) -> TimedText:
    if '"events"' in text and (pieces := read_json3(text, path, max_word_s)) is not None:
        return pieces
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:  # also for integers of thousands of digits
        raise CaptionError("corrupt_captions", f"{path} is not JSON: {error}") from error
    if isinstance(value, dict) and "events" in value:
        detail = f"{path} is not a YouTube json3 file: 'events' is not a list of caption events: {text[:60]!r}"
        raise CaptionError("corrupt_captions", detail)
    try:
        found, is_word = recognised_items(value, str(path), max_word_s)
    except ValueError as error:
        raise CaptionError("corrupt_captions", str(error)) from error
    if not any(found.texts):
        raise CaptionError("empty_captions", f"{path} contains no captions")
    return TimedText(found.start_s, found.end_s, pa.array(found.texts, pa.string()), is_word, found.lost)


def file_words(captions: TimedText, round_s: float = 0.0) -> list[tuple[float, float, str]]:
    """Return the `(start_s, end_s, word)` of one file's captions; `spread_lines` is for columns.

    Args:
        captions: from `read_captions`.
        round_s: step to which interpolated times are rounded, in seconds; 0 does not round.

    Raises:
        MissingExtraError: if lines are in a script without spaces and the word segmenter is not installed.
    """
    row_of = np.zeros(len(captions.text), int)
    lines = CaptionLines(row_of, captions.start_s, captions.end_s, captions.text, captions.has_word_times, 1)
    if (fault := segmenter_fault()) and rows_to_segment(lines).size:
        raise MissingExtraError(fault)
    columns = spread_lines(lines, round_s).flatten().flatten()
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


def read_words(path: str | os.PathLike) -> list[Word]:
    """Return the words of a caption file (`.json3`, `.json`, `.vtt` or `.srt`), ordered by their ends.

    Word times in YouTube's json3 and WebVTT are kept; a line without word times is split evenly over its words. Sounds
    such as [Music] and the repeats of rolling captions are left out. JSON may be a list of `[start, end, text]`, a list
    of objects with `start`, `end` and `word` or `text`, or such a list under `words`, `segments` or `chunks`, as
    written by speech recognisers; the `words` of a segment take precedence over its text.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file has another suffix, or its content cannot be read.
        MissingExtraError: if lines are in a script without spaces and the word segmenter is not installed.
    """
    return read_words_and_lost(path)[0]


def read_words_and_lost(path: str | os.PathLike) -> tuple[list[Word], Lost | None]:
    """Return the words of a caption file, and the skipped invalid items, if any; see `read_words`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: expected a caption file")
    if path.suffix.lower() not in CAPTION_SUFFIXES:
        raise ValueError(f"{path}: expected a file that ends in {', '.join(CAPTION_SUFFIXES)}")
    try:
        captions = read_captions(path)
    except CaptionError as error:
        if error.reason == "empty_captions":
            return [], None
        raise
    words = (Word(*word) for word in file_words(captions))
    return sorted(words, key=lambda word: word.end_s), captions.lost
