"""The wire format: JSON messages in both directions, and frames as binary messages from the client.

A frame's message is its time in seconds as a big-endian float64 (8 bytes, the default of `DataView.setFloat64` in
browsers), followed by a JPEG, PNG or WebP file.
"""

from __future__ import annotations

import dataclasses
import struct
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from livecc_hf.modeling.grammar import FRAME_STEP_S
from livecc_hf.modeling.stream_options import StreamOptions, option_type

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from livecc_hf.modeling import CommentarySegment
    from livecc_hf.serve.settings import ServeSettings

PATH = "/v1/commentary"
SUBPROTOCOL = "livecc.v1"
TOKEN_SUBPROTOCOL_PREFIX = "livecc.bearer."
MAX_TEXT_CHARACTERS = 64 * 1024
MAX_QUERY_CHARACTERS = 4000
MAX_ID_CHARACTERS = 100
MAX_TIME_S = 1e11  # above any clock in seconds and below milliseconds since 1970

# RFC 6455 and the IANA registry.
CLOSE_DONE = 1000
CLOSE_AWAY = 1001  # a browser whose user has left the page
CLOSE_POLICY = 1008
CLOSE_TOO_LARGE = 1009
CLOSE_FAILED = 1011
CLOSE_RESTART = 1012
CLOSE_TRY_LATER = 1013
_MAX_REASON_BYTES = 123

_TIME = struct.Struct(">d")


class ClientError(Exception):
    """An invalid message of a client, or a request that the server refuses.

    Args:
        code: identifier for programs.
        message: description for people.
        close_code: the WebSocket close code if the error ends the session; `None` if the session continues.
        id: the id of the question that failed, if any.
    """

    def __init__(self, code: str, message: str, close_code: int | None = None, id: str | int | None = None):
        super().__init__(message)
        self.code, self.message, self.close_code, self.id = code, message, close_code, id


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


_Text = Annotated[str, Field(max_length=MAX_QUERY_CHARACTERS)]


def _client_field(option: dataclasses.Field) -> tuple[Any, None]:
    """Return the type, with the bounds for clients, and the default of an option of `StreamOptions`."""
    kind, said = option_type(option), option.metadata
    bounds: dict[str, Any] = {"gt": said.get("above"), "ge": said.get("from_"), "le": said.get("up_to")}
    if said["by_client"] is not True:
        bounds = dict(zip(("ge", "le"), said["by_client"], strict=True))
    return Annotated[kind, Field(description=said["help"], **bounds)] | None, None


def make_client_options(options: type[DataclassInstance]) -> type[_Message]:
    """Return the pydantic model of the options that clients may choose; `None` stands for the server's value."""
    chosen: dict[str, Any] = {
        option.name: _client_field(option) for option in fields(options) if option.metadata["by_client"]
    }
    return create_model("ClientOptions", __base__=_Message, **chosen)


if TYPE_CHECKING:

    class ClientOptions(_Message):
        """The options that a client may choose; its fields are made from `StreamOptions`."""

else:
    ClientOptions = make_client_options(StreamOptions)


class Start(_Message):
    """The first message of a client."""

    type: Literal["start"]
    query: _Text | None = None
    title: _Text | None = None
    previous: _Text | None = None
    options: ClientOptions = ClientOptions()


class Ask(_Message):
    """A new query, from the next turn on."""

    type: Literal["ask"]
    query: _Text


class QuestionMessage(_Message):
    """A question next to the commentary, which continues as if nothing had been asked."""

    type: Literal["question"]
    question: _Text
    id: Annotated[str, Field(max_length=MAX_ID_CHARACTERS)] | int | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None


class Pause(_Message):
    """The video is paused; the session stays open."""

    type: Literal["pause"]


class Finish(_Message):
    """No more frames come; waiting frames are commented on before the session ends."""

    type: Literal["finish"]


ClientMessage = Start | Ask | QuestionMessage | Pause | Finish
_CLIENT_MESSAGE = TypeAdapter(Annotated[ClientMessage, Field(discriminator="type")])


