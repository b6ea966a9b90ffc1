"""How the next token is chosen: options, their defaults and transformers' logits processors."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable
from dataclasses import dataclass, field

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

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


class SilenceThresholdLogitsProcessor(LogitsProcessor):
    """Rules out one token where its probability is below a threshold.

    Args:
        token_id: the token that says "nothing more for now", `` ...``.
        threshold: the probability below which it may not be chosen.
    """

    def __init__(self, token_id: int, threshold: float):
        self.token_id = token_id
        self.threshold = threshold

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Return the scores (batch, vocabulary), the token at minus infinity where it is improbable."""
        improbable = scores.softmax(dim=-1)[:, self.token_id] < self.threshold
        scores = scores.clone()
        scores[:, self.token_id].masked_fill_(improbable, -torch.inf)
        return scores


class TokenChooser:
    """How the tokens of a stream are chosen, as options, generation config and live defaults say.

    Args:
        options: the stream's options.
        generation_config: the model's.
        end_ids: ids that end a turn, besides those of `generation_config`.
        continuation_id: the id of `` ...``, or `None` where the tokenizer has no such token.

    Raises:
        ValueError: if a silence threshold is set and there is no such token.
    """

    def __init__(self, options: StreamOptions, generation_config, end_ids, continuation_id):
        values = {}
        for name, live_default in LIVE_DEFAULTS.items():
            candidates = (getattr(options, name), getattr(generation_config, name, None), live_default)
            values[name] = next(value for value in candidates if value is not None)
        self.max_new_tokens: int = values["max_new_tokens"]
        self.do_sample: bool = values["do_sample"]
        eos = getattr(generation_config, "eos_token_id", None)
        self.end_ids = frozenset(end_ids) | frozenset([eos] if isinstance(eos, int) else eos or [])
        self.processors = LogitsProcessorList()
        if values["repetition_penalty"] != 1:
            self.processors.append(RepetitionPenaltyLogitsProcessor(float(values["repetition_penalty"])))
        if options.silence_threshold:
            if continuation_id is None:
                raise ValueError("silence_threshold needs a tokenizer in which ' ...' is one token; this one splits it")
            self.processors.append(SilenceThresholdLogitsProcessor(continuation_id, options.silence_threshold))
        if self.do_sample:
            self.processors.extend(_warpers(values))
        # Each stream draws from its own generator, so that streams do not touch each other here either.
        self._seed = int(torch.randint(2**62, ())) if options.seed is None else options.seed
        self._generator: torch.Generator | None = None

    @property
    def kind(self) -> Hashable:
        """What is the same for choosers that choose alike, but for what they draw."""
        return self.do_sample, *map(_kind, self.processors)

    def draw(self, probabilities: torch.FloatTensor) -> torch.LongTensor:
        """Return a token drawn by its probability, of shape ().

        As `torch.multinomial` draws one, but without its checks, by which one stream would fail all others on CUDA.

        Args:
            probabilities: (vocabulary,).
        """
        if self._generator is None:
            self._generator = torch.Generator(probabilities.device).manual_seed(self._seed)
        waits = torch.empty_like(probabilities).exponential_(generator=self._generator)
        return (probabilities / waits).argmax()

    def snapshot(self) -> torch.Tensor | None:
        """Return what :meth:`restore` needs to draw the same tokens again."""
        return None if self._generator is None else self._generator.get_state()

    def restore(self, snapshot: torch.Tensor | None) -> None:
        """Go back to a snapshot."""
        if snapshot is None:
            self._generator = None
        else:
            self._generator.set_state(snapshot)


def _kind(processor) -> Hashable:
    if isinstance(processor, LogitsProcessor):
        return type(processor), repr(sorted(vars(processor).items()))
    return id(processor)


def _warpers(values: dict) -> list:
    """Return the sampling processors in transformers' order."""
    warpers = []
    if values["temperature"] != 1:
        warpers.append(TemperatureLogitsWarper(float(values["temperature"])))
    if values["top_k"]:
        warpers.append(TopKLogitsWarper(values["top_k"]))
    if values["top_p"] < 1:
        warpers.append(TopPLogitsWarper(float(values["top_p"])))
    return warpers
