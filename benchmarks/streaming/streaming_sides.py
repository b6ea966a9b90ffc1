"""The sides that `streaming.py` compares, and the clock that splits their turns into parts."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import transformers
from harness import times_of
from models import Case, stock_model

from livecc_hf.modeling.generation import generate
from livecc_hf.modeling.grammar import FIRST_TURN_FRAMES, FRAMES_PER_SECOND, TURN_FRAMES, TURN_JOINT, time_label
from livecc_hf.modeling.stream_options import StreamOptions
from livecc_hf.modeling.video_processing_livecc import resize_limits

QUERY = "Please describe the video."
PARTS = ("resize", "evict", "vision", "prefill", "decode_tokens", "rest")
REPETITION_PENALTY = 1.05
STOCK_PROCESSORS = {
    "qwen2_vl": (transformers.Qwen2VLProcessor, transformers.Qwen2VLVideoProcessor),
    "qwen2_5_vl": (transformers.Qwen2_5_VLProcessor, transformers.Qwen2VLVideoProcessor),
    "qwen3_vl": (transformers.Qwen3VLProcessor, transformers.Qwen3VLVideoProcessor),
}


@dataclass
class TurnTimes:
    """The times of a turn in seconds, from its decoded frames to its last token."""

    turn_s: float
    cpu_s: float  # of this process; other work on the machine affects it less
    parts_s: dict[str, float]  # of each of `PARTS`; nested time counts for the inner part
    token_ids: list[int]


class Clock:
    """Splits the time of a turn into parts; on CUDA with events, so that the host does not wait for the device."""

    def __init__(self, device: torch.device):
        self._on_cuda = device.type == "cuda"
        self._marks: list[tuple[Any, str]] = []
        self._open: list[str] = []

    def enter(self, part: str) -> None:
        """Begin a part; the part around it stops counting until :meth:`leave`."""
        self._open.append(part)
        self._mark()

    def leave(self, *_: Any) -> None:
        """End the part begun last."""
        self._open.pop()
        self._mark()

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time a block as a part; as a decorator, the calls of a function."""
        self.enter(name)
        try:
            yield
        finally:
            self.leave()

    @contextlib.contextmanager
    def timing(self, modules: dict[torch.nn.Module, Callable[[], str]], *methods: tuple[Any, str, str]) -> Iterator:
        """Time in a block forward passes, whose parts functions name, and methods (object, name, part)."""
        with contextlib.ExitStack() as stack:
            for module, part in modules.items():
                stack.callback(module.register_forward_pre_hook(lambda *_, part=part: self.enter(part())).remove)
                stack.callback(module.register_forward_hook(self.leave).remove)
            for owner, name, part_name in methods:
                stack.enter_context(patch.object(owner, name, self.part(part_name)(getattr(owner, name))))
            yield

    def measure(self, turn: Callable[[], list[int]]) -> TurnTimes:
        """Run a turn and return its times."""
        self._marks.clear()
        turn_s, cpu_s, token_ids = times_of(self.part("rest")(turn))
        parts_s = dict.fromkeys(PARTS, 0.0)
        for (at, part), (until, _) in itertools.pairwise(self._marks):
            parts_s[part] += at.elapsed_time(until) / 1000 if self._on_cuda else until - at
        return TurnTimes(turn_s, cpu_s, parts_s, token_ids)

    def _mark(self) -> None:
        at: Any = torch.cuda.Event(enable_timing=True) if self._on_cuda else time.perf_counter()
        if self._on_cuda:
            at.record()
        self._marks.append((at, self._open[-1] if self._open else ""))


