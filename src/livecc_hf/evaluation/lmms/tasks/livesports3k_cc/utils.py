"""Functions of the task livesports3k_cc; lmms-eval loads this file by its path, outside of the package."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from livecc_hf.evaluation.predictions.rows import CommentaryRow
from livecc_hf.evaluation.scorers.text_measures import text_ratios
from livecc_hf.evaluation.tasks.livesports_cc import SportsEvent, query_of, read_event
from livecc_hf.evaluation.tasks.videos import VideoFolder

VIDEOS = "LIVESPORTS3K_VIDEOS"


def doc_to_visual(doc: dict[str, Any]) -> list[str]:
    """Return the path of an event's video."""
    return [str(_path(read_event(doc)))]


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: dict[str, Any] | None = None) -> str:
    """Return the query for a model."""
    return query_of(read_event(doc))


def doc_to_messages(doc: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the chat message: the event's part of the video, and the query."""
    event = read_event(doc)
    video = {
        "type": "video",
        "url": str(_path(event)),
        "start_time": event.row.begin_s,
        "end_time": event.row.end_s,
    }
    return [{"role": "user", "content": [video, {"type": "text", "text": query_of(event)}]}]


def doc_to_target(doc: dict[str, Any]) -> str:
    """Return what people said during the event."""
    return read_event(doc).reference


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, Any]:
    """Return the row that the metrics are computed from, for each metric."""
    event, text = read_event(doc), results[0]
    row = {
        "video_id": event.row.video,
        "event_id": doc["event_id"],
        "begin": event.row.begin_s,
        "end": event.row.end_s,
        "pred": text,
    }
    return {"words_per_second": row, "empty": row, "commentaries": row}


def words_per_second(rows: list[dict[str, Any]]) -> float:
    """Return the number of words divided by the seconds of all clips."""
    return _ratio(rows, "words a second")


def empty(rows: list[dict[str, Any]]) -> float:
    """Return the share of empty commentaries."""
    return _ratio(rows, "empty commentaries")


def write_commentaries(rows: list[dict[str, Any]], args: Any) -> int:
    """Write the commentaries, sorted by video and event, and return their number."""
    folder = Path(getattr(args, "output_path", None) or ".")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "livesports3k_cc.jsonl").open("w", encoding="utf-8") as file:
        for row in sorted(rows, key=lambda row: (row["video_id"], row["event_id"])):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return len(rows)


def _ratio(rows: list[dict[str, Any]], name: str) -> float:
    made = [CommentaryRow("", row["video_id"], row["begin"], row["end"], row["pred"]) for row in rows]
    (ratio,) = (item for item in text_ratios(made) if item.name == name)
    return float(ratio.parts.sum() / ratio.wholes.sum())


def _path(event: SportsEvent) -> Path:
    found = _videos(os.environ.get(VIDEOS)).find([event.media])
    if found is None:
        raise FileNotFoundError(f"{event.media} is not in {os.environ[VIDEOS]}, the folder named by {VIDEOS}")
    return found


@lru_cache(maxsize=1)
def _videos(folder: str | None) -> VideoFolder:
    if not folder:
        raise ValueError(f"{VIDEOS} is not set: set it to the folder with LiveSports-3K's videos")
    return VideoFolder(folder)
