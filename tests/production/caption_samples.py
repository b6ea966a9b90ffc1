"""Writes captions of known words as YouTube and yt-dlp write them."""

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from livecc_hf.captions.arrow import LINE, timed_array
from livecc_hf.captions.cleaning import flat_lines, spread_lines
from livecc_hf.captions.words import timed_arrays

Line = Sequence[tuple[float, str]]  # (start_s, word)

LINES_SAID = [
    [(0.5, "hello"), (1.0, "everyone"), (1.4, "and")],
    [(2.6, "welcome"), (3.0, "to"), (3.2, "the"), (3.5, "match")],
    [(9.0, "goal!")],
    [(11.0, "what"), (11.25, "a"), (11.3, "goal!")],
]
SAID = [word for line in LINES_SAID for _, word in line]


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def clock(time_s: float, mark: str = ".") -> str:
    total_ms = round(time_s * 1000)
    return (
        f"{total_ms // 3_600_000:02}:{total_ms // 60_000 % 60:02}:{total_ms // 1000 % 60:02}{mark}{total_ms % 1000:03}"
    )


def line_end_s(lines: Sequence[Line], number: int, last_s: float = 2.0) -> float:
    """Return when each line ends: just before the next line."""
    return lines[number + 1][0][0] - 0.01 if number + 1 < len(lines) else lines[number][-1][0] + last_s


def json3(lines: Sequence[Line]) -> str:
    """Automatic captions: an event per line, shown until the line after the next, and line breaks between events."""
    events = [{"tStartMs": 0, "dDurationMs": 600_000, "id": 1, "wpWinPosId": 1, "wsWinStyleId": 1}]
    for number, line in enumerate(lines):
        start_ms = round(line[0][0] * 1000)
        until_s = lines[number + 2][0][0] if number + 2 < len(lines) else line[-1][0] + 2
        segments = [
            {"utf8": (" " if i else "") + word, "acAsrConf": 0}
            | ({"tOffsetMs": round(start_s * 1000) - start_ms} if i else {})
            for i, (start_s, word) in enumerate(line)
        ]
        if number:
            newline = {
                "tStartMs": start_ms - 10,
                "dDurationMs": 10,
                "wWinId": 1,
                "aAppend": 1,
                "segs": [{"utf8": "\n"}],
            }
            events.append(newline)
        events.append(
            {"tStartMs": start_ms, "dDurationMs": round(until_s * 1000) - start_ms, "wWinId": 1, "segs": segments}
        )
    return json.dumps({"wireMagic": "pb3", "pens": [{}], "wsWinStyles": [{}], "wpWinPositions": [{}], "events": events})


def youtube_vtt(lines: Sequence[Line]) -> str:
    """Automatic captions: the previous line above the spoken line, then 10 ms of the spoken line alone."""
    cues, above = ["WEBVTT\nKind: captions\nLanguage: en\n"], " "
    for number, line in enumerate(lines):
        start_s, end_s = line[0][0], line_end_s(lines, number)
        timed = line[0][1] + "".join(f"<{clock(time_s)}><c> {word}</c>" for time_s, word in line[1:])
        plain = " ".join(word for _, word in line)
        settings = "align:start position:0%"
        cues.append(f"{clock(start_s)} --> {clock(end_s)} {settings}\n{above}\n{timed}\n")
        cues.append(f"{clock(end_s)} --> {clock(end_s + 0.01)} {settings}\n{plain}\n \n")
        above = plain
    return "\n".join(cues)


def youtube_srt(lines: Sequence[Line], flat: bool = False) -> str:
    """The same after a conversion to SubRip, which loses the word times, and with `flat` the line breaks."""
    cues, above = [], ""
    for number, line in enumerate(lines):
        start_s, end_s = line[0][0], line_end_s(lines, number)
        plain = " ".join(word for _, word in line)
        cues.append((start_s, end_s, f"{above} {plain}".strip() if flat else f"{above}\n{plain}".strip()))
        cues.append((end_s, end_s + 0.01, plain))
        above = plain
    return srt(cues)


def srt(cues: Sequence[tuple[float, float, str]]) -> str:
    return "\n".join(
        f"{number}\n{clock(start_s, ',')} --> {clock(end_s, ',')}\n{text}\n"
        for number, (start_s, end_s, text) in enumerate(cues, 1)
    )


def vtt(cues: Sequence[tuple[float, float, str]]) -> str:
    return "WEBVTT\n\n" + "\n".join(f"{clock(a)} --> {clock(b)} line:90%\n{text}\n" for a, b, text in cues)


def lines_to_words(subtitles: pa.Array | list) -> pa.ListArray:
    """Return the words of each video, from a column of lines or lists of `[start, end, text]`."""
    if isinstance(subtitles, list):
        rows = [None if row is None else timed_arrays(row, f"captions of row {i}") for i, row in enumerate(subtitles)]
        subtitles = timed_array(rows, LINE)
    lines, faults = flat_lines(subtitles)
    for row, fault in faults.items():
        raise ValueError(f"captions of row {row}: {fault}")
    return spread_lines(lines)