class EngineSide:
    """Our stream over a case's model and processor; `options` are further ones of `StreamOptions`."""

    def __init__(self, case: Case, model: Any, processor: Any, clock: Clock, **options: Any):
        self._model, self._processor, self._clock = model, processor, clock
        self._trace: Callable | None = None
        options |= {"do_sample": False, "repetition_penalty": REPETITION_PENALTY, "max_new_tokens": case.new_tokens}
        self.stream = model.start_stream(processor, StreamOptions(QUERY, max_pixels=case.max_pixels, **options))
        self.reset = self.stream.reset

    def turn(self, frames: torch.Tensor) -> list[int]:
        """Comment on the frames of one turn with exactly the case's number of tokens."""
        self.stream.feed(frames)
        turn = self.stream.begin_turn()
        self.n_video_tokens = turn.prompt_ids.count(self._processor.video_token_id)
        turn.stop_ids = frozenset()
        generate(self._model, [turn], self._trace)
        return list(self.stream.end_turn(turn).token_ids)

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Time the parts of turns in a block."""
        self._trace = lambda part, run: self._clock.part("decode_tokens" if part == "decode" else part)(run)
        videos, cache = self._processor.video_processor, self.stream.state.cache
        methods = (videos, "resized", "resize"), (videos, "cut", "resize"), (cache, "evict", "evict")
        with self._clock.timing({self._model.model.visual: lambda: "vision"}, *methods):
            yield
        self._trace = None


def stock_processor(processor: Any, max_pixels: int) -> Any:
    """Return transformers' own processor of the backbone, with the same settings and limits."""
    settings = processor.video_processor.to_dict()
    limits = resize_limits(processor.video_processor, None, max_pixels)
    settings["size"] = {"shortest_edge": limits.shortest_edge, "longest_edge": limits.longest_edge}
    for name in ("video_processor_type", "auto_map", "processor_class"):
        settings.pop(name, None)
    whole, videos = STOCK_PROCESSORS[processor.backbone]
    parts = processor.image_processor, processor.tokenizer, videos(**settings)
    return whole(*parts, chat_template=processor.chat_template)


class StockSide:
    """LiveCC's demonstration: a processor call and a `generate` a turn, over a cache that is kept.

    Positions are the demonstration's: the backbone's in the first turn, one number a token after it. Only one thing is
    as in our stream: the last token of a turn, not yet in the cache, is read with the next turn.
    """

    def __init__(self, case: Case, model: Any, processor: Any, clock: Clock):
        self.model, self.processor = stock_model(model), stock_processor(processor, case.max_pixels)
        self._case, self._clock, self._end_id = case, clock, processor.end_id
        self._backbone = processor.find_backbone()
        self.reset()

    def reset(self) -> None:
        """Start again."""
        self.n_turns, self._n_forward = 0, 0
        self.past_ids: torch.Tensor | None = None
        self.cache = transformers.DynamicCache(config=self.model.config.get_text_config())

    def turn(self, frames: torch.Tensor) -> list[int]:
        """Comment on the frames of one turn."""
        inputs = self.inputs(frames)
        if self.past_ids is not None:
            # Without these, positions continue from the end of the first turn's, as in the demonstration.
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
            max_new_tokens=self._case.new_tokens,
            pad_token_id=0,
        )
        spoken = ids[0, inputs["input_ids"].shape[1] :].tolist()
        # The joint before the next turn begins with <|im_end|>, which must not be there twice.
        self.past_ids = ids[:, :-1] if spoken[-1] == self._end_id else ids
        self.n_turns += 1
        self.processor.tokenizer.decode(spoken, skip_special_tokens=True)
        return spoken

    def inputs(self, frames: torch.Tensor) -> dict[str, Any]:
        """Return the processor's output for the frames of a turn."""
        backbone, is_first = self._backbone, self.n_turns == 0
        label = time_label(0.0 if is_first else self.n_turns + 2.0, self.n_turns + 3.0)
        content = [{"type": "text", "text": label}, {"type": "video"}]
        content += [{"type": "text", "text": QUERY}] if is_first else []
        message = {"role": "user", "content": content}
        text = self.processor.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
        if not is_first or backbone.system_prompt is None:
            text = ("" if is_first else TURN_JOINT) + text[text.index("<|im_start|>user") :]
        options: dict[str, Any] = {"return_tensors": "pt", "do_sample_frames": False}
        if backbone.needs_video_metadata:
            first = 0 if is_first else FIRST_TURN_FRAMES + TURN_FRAMES * (self.n_turns - 1)
            times = {"fps": FRAMES_PER_SECOND, "frames_indices": list(range(first, first + len(frames)))}
            options["video_metadata"] = [{"total_num_frames": len(frames), **times}]
        if backbone.limits_whole_videos:
            limits = self.processor.video_processor.size
            options["size"] = {name: limits[name] * len(frames) for name in ("shortest_edge", "longest_edge")}
        inputs = self.processor(text=[backbone.join_vision(text)], videos=[frames], **options).to(self.model.device)
        inputs.pop("attention_mask")
        return dict(inputs)

    @contextlib.contextmanager
    def timed(self) -> Iterator[None]:
        """Time the parts of turns in a block."""

        def part() -> str:
            self._n_forward += 1
            return "prefill" if self._n_forward == 1 else "decode_tokens"

        modules = {self.model: part, self.model.model.visual: lambda: "vision"}
        with self._clock.timing(modules, (self.processor.video_processor, "preprocess", "resize")):
            yield
