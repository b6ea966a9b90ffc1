"""Parses YouTube's json3 captions, which have word times if they are automatic."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from .rolling import is_first_of_repeats
from .timed_text import CaptionError, TimedText, words_with_ends
from .words import Lost

_SEGMENT = pa.struct([("utf8", pa.string()), ("tOffsetMs", pa.float64()), ("acAsrConf", pa.float64())])
_EVENT = pa.struct([("tStartMs", pa.float64()), ("dDurationMs", pa.float64()), ("segs", pa.list_(_SEGMENT))])
_JSON3 = pa.schema([("events", pa.list_(_EVENT))])


def read_json3(text: str, path: Path, max_word_s: float) -> TimedText | None:
    """Return the words of automatic captions, or the lines of others; `None` if the text is not json3.

    Args:
        text: the file's content.
        path: the file, for error messages.
        max_word_s: longest duration, in seconds, of a word whose end is unknown.

    Raises:
        CaptionError: "corrupt_captions" or "empty_captions", if no event can be used.
    """
    found = _events(text)
    return None if found is None else _timed_text(*found, path, max_word_s)


def _events(text: str) -> tuple[pa.StructArray, int, str] | None:
    """Return the valid events, the number of malformed ones, and the first malformed one as text."""
    events = _events_by_arrow(text)
    if events is not None:
        return events, 0, ""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not isinstance(value.get("events"), list):
        return None
    cleaned = [_cleaned(event) for event in value["events"]]
    wrong = [f"{event!a:.80}" for event, clean in zip(value["events"], cleaned, strict=True) if clean is None]
    return pa.array([event for event in cleaned if event is not None], _EVENT), len(wrong), wrong[0] if wrong else ""


def _events_by_arrow(text: str) -> pa.StructArray | None:
    """Return the events, parsed without creating Python objects; `None` if any event is malformed."""
    raw = text.encode()
    options = pa_json.ParseOptions(_JSON3, newlines_in_values=True, unexpected_field_behavior="ignore")
    try:
        table = pa_json.read_json(pa.BufferReader(raw), pa_json.ReadOptions(False, len(raw) + 1), options)
    except pa.ArrowInvalid:
        return None
    events = table["events"].combine_chunks()
    return events.flatten() if len(events) == 1 and events.is_valid()[0].as_py() else None


def _cleaned(event: Any) -> dict[str, Any] | None:
    """Return the fields of an event that are used; `None` if it is malformed."""
    try:
        segments: list[dict[str, Any]] = [
            {"utf8": _text(item.get("utf8"))} | {key: _number(item, key) for key in ("tOffsetMs", "acAsrConf")}
            for item in event.get("segs") or ()
        ]
        return {"segs": segments} | {key: _number(event, key) for key in ("tStartMs", "dDurationMs")}
    except (AttributeError, TypeError, ValueError, OverflowError):
        return None


def _text(value: Any) -> str | None:
    if value is not None:
        value.encode()  # raises a ValueError for unpaired surrogates, which Arrow does not take
    return value


def _number(value: dict[str, Any], key: str) -> float | None:
    number = value.get(key)
    if number is not None and not math.isfinite(number := float(number)):
        raise ValueError
    return number


def _timed_text(events: pa.StructArray, n_wrong: int, wrong: str, path: Path, max_word_s: float) -> TimedText:
    spoken = _n_segments(events) > 0
    events = events.filter(pa.array(spoken))
    begin_s, end_s = _times_s(events)
    is_usable = np.isfinite(begin_s) & (end_s >= begin_s)
    faults = [wrong] if n_wrong else []
    if n_bad := int((~is_usable).sum()):
        at = int(np.flatnonzero(~is_usable)[0])
        faults.append(f"event {at} runs from {begin_s[at]} to {end_s[at]} s: it has no start, or ends before it")
    if faults and not is_usable.any():
        raise CaptionError("corrupt_captions", f"{path} is not a YouTube json3 file: {faults[0]}")
    lost = Lost(n_bad + n_wrong, len(events) + n_wrong, f"{path}: {faults[0]}") if faults else None
    events, begin_s, end_s = events.filter(pa.array(is_usable)), begin_s[is_usable], end_s[is_usable]
    if pc.all(pc.equal(pc.utf8_trim_whitespace(_texts(events)), "")).as_py() is not False:
        raise CaptionError("empty_captions", f"{path} contains no captions")
    is_first = is_first_of_repeats(np.zeros(len(events), np.int64), begin_s, end_s, _joined(events))
    if not is_first.all():
        events, begin_s, end_s = events.filter(pa.array(is_first)), begin_s[is_first], end_s[is_first]
    offset_ms, confidence = (events.field("segs").flatten().field(name) for name in ("tOffsetMs", "acAsrConf"))
    # Only the segments of automatic captions have offsets or confidences; each is one word.
    if offset_ms.null_count < len(offset_ms) or confidence.null_count < len(confidence):
        counts = _n_segments(events)
        offset_s = pc.fill_null(offset_ms, 0).to_numpy() / 1000
        word_s = np.round(np.repeat(begin_s, counts) + offset_s, 3)
        return words_with_ends(word_s, np.repeat(end_s, counts), _texts(events), max_word_s, lost)
    text = _joined(events)
    n_words = pc.count_substring(text, " ").to_numpy() + 1
    end_s = np.where(np.isinf(end_s), begin_s + max_word_s * n_words, end_s)
    return TimedText(begin_s, end_s, text, np.zeros(len(text), bool), lost)


def _n_segments(events: pa.StructArray) -> np.ndarray:
    return pc.fill_null(pc.list_value_length(events.field("segs")), 0).to_numpy().astype(np.int64)


def _times_s(events: pa.StructArray) -> tuple[np.ndarray, np.ndarray]:
    begin_s = pc.fill_null(events.field("tStartMs"), np.nan).to_numpy() / 1000
    return begin_s, begin_s + pc.fill_null(events.field("dDurationMs"), np.inf).to_numpy() / 1000


def _texts(events: pa.StructArray) -> pa.Array:
    return pc.fill_null(events.field("segs").flatten().field("utf8"), "")


def _joined(events: pa.StructArray) -> pa.Array:
    """Return the text of each event."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(_n_segments(events))]).astype(np.int32))
    return pc.binary_join(pa.ListArray.from_arrays(offsets, _texts(events)), "")
