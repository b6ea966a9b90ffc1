"""Comments on held-out clips with the model in training, and logs the comments next to the ground truth."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from livecc_hf.captions.turns import assign_words, join_words, split_turns
from livecc_hf.data.media.clip_frames import plan_frame_size
from livecc_hf.data.unusable import UnusableSample
from livecc_hf.evaluation.predictions.rows import CommentaryRow, SpokenSpan
from livecc_hf.evaluation.scorers.timing import timing_figures
from livecc_hf.modeling.context import ContextFullError
from livecc_hf.modeling.grammar import TURN_FRAMES
from livecc_hf.modeling.stream_options import StreamOptions

if TYPE_CHECKING:
    from livecc_hf.data.dataset import TrainingData
    from livecc_hf.data.samples.narration import NarratedClip
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration
    from livecc_hf.modeling.processing_livecc import StreamingProcessor

logger = logging.getLogger(__name__)

TAG = "live_commentary"
METRICS = "eval_live_"  # prefix of the metrics' names in trackers


@dataclass(frozen=True)
class GroundTruthClip:
    """A held-out narrated clip.

    Args:
        name: shown in the log, such as ``folder/a.mp4 at 30.0 s``.
        frames: uint8 (T, 3, H, W) at 2 frames a second.
        frame_times_s: T presentation times in seconds.
        words: ``[start_s, end_s, word]`` in the order spoken, on the clock of the frames.
        query: the request; the processor's default if `None`.
        title: the video's title.
        previous: the narration before the clip.
        is_resized: whether the frames already have the model's input size.

    Raises:
        ValueError: if there are no frames, or their number differs from the number of times.
    """

    name: str
    frames: torch.Tensor = field(repr=False)
    frame_times_s: Sequence[float] = field(repr=False)
    words: Sequence[Sequence] = field(repr=False)
    query: str | None = None
    title: str | None = None
    previous: str | None = None
    is_resized: bool = False

    def __post_init__(self):
        if not len(self.frames) or len(self.frames) != len(self.frame_times_s):
            raise ValueError(
                f"held-out clip {self.name!r} has {len(self.frames)} frames and {len(self.frame_times_s)} frame times: "
                "expected at least one frame, and one time for each"
            )

    @classmethod
    def from_clip(cls, name: str, clip: NarratedClip, use_context: bool = True) -> GroundTruthClip:
        """Return a held-out clip made from a data source's clip.

        Args:
            name: shown in the log.
            clip: the clip.
            use_context: keep the clip's title and previous text, as in training.

        Raises:
            ValueError: see the class.
        """
        context = (clip.title, clip.previous) if use_context else (None, None)
        return cls(name, clip.frames, clip.frame_times_s, clip.words, clip.query, *context, clip.is_resized)


@dataclass(frozen=True)
class CommentedTurn:
    """One turn of a held-out clip.

    Attributes:
        start_s: start in seconds from the clip's start.
        end_s: end in seconds from the clip's start.
        said: the narrator's words (ground truth); empty for silence.
        model: the model's words; empty for silence.
    """

    start_s: float
    end_s: float
    said: str
    model: str


class LiveCommentaryCallback(TrainerCallback):
    """Streams held-out clips through the model at every evaluation, and logs comments and timing scores.

    Training is not affected: decoding is greedy and draws no random numbers, module states are restored, and a failure
    is only a warning. It runs on the main process only. A model sharded over processes (FSDP, ZeRO-3) cannot run there:
    the callback then warns once and does nothing.

    Args:
        clips: the clips. One or two are enough, since each takes a prefill per turn and a decode step per token.
        processor: the model's `StreamingProcessor`.
        trainer: the trainer that runs this callback; its trackers get the text. If `None`, only the log does.
        every_steps: run every `every_steps` steps instead of at evaluations.
        max_turns: maximum turns per clip; the log gives the number of turns left out.
        options: `StreamOptions` such as pixel limits; default: 32 new tokens a turn. The clip overrides query, title
            and previous text, and decoding is always greedy.

    Raises:
        ValueError: if there is no clip, or a number is not positive.
    """

    def __init__(
        self,
        clips: Sequence[GroundTruthClip],
        processor: StreamingProcessor,
        trainer: Trainer | None = None,
        every_steps: int | None = None,
        max_turns: int = 30,
        options: StreamOptions | None = None,
    ):
        if not clips:
            raise ValueError("got no held-out clips: give at least one, or switch the live commentary off")
        for name, value in (("every_steps", every_steps), ("max_turns", max_turns)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: expected at least 1")
        self.clips = list(clips)
        self.processor = processor
        self.every_steps = every_steps
        self.max_turns = max_turns
        # A fixed seed: without one, the stream would draw a seed from the trainer's random generator.
        self.options = dataclasses.replace(options or StreamOptions(max_new_tokens=32), do_sample=False, seed=0)
        self._trainer = trainer
        self._warned: set[str] = set()

    @classmethod
    def of_data(cls, data: TrainingData, n_clips: int, trainer: Trainer) -> LiveCommentaryCallback | None:
        """Return the callback for the first narrated clips of held-out data; `None` if there are none.

        Args:
            data: the held-out samples; unusable ones are skipped.
            n_clips: maximum number of clips.
            trainer: the trainer that runs this callback.
        """
        clips: list[GroundTruthClip] = []
        for index in range(len(data) if n_clips else 0):
            try:
                clip = data.item(index).clip(data.processor, data.options)
            except UnusableSample:
                continue
            if clip is not None:
                clips.append(GroundTruthClip.from_clip(data.origin(index), clip, data.options.use_context))
            if len(clips) == n_clips:
                break
        if not clips:
            return None
        limits = data.options.min_pixels, data.options.max_pixels
        options = StreamOptions(max_new_tokens=32, min_pixels=limits[0], max_pixels=limits[1])
        return cls(clips, data.processor, trainer, options=options)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Run at each evaluation, unless `every_steps` is set."""
        if self.every_steps is None:
            self._run(args, state, kwargs.get("model"))

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Run every `every_steps` steps, if that is set."""
        if self.every_steps is not None and state.global_step % self.every_steps == 0:
            self._run(args, state, kwargs.get("model"))

    def _run(self, args: TrainingArguments, state: TrainerState, model: nn.Module | None) -> None:
        if not state.is_world_process_zero:
            return
        try:
            # Prefer the trainer's wrapped model, which shows whether the model is sharded.
            model = self._trainer.model if self._trainer is not None else model
            if model is None:
                raise ValueError("the trainer hands over no model")
            if spread := spread_by(model):
                self._warn(
                    f"no live commentary: {spread} shards the model over the processes, so the main process cannot "
                    "run it alone; run `livecc commentate` on a checkpoint instead"
                )
                return
            commented = []
            for clip in self.clips:
                turns = comment(_streaming_model(model), self.processor, clip, self.options, self.max_turns, args)
                self._report(state.global_step, clip, turns)
                commented.append((clip, turns))
            if self._trainer is not None:
                self._trainer.log(timing_metrics(commented))
        except Exception as error:  # training must continue after any failure here
            self._warn(f"no live commentary at step {state.global_step}: {type(error).__name__}: {error}")

    def _report(self, step: int, clip: GroundTruthClip, turns: list[CommentedTurn]) -> None:
        n_frames = len(clip.frames) + len(clip.frames) % TURN_FRAMES
        n_turns = len(split_turns(n_frames, self.processor.find_grammar()))
        text = commentary_text(step, clip.name, turns, n_turns - len(turns))
        logger.info("%s", text)
        handler = self._trainer.callback_handler if self._trainer is not None else None
        for tracker in handler.callbacks if handler else ():
            try:
                _send(tracker, f"{TAG}/{clip.name}", text, step)
            except Exception as error:
                self._warn(f"{type(tracker).__name__} did not take the live commentary: {error}")

    def _warn(self, message: str) -> None:
        """Log a warning, unless the same one was logged at an earlier step."""
        kind = message.split(": ", 1)[-1]
        if kind not in self._warned:
            self._warned.add(kind)
            logger.warning("%s (training continues; this warning is not repeated)", message)


def timing_metrics(commented: Sequence[tuple[GroundTruthClip, Sequence[CommentedTurn]]]) -> dict[str, float]:
    """Return timing scores under their names in trackers; docs/evaluation.md defines them.

    Args:
        commented: pairs of a clip and its commented turns, which may end before the clip does.

    Returns:
        Speak F1, precision and recall from 0 to 1, the F1 of speaking in every turn, the onset error in seconds, and
        the model's words per narrated word. Undefined scores, such as those of a silent clip, are left out.
    """
    figures = {item.name: item for item in timing_figures([_as_row(clip, turns) for clip, turns in commented if turns])}
    found: dict[str, float | None] = {}
    for name in ("speak F1", "speak precision", "speak recall"):
        value = figures[name].value
        found[f"{METRICS}{name.replace(' ', '_').lower()}"] = None if value is None else value / 100
    floor = figures["speak F1"].floor
    found[f"{METRICS}always_speak_f1"] = None if floor is None else floor / 100
    found[f"{METRICS}onset_error_s"] = figures["onset error"].value
    found[f"{METRICS}words_ratio"] = figures["words for each of the reference's"].value
    return {name: value for name, value in found.items() if value is not None}


def _as_row(clip: GroundTruthClip, turns: Sequence[CommentedTurn]) -> CommentaryRow:
    """Return a commented clip as a row for the scorers, with times in seconds from the clip's start."""
    first_s, end_s = float(clip.frame_times_s[0]), turns[-1].end_s
    words = [
        SpokenSpan(start - first_s, end - first_s, word) for start, end, word in clip.words if start - first_s < end_s
    ]
    spans = [SpokenSpan(turn.start_s, turn.end_s, turn.model) for turn in turns]
    return CommentaryRow(clip.name, clip.name, 0.0, end_s, None, turns=spans, reference=words)


