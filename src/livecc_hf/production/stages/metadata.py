"""The stages `probe` and `metadata`: read sizes and lengths from files, and filter videos by their metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...captions.languages import check_language, is_same_language
from ...data.media.paths import resolve_media
from ...utils.text import one_line
from ..columns import with_column
from ..schemas import SUBTITLES
from .base import Stage, StageResult, split

_FROM_FILE = ("duration_s", "width_px", "height_px")


@dataclass(frozen=True)
class Probe(Stage):
    """Fills `duration_s`, `width_px` and `height_px` from the video file, if one of them is null.

    The size is the displayed one, after rotation. The length is found by reading the file to its end, since headers
    only estimate it, or lack it.

    Dropped: `error` (the file does not exist or is not a video).
    """

    name: ClassVar[str] = "probe"
    takes: ClassVar[str] = "videos"
    batch_rows: ClassVar[int] = 64

    def __call__(self, batch: pa.Table) -> StageResult:
        """Read the files of a batch in `VIDEO_SCHEMA`."""
        reasons = np.full(len(batch), None, dtype=object)
        details: list[str | None] = [None] * len(batch)
        is_missing = np.zeros(len(batch), bool)
        for name in _FROM_FILE:
            is_missing |= batch[name].is_null().to_numpy()
        if not is_missing.any():
            return split(self.name, batch, reasons, details=details)
        columns = {name: batch[name].to_pylist() for name in _FROM_FILE}
        videos = batch["video"].to_pylist()
        for row in np.flatnonzero(is_missing):
            try:
                found = probe(videos[row], with_duration=columns["duration_s"][row] is None)
            except Exception as error:  # a broken file must not end the run, whatever error FFmpeg raises
                reasons[row], details[row] = "error", one_line(error)
                continue
            for name, value in found.items():
                if columns[name][row] is None:
                    columns[name][row] = value
        for name, values in columns.items():
            batch = with_column(batch, name, pa.array(values, batch.schema.field(name).type))
        return split(self.name, batch, reasons, details=details)


def probe(video: str, with_duration: bool = True) -> dict[str, float | int]:
    """Return `width_px` and `height_px` of a video file, as displayed, and its `duration_s`.

    Args:
        video: path, as `resolve_media` takes it.
        with_duration: also return `duration_s`, for which the file is read to its end.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is not a video.
    """
    # Imported here because it imports torch, which the stage `metadata` does not need.
    from ...video.reader import measure_duration, probe_video

    path = resolve_media(video)
    info = probe_video(path)
    found: dict[str, float | int] = {"width_px": info.width, "height_px": info.height}
    return found | {"duration_s": measure_duration(path)} if with_duration else found


@dataclass(frozen=True)
class Metadata(Stage):
    """Keeps videos by their size, length, language, captions and title.

    Dropped, by the first reason that applies: `no_title`, `low_resolution` (value: pixels of the shorter side),
    `too_short`, `too_long` (value: seconds), `other_language` (detail: the declared language), `no_metadata` (size or
    duration is null: run the stage `probe` first), `no_captions` (no words, no inline lines and no caption file).

    The thresholds are those of the LiveCC paper (arXiv 2504.16030, metadata filtering for Live-CC-5M): 480p or more,
    30 s to 10 min, English, with a title and captions. 480p is read as the shorter side, so that upright videos pass
    too. A video that declares no language is kept, since the stage `language` checks its words.
    """

    name: ClassVar[str] = "metadata"
    takes: ClassVar[str] = "videos"

    min_side_px: int = field(default=480, metadata={"help": "Minimum of the picture's shorter side. (paper: 480p)"})
    min_duration_s: float = field(default=30.0, metadata={"help": "Shortest video, in seconds. (paper: 30)"})
    max_duration_s: float = field(default=600.0, metadata={"help": "Longest video, in seconds. (paper: 600)"})
    language: str = field(
        default="en",
        metadata={
            "help": "Keep videos that declare this language, in any region and by any code, or none; '': any. "
            "(paper: English)"
        },
    )
    needs_captions: bool = field(
        default=True, metadata={"help": "Keep only videos with captions; set it to false if the stage asr follows."}
    )
    needs_title: bool = field(default=True, metadata={"help": "Keep only videos with a title."})

    def __post_init__(self):
        if not 0 <= self.min_duration_s <= self.max_duration_s:
            raise ValueError(
                f"min_duration_s is {self.min_duration_s} and max_duration_s {self.max_duration_s}: expected "
                "0 <= min_duration_s <= max_duration_s"
            )
        if self.min_side_px < 0:
            raise ValueError(f"min_side_px is {self.min_side_px}: expected 0 or more")
        if self.language:
            check_language(self.language)

    def __call__(self, batch: pa.Table) -> StageResult:
        """Filter a batch in `VIDEO_SCHEMA`."""
        side_px = pc.min_element_wise(batch["width_px"], batch["height_px"], skip_nulls=False)
        side_px = pc.fill_null(pc.cast(side_px, pa.float64()), np.nan).to_numpy()
        duration_s = pc.fill_null(batch["duration_s"], np.nan).to_numpy()
        is_other = np.array([self._is_other_language(tag) for tag in batch["language"].to_pylist()], bool)
        no_title = pc.equal(pc.utf8_trim_whitespace(pc.fill_null(batch["title"], "")), "").to_numpy()
        checks: list[tuple[str, np.ndarray, np.ndarray | None]] = [  # reason, whether it applies, the compared number
            ("no_title", no_title & self.needs_title, None),
            ("low_resolution", side_px < self.min_side_px, side_px),
            ("too_short", duration_s < self.min_duration_s, duration_s),
            ("too_long", duration_s > self.max_duration_s, duration_s),
            ("other_language", is_other, None),
            ("no_metadata", np.isnan(side_px) | np.isnan(duration_s), None),
        ]
        reasons = np.full(len(batch), None, dtype=object)
        values = np.full(len(batch), None, dtype=object)
        is_open = np.ones(len(batch), bool)
        for reason, holds, numbers in checks:
            rows = np.flatnonzero(holds & is_open)
            reasons[rows] = reason
            is_open[rows] = False
            if numbers is not None:
                values[rows] = numbers[rows]
        if self.needs_captions:
            self._check_captions(batch, is_open, reasons)
        return split(self.name, batch, reasons, values, _details(batch, reasons))

    def _is_other_language(self, declared: str | None) -> bool:
        """Return whether a video declares another language; `und` (undetermined) declares none."""
        if not self.language or not declared or not declared.strip() or re.match(r"\s*und\b", declared, re.I):
            return False
        return not is_same_language(declared, self.language)

    def _check_captions(self, batch: pa.Table, is_open: np.ndarray, reasons: np.ndarray) -> None:
        """Set the reason of rows without captions. Only rows without a reason so far are checked: files are slow."""
        has_words = batch["words"].is_valid().to_numpy()
        if SUBTITLES in batch.column_names:
            has_words = has_words | batch[SUBTITLES].is_valid().to_numpy()
        paths = batch["captions"].to_pylist()
        for row in np.flatnonzero(is_open & ~has_words):
            if not (paths[row] and Path(paths[row]).is_file()):
                reasons[row] = "no_captions"


def _details(batch: pa.Table, reasons: np.ndarray) -> list[str | None]:
    """Return for each dropped row a text that tells the user what was found."""
    details: list[str | None] = [None] * len(batch)
    for row in np.flatnonzero(reasons != None):  # noqa: E711 (element by element)
        found = {name: batch[name][int(row)].as_py() for name in (*_FROM_FILE, "language", "captions")}
        details[row] = {
            "low_resolution": f"{found['width_px']}x{found['height_px']} px",
            "other_language": found["language"],
            "no_captions": f"{found['captions']} does not exist" if found["captions"] else "no captions are named",
            "no_metadata": ", ".join(name for name in _FROM_FILE if found[name] is None) + " unknown",
        }.get(reasons[row])
    return details
