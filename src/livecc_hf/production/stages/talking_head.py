"""The stage `talking_head`: drops clips in which someone just talks to the camera, by a vision language model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from ...data.media.paths import resolve_media
from ...modeling.grammar import tokenize
from ...utils.counts import check_counts
from ...utils.text import one_line
from ..columns import scores_array, with_column
from ..watchdog import items_done
from .base import StageResult, split
from .model import ModelStage, choose_device, choose_dtype, device_option, dtype_option, load_pretrained

if TYPE_CHECKING:
    import torch

N_FRAMES = 8
FRAME_SIZE_PX = (180, 320)  # height, width
# Frames at least this far apart are read by one seek each; closer frames are decoded in one pass.
_SEEK_FROM_S = 5.0
_QUESTION = (
    f"These are {N_FRAMES} frames, evenly spaced, of a video clip. Does someone show their face and talk all the time? "
    "Answer Yes or No."
)


class _Model(NamedTuple):
    processor: Any
    model: Any
    yes_id: int


@dataclass(frozen=True)
class TalkingHead(ModelStage):
    """Drops clips in which someone just talks to the camera, and fills `p_talking_head`.

    A vision language model sees 8 evenly spaced frames of the clip at 320 x 180 and is asked whether someone shows
    their face and talks all the time. The score is the probability, over the whole vocabulary, that its answer starts
    with "Yes". People who talk to the camera seldom describe what it shows.

    Dropped: `talking_head` (value: the probability), `error` (the file does not exist, or the clip cannot be decoded).

    Model, frames and question are like those of the LiveCC reference, which scores whole videos. The threshold (keep
    below 0.3) is the paper's (arXiv 2504.16030, section 3), for Qwen2-VL-2B-Instruct.
    """

    name: ClassVar[str] = "talking_head"
    takes: ClassVar[str] = "clips"
    needs_gpu: ClassVar[bool] = True
    batch_rows: ClassVar[int] = 64

    model: str = field(
        default="Qwen/Qwen2-VL-2B-Instruct",
        metadata={"help": "Vision language model that takes several images: a Hub id or a local folder."},
    )
    max_probability: float = field(
        default=0.3, metadata={"help": "Drop clips with this probability of a talking head or more. (paper: 0.3)"}
    )
    clips_per_batch: int = field(
        default=16, metadata={"help": "Clips in a forward pass, about 600 tokens each; lower it if memory runs out."}
    )
    decoders: int = field(default=4, metadata={"help": "Clips decoded concurrently."})
    device: str | None = device_option()
    dtype: str | None = dtype_option()

    def __post_init__(self):
        if not 0 < self.max_probability <= 1:
            raise ValueError(f"max_probability is {self.max_probability}: expected a probability, such as 0.3")
        check_counts(self, "clips_per_batch", "decoders")

    def load(self) -> _Model:
        """Return the model, its processor, and the id of the token that starts "Yes".

        Raises:
            ValueError: if they cannot be loaded, or the processor has no chat template.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor

        device = choose_device(self.device)
        processor = load_pretrained(AutoProcessor.from_pretrained, self.model)
        if not getattr(processor, "chat_template", None) or not hasattr(processor, "image_processor"):
            raise ValueError(
                f"{self.model} has no image processor with a chat template: expected a vision language model, such as "
                "Qwen/Qwen2-VL-2B-Instruct"
            )
        # The answer's first token is predicted at the last position of every sequence.
        processor.tokenizer.padding_side = "left"
        model = load_pretrained(
            AutoModelForImageTextToText.from_pretrained,
            self.model,
            dtype=choose_dtype(self.dtype, device),
            device_map=device,
        )
        yes_id = tokenize(processor.tokenizer, "Yes")[0]
        return _Model(processor, model.eval(), yes_id)

    def __call__(self, batch: pa.Table) -> StageResult:
        """Score the clips of a batch in `CLIP_SCHEMA`.

        Raises:
            RuntimeError: if the device fails, as when memory runs out for a single clip.
        """
        if len(batch):
            self.open()  # before decoding, so that a missing model is reported first
        spans = [batch[name].to_pylist() for name in ("video", "start_s", "end_s")]
        details: list[str | None] = [None] * len(batch)
        scores = np.full(len(batch), np.nan)
        waiting: dict[int, torch.Tensor] = {}
        with ThreadPoolExecutor(self.decoders) as pool:
            for i, frames in enumerate(pool.map(_frames_or_error, *spans)):
                if isinstance(frames, str):
                    details[i] = frames
                else:
                    waiting[i] = frames
                if len(waiting) == self.clips_per_batch:
                    scores[list(waiting)] = self.probabilities(list(waiting.values()))
                    items_done(len(waiting))
                    waiting = {}
        if waiting:
            scores[list(waiting)] = self.probabilities(list(waiting.values()))
        reasons = np.full(len(batch), None, dtype=object)
        reasons[scores >= self.max_probability] = "talking_head"
        for i in np.flatnonzero(np.isnan(scores)).tolist():
            reasons[i], details[i] = "error", details[i] or "the probability is NaN: try dtype float32"
        return split(self.name, with_column(batch, "p_talking_head", scores_array(scores)), reasons, scores, details)

    def probabilities(self, clips: list[torch.Tensor]) -> np.ndarray:
        """Return the probability of a talking head in each clip.

        Args:
            clips: for each clip its frames, uint8 of shape (frames, 3, height, width), RGB.

        Returns:
            float64 of shape (clips,).

        Raises:
            RuntimeError: if memory runs out for a single clip.
        """
        import torch

        try:
            return self._forward(clips)
        except torch.OutOfMemoryError as error:
            if len(clips) == 1:
                raise RuntimeError(f"out of memory on a single clip: use a smaller model; {one_line(error)}") from error
        torch.cuda.empty_cache()
        half = len(clips) // 2
        return np.concatenate([self.probabilities(clips[:half]), self.probabilities(clips[half:])])

    def _forward(self, clips: list[torch.Tensor]) -> np.ndarray:
        import torch

        processor, model, yes_id = self.loaded
        chats = [
            [{"role": "user", "content": [{"type": "image"}] * len(frames) + [{"type": "text", "text": _QUESTION}]}]
            for frames in clips
        ]
        prompts = [processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) for chat in chats]
        inputs = processor(text=prompts, images=[list(frames) for frames in clips], padding=True, return_tensors="pt")
        inputs = inputs.to(model.device, model.dtype)
        with torch.inference_mode():
            logits = model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1].float()
        return logits.softmax(dim=-1)[:, yes_id].double().cpu().numpy()


