"""What a stream may be asked for: each option once, with its default, its range and what it does.

Nothing here needs PyTorch or transformers.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

# LiveCC's live demonstration: short turns, a little variety, mild pressure against repetition.
LIVE_DEFAULTS = {
    "do_sample": True,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "repetition_penalty": 1.05,
    "max_new_tokens": 16,
}
LIVE_MAX_PIXELS = 384 * 28 * 28
WINDOWS = ("sliding", "reprefill", "none")


def _option(default, help: str, *, by_client: bool | tuple[float, float] = False, in_commands: bool = True, **limits):
    """Declare an option; command line, a server's messages and the documentation are made from what is said here.

    Args:
        default: its default.
        help: what it does.
        by_client: whether a server lets its clients choose it; as two numbers, within which bounds.
        in_commands: whether commands have it as an argument.
        **limits: `above`, `from_` and `up_to` as of :func:`check_number`, or `choices`; `off` is what a command calls
            a switch that is off.
    """
    return field(default=default, metadata={"help": help, "by_client": by_client, "in_commands": in_commands, **limits})


@dataclass(frozen=True)
class StreamOptions:
    """What a stream is asked for and how its words are chosen.

    An option left at `None` comes from the model's `generation_config`, else from the live defaults (sampling
    with top_k 50, repetition penalty 1.05, 16 new tokens a turn).
    """

    query: str | None = _option(None, "what to comment on; default: the model's own query")
    title: str | None = _option(None, "the video's title, which the model reads if there is no previous text")
    previous: str | None = _option(None, "what was said before the start")
    do_sample: bool | None = _option(
        None, "sample the words instead of always taking the likeliest", off="greedy", by_client=True
    )
    temperature: float | None = _option(None, "sampling temperature", above=0, by_client=(0.01, 100))
    top_p: float | None = _option(
        None, "sample among the likeliest tokens of this total probability", above=0, up_to=1, by_client=True
    )
    top_k: int | None = _option(None, "sample among this many likeliest tokens; 0: all", from_=0, by_client=(0, 2**31))
    repetition_penalty: float | None = _option(
        None, "penalty on tokens of the whole context; 1: none", above=0, by_client=(0.1, 10)
    )
    max_new_tokens: int | None = _option(None, "most tokens generated in a turn", from_=1, by_client=True)
    silence_threshold: float | None = _option(
        None, "silence that is less probable is not chosen: higher makes the model speak more", from_=0, up_to=1,
        by_client=True,
    )  # fmt: skip
    seed: int | None = _option(  # as PyTorch takes it
        None, "seed of the stream's sampling", from_=-(2**63), up_to=2**64 - 1, by_client=(0, 2**63 - 1)
    )
    output_logits: bool = _option(False, "keep the logits of every generated token on the segment", in_commands=False)
    min_pixels: int | None = _option(None, "fewest pixels of a resized frame", from_=1)
    max_pixels: int | None = _option(
        None,
        f"most pixels of a resized frame; in a stream by default {LIVE_MAX_PIXELS}, or what the model takes",
        from_=1,
    )
    do_resize: bool = _option(True, "resize frames; off for frames whose sides are multiples of 28", in_commands=False)
    window: str = _option(
        "sliding",
        "what is forgotten: sliding: what has left the windows below; reprefill: all vision, every 240 s; none: "
        "nothing, until the model's positions end",
        choices=WINDOWS,
    )
    vision_window_s: float = _option(16.0, "seconds of vision that a sliding window keeps", from_=1)
    text_window: int = _option(512, "newest tokens of text that a window keeps, in whole turns", from_=0)
    text_sink: int = _option(512, "first tokens of text that a window keeps, in whole turns", from_=0)
    stop_at_continuation: bool | None = _option(
        None, "end a turn at ` ...`, without asking for more; default: yes, but for position scheme reference"
    )

    def __post_init__(self):
        for option in dataclasses.fields(self):
            value, kind, choices = getattr(self, option.name), option_type(option), option.metadata.get("choices")
            if value is None and option.default is None:
                continue
            if choices is not None:
                if value not in choices:
                    raise ValueError(f"{option.name}={value!r:.80}: expected one of {', '.join(choices)}")
            elif kind in (int, float):
                limits = {name: option.metadata.get(name) for name in ("above", "from_", "up_to")}
                check_number(option.name, value, **limits, kind=int if kind is int else (int, float))
            elif not isinstance(value, kind):
                expected = "True or False" if kind is bool else "a string"
                raise ValueError(f"{option.name}={value!r:.80}: expected {expected}")


def option_type(option: dataclasses.Field) -> type:
    """Return the type of an option's value: `bool`, `int`, `float` or `str`."""
    return {"bool": bool, "int": int, "float": float, "str": str}[option.type.removesuffix(" | None")]


def check_number(name, value, above=None, from_=None, up_to=None, kind=(int, float)) -> None:
    """Raise `ValueError` if an option is not a number of this kind and range."""
    wanted = [f"above {above}"] if above is not None else []
    wanted += [f"at least {from_}"] if from_ is not None else []
    wanted += [f"at most {up_to}"] if up_to is not None else []
    good = isinstance(value, kind) and not isinstance(value, bool)
    good = good and (above is None or value > above) and (from_ is None or value >= from_)
    if not good or (up_to is not None and value > up_to):
        noun = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name}={value!r:.80}: expected {noun} {' and '.join(wanted)}")


def stream_options(options: StreamOptions | None, keywords: dict) -> StreamOptions:
    """Return `options` with `keywords` laid over it.

    Raises:
        ValueError: if a keyword is not the name of an option, or `options` are none.
    """
    if options is not None and not hasattr(options, "text_sink"):  # by what it has: it may be remote code's
        raise ValueError(f"options are of type {type(options).__name__}: expected StreamOptions, or keywords")
    names = [f.name for f in dataclasses.fields(StreamOptions)]
    unknown = sorted(set(keywords) - set(names))
    if unknown:
        raise ValueError(f"unknown stream option {', '.join(map(repr, unknown))}: expected some of {', '.join(names)}")
    return dataclasses.replace(options or StreamOptions(), **keywords)
