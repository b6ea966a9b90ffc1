"""The options of a stream: each declared once, with its default, range and help. Needs no PyTorch or transformers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

LIVE_DEFAULTS = {  # of LiveCC's live demo
    "do_sample": True,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 50,
    "repetition_penalty": 1.05,
    "max_new_tokens": 16,
}
LIVE_MAX_PIXELS = 384 * 28 * 28
WINDOWS = ("sliding", "reprefill", "none")


def _option(
    default: Any, help: str, *, by_client: bool | tuple[float, float] = False, in_commands: bool = True, **limits: Any
) -> Any:
    """Declare an option; command-line arguments, server messages and documentation are generated from it.

    Args:
        default: its default.
        help: its help text.
        by_client: whether a server's clients may set it; two numbers: yes, within these bounds.
        in_commands: whether commands have an argument for it.
        **limits: `above`, `from_` and `up_to` as in :func:`check_number`, or `choices`; `off` names the command-line
            flag that turns a switch off.
    """
    return field(default=default, metadata={"help": help, "by_client": by_client, "in_commands": in_commands, **limits})


@dataclass(frozen=True)
class StreamOptions:
    """The options of a stream.

    Generation options left at `None` come from the model's `generation_config`, else from the live defaults (sampling
    with top_k 50, repetition penalty 1.05, 16 new tokens per turn).
    """

    query: str | None = _option(None, "what to comment on; default: the query saved with the processor")
    title: str | None = _option(None, "the video's title, which the model reads if there is no previous text")
    previous: str | None = _option(None, "what was said before the stream starts")
    do_sample: bool | None = _option(
        None, "sample tokens instead of always taking the most likely one", off="greedy", by_client=True
    )
    temperature: float | None = _option(None, "sampling temperature", above=0, by_client=(0.01, 100))
    top_p: float | None = _option(
        None, "sample from the most likely tokens with this total probability", above=0, up_to=1, by_client=True
    )
    top_k: int | None = _option(
        None, "sample from this many of the most likely tokens; 0: from all", from_=0, by_client=(0, 2**31)
    )
    repetition_penalty: float | None = _option(
        None, "penalty on tokens that are in the context; 1: none", above=0, by_client=(0.1, 10)
    )
    max_new_tokens: int | None = _option(None, "most tokens to generate per turn", from_=1, by_client=True)
    silence_threshold: float | None = _option(
        None, "forbid silence with a lower probability; higher values make the model speak more", from_=0, up_to=1,
        by_client=True,
    )  # fmt: skip
    seed: int | None = _option(  # the range of PyTorch's seeds
        None, "seed of the sampling", from_=-(2**63), up_to=2**64 - 1, by_client=(0, 2**63 - 1)
    )
    output_logits: bool = _option(False, "keep the logits of every generated token in the segment", in_commands=False)
    min_pixels: int | None = _option(None, "fewest pixels of a resized frame", from_=1)
    max_pixels: int | None = _option(
        None,
        f"most pixels of a resized frame; default: {LIVE_MAX_PIXELS} in streams, or the model's limit if lower; in "
        "questions about a video, by its length",
        from_=1,
    )
    do_resize: bool = _option(
        True, "resize frames; if off, their sides must be multiples of 28 (Qwen3-VL: 32)", in_commands=False
    )
    window: str = _option(
        "sliding",
        "what to evict from the context: sliding: what has left the windows below; reprefill: all vision, every 240 s; "
        "none: nothing, so the stream ends when the context is full",
        choices=WINDOWS,
    )
    vision_window_s: float = _option(16.0, "seconds of vision that a sliding window keeps", from_=1)
    text_window: int = _option(512, "newest tokens of text to keep, in whole turns", from_=0)
    text_sink: int = _option(512, "first tokens of text to keep, in whole turns", from_=0)
    stop_at_continuation: bool | None = _option(
        None, "end a turn at ` ...`, without decoding its end token; default: on, except for position scheme reference"
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


def check_number(
    name: str,
    value: Any,
    above: float | None = None,
    from_: float | None = None,
    up_to: float | None = None,
    kind: type | tuple[type, ...] = (int, float),
) -> None:
    """Raise `ValueError` if an option's value is not a number of this kind and range."""
    wanted = [f"above {above}"] if above is not None else []
    wanted += [f"at least {from_}"] if from_ is not None else []
    wanted += [f"at most {up_to}"] if up_to is not None else []
    good = isinstance(value, kind) and not isinstance(value, bool)
    good = good and (above is None or value > above) and (from_ is None or value >= from_)
    if not good or (up_to is not None and value > up_to):
        noun = "a whole number" if kind is int else "a number"
        raise ValueError(f"{name}={value!r:.80}: expected {noun} {' and '.join(wanted)}")


def stream_options(options: StreamOptions | None, keywords: dict) -> StreamOptions:
    """Return `options`, overridden by `keywords`.

    Raises:
        ValueError: if a keyword is not the name of an option, or `options` is not a `StreamOptions`.
    """
    if options is not None and not hasattr(options, "text_sink"):  # not isinstance: it may be remote code's class
        raise ValueError(f"options are of type {type(options).__name__}: expected StreamOptions, or keywords")
    names = [f.name for f in dataclasses.fields(StreamOptions)]
    unknown = sorted(set(keywords) - set(names))
    if unknown:
        raise ValueError(f"unknown stream option {', '.join(map(repr, unknown))}: expected some of {', '.join(names)}")
    return dataclasses.replace(options or StreamOptions(), **keywords)
