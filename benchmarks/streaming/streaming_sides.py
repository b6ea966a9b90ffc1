"""The ways of commenting turn by turn that `streaming.py` compares, and the clock that splits them."""

from __future__ import annotations

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import times_of

from livecc_hf.modeling.generation import generate
from livecc_hf.modeling.grammar import FIRST_TURN_FRAMES, FRAMES_PER_SECOND, TURN_FRAMES, TURN_JOINT, time_label
from livecc_hf.modeling.stream_options import StreamOptions
from livecc_hf.modeling.video_processing_livecc import resize_limits

PARTS = ("resize", "evict", "vision", "prefill", "decode_tokens", "rest")
REPETITION_PENALTY = 1.05
STOCK_PROCESSORS = {
    "qwen2_vl": (Qwen2VLProcessor, Qwen2VLVideoProcessor),
    "qwen2_5_vl": (Qwen2_5_VLProcessor, Qwen2VLVideoProcessor),
    "qwen3_vl": (Qwen3VLProcessor, Qwen3VLVideoProcessor),
}


@dataclass
class TurnTimes:
    """One turn, measured from its decoded frames to its last token.

    Attributes:
        turn_s: all of it.
        cpu_s: CPU time of this process; other work on the machine lengthens it less.
        first_token_s: up to the first token.
        parts_s: its split, by `PARTS`; what is in two of them counts for the inner one.
        token_ids: what was generated.
    """

    turn_s: float
    cpu_s: float
    first_token_s: float
    parts_s: dict[str, float]
    token_ids: list[int]


