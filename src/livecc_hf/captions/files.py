"""Reads caption files: YouTube's json3, WebVTT (also YouTube's, with word times), SubRip, and lists of timed words.

What a file says is returned as it is written; `cleaning` cleans it and spreads lines over their words.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from .cleaning import STYLE_TAG, TIME_TAG, CaptionLines, spread_lines
from .naming import CAPTION_SUFFIXES
from .rolling import is_new_line
from .words import Word, timed_arrays

# A word is over after this long, where captions only say when it starts; drawn-out ones take a second.
MAX_WORD_S = 1.0

_BYTE_ORDER_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_TIME = r"(\d[\d:]*[.,]\d+)"
# The line of times, with the number that SubRip puts before it and the settings that WebVTT puts after it.
_CUE_TIMES = re.compile(rf"^(?:\d+[ \t]*\n)?[ \t]*{_TIME}[ \t]*-->[ \t]*{_TIME}(?:[ \t][^\n]*)?(?:\n|\Z)", re.MULTILINE)
_ARROW = re.compile(r"^[^\n]*-->[^\n]*$", re.MULTILINE)
_WORD_TIME = re.compile(rf"<{_TIME}>")
_TIMED_WORD = re.compile(rf"<{_TIME}>((?:[^<\n]+|<(?!\d[\d:]*[.,]\d+>))*)")
_CUE_START = "0.0"  # no clock of WebVTT's
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[.,](\d{1,3})")
_CLOCK_CHARS = 12  # of 00:00:00.000, as nearly all files write it
_CLOCK_DIGITS = [0, 1, 3, 4, 6, 7, 9, 10, 11]
_CLOCK_MS = np.array([36_000_000, 3_600_000, 600_000, 60_000, 10_000, 1_000, 100, 10, 1])

_SEGMENT = pa.struct([("utf8", pa.string()), ("tOffsetMs", pa.float64()), ("acAsrConf", pa.float64())])
_EVENT = pa.struct([("tStartMs", pa.float64()), ("dDurationMs", pa.float64()), ("segs", pa.list_(_SEGMENT))])
_JSON3 = pa.schema([("events", pa.list_(_EVENT))])


class CaptionError(ValueError):
    """A caption file that cannot be used.

    Attributes:
        reason: "no_captions" (no such file), "empty_captions", "corrupt_captions" or "caption_encoding".
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    def __reduce__(self):
        return type(self), (self.reason, str(self))  # travels between processes


class TimedText(NamedTuple):
    """Text with times, in seconds, in the order of the file.

    Attributes:
        start_s, end_s: float64, shape (pieces,).
        text: string array of (pieces,), with markup and line breaks as written.
        has_word_times: pieces are words, timed each on their own; else lines, whose time their words share.
    """

    start_s: np.ndarray
    end_s: np.ndarray
    text: pa.Array
    has_word_times: bool


def read_captions(path: str | os.PathLike, max_word_s: float = MAX_WORD_S) -> TimedText:
    """Read a caption file; its content tells the format, where that is not clear its suffix.

    Formats: YouTube's json3 and WebVTT with word times, whose words end where the next one starts; plain WebVTT and
    SubRip; JSON lists of `[start, end, text]` or of objects with `start`, `end` and `word` or `text`, also under
    `words` or `segments`, as speech recognisers write them.

    Args:
        path: a file in UTF-8, or in UTF-16 with a byte order mark.
        max_word_s: longest time of a word of which only the start is known.

    Raises:
        CaptionError: if there is no such file, or it is empty or cannot be read.
    """
    path = Path(path)
    text = _read_text(path)
    suffix = path.suffix.lower()
    if text.startswith("WEBVTT"):
        return _cues(text, path, "VTT", max_word_s)
    if suffix in (".json", ".json3") or (suffix not in CAPTION_SUFFIXES and text.lstrip()[0] in "{["):
        return _json(text, path, max_word_s)
    if suffix == ".vtt":
        raise CaptionError("corrupt_captions", f"{path} is not a valid VTT file: it starts with {text[:20]!r}")
    return _cues(text, path, "SRT", max_word_s)


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
        detail = f"{path} holds NUL characters: expected UTF-8, or UTF-16 with a byte order mark"
        raise CaptionError("caption_encoding", detail)
    if not text.strip():
        raise CaptionError("empty_captions", f"{path} is empty")
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _cues(text: str, path: Path, kind: str, max_word_s: float) -> TimedText:
    """Return the cues of WebVTT or SubRip."""
    parts = _CUE_TIMES.split(text)
    n_cues = len(parts) // 3
    if len(arrows := _ARROW.findall(text)) != n_cues or (n_cues == 0 and kind == "SRT"):
        wrong = next((line for line in arrows if not _CUE_TIMES.fullmatch(line)), text.strip()[:60])
        detail = (
            f"{path} is not a valid {kind} file: {wrong!r} is no line of times, such as 00:00:01.000 --> 00:00:02.500"
        )
        raise CaptionError("corrupt_captions", detail)
    if n_cues == 0:
        raise CaptionError("empty_captions", f"{path} holds no caption")
    try:
        start_s, end_s = _seconds(parts[1::3]), _seconds(parts[2::3])
    except ValueError as error:
        raise CaptionError("corrupt_captions", f"{path} is not a valid {kind} file: {error}") from None
    if (wrong := np.flatnonzero(end_s < start_s)).size:
        times = f"{parts[1 + 3 * wrong[0]]} to {parts[2 + 3 * wrong[0]]}"
        detail = (
            f"{path} is not a valid {kind} file: caption {wrong[0]} runs from {times}: expected an end after its start"
        )
        raise CaptionError("corrupt_captions", detail)
    # After an empty line comes what is not shown, such as a comment or the next caption's name.
    payloads = [payload.lstrip("\n").split("\n\n", 1)[0] for payload in parts[3::3]]
    if kind == "VTT" and _WORD_TIME.search(text):
        try:
            return _timed_cues(start_s, end_s, payloads, max_word_s)
        except ValueError as error:
            raise CaptionError("corrupt_captions", f"{path} is not a valid {kind} file: {error}") from None
    return TimedText(start_s, end_s, pa.array(payloads, pa.string()), False)