def comment(
    model: LiveCCForConditionalGeneration,
    processor: StreamingProcessor,
    clip: GroundTruthClip,
    options: StreamOptions | None = None,
    max_turns: int | None = None,
    args: TrainingArguments | None = None,
) -> list[CommentedTurn]:
    """Stream a clip through a model; return its words and the narrator's for each turn.

    Args:
        model: a `LiveCCForConditionalGeneration`; its modules' training modes are restored.
        processor: its `StreamingProcessor`.
        clip: the clip.
        options: sampling options and the pixel limits of training; the clip overrides query, title, previous text and
            frame size.
        max_turns: stop after this many turns.
        args: the trainer's arguments, read for mixed precision.

    Returns:
        The turns; fewer if the model's context fills up.
    """
    times_s = [float(time_s) for time_s in clip.frame_times_s]
    times_s += times_s[-1:] * (len(times_s) % TURN_FRAMES)
    grammar = processor.find_grammar()
    spans = split_turns(len(times_s), grammar)[:max_turns]
    n_frames = spans[-1].first_frame + spans[-1].n_frames
    said, _ = assign_words(clip.words, [times_s[span.first_frame + span.n_frames - 1] for span in spans], grammar)
    options = _sized(options or StreamOptions(do_sample=False), processor, clip, len(times_s))
    options = dataclasses.replace(options, query=clip.query, title=clip.title, previous=clip.previous)
    with _evaluation_mode(model), _autocast(model, args):
        # As in training, turns are formed by frame count, not by time: six frames in LiveCC's first turn, then two.
        segments = []
        with contextlib.suppress(ContextFullError):  # keep the turns so far
            for segment in model.stream_generate(processor, clip.frames[:n_frames], options=options):
                segments.append(segment)
    return [
        CommentedTurn(span.start_s, span.end_s, " ".join(join_words(words).split()), segment.text)
        for span, words, segment in zip(spans, said, segments, strict=False)
    ]


