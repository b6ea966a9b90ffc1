"""The stage `captions`: fills the timed words of videos from their caption files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...captions.arrow import WORDS
from ...captions.cleaning import ROUND_S, CaptionLines, count_distinct, flat_lines, rows_to_segment, spread_lines
from ...captions.files import read_captions
from ...captions.segmentation import segmenter_fault
from ...captions.timed_text import CaptionError, TimedText
from ...captions.words import MAX_WORD_S, Lost
from ...utils.text import counted, one_line
from ..columns import with_column
from ..schemas import SUBTITLES
from .base import LostPart, Stage, StageResult, lost_parts, split


@dataclass(frozen=True)
class Captions(Stage):
    """Fills `words` from the caption file of each video, or from the column `subtitles` of inline lines.

    It reads YouTube's json3 and WebVTT with word times, JSON lists of timed words, and plain WebVTT and SubRip, whose
    line times are spread evenly over the words of a line. Sounds such as [Music], markup, speaker marks, music notes
    and lines that rolling captions show twice are removed; see `captions.cleaning`. Videos that have words already keep
    them. The column `subtitles` is removed.

    Dropped: `no_captions` (none named, or the file does not exist), `empty_captions`, `corrupt_captions`,
    `caption_encoding` (not UTF-8), `no_segmenter` (a script without spaces, such as Chinese, Japanese or Thai, and the
    extra that splits it into words is not installed), `few_words` (value: number of different words), `error`. With
    `required=false`, a video whose captions cannot be used is kept without words, and a dropped row without hours gives
    the reason. If only some of a video's captions can be used, the video is kept with those, and a dropped row
    `lost_captions` gives the number of the others (value).

    The LiveCC paper asks for at least 30 different words (arXiv 2504.16030, Live-CC-5M).
    """

    name: ClassVar[str] = "captions"
    takes: ClassVar[str] = "videos"

    min_distinct_words: int = field(
        default=30,
        metadata={"help": "Fewest different words of a video; case and punctuation do not count. (paper: 30)"},
    )
    max_word_s: float = field(
        default=MAX_WORD_S,
        metadata={"help": "Longest duration of a word in seconds, if captions give only its start."},
    )
    round_s: float = field(
        default=ROUND_S,
        metadata={
            "help": "Evenly spread word times are rounded to multiples of this; 0: not rounded. (reference: 0.1)"
        },
    )
    required: bool = field(
        default=True,
        metadata={"help": "Drop videos without usable captions; false: keep them without words, for the stage asr."},
    )

    def __post_init__(self):
        if self.min_distinct_words < 0:
            raise ValueError(f"min_distinct_words is {self.min_distinct_words}: expected 0 or more")
        if not self.max_word_s > 0:
            raise ValueError(f"max_word_s is {self.max_word_s}: expected more than 0 seconds, such as {MAX_WORD_S}")
        steps_per_s = 1 / self.round_s if 0 < self.round_s <= 1 else 0.5
        if self.round_s != 0 and abs(steps_per_s - round(steps_per_s)) > 1e-6:
            raise ValueError(
                f"round_s is {self.round_s}: expected 0, or a step that divides a second evenly, such as {ROUND_S}, "
                "0.25 or 0.5"
            )

    def __call__(self, batch: pa.Table) -> StageResult:
        """Read the captions of a batch in `VIDEO_SCHEMA`."""
        faults = _Faults.empty(len(batch))
        is_wanted = batch["words"].is_null().to_numpy()
        inline, inline_rows, batch = self._inline(batch, is_wanted, faults)
        paths = batch["captions"].to_pylist()
        texts = {int(row): self._read(int(row), paths[row], faults) for row in np.flatnonzero(is_wanted & ~inline_rows)}
        lines = _join_lines({row: text for row, text in texts.items() if text}, inline, len(batch))
        if fault := segmenter_fault():
            lines = _without_unspaced(lines, fault, faults)
        words = spread_lines(lines, self.round_s)
        given = batch["words"].combine_chunks().cast(WORDS)
        rows = np.arange(len(batch)) + np.where(is_wanted, len(batch), 0)
        words = pa.concat_arrays([*_chunks(given), words]).take(pa.array(rows))
        n_distinct = count_distinct(words)
        for row in np.flatnonzero(n_distinct < self.min_distinct_words).tolist():
            if faults.reasons[row] is None:
                detail = (
                    f"{counted(int(n_distinct[row]), 'different word')}: expected at least {self.min_distinct_words}"
                )
                faults.refuse(row, "few_words", detail)
        has_captions = ~is_wanted | inline_rows | np.array([bool(path) for path in paths], bool)
        return self._result(batch, words, faults, n_distinct, has_captions)

    def _result(
        self, batch: pa.Table, words: pa.Array, faults: _Faults, n_distinct: np.ndarray, has_captions: np.ndarray
    ) -> StageResult:
        """Return the result, with dropped rows also for the captions that kept videos lost."""
        reasons, details = faults.reasons, faults.details
        is_bad = np.array([reason is not None for reason in reasons], bool)
        values = n_distinct.astype(object)
        values[reasons != "few_words"] = None
        lost = {row: entry for row, entry in faults.lost.items() if not is_bad[row]}
        parts = [LostPart(row, "lost_captions", entry.n_lost, str(entry)) for row, entry in lost.items()]
        if not self.required:
            usable = pa.array(np.where(is_bad, -1, np.arange(len(batch))))
            words = words.take(pc.if_else(pc.less(usable, 0), None, usable))
            unread = np.flatnonzero(is_bad & has_captions).tolist()
            parts += [LostPart(row, reasons[row], values[row], f"kept without words: {details[row]}") for row in unread]
            reasons = np.full(len(batch), None, dtype=object)
        result = split(self.name, with_column(batch, "words", words), reasons, values, details)
        return StageResult(result.kept, pa.concat_tables([result.dropped, lost_parts(self.name, batch, parts)]))

    def _read(self, row: int, path: str | None, faults: _Faults) -> TimedText | None:
        try:
            if not path:
                raise CaptionError("no_captions", "the video has no captions")
            text = read_captions(path, self.max_word_s)
        except CaptionError as error:
            faults.refuse(row, error.reason, one_line(error))
            return None
        except Exception as error:  # a file that breaks a parser must not fail the batch
            faults.refuse(row, "error", one_line(error))
            return None
        if text.lost:
            faults.lost[row] = text.lost
        return text

    def _inline(
        self, batch: pa.Table, is_wanted: np.ndarray, faults: _Faults
    ) -> tuple[CaptionLines | None, np.ndarray, pa.Table]:
        """Return the inline lines, which rows have some (bool), and the batch without the column of lines."""
        if SUBTITLES not in batch.column_names:
            return None, np.zeros(len(batch), bool), batch
        column = batch[SUBTITLES]
        has_lines = column.is_valid().to_numpy() & is_wanted
        rows = np.where(has_lines, np.arange(len(batch)), -1)
        chosen = pa.array(rows, mask=rows < 0)
        lines, lost = flat_lines(column.take(chosen))
        for row, entry in lost.items():
            if entry.n_lost == entry.of:
                faults.refuse(row, "corrupt_captions", entry.example)
            else:
                faults.lost[row] = entry
        return lines, has_lines, batch.drop_columns([SUBTITLES])


@dataclass(frozen=True)
class _Faults:
    """The faults found in the captions of a batch.

    Attributes:
        reasons: object array of shape (rows,): why the captions cannot be used, or `None` if they can.
        details: for each row, a text for the user.
        lost: by row, the unusable lines and words of captions that are otherwise usable.
    """

    reasons: np.ndarray
    details: list[str | None]
    lost: dict[int, Lost]

    @classmethod
    def empty(cls, n_rows: int) -> _Faults:
        return cls(np.full(n_rows, None, dtype=object), [None] * n_rows, {})

    def refuse(self, row: int, reason: str, detail: str) -> None:
        self.reasons[row], self.details[row] = reason, detail


def _without_unspaced(lines: CaptionLines, fault: str, faults: _Faults) -> CaptionLines:
    """Return the lines without those that need a segmenter to split them into words; `fault` says why there is none."""
    rows = rows_to_segment(lines)
    for row in rows:
        faults.refuse(row, "no_segmenter", fault)
    return lines.only(~np.isin(lines.row_of, rows)) if rows.size else lines


def _join_lines(texts: dict[int, TimedText], inline: CaptionLines | None, n_rows: int) -> CaptionLines:
    """Return the captions of all rows, from files and inline, in the order of the rows."""
    parts = list(texts.values())
    counts = [len(part.text) for part in parts]
    row_of = np.repeat(np.fromiter(texts, np.int64, len(parts)), counts)
    start_s, end_s = (np.concatenate([np.empty(0), *(part[i] for part in parts)]) for i in range(2))
    text = pa.concat_arrays([pa.array([], pa.string()), *(part.text for part in parts)])
    has_word_times = np.concatenate([np.empty(0, bool), *(part.has_word_times for part in parts)])
    lines = CaptionLines(row_of, start_s, end_s, text, has_word_times, n_rows)
    if inline is None:
        return lines
    row_of = np.concatenate([lines.row_of, inline.row_of])
    order = np.argsort(row_of, kind="stable")
    return CaptionLines(
        row_of[order],
        np.concatenate([lines.start_s, inline.start_s])[order],
        np.concatenate([lines.end_s, inline.end_s])[order],
        pa.concat_arrays([lines.text, inline.text]).take(pa.array(order)),
        np.concatenate([lines.has_word_times, inline.has_word_times])[order],
        n_rows,
    )


def _chunks(column: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return column.chunks if isinstance(column, pa.ChunkedArray) else [column]
