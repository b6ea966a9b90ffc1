"""Parses LiveCC's published datasets: conversations that end with a stream of timed words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from livecc_hf.modeling.grammar import SYSTEM_PROMPT

from ...captions.words import Word, checked_words
from .missing import is_missing


@dataclass(frozen=True)
class NarratedVideo:
    """A clip of a video that is not decoded yet, and the words spoken in it.

    Times are in seconds from what a player shows as 0:00.

    Attributes:
        video: path or URL of the video, as in the dataset.
        words: the words, ordered by their ends.
        start_s: start of the clip; `None` for the video's first frame, which need not be at 0.
        end_s: end of the clip; `None` for the end of the video.
        query: the user's request; `None` for the processor's default.
        title: the video's title.
        previous: the words spoken before the clip.
        category: the video's category.
    """

    video: str
    words: Sequence[Word]
    start_s: float | None = None
    end_s: float | None = None
    query: str | None = None
    title: str | None = None
    previous: str | None = None
    category: str | None = None


def is_narration(conversation: Any) -> bool:
    """Return whether a conversation is a commentary, that is, has a `text_stream`."""
    return any(
        isinstance(part, Mapping) and "text_stream" in part
        for message in (conversation if isinstance(conversation, list) else ())
        if isinstance(message, Mapping) and isinstance(message.get("content"), Sequence)
        for part in message["content"]
    )


def parse_narration(conversation: Any, source: str) -> NarratedVideo:
    """Parse a conversation of Live-CC-5M or Live-WhisperX-526K.

    Args:
        conversation: a user message with a part for the `video` (optionally with `video_start` and `video_end`) and one
            for the `text` (optionally with `title`, `previous` and `category`), then an assistant message with a
            `text_stream` of `[start, end, word]` items.
        source: where it was read, for error messages.

    Raises:
        ValueError: if the conversation has another form, further clips or messages, or an invalid value.
    """
    parts = _parts_of(conversation, source)
    texts = {key: _text(_only(key, parts, source), key, source) for key in ("text", "title", "previous", "category")}
    video, words = _part_with("video", parts, source), _part_with("text_stream", parts, source)["text_stream"]
    if not isinstance(words, list):
        raise ValueError(f"{source}: text_stream is a {type(words).__name__}: expected a list of words")
    return NarratedVideo(
        _path(video["video"], source),
        checked_words(words, source),
        _seconds(video.get("video_start"), "video_start", source),
        _seconds(video.get("video_end"), "video_end", source),
        texts["text"],
        texts["title"],
        texts["previous"],
        texts["category"],
    )


def _parts_of(conversation: Any, source: str) -> list[Mapping]:
    """Return the parts of all messages; raise a `ValueError` for a system message other than every prompt's."""
    parts: list[Mapping] = []
    for message in conversation if isinstance(conversation, list) else ():
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, list) else [content]:
            found = {"text": part} if isinstance(part, str) else part
            if not isinstance(found, Mapping):
                continue
            if message.get("role") != "system":
                parts.append(found)
            elif found.get("text") != SYSTEM_PROMPT:
                raise ValueError(
                    f"{source}: the narrated clip has a system message, {found.get('text')!r:.80}: expected none, "
                    "since a commentary has the model's own"
                )
    return parts


def _part_with(key: str, parts: Sequence[Mapping], source: str) -> Mapping:
    """Return the part that has this key; raise a `ValueError` if none has it, or several."""
    _only(key, parts, source)
    for part in parts:
        if key in part:
            return part
    raise ValueError(f"{source}: the conversation has no part with a {key!r}: expected the format of Live-CC-5M")


def _only(key: str, parts: Sequence[Mapping], source: str) -> Any:
    """Return the value of a key that at most one part has, `None` if it is empty or missing everywhere."""
    values = [part[key] for part in parts if not is_missing(part.get(key)) and part[key] != ""]
    if len(values) > 1:
        raise ValueError(f"{source}: the narrated clip has {len(values)} parts with a {key!r}: expected one")
    return values[0] if values else None


def _text(value: Any, name: str, source: str) -> str | None:
    """Return a text, or `None` if it is empty or missing."""
    if is_missing(value):
        return None
    if not isinstance(value, str):
        raise ValueError(f"{source}: {name} is {value!r:.80}: expected a text")
    return value or None


def _path(value: Any, source: str) -> str:
    if isinstance(value, Mapping):  # an undecoded Video column of `datasets`
        value = value.get("path")
    if not isinstance(value, str) or not value:
        raise ValueError(f"{source}: video is {value!r:.80}: expected the path of a video file")
    return value


def _seconds(value: Any, name: str, source: str) -> float | None:
    if is_missing(value):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{source}: {name} is {value!r:.80}: expected a number of seconds")
    return float(value)