def _sized(
    options: StreamOptions, processor: StreamingProcessor, clip: GroundTruthClip, n_frames: int
) -> StreamOptions:
    """Return options that resize frames as training does for a clip of `n_frames`."""
    processor.video_processor.check_frames(clip.frames, do_resize=not clip.is_resized)
    if clip.is_resized:
        return dataclasses.replace(options, do_resize=False)
    limits = options.min_pixels, options.max_pixels
    height_px, width_px = clip.frames.shape[-2:]
    size = plan_frame_size(height_px, width_px, n_frames, processor.video_processor, *limits)
    return dataclasses.replace(options, min_pixels=size.min_pixels, max_pixels=size.max_pixels)


def commentary_text(step: int, name: str, turns: Sequence[CommentedTurn], n_left_out: int = 0) -> str:
    """Return the turns as a block of text in two columns: the narrator's words and the model's."""
    said = [f'"{turn.said}"' if turn.said else "-" for turn in turns]
    column = min(48, max(map(len, said), default=0))
    lines = [f'step {step}, held-out clip "{name}"']
    lines += [
        f"  {turn.start_s:6.1f}-{turn.end_s:5.1f} s   said: {words:<{column}}   model: "
        + (f'"{turn.model}"' if turn.model else "-")
        for turn, words in zip(turns, said, strict=True)
    ]
    if n_left_out:
        lines.append(f"  ... {n_left_out} more turns are not commented")
    return "\n".join(lines)


