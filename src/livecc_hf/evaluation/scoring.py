"""`livecc evaluate score`, `compare` and `list` as functions."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .predictions.file import RowSet
from .predictions.judged_texts import find_commentaries, find_texts
from .predictions.published import read_predictions
from .predictions.rows import MODEL, OPPONENT, ChoiceRow, CommentaryRow, Row, VerdictRow
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
    """Return the benchmarks that can be run."""
    return [suite for suite in SUITES.values() if suite.protocols]


def read_sets(paths: Sequence[_Path] | _Path, model_name: str | None = None) -> list[RowSet[Row]]:
    """Read the row sets in files and folders; raises what `score` raises."""
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

    Verdicts are matched to the judged commentaries among the files by the names of the models.

    Args:
        paths: files and folders.
        protocol: how answers are parsed; default: the protocol of each file.
        model_name: for published verdicts, the winner that is the evaluated model.
        incomplete: show the headline of an incomplete set, with N in its name, instead of withholding it.
        annotations: the benchmark's own rows; rows without a prediction then count as wrong, and the floor includes
            constant answer texts.

    Returns:
        A score for each row set; commentaries with verdicts get their own score only if they have turns.

    Raises:
        OSError: if a file cannot be read.
        ValueError: if a file is not in a known format, or its rows cannot be scored.
    """
    return score_sets(read_sets(paths, model_name), protocol, incomplete, annotations)


def score_sets(
    sets: Sequence[RowSet[Row]],
    protocol: str | None = None,
    incomplete: bool = False,
    annotations: _Path | None = None,
) -> list[Score]:
    """Score row sets that have been read; see `score`."""
    if annotations is not None:
        sets = [complete(item.of(ChoiceRow), annotations) if item.header.layout == "choice" else item for item in sets]
    verdicts = [item.of(VerdictRow) for item in sets if item.header.layout == "verdict"]
    texts = [item.of(CommentaryRow) for item in sets if item.header.layout == "commentary"]
    pairs = [Pair(item, find_texts(item, MODEL, texts)) for item in verdicts]
    scores = []
    judged = [find_commentaries(item, whose, texts) for item in verdicts for whose in (MODEL, OPPONENT)]
    for pair in pairs:
        opponent = find_texts(pair.verdicts, OPPONENT, texts)
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
            has_turns = any(row.turns for row in commentaries.rows)
            if has_turns or not any(item is text for text in judged):
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
        b: predictions or verdicts of the same benchmark.
        protocol: how answers are parsed; default: the protocol of each file.
        model_names: for published verdicts, the winners in `a` and in `b` that are the evaluated models.
        across_protocols: allow files of different protocols.

    Raises:
        OSError: if a file cannot be read.
        ValueError: if the files cannot be compared, or a path holds several row sets.
    """
    return compare_rows(_only(a, model_names[0]), _only(b, model_names[1]), protocol, across_protocols)


def _only(path: _Path, model_name: str | None) -> RowSet[Row]:
    found = read_predictions(path, model_name)
    if len(found) > 1:
        raise ValueError(f"{path} holds {len(found)} files of predictions: name one of them")
    return found[0]
