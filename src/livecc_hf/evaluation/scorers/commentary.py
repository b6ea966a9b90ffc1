"""Scores commentaries without a judge: timing against the reference, speed, and properties of the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

import numpy as np

from ..predictions.file import RowSet
from ..predictions.rows import CommentaryRow
from ..suites import SUITES
from .figures import Figure, Score, incomplete_headline, incomplete_note
from .livestar import livestar_timing
from .statistics import weighted_mean
from .text_measures import text_figures
from .timing import sentences, speed_figures, timing_figures


def score_commentaries(rows: RowSet[CommentaryRow], incomplete: bool = False) -> Score:
    """Score commentaries: timing against the reference, speed, and properties of the text.

    Args:
        rows: commentaries; a row with an error counts as an empty commentary.
        incomplete: show the headline of an incomplete set, with N in its name, instead of withholding it.

    Raises:
        ValueError: if there are no rows.
    """
    if not rows.rows:
        raise ValueError(f"{rows.source} holds no rows: there is nothing to score")
    suite = SUITES.get(rows.header.suite or "")
    timed = [row for row in rows.rows if row.reference and (row.turns or row.error)]
    figures: list[Figure] = []
    notes = list(rows.notes)
    if timed:
        figures += timing_figures(timed) + _livestar_figures(timed)
        if len(timed) < len(rows.rows):
            notes.append(f"{rows.source}: timing covers the {len(timed):,} rows with turns and a reference")
    n_headline = 2 if timed else 1
    figures += text_figures(rows.rows) + speed_figures(rows.rows)
    n_missing = sum(row.error is not None for row in rows.rows)
    figures = [
        replace(item, n_missing=n_missing) if number < n_headline else item for number, item in enumerate(figures)
    ]
    n_expected = rows.header.n_rows or (suite.n_rows if suite else len(rows.rows))
    n_tried = len(rows.rows) - n_missing
    is_complete = n_tried == n_expected
    if not is_complete:
        notes.append(incomplete_note(rows.source, n_tried, n_expected))
        figures[0] = incomplete_headline(figures[0], n_tried, n_expected, incomplete)
    return Score(
        *(rows.header.suite or "commentary", rows.header.protocol, rows.header.model, rows.source, figures),
        n_headline=n_headline,
        n_expected=n_expected,
        is_complete=is_complete,
        notes=notes,
        series={"latency_s": sorted(value for row in rows.rows for value in row.latencies_s)} if timed else {},
        details=asdict(rows.header),
    )


def _livestar_figures(rows: Sequence[CommentaryRow]) -> list[Figure]:
    """Return LiveStar's measures, computed on whole seconds.

    A reference sentence counts at the second in which it ends, a turn at the second in which its words are shown.
    """
    timings, clusters = [], []
    for row in rows:
        captions = [_second_of(span.end_s, row) for span in sentences(row.reference)]
        if captions:
            shown = [_second_of(turn.end_s, row) for turn in row.turns if turn.text.strip()]
            timings.append(livestar_timing(captions, shown))
            clusters.append(row.video)
    if not timings:
        return []
    n, figures = len(timings), []
    names = (("TimDiff", "s"), ("TimRedun", ""), ("TimCover", ""))
    for (name, unit), values in zip(names, zip(*timings, strict=True), strict=True):
        value, se = weighted_mean(np.array(values), np.full(n, 1 / n), np.zeros(n, dtype=np.int64), clusters)
        figures.append(Figure(f"LiveStar {name}", value, n, unit, se=se))
    return figures


def _second_of(time_s: float, row: CommentaryRow) -> int:
    """Return the second of a row's clip that a time of the video is in."""
    return int(round(time_s - row.begin_s, 6))  # 2.3 - 0.3 is a little less than 2