def spread_by(model: nn.Module) -> str | None:
    """Return the method that shards a model over processes, such as FSDP; `None` if it is not sharded."""
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    for module in model.modules():
        if isinstance(module, FSDPModule | FullyShardedDataParallel):
            return "FSDP"
    for parameter in model.parameters():
        if isinstance(parameter, DTensor):
            return "tensor parallelism"
        if hasattr(parameter, "ds_id"):
            return "DeepSpeed ZeRO-3"
    return None


def _streaming_model(model: nn.Module) -> LiveCCForConditionalGeneration:
    """Unwrap the trainer's model to its `LiveCCForConditionalGeneration`; adapters stay in its layers.

    Raises:
        ValueError: if it is another kind of model.
    """
    from accelerate.utils import extract_model_from_parallel

    inner = extract_model_from_parallel(model, keep_torch_compile=False)
    if hasattr(type(inner), "get_base_model"):  # a peft model; it forwards attributes, so check its type
        inner = inner.get_base_model()
    if not hasattr(type(inner), "stream_generate"):
        raise ValueError(f"the model is a {type(inner).__name__}: expected a LiveCCForConditionalGeneration")
    return inner


@contextlib.contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode in the block, then restore the mode of every module, including frozen parts."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _autocast(
    model: LiveCCForConditionalGeneration, args: TrainingArguments | None
) -> contextlib.AbstractContextManager[Any]:
    """Return the trainer's autocast context, which the unwrapped model does not have."""
    dtype = torch.bfloat16 if getattr(args, "bf16", False) else torch.float16 if getattr(args, "fp16", False) else None
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(model.device.type, dtype=dtype)


def _send(tracker: TrainerCallback, tag: str, text: str, step: int) -> None:
    """Send a text to an open TensorBoard, wandb or trackio tracker; ignore other callbacks."""
    if getattr(tracker, "tb_writer", None) is not None:
        tracker.tb_writer.add_text(tag, "\n".join("    " + line for line in text.split("\n")), step)  # Markdown code
    elif getattr(getattr(tracker, "_wandb", None), "run", None) is not None:
        page = tracker._wandb.Html(f"<pre>{html.escape(text)}</pre>")
        tracker._wandb.log({tag: page, "train/global_step": step})
    elif getattr(tracker, "_trackio", None) is not None and hasattr(tracker._trackio, "Markdown"):
        page = tracker._trackio.Markdown(f"```\n{text}\n```")
        tracker._trackio.log({tag: page, "train/global_step": step})