class Clock:
    """Splits the time of a turn into parts; on CUDA with events, which do not make the process wait for the device."""

    def __init__(self, device: torch.device):
        self._on_cuda = device.type == "cuda"
        self._marks: list[tuple[Any, str]] = []
        self._open: list[str] = []

    def enter(self, part: str) -> None:
        """Begin a part; that around it stops counting until `leave`."""
        self._open.append(part)
        self._marks.append((self._now(), part))

    def leave(self) -> None:
        """End the part begun last."""
        self._open.pop()
        self._marks.append((self._now(), self._open[-1] if self._open else "rest"))

    def wrap(self, part: str, function: Callable) -> Callable:
        """Return the function, timed as a part."""

        @functools.wraps(function)
        def timed(*args, **keywords):
            self.enter(part)
            try:
                return function(*args, **keywords)
            finally:
                self.leave()

        return timed

    @contextlib.contextmanager
    def timing(self, modules: dict[torch.nn.Module, Callable[[], str]], processor: Any, *names: str) -> Iterator[None]:
        """Time calls inside: of modules, as what is returned at each, and of a video processor's methods, `resize`."""
        handles: list[Any] = []
        for module, part in modules.items():
            handles.append(module.register_forward_pre_hook(lambda *_, part=part: self.enter(part())))
            handles.append(module.register_forward_hook(lambda *_: self.leave()))
        for name in names:
            setattr(processor, name, self.wrap("resize", getattr(processor, name)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            for name in names:
                delattr(processor, name)

    def measure(self, turn: Callable[[], list[int]]) -> TurnTimes:
        """Run a turn and say what it took."""
        self._marks, self._open = [], []
        turn_s, cpu_s, token_ids = times_of(self.wrap("rest", turn))
        parts_s = dict.fromkeys(PARTS, 0.0)
        first_token_s = None
        for (at, part), (until, _) in zip(self._marks, self._marks[1:], strict=False):
            if part == "decode_tokens" and first_token_s is None:
                first_token_s = self._seconds(self._marks[0][0], at)
            parts_s[part] += self._seconds(at, until)
        return TurnTimes(turn_s, cpu_s, turn_s if first_token_s is None else first_token_s, parts_s, token_ids)

    def _now(self):
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _seconds(self, at, until) -> float:
        return at.elapsed_time(until) / 1000 if self._on_cuda else until - at


@dataclass(frozen=True)
class Work:
    """What all sides are given.

    Attributes:
        model: our model, in evaluation mode and, where its backbone knows it, scheme ``reference``.
        processor: its `StreamingProcessor`.
        query: what the first turn asks for.
        new_tokens: generated in every turn, whatever they are.
        max_pixels: most pixels of a resized frame.
    """

    model: Any
    processor: Any
    query: str
    new_tokens: int
    max_pixels: int


class EngineSide:
    """Our stream; `window` and others are its options."""

    def __init__(self, work: Work, clock: Clock, **options):
        self._work, self._clock = work, clock
        self._trace: Callable | None = None
        chosen = {"do_sample": False, "repetition_penalty": REPETITION_PENALTY, "max_new_tokens": work.new_tokens}
        self.stream = work.model.start_stream(
            work.processor, StreamOptions(work.query, max_pixels=work.max_pixels, **chosen, **options)
        )

    def reset(self) -> None:
        """Begin again."""
        self.stream.reset()

    def turn(self, frames: torch.Tensor) -> list[int]:
        """Comment on the frames of one turn, with as many tokens as all sides generate."""
        self.stream.feed(frames)
        turn = self.stream.begin_turn()
        self.n_video_tokens = turn.prompt_ids.count(self._work.processor.video_token_id)
        turn.stop_ids = frozenset()
        generate(self._work.model, [turn], self._trace)
        return list(self.stream.end_turn(turn).token_ids)

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Time the parts of turns run inside."""
        vision, wrap = {self._work.model.model.visual: lambda: "vision"}, self._clock.wrap
        self._trace = lambda part, run: wrap("decode_tokens" if part == "decode" else part, run)
        cache = self.stream.state.cache
        cache.evict = wrap("evict", cache.evict)
        with self._clock.timing(vision, self._work.processor.video_processor, "resized", "cut"):
            yield
        self._trace = None
        del cache.evict


def stock_model(model) -> PreTrainedModel:
    """Return the backbone's own model of transformers over the very same weights."""
    ours_only = ("model_type", "backbone", "position_scheme", "message_end_token_id", "auto_map", "architectures")
    backbone = model.config.find_backbone()
    described = {name: value for name, value in model.config.to_dict().items() if name not in ours_only}
    with torch.device("meta"):
        config = backbone.config_class()(**described)
        stock = backbone.model_classes()[0]._from_config(config, attn_implementation="sdpa")
    stock.load_state_dict(model.state_dict(), assign=True)
    stock.tie_weights()
    for name, buffer in model.named_buffers():  # those that no checkpoint holds
        owner, _, key = name.rpartition(".")
        setattr(stock.get_submodule(owner), key, buffer)
    stock.generation_config = GenerationConfig()  # no end tokens: every turn has as many
    return stock.eval()


def stock_processor(processor, max_pixels: int) -> ProcessorMixin:
    """Return the backbone's own processor of transformers with the same settings and limits."""
    settings = processor.video_processor.to_dict()
    limits = resize_limits(processor.video_processor, None, max_pixels)
    settings["size"] = {"shortest_edge": limits.shortest_edge, "longest_edge": limits.longest_edge}
    for name in ("video_processor_type", "auto_map", "processor_class"):
        settings.pop(name, None)
    whole, videos = STOCK_PROCESSORS[processor.backbone]
    return whole(
        processor.image_processor,
        processor.tokenizer,
        videos(**settings),
        chat_template=processor.chat_template,
    )


@dataclass
class StockSide:
    """The per-turn way of LiveCC's demonstration: a processor call and a `generate` a turn, over a carried cache.

    Positions are those that the demonstration has: the backbone's in the first turn, one number a token after it. One
    thing is done as we do it: the last token of a turn, which no cache holds yet, is read with the next turn.
    """

    work: Work
    clock: Clock
    model: Any
    processor: Any
    n_turns: int = 0
    past_ids: torch.Tensor | None = None
    cache: DynamicCache | None = None
    _n_forward: int = 0

    def reset(self) -> None:
        """Begin again."""
        self.n_turns, self.past_ids, self.cache = 0, None, None

    def turn(self, frames: torch.Tensor) -> list[int]:
        """Comment on the frames of one turn."""
        inputs = self.inputs(frames)
        device = self.model.device
        inputs = {name: value.to(device) if hasattr(value, "to") else value for name, value in inputs.items()}
        if self.past_ids is None:
            self.cache = DynamicCache(config=self.model.config.get_text_config())
        else:
            # New positions are counted from the end of the first turn's, as in the demonstration.
            for name in ("mm_token_type_ids", "second_per_grid_ts"):
                inputs.pop(name, None)
            inputs["input_ids"] = torch.cat([self.past_ids, inputs["input_ids"]], dim=1)
        self._n_forward = 0
        ids = self.model.generate(
            **inputs,
            attention_mask=torch.ones_like(inputs["input_ids"]),
            past_key_values=self.cache,
            do_sample=False,
            repetition_penalty=REPETITION_PENALTY,
            max_new_tokens=self.work.new_tokens,
            pad_token_id=0,
        )
        spoken = ids[0, inputs["input_ids"].shape[1] :].tolist()
        # The joint before the next turn begins with <|im_end|>: where that was said, it is not said twice.
        self.past_ids = ids[:, :-1] if spoken[-1] == self.work.processor.end_id else ids
        self.n_turns += 1
        self.processor.tokenizer.decode(spoken, skip_special_tokens=True)
        return spoken

    def inputs(self, frames: torch.Tensor) -> dict[str, Any]:
        """Return what the processor makes of a turn."""
        backbone = self.work.processor.find_backbone()
        start_s = self.n_turns + 2.0 if self.n_turns else 0.0
        content = [
            {"type": "text", "text": time_label(start_s, self.n_turns + 3.0)},
            {"type": "video"},
        ]
        if self.n_turns == 0:
            content.append({"type": "text", "text": self.work.query})
        message = {"role": "user", "content": content}
        text = self.processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
        if self.n_turns or backbone.system_prompt is None:
            text = (TURN_JOINT if self.n_turns else "") + text[text.index("<|im_start|>user") :]
        options: dict[str, Any] = {"return_tensors": "pt", "do_sample_frames": False}
        if backbone.needs_video_metadata:
            options["video_metadata"] = [self._times(len(frames))]
        if backbone.limits_whole_videos:
            limits = self.processor.video_processor.size
            options["size"] = {name: limits[name] * len(frames) for name in ("shortest_edge", "longest_edge")}
        inputs = self.processor(text=[backbone.join_vision(text)], videos=[frames], **options)
        inputs.pop("attention_mask")
        return dict(inputs)

    def _times(self, n_frames: int) -> dict[str, Any]:
        """Return when the frames of this turn are, as processors take it."""
        first = FIRST_TURN_FRAMES + TURN_FRAMES * (self.n_turns - 1) if self.n_turns else 0
        indices = list(range(first, first + n_frames))
        return {"total_num_frames": n_frames, "fps": FRAMES_PER_SECOND, "frames_indices": indices}

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Time the parts of turns run inside."""

        def part() -> str:
            self._n_forward += 1
            return "prefill" if self._n_forward == 1 else "decode_tokens"

        modules = {self.model: part, self.model.model.visual: lambda: "vision"}
        with self.clock.timing(modules, self.processor.video_processor, "preprocess"):
            yield