def _seconds(clocks: list[str]) -> np.ndarray:
    """Return times such as 00:01:02.345 or 01:02,345 in seconds, shape (clocks,)."""
    joined = "".join(clocks).encode("ascii", "replace")
    if set(map(len, clocks)) <= {_CLOCK_CHARS}:
        chars = np.frombuffer(joined, np.uint8).reshape(-1, _CLOCK_CHARS)
        digits = chars[:, _CLOCK_DIGITS].astype(np.int64) - ord("0")
        if (chars[:, [2, 5]] == ord(":")).all() and ((digits >= 0) & (digits <= 9)).all():
            return digits @ _CLOCK_MS / 1000
    seconds = []
    for clock in clocks:
        match = _CLOCK.fullmatch(clock)
        if match is None:
            raise ValueError(f"{clock!r} is no time: expected one such as 00:00:01.000")
        hours, minutes, whole, decimals = match.groups()
        total_ms = (int(hours or 0) * 3600 + int(minutes) * 60 + int(whole)) * 1000 + int(decimals.ljust(3, "0"))
        seconds.append(total_ms / 1000)
    return np.array(seconds, np.float64)


def _timed_cues(start_s: np.ndarray, end_s: np.ndarray, payloads: list[str], max_word_s: float) -> TimedText:
    """Return the words of cues with times within, where each line is shown again while the next one is spoken."""
    shown = pc.split_pattern(pa.array(payloads, pa.string()), "\n")
    lines = pc.replace_substring_regex(shown.flatten(), STYLE_TAG, "")
    cue_of = np.repeat(np.arange(len(payloads)), np.diff(shown.offsets.to_numpy()))
    plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(lines, TIME_TAG, ""))
    is_text = pc.not_equal(plain, "").to_numpy(zero_copy_only=False)
    lines, plain, cue_of = lines.filter(pa.array(is_text)), plain.filter(pa.array(is_text)), cue_of[is_text]
    chosen = np.flatnonzero(is_new_line(plain, cue_of, np.zeros(len(payloads), int), always=True)[0])
    cue_of = cue_of[chosen]
    new_lines = lines.take(pa.array(chosen)).to_pylist()
    # What is before the first time is spoken as the cue starts.
    pieces = _TIMED_WORD.findall("\n".join(f"<{_CUE_START}>{line}" for line in new_lines))
    clocks, texts = zip(*pieces, strict=True) if pieces else ((), ())
    is_first = np.array([clock == _CUE_START for clock in clocks], bool)
    cue_of = cue_of[np.cumsum(is_first) - 1]
    begin_s = start_s[cue_of]
    begin_s[~is_first] = _seconds([clock for clock in clocks if clock != _CUE_START])
    return _with_ends(begin_s, end_s[cue_of], pa.array(texts, pa.string()), max_word_s)


def _with_ends(begin_s: np.ndarray, limit_s: np.ndarray, texts: pa.Array, max_word_s: float) -> TimedText:
    """Return words that end where the next one starts, by their caption's end and not too long after their start."""
    texts = pc.utf8_trim_whitespace(texts)
    is_text = pc.not_equal(texts, "")
    texts, mask = texts.filter(is_text), is_text.to_numpy(zero_copy_only=False)
    begin_s, limit_s = begin_s[mask], limit_s[mask]
    if (np.diff(begin_s) < 0).any():
        order = np.argsort(begin_s, kind="stable")
        begin_s, limit_s, texts = begin_s[order], limit_s[order], texts.take(pa.array(order))
    n_words = pc.count_substring(texts, " ").to_numpy() + 1
    end_s = np.minimum(np.append(begin_s[1:], np.inf)[: len(texts)], limit_s)
    end_s = np.clip(end_s, begin_s, begin_s + max_word_s * n_words)
    return TimedText(begin_s, end_s, texts, True)


