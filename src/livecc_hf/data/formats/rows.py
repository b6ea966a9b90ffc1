"""Reads a row of a dataset, in any of the known layouts, as a narrated video or a conversation."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..unusable import UnusableSample
from .chat import Conversation, parse_chat
from .conversations import NarratedVideo, is_narration, parse_narration
from .missing import without_missing

_NESTED = ("conversation", "messages")
_WORDS = ("words", "text_stream")


def parse_row(row: Any, source: str) -> NarratedVideo | Conversation:
    """Read a row.

    Args:
        row: a conversation as in a line of Live-CC-5M; a mapping with such a conversation (or its JSON) under
            `conversation` or `messages`; a flat mapping with `video` and `words`; or LLaVA's layout with
            `conversations`.
        source: where it was read, for errors.

    Raises:
        UnusableSample: if it is none of these.
    """
    row = without_missing(row)
    try:
        if isinstance(row, Mapping):
            nested = next((row[key] for key in _NESTED if key in row), None)
            if isinstance(nested, str):
                nested = without_missing(json.loads(nested))
            if nested is not None and is_narration(nested):
                return parse_narration(nested, source)
            if any(key in row for key in _WORDS):
                return _flat_narration(row, source)
            return parse_chat(row if nested is None else nested, source)
        return parse_narration(row, source) if is_narration(row) else parse_chat(row, source)
    except UnusableSample:
        raise
    except ValueError as error:
        raise UnusableSample("malformed", str(error)) from error


def _flat_narration(row: Mapping[str, Any], source: str) -> NarratedVideo:
    """Read columns `video`, `words` and, where given, `video_start`, `video_end`, `query`, `title` and so on."""
    words = next(row[key] for key in _WORDS if key in row)
    part = {"text": row.get("query", "")}
    if part["text"] == "":
        part["text"] = row.get("text", "")
    part |= {key: row[key] for key in ("title", "previous", "category") if key in row}
    place = {"video": row.get("video")} | {key: row[key] for key in ("video_start", "video_end") if key in row}
    if not isinstance(words, list):
        raise ValueError(f"{source}: words are {words!r:.80}: expected a list of [start, end, word]")
    triples = [_triple(word) for word in words]
    return parse_narration(
        [
            {"role": "user", "content": [place, part]},
            {"role": "assistant", "content": [{"text_stream": triples}]},
        ],
        source,
    )


def _triple(word: Any) -> Any:
    """Return a word as `[start, end, word]`, from a mapping or a list."""
    if isinstance(word, Mapping):
        return [word.get("start"), word.get("end"), word.get("word", word.get("text"))]
    return word
