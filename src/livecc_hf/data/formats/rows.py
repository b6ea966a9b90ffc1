"""Parses a dataset's row, in any supported layout, into a narrated video or a conversation."""

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
    """Parse a row.

    Args:
        row: a conversation as in a line of Live-CC-5M; a mapping with such a conversation (or its JSON) under
            `conversation` or `messages`; a flat mapping with `video` and `words`; or LLaVA's layout with
            `conversations`.
        source: where it was read, for error messages.

    Raises:
        UnusableSample: "malformed", if the row has another layout, or an invalid value.
    """
    try:
        row = without_missing(row)
        if isinstance(row, Mapping):
            nested = next((row[key] for key in _NESTED if key in row), None)
            if isinstance(nested, str):
                nested = without_missing(_parse_json(nested, source))
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
    except (OverflowError, RecursionError) as error:  # an integer too large for a float, a structure too deep
        raise UnusableSample("malformed", f"{source}: {error}") from error


def _parse_json(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source}: the conversation is a text that is not JSON: {error}") from error


def _flat_narration(row: Mapping[str, Any], source: str) -> NarratedVideo:
    """Parse a row with columns such as `video`, `words`, `video_start`, `query` and `title`."""
    words = next(row[key] for key in _WORDS if key in row)
    part = {"text": row.get("query", "")}
    if part["text"] == "":
        part["text"] = row.get("text", "")
    part |= {key: row[key] for key in ("title", "previous", "category") if key in row}
    span = {"video": row.get("video")} | {key: row[key] for key in ("video_start", "video_end") if key in row}
    if not isinstance(words, list):
        raise ValueError(f"{source}: words are {words!r:.80}: expected a list of [start, end, word]")
    return parse_narration(
        [
            {"role": "user", "content": [span, part]},
            {"role": "assistant", "content": [{"text_stream": words}]},
        ],
        source,
    )