def read_message(text: str) -> ClientMessage:
    """Parse a client's JSON message.

    Raises:
        ClientError: if it is not a valid message.
    """
    if len(text) > MAX_TEXT_CHARACTERS:
        raise ClientError(
            "bad_message", f"the message has {len(text)} characters: expected at most {MAX_TEXT_CHARACTERS}"
        )
    try:
        return _CLIENT_MESSAGE.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        what = " ".join(f"{place}: {first['msg']}".removeprefix(": ").split())[:300]
        what = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in what)  # it may quote the client
        raise ClientError(
            "bad_message", f'{what} (messages are JSON objects such as {{"type": "ask", "query": "..."}})'
        ) from None


def pack_frame(timestamp_s: float, image: bytes) -> bytes:
    """Return the binary message of a frame.

    Args:
        timestamp_s: time of the frame in seconds, on any clock.
        image: a JPEG, PNG or WebP file.
    """
    return _TIME.pack(timestamp_s) + image


def unpack_frame(message: bytes, max_bytes: int) -> tuple[float, bytes]:
    """Return the time in seconds and the image file of a frame's message.

    Args:
        message: as made by `pack_frame`.
        max_bytes: maximum size of the image file.

    Raises:
        ClientError: if the message is too short or too long, or its time is not a valid number of seconds.
    """
    if len(message) <= _TIME.size:
        raise ClientError(
            "bad_frame",
            f"the binary message has {len(message)} bytes: expected the time as a big-endian float64, then an image",
        )
    n_bytes = len(message) - _TIME.size
    if n_bytes > max_bytes:
        raise ClientError(
            "frame_too_large", f"the frame has {n_bytes} bytes, with {max_bytes} allowed: send it smaller"
        )
    (timestamp_s,) = _TIME.unpack_from(message)
    if not abs(timestamp_s) <= MAX_TIME_S:
        raise ClientError(
            "bad_frame", f"the frame's time is {timestamp_s:g}: expected seconds, as a big-endian float64 in 8 bytes"
        )
    return timestamp_s, message[_TIME.size :]


def error_message(error: ClientError) -> dict:
    """Return the message for an error."""
    named = {} if error.id is None else {"id": error.id}
    return {
        "type": "error",
        "code": error.code,
        "message": error.message,
        "is_final": error.close_code is not None,
        **named,
    }


def close_reason(error: ClientError) -> str:
    """Return the reason of a close frame, cut to its maximum of 123 bytes."""
    return f"{error.code}: {error.message}".encode()[:_MAX_REASON_BYTES].decode(errors="ignore")


def started_message(session: int, settings: ServeSettings, model: str, max_pixels: int) -> dict:
    """Return the message that answers a `Start`.

    Args:
        session: number of the session.
        settings: the limits in force.
        model: the model's name.
        max_pixels: maximum pixels of a frame that the model sees; larger frames are resized.
    """
    limits = (
        *("max_frame_bytes", "max_frame_px", "max_messages_per_s", "max_bytes_per_s", "max_session_s"),
        *("max_lag_s", "max_answer_tokens", "max_text_tokens", "idle_timeout_s", "max_pause_s"),
    )
    return {
        "type": "started",
        "session": session,
        "model": model,
        "frames_per_s": 1 / FRAME_STEP_S,
        "max_pixels": max_pixels,
        **{name: getattr(settings, name) for name in limits},
    }


def segment_message(segment: CommentarySegment, latency_s: float, turn_s: float, n_dropped_frames: int) -> dict:
    """Return the message for a turn's segment.

    Args:
        segment: the segment.
        latency_s: seconds from the arrival of its last frame to its words.
        turn_s: the part of `latency_s` after that frame was pushed to the model: the rest of the round before, and the
            turn's own round.
        n_dropped_frames: number of the client's frames dropped so far.
    """
    return {
        "type": "segment",
        "start_s": segment.start_s,
        "end_s": segment.end_s,
        "text": segment.text,
        "was_cut": segment.was_cut,
        "latency_s": round(latency_s, 4),
        "turn_s": round(turn_s, 4),
        "n_dropped_frames": n_dropped_frames,
    }


def answer_message(item: QuestionMessage, text: str) -> dict:
    """Return the message for the answer to a question."""
    named = {} if item.id is None else {"id": item.id}
    return {"type": "answer", **named, "question": item.question, "text": text}
