"""Settings of a server: limits for its clients, allowed origins and the token."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass, field
from typing import Any

from livecc_hf.pool.overload import OverloadPolicy
from livecc_hf.serve.addresses import ANY, parse_origin

TOKEN_VARIABLE = "LIVECC_SERVE_TOKEN"  # environment variable with the token, if no file or setting gives one


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class ServeSettings:
    """Limits for the clients of a server, and who may use it.

    Raises:
        ValueError: if a value is out of range.
    """

    max_sessions: int = _setting(8, "concurrent clients; more are refused")
    max_sessions_per_address: int | None = _setting(
        None, "concurrent clients from one address; behind a proxy see docs/serving.md; default: no extra limit"
    )
    max_other_connections: int = _setting(
        256, "connections in addition to max_sessions: health checks, clients without frames or being refused"
    )
    max_connections_per_address: int = _setting(
        64, "connections from one address; all connections of a proxy have one address, so raise it there"
    )
    overload: str = _setting(
        "drop", "for frames that come faster than the model speaks: drop the oldest waiting ones, or refuse new ones"
    )
    max_lag_s: float = _setting(4.0, "seconds of video that may wait in addition to the next turn")
    max_frame_bytes: int = _setting(4 * 2**20, "largest frame, in bytes of its file")
    max_frame_px: int = _setting(3840 * 2160, "largest frame, in pixels")
    max_messages_per_s: float = _setting(60.0, "messages a second from one client, frames included")
    max_bytes_per_s: float = _setting(20e6, "bytes a second from one client, frames and text (UTF-8) together")
    max_session_s: float = _setting(4 * 3600.0, "longest session, in seconds")
    max_new_tokens: int = _setting(32, "maximum tokens of a turn that a client may ask for")
    max_errors: int = _setting(10, "consecutive bad messages after which a session ends")
    max_unread: int = _setting(64, "unread messages to a client after which its session ends")
    max_answer_tokens: int = _setting(128, "maximum tokens of an answer to a question")
    max_text_tokens: int = _setting(1024, "maximum tokens of query, title and previous text together")
    start_timeout_s: float = _setting(10.0, "seconds for a client to send its HTTP request, and then its start message")
    idle_timeout_s: float = _setting(30.0, "seconds without a new frame after which a session ends")
    max_pause_s: float = _setting(
        600.0, "seconds without a new frame after which a paused session, or one that asks questions, ends"
    )
    ping_timeout_s: float = _setting(20.0, "seconds between pings, and until a ping must be answered")
    max_round_s: float = _setting(60.0, "seconds after which a round of generation counts as hung")
    decode_threads: int = _setting(4, "threads that decode and resize frames")
    allowed_origins: tuple[str, ...] = _setting(
        (), "other web pages that may use the server, such as https://example.com; *: all"
    )
    token: str | None = field(
        default=None, repr=False, metadata={"help": "token that clients must send; default: none"}
    )

    def __post_init__(self):
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name == "token":
                if value is not None and (not isinstance(value, str) or not value.strip()):
                    raise ValueError("the token is empty: expected some text, or no token at all")
                if value is not None:  # files and secrets often end with a newline, which no header can carry
                    object.__setattr__(self, "token", value.strip())
            elif f.name == "allowed_origins":
                object.__setattr__(self, f.name, _origins(value))
            elif f.name == "overload":
                continue  # checked with max_lag_s below
            elif not (value is None and f.default is None):
                _check_number(f.name, value, whole=f.type.startswith("int"))
        OverloadPolicy(self.overload, self.max_lag_s)  # checks both


def _check_number(name: str, value: Any, whole: bool) -> None:
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or value <= 0:
        raise ValueError(f"{name}={value!r}: expected a {'whole ' if whole else ''}number above 0")


def _origins(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"allowed_origins={value!r}: expected a list, such as ['https://example.com']")
    return tuple(text if text == ANY else str(parse_origin(text)) for text in value)


def settings_from(values: dict[str, Any]) -> ServeSettings:
    """Return the settings of a dictionary, such as one read from YAML; a missing token is read from the environment.

    Raises:
        ValueError: if a name is unknown or a value is out of range.
    """
    names = [f.name for f in dataclasses.fields(ServeSettings)]
    unknown = sorted(set(values) - set(names))
    if unknown:
        raise ValueError(f"unknown setting {', '.join(unknown)}: expected some of {', '.join(names)}")
    return ServeSettings(**{"token": os.environ.get(TOKEN_VARIABLE)} | values)
