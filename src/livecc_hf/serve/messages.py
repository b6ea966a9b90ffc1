"""What goes over the wire: JSON from and to the client, and frames as a time followed by an image file.

A frame is one binary message: 8 bytes, the time in seconds as a big-endian float64 (what `DataView.setFloat64` of a
browser writes), then a JPEG, PNG or WebP file.
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
MAX_TIME_S = 1e11  # beyond any clock in seconds; milliseconds since 1970 lie above

# RFC 6455 and the IANA registry.
CLOSE_DONE = 1000
CLOSE_AWAY = 1001  # a browser whose page is left
CLOSE_POLICY = 1008
CLOSE_TOO_LARGE = 1009
CLOSE_FAILED = 1011
CLOSE_RESTART = 1012
CLOSE_TRY_LATER = 1013
_MAX_REASON_BYTES = 123

_TIME = struct.Struct(">d")


class ClientError(Exception):
    """Something a client did wrong, or cannot have.

    Args:
        code: what programs read.
        message: what people read.
        close_code: the close code if the session ends with it; `None` if it continues.
        id: of the question that it answers.
    """

    def __init__(self, code: str, message: str, close_code: int | None = None, id: str | int | None = None):
        super().__init__(message)
        self.code, self.message, self.close_code, self.id = code, message, close_code, id


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


_Text = Annotated[str, Field(max_length=MAX_QUERY_CHARACTERS)]


def _client_field(option: dataclasses.Field) -> tuple[Any, None]:
    """Return type and default of what a client may choose of an option of `StreamOptions`."""
    kind, said = option_type(option), option.metadata
    bounds: dict[str, Any] = {"gt": said.get("above"), "ge": said.get("from_"), "le": said.get("up_to")}
    if said["by_client"] is not True:
        bounds = dict(zip(("ge", "le"), said["by_client"], strict=True))
    return Annotated[kind, Field(description=said["help"], **bounds)] | None, None


def make_client_options(options: type[DataclassInstance]) -> type[_Message]:
    """Return the model of what a client may choose of `StreamOptions`; what it leaves out is the server's."""
    chosen: dict[str, Any] = {
        option.name: _client_field(option) for option in fields(options) if option.metadata["by_client"]
    }
    return create_model("ClientOptions", __base__=_Message, **chosen)


if TYPE_CHECKING:

    class ClientOptions(_Message):
        """What a client may choose; its fields follow from `StreamOptions`."""

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
    """Another query, from the next turn on."""

    type: Literal["ask"]
    query: _Text


class QuestionMessage(_Message):
    """A question beside the commentary, which continues as if nothing had been asked."""

    type: Literal["question"]
    question: _Text
    id: Annotated[str, Field(max_length=MAX_ID_CHARACTERS)] | int | None = None
    max_new_tokens: Annotated[int, Field(ge=1)] | None = None


class Pause(_Message):
    """The video stands still for now."""

    type: Literal["pause"]


class Finish(_Message):
    """No more frames come; those that wait get their words before the end."""

    type: Literal["finish"]


ClientMessage = Start | Ask | QuestionMessage | Pause | Finish
_CLIENT_MESSAGE = TypeAdapter(Annotated[ClientMessage, Field(discriminator="type")])


def read_message(text: str) -> ClientMessage:
    """Read a client's JSON.

    Raises:
        ClientError: if it is not one of the messages.
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
        what = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in what)  # it may be the client's
        raise ClientError(
            "bad_message", f'{what} (messages are JSON objects such as {{"type": "ask", "query": "..."}})'
        ) from None


def pack_frame(timestamp_s: float, image: bytes) -> bytes:
    """Return the message of a frame.

    Args:
        timestamp_s: when it was taken, in seconds on any clock.
        image: a JPEG, PNG or WebP file.
    """
    return _TIME.pack(timestamp_s) + image


def unpack_frame(message: bytes, max_bytes: int) -> tuple[float, bytes]:
    """Return a frame's time in seconds and its image file.

    Raises:
        ClientError: if the message is too short or too long, or the time is none.
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
    """Return what tells a client of an error."""
    named = {} if error.id is None else {"id": error.id}
    return {
        "type": "error",
        "code": error.code,
        "message": error.message,
        "is_final": error.close_code is not None,
        **named,
    }


def close_reason(error: ClientError) -> str:
    """Return a close frame's reason, cut to what one holds."""
    return f"{error.code}: {error.message}".encode()[:_MAX_REASON_BYTES].decode(errors="ignore")


def started_message(session: int, settings: ServeSettings, model: str, max_pixels: int) -> dict:
    """Return the answer to a start.

    Args:
        session: its number.
        settings: the limits in force.
        model: the model's name.
        max_pixels: how many pixels of a frame the model sees at most; larger frames are resized.
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
    """Return the words of a turn.

    Args:
        segment: the words.
        latency_s: from the arrival of its last frame, in seconds.
        turn_s: the part of it in which the model had that frame: until the round before had ended, and its own turn.
        n_dropped_frames: how many frames of the client were dropped so far.
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
    """Return the answer to a question."""
    named = {} if item.id is None else {"id": item.id}
    return {"type": "answer", **named, "question": item.question, "text": text}
