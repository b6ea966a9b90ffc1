"""`livecc evaluate score`, `compare` and `list` as functions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .predictions.file import RowSet
from .predictions.inf_streams import SUITE as WINDOWS
from .predictions.inf_streams import windows_named
from .predictions.published import read_predictions
from .predictions.rows import ChoiceRow, CommentaryRow, Row, VerdictRow
from .scorers.commentary import score_commentaries
from .scorers.figures import Score
from .scorers.multiple_choice import score_choices
from .scorers.paired import Comparison, compare_rows
from .scorers.suspicion import Pair
from .scorers.win_rate import score_verdicts
from .suites import SUITES, Suite
from .tasks.completing import complete

_Path = str | os.PathLike


def list_suites() -> list[Suite]:
    """Return the benchmarks that can be run and scored."""
    return [suite for suite in SUITES.values() if suite.protocols]


def read_sets(paths: Sequence[_Path] | _Path, model_name: str | None = None) -> list[RowSet[Row]]:
    """Read sets of rows from files and folders; raises as `score` does."""
    paths = [paths] if isinstance(paths, str | os.PathLike) else paths
    return [found for path in paths for found in read_predictions(path, model_name)]


def score(
    paths: Sequence[_Path] | _Path,
    protocol: str | None = None,
    model_name: str | None = None,
    incomplete: bool = False,
    annotations: _Path | None = None,
) -> list[Score]:
    """Score predictions and verdicts, in this package's format or in published ones.

    Commentaries among the files are matched to the verdicts on them by the models' names.

    Args:
        paths: files and folders.
        protocol: how answers are parsed; default: each file's own.
        model_name: of published verdicts: the name of the model among the winners.
        incomplete: show headlines of incomplete sets, with N in their names.
        annotations: the benchmark's own rows: rows without an answer count as wrong, and constant texts count for the
            floor.

    Returns:
        A score for each set of rows, except commentaries that verdicts are on.

    Raises:
        OSError: if a file cannot be read.
        ValueError: if one is in no known layout, or its rows cannot be scored.
    """
    return score_sets(read_sets(paths, model_name), protocol, incomplete, annotations)


def score_sets(
    sets: Sequence[RowSet[Row]],
    protocol: str | None = None,
    incomplete: bool = False,
    annotations: _Path | None = None,
) -> list[Score]:
    """Score sets of rows that have been read; see `score`."""
    if annotations is not None:
        sets = [complete(item.of(ChoiceRow), annotations) if item.header.layout == "choice" else item for item in sets]
    verdicts = [item.of(VerdictRow) for item in sets if item.header.layout == "verdict"]
    texts = [item.of(CommentaryRow) for item in sets if item.header.layout == "commentary"]
    pairs = [Pair(item, _judged_texts(item, item.header.model, texts)) for item in verdicts]
    scores = []
    judged = [_texts_of(name, texts) for item in verdicts for name in (item.header.model, item.header.opponent)]
    for pair in pairs:
        opponent = _judged_texts(pair.verdicts, pair.verdicts.header.opponent, texts)
        others = [
            other
            for other in pairs
            if other is not pair and other.verdicts.header.opponent == pair.verdicts.header.opponent
        ]
        scores.append(score_verdicts(pair.verdicts, pair.texts, opponent, others, incomplete))
    for item in sets:
        if item.header.layout == "choice":
            scores.append(score_choices(item.of(ChoiceRow), protocol, incomplete))
        elif item.header.layout == "commentary":
            commentaries = item.of(CommentaryRow)
            if not any(item is text for text in judged) or _has_times(commentaries):
                scores.append(score_commentaries(commentaries, incomplete))
    return scores


def compare(
    a: _Path,
    b: _Path,
    protocol: str | None = None,
    model_names: tuple[str | None, str | None] = (None, None),
    across_protocols: bool = False,
) -> Comparison:
    """Compare two files of one benchmark, paired by row.

    Args:
        a: predictions or verdicts.
        b: of the same benchmark.
        protocol: how answers are parsed; default: each file's own.
        model_names: of published verdicts: the name of the model among the winners, in a and in b.
        across_protocols: compare even files of different protocols.

    Raises:
        OSError: if a file cannot be read.
        ValueError: if they cannot be compared, or one holds several sets.
    """
    return compare_rows(_only(a, model_names[0]), _only(b, model_names[1]), protocol, across_protocols)


def _only(path: _Path, model_name: str | None) -> RowSet[Row]:
    found = read_predictions(path, model_name)
    if len(found) > 1:
        raise ValueError(f"{path} holds {len(found)} files of predictions: name one of them")
    return found[0]


def _texts_of(model: str | None, texts: Sequence[RowSet[CommentaryRow]]) -> RowSet[CommentaryRow] | None:
    """Return the commentaries of a model, by its name or its file's."""
    if model is None:
        return None
    return next((item for item in texts if model in (item.header.model, Path(item.source).stem)), None)


def _judged_texts(
    verdicts: RowSet[VerdictRow], model: str | None, texts: Sequence[RowSet[CommentaryRow]]
) -> RowSet[CommentaryRow] | None:
    """Return the texts that verdicts are on: a model's commentaries, or windows of them."""
    found = _texts_of(model, texts)
    if found is not None and verdicts.header.suite == WINDOWS and found.header.suite != WINDOWS:
        return windows_named(found, (row.key for row in verdicts.rows))
    return found


def _has_times(rows: RowSet[CommentaryRow]) -> bool:
    return any(row.turns for row in rows.rows)