def clip_frames(video: str, start_s: float, end_s: float) -> torch.Tensor:
    """Return the frames that the model sees of a clip.

    Args:
        video: path, as `resolve_media` takes it.
        start_s, end_s: the clip, in seconds from what a player shows as 0:00.

    Returns:
        uint8 of shape (8, 3, 180, 320), RGB: the pictures on screen at the start of each eighth of the clip.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if the file cannot be decoded, or the clip does not lie within the video.
    """
    import torch

    from ...modeling.frames import resize_to
    from ...video.reader import iter_frames, probe_video

    if not end_s > start_s:
        raise ValueError(f"the clip runs from {start_s} to {end_s} s: expected an end after its start")
    path, spacing_s = resolve_media(video), (end_s - start_s) / N_FRAMES
    times_s = [start_s + i * spacing_s for i in range(N_FRAMES)]
    origin_s = probe_video(path).clock_start_s
    frames = []
    if spacing_s >= _SEEK_FROM_S:
        for time_s in times_s:
            reader = iter_frames(path, time_s, fps=1 / spacing_s, origin_s=origin_s)
            frames.append(next(reader).frame)
            reader.close()
    else:
        # Half a step past the last time, so that rounding of the rate neither loses nor adds a frame.
        reader = iter_frames(path, start_s, times_s[-1] + spacing_s / 2, 1 / spacing_s, origin_s)
        frames = [sampled.frame for sampled in reader][:N_FRAMES]
    if len(frames) < N_FRAMES:
        raise ValueError(f"{path} ends before the clip from {start_s:g} to {end_s:g} s does")
    return torch.stack([resize_to(frame, FRAME_SIZE_PX) for frame in frames])


def _frames_or_error(video: str, start_s: float, end_s: float) -> torch.Tensor | str:
    try:
        return clip_frames(video, start_s, end_s)
    except Exception as error:  # a broken file must not end the run, whatever error FFmpeg raises
        return one_line(error)
