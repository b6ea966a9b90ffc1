"""Parses the cues of SubRip and WebVTT files, by each format's own rule for where a cue's text ends.

In SubRip the text extends to the next timing line, across blank lines, as in FFmpeg. In WebVTT a blank line ends it:
anything after that, such as a comment or the next cue's identifier, is not shown. A cue with invalid times is left out
and the rest is read; existing parsers either stop at such a cue or append its text to the previous one.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .rolling import is_first_of_repeats, is_new_line
from .spoken import STYLE_TAG, TIME_TAG
from .timed_text import CaptionError, TimedText, words_with_ends
from .words import Lost

_TIME = r"(\d+:[\d:]*(?:[.,]\d+)?)"
# A timing line, with SubRip's cue number before it and WebVTT's settings after it.
_CUE_TIMES = re.compile(rf"^(?:\d+[ \t]*\n)?[ \t]*{_TIME}[ \t]*-->[ \t]*{_TIME}(?:[ \t][^\n]*)?(?:\n|\Z)", re.MULTILINE)
# Malformed timing lines: in WebVTT any other line with an arrow, in SubRip only one that begins with a time, which may
# be negative.
_ARROW = re.compile(r"^(?:\d+[ \t]*\n)?[^\n]*-->[^\n]*$", re.MULTILINE)
_TIMES_ARROW = re.compile(r"^(?:\d+[ \t]*\n)?[ \t]*[-\u2212]?[\d:.,]*\d:\d[^\n]*-->[^\n]*$", re.MULTILINE)
_INNER_TIME = r"(?:\d+:)?\d{1,2}:\d{1,2}[.,]\d+"
_WORD_TIME = re.compile(rf"<{_INNER_TIME}>")
_TIMED_WORD = re.compile(rf"<({_INNER_TIME}|\0)>((?:[^<\n]+|<(?!{_INNER_TIME}>|\0>))*)")
_CUE_START = "\0"  # marks the start of a cue; files that contain it are refused
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{1,2})(?:[.,](\d+))?")
_CLOCK_CHARS = 12  # length of 00:00:00.000, the form in nearly all files
_CLOCK_DIGITS = [0, 1, 3, 4, 6, 7, 9, 10, 11]
_CLOCK_MS = np.array([36_000_000, 3_600_000, 600_000, 60_000, 10_000, 1_000, 100, 10, 1])

_SEGMENT = re.compile(r"^\ufeff?WEBVTT(?:[ \t]|$)", re.MULTILINE)
_CLOCK_MAP = re.compile(r"^X-TIMESTAMP-MAP=([^\n]*)", re.MULTILINE)
_TICKS_PER_S = 90_000
_TICKS_WRAP = 2**33


def read_cues(text: str, path: Path, kind: str, max_word_s: float) -> TimedText:
    """Parse a file's cues; return their words if the cues contain word times.

    Args:
        text: the file's content, with LF line ends.
        path: the file, for error messages.
        kind: "VTT" or "SRT".
        max_word_s: longest duration, in seconds, of a word whose end is unknown.

    Raises:
        CaptionError: "corrupt_captions" or "empty_captions", if no cue can be read.
    """
    parts = _CUE_TIMES.split(text)
    clocks = parts[1::3], parts[2::3]
    shift_s = _segment_shifts(parts[0], parts[3::3]) if text.count("X-TIMESTAMP-MAP") > 1 else 0.0
    payloads, faults = _payloads(parts[3::3], kind)
    faults += map(_no_times, _arrow_pattern(kind).findall(parts[0]))
    start_s, end_s = (_seconds(times) for times in clocks)
    is_usable = end_s >= start_s
    for cue in np.flatnonzero(~is_usable).tolist():
        faults.append(_wrong_times(cue, clocks[0][cue], clocks[1][cue]))
    n_all = len(start_s) + len(faults) - int((~is_usable).sum())
    if not is_usable.any():
        if faults or kind == "SRT":
            fault = faults[0] if faults else _no_times(text.strip()[:60])
            raise CaptionError("corrupt_captions", f"{path} is not a valid {kind} file: {fault}")
        raise CaptionError("empty_captions", f"{path} contains no captions")
    lost = Lost(len(faults), n_all, f"{path}: {faults[0]}") if faults else None
    shifts_s = np.broadcast_to(shift_s, start_s.shape)[is_usable]
    start_s, end_s = start_s[is_usable] + shifts_s, end_s[is_usable] + shifts_s
    shown = pa.array(payloads, pa.string()).filter(pa.array(is_usable))
    if kind == "VTT" and _WORD_TIME.search(text):
        return _timed_cues((start_s, end_s, shifts_s), shown, max_word_s, lost)
    return TimedText(start_s, end_s, shown, np.zeros(len(shown), bool), lost)


def _arrow_pattern(kind: str) -> re.Pattern:
    return _ARROW if kind == "VTT" else _TIMES_ARROW


def _no_times(line: str) -> str:
    return f"{line.strip()[-60:]!r} is not a timing line such as 00:00:01.000 --> 00:00:02.500"


def _wrong_times(cue: int, start: str, end: str) -> str:
    for clock in (start, end):
        if _CLOCK.fullmatch(clock) is None:
            return f"{clock!r} is not a time: expected one such as 00:00:01.000"
    return f"caption {cue} runs from {start} to {end}: expected an end after its start"


def _payloads(rests: list[str], kind: str) -> tuple[list[str], list[str]]:
    """Return each cue's text, and errors for malformed timing lines.

    Args:
        rests: what lies between each timing line and the next.
        kind: "VTT" or "SRT".
    """
    arrow = _arrow_pattern(kind)
    faults: list[str] = []
    for number, rest in enumerate(rests):
        if "-->" in rest and (wrong := arrow.findall(rest)):
            faults += map(_no_times, wrong)
            rests[number] = arrow.split(rest, maxsplit=1)[0]
    if kind == "SRT":
        return rests, faults
    if any("WEBVTT" in rest for rest in rests):
        rests = [_SEGMENT.split(rest, maxsplit=1)[0] for rest in rests]
    return [f"\n{rest}".split("\n\n", 1)[0][1:] for rest in rests], faults


def _seconds(clocks: list[str]) -> np.ndarray:
    """Parse times such as 00:01:02.345 or 01:02,345; return float64 seconds (clocks,), NaN if malformed."""
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
            seconds.append(np.nan)
            continue
        hours, minutes, whole, decimals = match.groups(default="0")
        total_ms = (int(hours) * 3600 + int(minutes) * 60 + int(whole)) * 1000 + int(decimals[:3].ljust(3, "0"))
        seconds.append(total_ms / 1000)
    return np.array(seconds, np.float64)


def _segment_shifts(head: str, rests: list[str]) -> np.ndarray:
    """Return the time offset of each cue in concatenated HLS segments, float64 seconds (cues,).

    Each segment may map its local clock to the stream's MPEG-TS clock; its offset is relative to the first segment.
    """
    shifts_s = np.zeros(len(rests))
    first_s = previous_s = shift_s = None
    for cue, part in enumerate([head, *rests]):
        for entry in _CLOCK_MAP.findall(part):
            if (base_s := _clock_base_s(entry)) is None:
                continue
            if previous_s is not None and base_s < previous_s - _TICKS_WRAP / 2 / _TICKS_PER_S:
                base_s += _TICKS_WRAP / _TICKS_PER_S
            first_s = base_s if first_s is None else first_s
            previous_s, shift_s = base_s, base_s - first_s
        if cue < len(rests):
            shifts_s[cue] = shift_s or 0.0
    return shifts_s


def _clock_base_s(entry: str) -> float | None:
    """Return the MPEG-TS time, in seconds, of local time 0; `None` if the entry is incomplete."""
    ticks = re.search(r"MPEGTS:(\d+)", entry)
    local = re.search(rf"LOCAL:({_INNER_TIME})", entry)
    return int(ticks[1]) / _TICKS_PER_S - float(_seconds([local[1]])[0]) if ticks and local else None


def _timed_cues(
    times: tuple[np.ndarray, np.ndarray, np.ndarray], payloads: pa.Array, max_word_s: float, lost: Lost | None
) -> TimedText:
    """Return the words of rolling cues, which show each line again while the next one is spoken."""
    row_of = np.zeros(len(payloads), np.int64)
    is_first = is_first_of_repeats(row_of, times[0], times[1], payloads)
    start_s, end_s, shifts_s = (values[is_first] for values in times)
    shown = pc.split_pattern(payloads.filter(pa.array(is_first)), "\n")
    lines = pc.replace_substring_regex(shown.flatten(), STYLE_TAG, "")
    cue_of = np.repeat(np.arange(len(shown)), np.diff(shown.offsets.to_numpy()))
    plain = pc.utf8_trim_whitespace(pc.replace_substring_regex(lines, TIME_TAG, ""))
    is_text = pc.not_equal(plain, "").to_numpy(zero_copy_only=False)
    lines, plain, cue_of = lines.filter(pa.array(is_text)), plain.filter(pa.array(is_text)), cue_of[is_text]
    chosen = np.flatnonzero(is_new_line(plain, cue_of, np.zeros(len(shown), int), always=True)[0])
    cue_of = cue_of[chosen]
    new_lines = lines.take(pa.array(chosen)).to_pylist()
    # Text before the first time tag is spoken at the start of the cue.
    pieces = _TIMED_WORD.findall("\n".join(f"<{_CUE_START}>{line}" for line in new_lines))
    clocks, texts = zip(*pieces, strict=True) if pieces else ((), ())
    begins_cue = np.array([clock == _CUE_START for clock in clocks], bool)
    cue_of = cue_of[np.cumsum(begins_cue) - 1]
    begin_s = start_s[cue_of]
    begin_s[~begins_cue] = _seconds([clock for clock in clocks if clock != _CUE_START]) + shifts_s[cue_of][~begins_cue]
    return words_with_ends(begin_s, end_s[cue_of], pa.array(texts, pa.string()), max_word_s, lost)
