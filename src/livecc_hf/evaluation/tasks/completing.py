"""Puts others' answers beside a benchmark's own rows: what is missing is known then, and what the options were."""

from __future__ import annotations

import os
from dataclasses import replace

from ..predictions.file import RowSet
from ..predictions.rows import ChoiceRow
from ..suites import suite_of
from .annotations import read_annotations
from .readers import read_tasks


def complete(rows: RowSet[ChoiceRow], annotations: str | os.PathLike) -> RowSet[ChoiceRow]:
    """Return answers with a row for each of the benchmark's, those without an answer too, and with their options.

    Args:
        rows: answers to questions.
        annotations: the benchmark's rows, as published.

    Raises:
        ValueError: if an answer is to a question that the benchmark does not have, or another answer is right there.
        FileNotFoundError: if there is no such file.
    """
    suite = suite_of(rows.header.suite)
    name = suite.name.removesuffix("-subtitles")  # the questions are the same
    found = read_annotations(name, suite.dataset, annotations)
    rows_of_suite = (task.row for task in read_tasks(name, found, suite.protocols[0]))
    expected = {row.key: row for row in rows_of_suite if isinstance(row, ChoiceRow)}
    unknown = [row.key for row in rows.rows if row.key not in expected]
    if unknown:
        raise ValueError(
            f"{rows.source} has {len(unknown):,} rows that {annotations} lacks, such as {unknown[0]!r}: they are "
            "of another benchmark, or of another version of it"
        )
    known: dict[str, ChoiceRow] = {row.key: row for row in rows.rows}
    for key, row in known.items():
        if row.answer != expected[key].answer:
            raise ValueError(
                f"row {key!r}: the right answer is {row.answer} in {rows.source} and {expected[key].answer} in "
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
