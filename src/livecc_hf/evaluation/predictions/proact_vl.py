"""Commentaries in Proact-VL's layout of predictions: the text of each second.

The layout is that of microsoft/AnthropomorphicIntelligence, Proact-VL/evaluation/gaming: seconds of the video's clock,
which are whole numbers, as a clip's begin and end are.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from .file import RowSet, open_text
from .rows import CommentaryRow


def seconds_of(row: CommentaryRow) -> dict[str, str]:
    """Return what is said in each second of a clip.

    A turn's words are in the second in which the turn begins, counted on the video's clock as `begin` and `end` are.
    Seconds without words are left out.

    Returns:
        Text by the second's number, as JSON has it: "12" is [12, 13).
    """
    found: dict[str, str] = {}
    for turn in row.turns:
        if turn.text.strip():
            second = str(math.floor(round(turn.start_s, 6)))
            found[second] = f"{found[second]} {turn.text.strip()}" if second in found else turn.text.strip()
    return found


def record_of(row: CommentaryRow, index: int, dataset: str, tag: str) -> dict[str, Any]:
    """Return a line of the layout."""
    return {
        "video_id": row.video,
        "begin": math.floor(row.begin_s),
        "end": math.ceil(row.end_s),
        "pred": seconds_of(row),
        "dataset_name": dataset,
        "tag": tag,
        "idx": index,
    }


def write_seconds(path: str | os.PathLike, rows: RowSet[CommentaryRow]) -> int:
    """Write commentaries by seconds, and return how many.

    Raises:
        OSError: if the file cannot be written.
        ValueError: if no commentary has turns.
    """
    if not any(row.turns for row in rows.rows):
        raise ValueError(f"{rows.source}: no commentary has turns with times, so nothing can be put into seconds")
    dataset, tag = rows.header.dataset or rows.header.suite or "", rows.header.model or Path(rows.source).stem
    with open_text(Path(path)) as file:
        for index, row in enumerate(rows.rows):
            file.write(json.dumps(record_of(row, index, dataset, tag), ensure_ascii=False) + "\n")
    return len(rows.rows)
