"""Joins published answers with the benchmark's own rows, which adds missing rows and the options."""

from __future__ import annotations

import os
from dataclasses import replace

from ..predictions.file import RowSet
from ..predictions.rows import ChoiceRow
from ..suites import suite_of
from .annotations import read_annotations
from .readers import read_tasks


def complete(rows: RowSet[ChoiceRow], annotations: str | os.PathLike) -> RowSet[ChoiceRow]:
    """Return answers with their options, and with an error row for each question that has no prediction.

    Args:
        rows: answers to questions.
        annotations: file or folder with the benchmark's rows, as published.

    Raises:
        ValueError: if the benchmark lacks a question, or has another correct answer for it.
        FileNotFoundError: if `annotations` does not exist.
    """
    suite = suite_of(rows.header.suite)
    name = suite.name.removesuffix("-subtitles")  # the questions are the same
    tasks = read_tasks(name, read_annotations(name, suite.dataset, annotations), suite.protocols[0])
    expected = {task.row.key: task.row for task in tasks if isinstance(task.row, ChoiceRow)}
    unknown = [row.key for row in rows.rows if row.key not in expected]
    if unknown:
        raise ValueError(
            f"{rows.source} has {len(unknown):,} rows that {annotations} lacks, such as {unknown[0]!r}: expected the "
            "rows of the same benchmark in the same version"
        )
    known: dict[str, ChoiceRow] = {row.key: row for row in rows.rows}
    for key, row in known.items():
        if row.answer != expected[key].answer:
            raise ValueError(
                f"row {key!r}: the correct answer is {row.answer} in {rows.source} and {expected[key].answer} in "
                f"{annotations}"
            )
    merged = [
        replace(known[key], options=known[key].options or row.options)
        if key in known
        else replace(row, error="no prediction")
        for key, row in expected.items()
    ]
    notes = [*rows.notes]
    n_missing = len(merged) - len(known)
    if n_missing:
        notes.append(f"{rows.source}: {n_missing:,} of the benchmark's rows have no prediction and count as wrong")
    return RowSet(replace(rows.header, n_rows=len(merged)), merged, rows.source, rows.layout_name, notes)
