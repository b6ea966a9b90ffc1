"""Parses conversations about images or videos, or of text only, in the layouts of published datasets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from ..unusable import UnusableSample
from .missing import is_missing

ROLES = {"system": "system", "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant"}
_KINDS = ("image", "video", "text")
_PLACEHOLDER = re.compile(r"\n*<(image|video)>\n*")
_LEADING_NEWLINES = re.compile(r"\A\s*[\r\n]+")


@dataclass(frozen=True)
class Conversation:
    """A conversation in the message format of qwen-vl-utils.

    Attributes:
        messages: each with a `role` (`system` only in the first message, `user` or `assistant`) and a `content`, a list
            of `{"type": "text", "text": ...}`, `{"type": "image", "image": ...}` and `{"type": "video", "video": ...}`.
            An image is a path, a URL, a PIL image, bytes, or `{"bytes": ..., "path": ...}`; a video is a path, a
            folder of frames, or a list of images. Media parts keep their other keys, such as `video_start` or `fps`.
    """

    messages: list[dict[str, Any]]


def parse_chat(row: Any, source: str) -> Conversation:
    """Parse one conversation.

    Args:
        row: a list of messages, each with `role` and `content` (a text or a list of parts), as in LiveCC's published
            files; a mapping with such a list under `messages`; or LLaVA's layout, a mapping with `conversations`, each
            with `from` and `value`, and `image`, `images`, `video` or `videos`. In LLaVA's layout, `<image>` and
            `<video>` in a user's text are replaced by the media in order (LLaVA-Video writes `<image>` for a video);
            media without a placeholder go before the first user text.
        source: where it was read, for error messages.

    Raises:
        UnusableSample: "malformed", if the row has another layout, an unknown role, an empty message, no answer, or
            more placeholders than media.
    """
    if isinstance(row, Mapping) and row.get("conversations"):
        messages = _llava_messages(row, source)
    else:
        listed = row.get("messages") if isinstance(row, Mapping) else row
        if not _is_list(listed) or not listed:
            keys = f"a mapping with {sorted(map(str, row))}" if isinstance(row, Mapping) else f"{row!r:.80}"
            raise _malformed(source, f"the row is {keys}: expected a list of messages, 'messages' or 'conversations'")
        messages = [_message(message, f"{source}: message {i}") for i, message in enumerate(listed)]
    _check(messages, source)
    return Conversation(messages)


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise _malformed(where, f"it is {message!r:.80}: expected a mapping with 'role' and 'content'")
    role, content = _role(message.get("role"), where), message.get("content")
    if not _is_list(content):
        content = [content]
    return {"role": role, "content": [_part(part, where) for part in content]}


def _part(part: Any, where: str) -> dict[str, Any]:
    """Return a part with its type, without missing values: tables give every row all keys."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    if not isinstance(part, Mapping):
        raise _malformed(where, f"its content has {part!r:.80}: expected text or mappings with text, image or video")
    part = {key: value for key, value in part.items() if not is_missing(value)}
    if "text_stream" in part:
        raise _malformed(where, "it has a text_stream, so it is a narrated clip and not a conversation")
    if "image_url" in part:
        url = part.pop("image_url")
        part |= {"type": "image", "image": url.get("url") if isinstance(url, Mapping) else url}
    kinds = [kind for kind in _KINDS if kind in part]
    kind = part.get("type", kinds[0] if len(kinds) == 1 else None)
    if kind not in kinds:
        raise _malformed(where, f"a part of type {kind!r} has the keys {sorted(part)}: expected text, image or video")
    if kind == "text":
        if not isinstance(part["text"], str):
            raise _malformed(where, f"its text is {part['text']!r:.80}: expected a string")
        return {"type": "text", "text": part["text"]}
    return {key: value for key, value in part.items() if key == kind or key not in _KINDS} | {"type": kind}


