"""Options of a stream as command line arguments, made from the fields of `StreamOptions`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Any

from livecc_hf.cli.flags import flag_of
from livecc_hf.modeling import stream_options

FRAME_OPTIONS = ("min_pixels", "max_pixels")
SAMPLING_OPTIONS = ("do_sample", "temperature", "top_p", "top_k", "repetition_penalty", "seed")
TEXT_OPTIONS = ("title", "previous")


def add_option_arguments(group: Any, names: Sequence[str] | None = None) -> None:
    """Declare options of a stream as arguments.

    Args:
        group: a parser, or a group of its arguments.
        names: the options; default: all except `FRAME_OPTIONS` and `TEXT_OPTIONS`.
    """
    for option in command_options():
        is_general = option.name not in (*FRAME_OPTIONS, *TEXT_OPTIONS)
        if is_general if names is None else option.name in names:
            _add(group, option)


def stream_options_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the given options of a stream, by name."""
    names = [option.name for option in command_options()]
    return {name: value for name in names if (value := getattr(args, name, None)) is not None}


def live_defaults() -> str:
    """Return the defaults of generation options that a model does not set, for help texts."""
    return ", ".join(
        f"{flag_of(name)} {value:g}" for name, value in stream_options.LIVE_DEFAULTS.items() if value is not True
    )


def whole_text(text: str) -> str:
    """Return the text if it can be encoded as UTF-8, which a text for the model must be, unlike a file name.

    Raises:
        argparse.ArgumentTypeError: if it cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!r} contains an incomplete character: expected valid UTF-8") from None
    return text


def command_options() -> list[dataclasses.Field]:
    """Return the fields of `StreamOptions` that are command line arguments."""
    fields = dataclasses.fields(stream_options.StreamOptions)
    return [option for option in fields if option.metadata["in_commands"]]


def _add(group: Any, option: dataclasses.Field) -> None:
    flag, said, kind = flag_of(option.name), option.metadata, stream_options.option_type(option)
    help = said["help"].replace("%", "%%")
    if option.default is not None:
        help += f"; default: {option.default:g}" if kind in (int, float) else f"; default: {option.default}"
    if kind is bool and "off" in said:
        choice = group.add_mutually_exclusive_group()
        choice.add_argument(flag, action="store_true", default=None, help=help)
        choice.add_argument(
            flag_of(said["off"]), dest=option.name, action="store_false", default=None, help=f"the opposite of {flag}"
        )
    elif kind is bool:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=help)
    elif "choices" in said:
        group.add_argument(flag, choices=said["choices"], help=help)
    elif kind is str:
        group.add_argument(flag, type=whole_text, help=help)
    else:
        metavar = "S" if option.name.endswith("_s") else "N" if kind is int else "X"
        group.add_argument(flag, type=kind, metavar=metavar, help=help)
