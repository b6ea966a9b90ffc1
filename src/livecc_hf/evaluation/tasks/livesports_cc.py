"""LiveSports-3K CC: events to comment on, with what people said about them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..predictions.published_commentary import event_key
from ..predictions.rows import CommentaryRow, SpokenSpan
from ..prompt_files import Prompts, load_prompts
from .annotations import Annotations, column, parse_rows, seconds

INSTRUCT, BASE = "instruct", "base"


@dataclass(frozen=True)
class SportsEvent:
    """An event in a video.

    Attributes:
        row: the row to comment on; its `pred` is `None`.
        media: file name of the video.
        title: title of the event.
        previous: what people said before the event.
        reference: what people said during the event, as one text.
    """

    row: CommentaryRow
    media: str
    title: str
    previous: str
    reference: str


def read_events(annotations: Annotations) -> list[SportsEvent]:
    """Return the events of LiveSports-3K CC.

    Raises:
        ValueError: if a column is missing or has another format.
    """
    return parse_rows(annotations, read_event)


def read_event(row: dict[str, Any], number: int = 0) -> SportsEvent:
    """Return the event of a row.

    Args:
        row: the row as published.
        number: the row's number, for error messages.

    Raises:
        ValueError: if a column is missing or has another format.
    """
    video_id = str(column(row, number, "video_id"))
    key = event_key(video_id, column(row, number, "event_id"))
    spans = _spans(row.get("event_asr"), key)
    commentary = CommentaryRow(
        key=key,
        video=video_id,
        begin_s=seconds(row, number, "begin"),
        end_s=seconds(row, number, "end"),
        pred=None,
        reference=spans,
        groups={"class": str(row["class"])} if row.get("class") else {},
    )
    text = row.get("event_asr_text") or " ".join(span.text for span in spans)
    media = str(row.get("video") or f"{video_id}.mp4")
    return SportsEvent(commentary, media, str(row.get("event_title") or ""), str(row.get("preasr_text") or ""), text)


def _spans(value: Any, key: str) -> list[SpokenSpan]:
    """Return the sentences with times, which may be stored as a list or as a JSON string."""
    try:
        items = json.loads(value) if isinstance(value, str) and value.strip() else value or []
        return [SpokenSpan(float(start), float(end), str(text)) for start, end, text in items]
    except (ValueError, TypeError) as error:
        raise ValueError(f"event_asr of {key} is {str(value)[:80]!r}: expected [[start, end, text], ...]") from error


def query_of(event: SportsEvent, form: str = INSTRUCT, prompts: Prompts | None = None) -> str:
    """Return the reference's query for an event.

    Args:
        event: the event, with its title and what was said before.
        form: "instruct", or "base" for a model that was not trained on instructions.
        prompts: the prompt templates; default: the published ones.

    Raises:
        ValueError: if the form is unknown.
    """
    prompts = prompts or cc_prompts()
    if form == BASE:
        title = "" if event.previous else event.title
        return prompts.fill("base", title=title, previous=event.previous).strip()
    if form != INSTRUCT:
        raise ValueError(f"query form {form!r} is unknown: expected {INSTRUCT} or {BASE}")
    query = prompts["opening"]
    query += prompts.fill("title", title=event.title) if event.title else ""
    return query + (prompts.fill("previous", previous=event.previous) if event.previous else "")


def cc_prompts() -> Prompts:
    """Return the published prompts."""
    return load_prompts("tasks", "livesports3k_cc")
