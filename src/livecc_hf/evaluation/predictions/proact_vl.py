"""Writes commentaries in Proact-VL's format of predictions: the text of each second.

The format is that of microsoft/AnthropomorphicIntelligence, Proact-VL/evaluation/gaming: seconds of the video, and
begin and end of a clip, are whole numbers.
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
    """Return what is said in each second of the video.

    The words of a turn belong to the second in which the turn starts. Seconds without words are left out.

    Returns:
        The text of each second, by the second as a string: "12" is [12, 13).
    """
    found: dict[str, str] = {}
    for turn in row.turns:
        if turn.text.strip():
            second = str(math.floor(round(turn.start_s, 6)))
            found[second] = f"{found[second]} {turn.text.strip()}" if second in found else turn.text.strip()
    return found


def record_of(row: CommentaryRow, index: int, dataset: str, tag: str) -> dict[str, Any]:
    """Return a commentary as a JSON object of the format.

    Args:
        row: the commentary.
        index: its number in the file.
        dataset: name of the data set.
        tag: name of the model.
    """
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
    """Write commentaries as JSON Lines with the text of each second, and return their number.

    Raises:
        OSError: if the file cannot be written.
        ValueError: if no commentary has turns.
    """
    if not any(row.turns for row in rows.rows):
        raise ValueError(f"{rows.source}: no commentary has turns with times, which this format needs")
    dataset, tag = rows.header.dataset or rows.header.suite or "", rows.header.model or Path(rows.source).stem
    with open_text(Path(path)) as file:
        for index, row in enumerate(rows.rows):
            file.write(json.dumps(record_of(row, index, dataset, tag), ensure_ascii=False) + "\n")
    return len(rows.rows)
