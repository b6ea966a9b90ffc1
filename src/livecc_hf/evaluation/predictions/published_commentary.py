"""Reads commentaries and verdicts in the formats of showlab/livecc."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .file import Lines, RowSet
from .header import Header
from .rows import MODEL, OPPONENT, ORDERS, TIE, CommentaryRow, VerdictRow

SUITE = "livesports3k-cc"


def event_key(video_id: Any, event_id: Any) -> str:
    """Return the key of a LiveSports-3K event, as published verdicts write it."""
    return f"{video_id}_{event_id}"


def read_commentaries(path: Path, lines: Lines) -> RowSet[CommentaryRow]:
    """Read lines with `video_id`, `event_id`, `begin`, `end` and `pred`.

    Raises:
        ValueError: if a column is missing, or a key occurs twice.
    """
    rows = []
    for number, value in zip(lines.numbers, lines.values, strict=True):
        try:
            rows.append(
                CommentaryRow(
                    key=event_key(value["video_id"], value["event_id"]),
                    video=value["video_id"],
                    begin_s=value["begin"],
                    end_s=value["end"],
                    pred=value["pred"],
                )
            )
        except KeyError as error:
            raise ValueError(f"line {number} of {path} has no column {error}") from error
        except (ValueError, TypeError) as error:
            raise ValueError(f"line {number} of {path} cannot be used: {error}") from error
    header = Header("commentary", suite=SUITE, model=path.stem, version="")
    return RowSet(header, rows, str(path), "LiveSports-3K CC commentaries")


def read_verdicts(path: Path, lines: Lines, model: str | None) -> RowSet[VerdictRow]:
    """Read lines with `video_event_id`, `ab_winner` and `ba_winner`; a winner is a model's name or "tie".

    Args:
        path: the file.
        lines: its lines.
        model: the winner that is the evaluated model; default: found from the file's name, BASELINE_MODEL.jsonl.

    Raises:
        ValueError: if a column is missing, a key occurs twice, or it is unclear which winner is the evaluated model.
    """
    for number, value in zip(lines.numbers, lines.values, strict=True):
        missing = {"video_event_id", "ab_winner", "ba_winner"} - set(value if isinstance(value, dict) else ())
        if missing:
            raise ValueError(f"line {number} of {path} has no column {', '.join(sorted(missing))}")
        for name in ("video_event_id", "ab_winner", "ba_winner"):
            if not isinstance(value[name], str):
                raise ValueError(f"line {number} of {path}: {name} is {value[name]!r:.80}: expected a string")
    names = {value[f"{order}_winner"] for value in lines.values for order in ORDERS} - {TIE}
    opponent, model = _names(path, names, model)
    rows = []
    for value in lines.values:
        key = value["video_event_id"]
        for order in ORDERS:
            winner = {model: MODEL, opponent: OPPONENT}.get(value[f"{order}_winner"], TIE)
            rows.append(VerdictRow(key, key.rpartition("_")[0], order, winner, is_valid=winner != TIE))
    header = Header("verdict", suite=SUITE, protocol="livecc", model=model, opponent=opponent, version="")
    return RowSet(header, rows, str(path), "LiveSports-3K CC verdicts")


def _names(path: Path, names: set[str], model: str | None) -> tuple[str | None, str]:
    """Return the opponent's and the model's name; the file's name begins with the first and ends with the second."""
    if model is None:
        first = {name for name in names if path.stem.startswith(f"{name}_")}
        last = {name for name in names if path.stem.endswith(f"_{name}")}
        model = next(iter(last), None) if len(last) == 1 else None
        if model is None and len(first) == 1:
            model = path.stem.removeprefix(f"{next(iter(first))}_")
    if model is None or len(names - {model}) > 1:
        raise ValueError(
            f"{path}: the winners are {', '.join(sorted(names)) or 'ties only'}, and it is unclear which is the "
            "evaluated model: give it with --model-name, or name the file BASELINE_MODEL.jsonl"
        )
    stem = path.stem.removesuffix(f"_{model}")
    return next(iter(names - {model}), stem if stem != path.stem else None), model