def _llava_messages(row: Mapping, source: str) -> list[dict[str, Any]]:
    images = [*_as_list(row.get("image")), *_as_list(row.get("images"))]
    videos = [*_as_list(row.get("video")), *_as_list(row.get("videos"))]
    media = {
        "image": [{"type": "image", "image": image} for image in images],
        "video": [{"type": "video", "video": video} for video in videos],
    }
    if not images or not videos:
        media["image"] = media["video"] = media["image"] or media["video"]  # one queue for both placeholders
    turns = row["conversations"]
    if not _is_list(turns):
        raise _malformed(source, f"conversations is a {type(turns).__name__}: expected a list of 'from' and 'value'")
    messages: list[dict[str, Any]] = []
    n_placeholders = 0
    for i, turn in enumerate(turns):
        where = f"{source}: turn {i}"
        text = turn.get("value") if isinstance(turn, Mapping) else None
        if not isinstance(text, str):
            raise _malformed(where, f"it is {turn!r:.80}: expected a mapping with 'from' and a text as 'value'")
        role = _role(turn.get("from"), where)
        content: list[dict[str, Any]] = [{"type": "text", "text": text}]
        if role == "user":
            n_placeholders += len(_PLACEHOLDER.findall(text))
            filled = _fill_placeholders(text, media)
            if filled is None:
                n_media = len(images) + len(videos)
                raise _malformed(
                    where, f"{n_placeholders} placeholders <image> or <video> so far, but the row has {n_media} media"
                )
            content = filled
        messages.append({"role": role, "content": content})
    rest = media["image"] + (media["video"] if media["video"] is not media["image"] else [])
    first = next((message for message in messages if message["role"] == "user"), None)
    if first is not None:
        first["content"][:0] = rest
    return messages


def _fill_placeholders(text: str, media: dict[str, list]) -> list[dict[str, Any]] | None:
    """Replace a text's placeholders by media from the queues; return `None` if too few are left."""
    # re.split keeps the pattern's group: text, placeholder, text, placeholder, ..., text.
    pieces = _PLACEHOLDER.split(text.strip())
    parts: list[dict[str, Any]] = []
    for i, piece in enumerate(pieces):
        if i % 2 == 0:
            parts += [{"type": "text", "text": piece}] if piece else []
        elif not media[piece]:
            return None
        else:
            parts.append(media[piece].pop(0))
    return parts


def _check(messages: list[dict[str, Any]], source: str) -> None:
    """Check that a conversation can be trained on, and strip line breaks from the start of answers.

    The prompt for an answer ends with a line break. Further line breaks would merge with it into one token, which
    differs from the last token of a prompt at inference.
    """
    for i, message in enumerate(messages):
        role, content = message["role"], message["content"]
        if role != "user" and any(part["type"] != "text" for part in content):
            raise _malformed(f"{source}: message {i}", f"the {role} message has media: only user messages may")
        if role == "system" and i:
            raise _malformed(f"{source}: message {i}", "it is a system message: expected one only as the first message")
        if role == "assistant" and content:
            text = "".join(part["text"] for part in content)
            message["content"] = content = [{"type": "text", "text": _LEADING_NEWLINES.sub("", text, count=1)}]
        if all(part["type"] == "text" and not part["text"].strip() for part in content):
            raise _malformed(f"{source}: message {i}", f"the {role} message is empty: expected text or media")
    if not any(message["role"] == "assistant" for message in messages):
        raise _malformed(source, "the conversation has no answer: expected a message with role assistant (gpt)")


def _role(name: Any, where: str) -> str:
    if not isinstance(name, str) or name not in ROLES:
        raise _malformed(where, f"its role is {name!r}: expected one of {', '.join(ROLES)}")
    return ROLES[name]


def _as_list(value: Any) -> list[Any]:
    if is_missing(value) or (isinstance(value, str) and not value):
        return []
    return list(value) if _is_list(value) else [value]


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _malformed(where: str, what: str) -> UnusableSample:
    return UnusableSample("malformed", f"{where}: {what}")
