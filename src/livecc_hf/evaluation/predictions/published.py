"""Reads published files of predictions, detecting their format.

| format | from |
|---|---|
| Video-MME results: a list of videos, each with `questions` | BradyFU/Video-MME, showlab/livecc |
| LiveSports-3K QA and MVBench results in the same shape | showlab/livecc |
| OVO-Bench results: `{"backward": [...], "realtime": ..., "forward": ...}`, or parts | JoeLeelyf/OVO-Bench |
| OVO-Bench answers: a list of `{"id", "task", "question", "answer", "response"}` | showlab/livecc |
| LiveSports-3K CC commentaries: lines with `video_id`, `event_id`, `begin`, `end`, `pred` | showlab/livecc |
| verdicts: lines with `video_event_id`, `ab_winner`, `ba_winner` | showlab/livecc |
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .file import TORN_NOTE, Lines, RowSet, read_lines, read_rows
from .header import is_header
from .published_choice import is_nested, read_nested, read_ovo_answers, read_ovo_results
from .published_commentary import read_commentaries, read_verdicts
from .rows import CommentaryRow, Row

FORMATS = (
    "a file of livecc-hf, Video-MME results, LiveSports-3K QA or MVBench results of showlab/livecc, OVO-Bench results "
    "(a file or a folder of them), LiveSports-3K CC commentaries or verdicts"
)
_GROUPS = {"backward", "realtime", "forward"}


def read_predictions(path: str | os.PathLike, model: str | None = None) -> list[RowSet[Row]]:
    """Read the rows of a file or folder, in this package's format or a published one.

    Args:
        path: a file, or a folder of files; OVO-Bench results in a folder are read as parts of one set.
        model: for published verdicts, the winner that is the evaluated model; default: found from the file's name,
            BASELINE_MODEL.jsonl.

    Returns:
        A row set for each file, and one for all OVO-Bench results of a folder.

    Raises:
        OSError: if a file cannot be read.
        ValueError: if a file is not in a known format, a column is missing, or a key occurs twice.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: expected {FORMATS}")
    if path.is_dir():
        return _read_folder(path, model)
    return [_read_file(path, model)]


def read_commentary_file(path: str | os.PathLike) -> RowSet[CommentaryRow]:
    """Read the commentaries of a file, or of a folder that holds one file of commentaries.

    Raises:
        OSError: if a file cannot be read.
        ValueError: as `read_predictions` does, or if there is not exactly one set of commentaries.
    """
    found = [rows for rows in read_predictions(path) if rows.header.layout == "commentary"]
    if len(found) != 1:
        several = f"{len(found)} sets of commentaries: name one file"
        raise ValueError(f"{path} holds {several if found else 'no commentaries: expected a file of them'}")
    return found[0].of(CommentaryRow)


def _read_folder(folder: Path, model: str | None) -> list[RowSet[Row]]:
    files = sorted(file for file in folder.iterdir() if file.suffix in (".json", ".jsonl") and file.is_file())
    parts: list[tuple[Path, dict[str, Any]]] = []
    sets: list[RowSet[Row]] = []
    for file in files:
        if file.suffix == ".jsonl":
            sets.append(_read_file(file, model))
            continue
        value = _load(file)
        if _is_ovo_results(value):
            parts.append((file, value))
        elif isinstance(value, list):
            sets.append(_read_list(file, value))
    if parts:
        sets.append(read_ovo_results(parts, folder))
    if not sets:
        raise ValueError(f"{folder} holds no predictions: expected {FORMATS}")
    return sets


def _read_file(path: Path, model: str | None) -> RowSet[Row]:
    if path.suffix == ".json":
        value = _load(path)
        if _is_ovo_results(value):
            return read_ovo_results([(path, value)], path)
        if isinstance(value, list):
            return _read_list(path, value)
        raise ValueError(f"{path} is not in a known format: expected {FORMATS}")
    lines = read_lines(path)
    first = lines.values[0] if lines.values else None
    if is_header(first):
        return read_rows(path)
    if not isinstance(first, dict):
        raise ValueError(f"{path} is not in a known format: expected {FORMATS}")
    return _read_published_lines(path, lines, first, model)


def _read_published_lines(path: Path, lines: Lines, first: dict[str, Any], model: str | None) -> RowSet[Row]:
    if {"ab_winner", "ba_winner"} & set(first):
        rows: RowSet[Row] = read_verdicts(path, lines, model)
    elif "pred" in first or "event_id" in first:
        rows = read_commentaries(path, lines)
    else:
        raise ValueError(f"{path} is not in a known format (columns {', '.join(first)}): expected {FORMATS}")
    if lines.torn:
        rows.notes.append(TORN_NOTE.format(path=path))
    return rows


def _read_list(path: Path, value: list[Any]) -> RowSet[Row]:
    first = value[0] if value else None
    if is_nested(first):
        return read_nested(path, value)
    if isinstance(first, dict) and {"task", "response", "answer"} <= set(first):
        return read_ovo_answers(path, value)
    raise ValueError(f"{path} is not in a known format: expected {FORMATS}")


def _is_ovo_results(value: Any) -> bool:
    return isinstance(value, dict) and bool(_GROUPS & set(value))


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
