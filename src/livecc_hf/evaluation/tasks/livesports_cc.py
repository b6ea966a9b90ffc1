"""LiveSports-3K CC: events to comment on, and what people said."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..predictions.published_commentary import event_key
from ..predictions.rows import CommentaryRow, SpokenSpan
from ..prompt_files import Prompts, load_prompts
from .annotations import Annotations, column

INSTRUCT, BASE = "instruct", "base"


@dataclass(frozen=True)
class SportsEvent:
    """One event of a video.

    Attributes:
        row: what is known before the model speaks; its `pred` is `None`.
        media: the video's file name.
        title: what the event is called.
        previous: what was said before it.
        reference: what a person said in it, as one text.
    """

    row: CommentaryRow
    media: str
    title: str
    previous: str
    reference: str


def read_events(annotations: Annotations) -> list[SportsEvent]:
    """Return the events of LiveSports-3K CC.

    Raises:
        ValueError: if a column is missing or of another form.
    """
    return [read_event(row, number) for number, row in enumerate(annotations.rows)]


def read_event(row: dict[str, Any], number: int = 0) -> SportsEvent:
    """Return the event that a row holds.

    Args:
        row: as published.
        number: of the row, for errors.

    Raises:
        ValueError: if a column is missing or of another form.
    """
    video_id = str(column(row, number, "video_id"))
    key = event_key(video_id, column(row, number, "event_id"))
    spans = _spans(row.get("event_asr"), key)
    try:
        commentary = CommentaryRow(
            key=key,
            video=video_id,
            begin_s=float(column(row, number, "begin")),
            end_s=float(column(row, number, "end")),
            pred=None,
            reference=spans,
            groups={"class": str(row["class"])} if row.get("class") else {},
        )
    except TypeError as error:
        raise ValueError(f"row {number} of the annotations ({key}) cannot be used: {error}") from error
    text = row.get("event_asr_text") or " ".join(span.text for span in spans)
    media = str(row.get("video") or f"{video_id}.mp4")
    return SportsEvent(commentary, media, str(row.get("event_title") or ""), str(row.get("preasr_text") or ""), text)


def _spans(value: Any, key: str) -> list[SpokenSpan]:
    """Return sentences with times: a list, or JSON in a text."""
    try:
        items = json.loads(value) if isinstance(value, str) and value.strip() else value or []
        return [SpokenSpan(float(start), float(end), str(text)) for start, end, text in items]
    except (ValueError, TypeError) as error:
        raise ValueError(f"event_asr of {key} is {str(value)[:80]!r}: expected [[start, end, text], ...]") from error


def query_of(event: SportsEvent, form: str = INSTRUCT, prompts: Prompts | None = None) -> str:
    """Return what the reference asks for an event.

    Args:
        event: with its title and what was said before it.
        form: "instruct", or "base" for a model that was not trained on instructions.
        prompts: default: the published ones.

    Raises:
        ValueError: if there is no such form.
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
