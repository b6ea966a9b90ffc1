"""What a stream may be asked for: each option once, with its default, its range and what it does.

Nothing here needs PyTorch or transformers.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

from .window import Window

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


def _option(default, help: str):
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class StreamOptions:
    """What a stream is asked for and how its words are chosen.

    An option left at `None` comes from the model's `generation_config`, else from the live defaults (sampling
    with top_k 50, repetition penalty 1.05, 16 new tokens a turn).
    """

    query: str | None = _option(None, "what to comment on; default: the processor's default query")
    title: str | None = _option(None, "the video's title, read by the model if there is no previous text")
    previous: str | None = _option(None, "what was said before the stream begins")
    do_sample: bool | None = _option(None, "sample instead of taking the likeliest token")
    temperature: float | None = _option(None, "sampling temperature, above 0")
    top_p: float | None = _option(None, "sample among the likeliest tokens of this total probability")
    top_k: int | None = _option(None, "sample among this many likeliest tokens; 0 for all")
    repetition_penalty: float | None = _option(None, "penalty on tokens of the whole context; 1 for none")
    max_new_tokens: int | None = _option(None, "most tokens generated in a turn")
    silence_threshold: float | None = _option(
        None, "probability below which ` ...` is not chosen: higher makes the model speak more"
    )
    seed: int | None = _option(None, "seed of this stream's sampling")
    output_logits: bool = _option(False, "keep the logits of every generated token on the segment")
    min_pixels: int | None = _option(None, "fewest pixels of a resized frame")
    max_pixels: int | None = _option(
        None, "most pixels of a resized frame; default 384 * 28 * 28, within the processor's limit"
    )
    do_resize: bool = _option(True, "resize frames; off for frames whose sides are multiples of 28")
    window: str = _option(
        "sliding",
        "what is forgotten: 'sliding' forgets what has left the windows, 'reprefill' all vision every 240 s, "
        "'none' nothing",
    )
    vision_window_s: float = _option(16.0, "seconds for which a sliding window keeps vision")
    text_window: int = _option(512, "newest tokens of text that a window keeps, in whole turns")
    text_sink: int = _option(512, "first tokens of text that a window keeps, in whole turns")
    stop_at_continuation: bool | None = _option(
        None, "a turn ends with ` ...`, without asking for more; default: on, but for position scheme 'reference'"
    )

    def __post_init__(self):
        check_number("temperature", self.temperature, above=0)
        check_number("top_p", self.top_p, above=0, up_to=1)
        check_number("top_k", self.top_k, from_=0, kind=int)
        check_number("repetition_penalty", self.repetition_penalty, above=0)
        check_number("max_new_tokens", self.max_new_tokens, from_=1, kind=int)
        check_number("silence_threshold", self.silence_threshold, from_=0, up_to=1)
        check_number("seed", self.seed, from_=-(2**63), up_to=2**64 - 1, kind=int)  # what PyTorch takes
        check_number("min_pixels", self.min_pixels, from_=1, kind=int)
        check_number("max_pixels", self.max_pixels, from_=1, kind=int)
        for name in ("query", "title", "previous"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{name}={value!r:.80}: expected a string")
        for name, default in (("do_sample", None), ("output_logits", False), ("do_resize", True)):
            _check_switch(name, getattr(self, name), default)
        _check_switch("stop_at_continuation", self.stop_at_continuation, None)
        self.make_window()  # checks the values

    def make_window(self) -> Window:
        """Return the window that these options describe."""
        return Window(self.window, self.vision_window_s, self.text_window, self.text_sink)


def _check_switch(name: str, value, default: bool | None) -> None:
    if not isinstance(value, bool) and not (value is None and default is None):
        raise ValueError(f"{name}={value!r:.80}: expected True or False")


def check_number(name, value, above=None, from_=None, up_to=None, kind=(int, float)) -> None:
    """Raise `ValueError` if an option is neither `None` nor a number of this kind and range."""
    if value is None:
        return
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
    if options is not None and not hasattr(options, "make_window"):  # by what it does: it may be remote code's
        raise ValueError(f"options are of type {type(options).__name__}: expected StreamOptions, or keywords")
    names = [f.name for f in dataclasses.fields(StreamOptions)]
    unknown = sorted(set(keywords) - set(names))
    if unknown:
        raise ValueError(f"unknown stream option {', '.join(map(repr, unknown))}: expected some of {', '.join(names)}")
    return dataclasses.replace(options or StreamOptions(), **keywords)