def _json(text: str, path: Path, max_word_s: float) -> TimedText:
    if '"events"' in text and (events := _json3_events(text)) is not None:
        return _json3(events, path, max_word_s)
    try:
        value = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise CaptionError("corrupt_captions", f"{path} is not JSON: {error}") from error
    if isinstance(value, dict) and "events" in value:
        detail = f"{path} is no json3 of YouTube's: its events are not as expected: {text[:60]!r}"
        raise CaptionError("corrupt_captions", detail)
    try:
        return _triples(_timed_items(value, str(path)), str(path))
    except CaptionError:
        raise
    except ValueError as error:
        raise CaptionError("corrupt_captions", str(error)) from error


def _json3_events(text: str) -> pa.StructArray | None:
    """Return the events of YouTube's json3 as Arrow reads them, with no Python object a word; `None`: wrong."""
    raw = text.encode()
    options = pa_json.ParseOptions(_JSON3, newlines_in_values=True, unexpected_field_behavior="ignore")
    try:
        table = pa_json.read_json(pa.BufferReader(raw), pa_json.ReadOptions(False, len(raw) + 1), options)
    except pa.ArrowInvalid:
        return None
    events = table["events"].combine_chunks()
    return events.flatten() if len(events) == 1 and events.is_valid()[0].as_py() else None


def _json3(events: pa.StructArray, path: Path, max_word_s: float) -> TimedText:
    """Return words where captions are automatic, else lines."""
    begin_ms, length_ms, segments = (events.field(name) for name in ("tStartMs", "dDurationMs", "segs"))
    counts = pc.fill_null(pc.list_value_length(segments), 0).to_numpy().astype(np.int64)
    begin_s = pc.fill_null(begin_ms, np.nan).to_numpy() / 1000
    end_s = begin_s + pc.fill_null(length_ms, np.inf).to_numpy() / 1000
    offset_ms, confidence, text = (segments.flatten().field(name) for name in ("tOffsetMs", "acAsrConf", "utf8"))
    text = pc.fill_null(text, "")
    if pc.all(pc.equal(pc.utf8_trim_whitespace(text), "")).as_py() is not False:
        raise CaptionError("empty_captions", f"{path} holds no caption")
    spoken = counts > 0
    if not np.isfinite(begin_s[spoken]).all() or not (end_s >= begin_s)[spoken].all():
        detail = f"{path} is no json3 of YouTube's: an event has no start, or ends before it"
        raise CaptionError("corrupt_captions", detail)
    # A recognised word has an offset from its event, and says how sure it is.
    if offset_ms.null_count < len(text) or confidence.null_count < len(text):
        offset_s = pc.fill_null(offset_ms, 0).to_numpy() / 1000
        begin_s = np.round(np.repeat(begin_s, counts) + offset_s, 3)
        return _with_ends(begin_s, np.repeat(end_s, counts), text, max_word_s)
    offsets = pa.array(np.concatenate([[0], np.cumsum(counts[spoken])]).astype(np.int32))
    text = pc.binary_join(pa.ListArray.from_arrays(offsets, text), "")
    begin_s, end_s = begin_s[spoken], end_s[spoken]
    n_words = pc.count_substring(text, " ").to_numpy() + 1
    return TimedText(begin_s, np.where(np.isinf(end_s), begin_s + max_word_s * n_words, end_s), text, False)


def _timed_items(value: Any, source: str) -> list[Sequence[Any]]:
    """Return the `[start, end, text]` in a recogniser's output."""
    if isinstance(value, dict):
        found = next((value[key] for key in ("words", "segments") if isinstance(value.get(key), list)), None)
        if found is None:
            raise ValueError(
                f"{source} holds an object without 'words' or 'segments': expected a list of timed words, or YouTube's "
                "json3 with 'events'"
            )
        value = found
    if not isinstance(value, list):
        raise ValueError(f"{source} holds {type(value).__name__}: expected a list of timed words")
    items: list[Sequence[Any]] = []
    for item in value:
        if not isinstance(item, dict):
            items.append(item)
        elif isinstance(item.get("words"), list):
            items += _timed_items(item["words"], source)
        else:
            items.append((item.get("start"), item.get("end"), item.get("word", item.get("text"))))
    return items


def _triples(items: list[Sequence[Any]], source: str) -> TimedText:
    start_s, end_s, texts = timed_arrays(items, source)
    if not any(texts):
        raise CaptionError("empty_captions", f"{source} holds no caption")
    has_word_times = not any(len(text.split()) > 1 for text in texts)
    return TimedText(start_s, end_s, pa.array(texts, pa.string()), has_word_times)


def file_words(captions: TimedText, round_s: float = 0.0) -> list[tuple[float, float, str]]:
    """Return the `(start_s, end_s, word)` of one file's captions; for whole columns see `spread_lines`.

    Args:
        captions: what `read_captions` returns.
        round_s: to what evenly spread times are rounded; 0: not at all.
    """
    n_lines = len(captions.text)
    has_word_times = np.full(n_lines, captions.has_word_times)
    lines = CaptionLines(np.zeros(n_lines, int), captions.start_s, captions.end_s, captions.text, has_word_times, 1)
    columns = spread_lines(lines, round_s).flatten().flatten()
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


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
