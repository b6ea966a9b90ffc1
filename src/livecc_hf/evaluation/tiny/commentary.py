"""Scores a model on held-out clips of the synthetic world, streamed from mp4 files."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from livecc_hf.evaluation.predictions.rows import CommentaryRow, SpokenSpan
from livecc_hf.evaluation.scorers.events import event_ratios
from livecc_hf.evaluation.scorers.figures import Figure
from livecc_hf.evaluation.scorers.ratios import ratio_figure
from livecc_hf.modeling.grammar import FRAME_STEP_S
from livecc_hf.tiny.narration import DEFAULT_NARRATOR, narrate
from livecc_hf.tiny.rendering import write_video
from livecc_hf.tiny.scene import Scene
from livecc_hf.tiny.world import simulate
from livecc_hf.video.reader import iter_chunks

from .scoring import NarrationScore, SpokenTurn, score_clip

if TYPE_CHECKING:
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration
    from livecc_hf.modeling.processing_livecc import StreamingProcessor
    from livecc_hf.modeling.stream import CommentarySegment

CLIP_S = 20


@dataclass
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        score: counts over all clips.
        by_clip: counts of each clip.
        rows: each clip's commentary with the narrator's words as reference, for `livecc evaluate score`.
        blanked: counts with black frames, if requested; they show whether the model uses the frames.
        video_s: seconds of video played.
        decoding_s: seconds spent on decoding.
        model_s: seconds spent in the streaming loop.
    """

    score: NarrationScore = field(default_factory=NarrationScore)
    by_clip: list[NarrationScore] = field(default_factory=list)
    rows: list[CommentaryRow] = field(default_factory=list)
    blanked: NarrationScore = field(default_factory=NarrationScore)
    video_s: float = 0.0
    decoding_s: float = 0.0
    model_s: float = 0.0

    def add(self, score: NarrationScore) -> None:
        """Add the counts of a clip."""
        self.by_clip.append(score)
        self.score.add(score)

    @property
    def real_time_factor(self) -> float:
        """Seconds of work per second of video, decoding included; below 1 is faster than real time."""
        return (self.decoding_s + self.model_s) / self.video_s if self.video_s else 0.0

    def figures(self) -> dict[str, Figure]:
        """Return event recall, event precision and the share of quiet turns kept silent, with errors by clip."""
        clips = [str(number) for number in range(len(self.by_clip))]
        ratios = event_ratios([score.counts() for score in self.by_clip])
        return {ratio.name: ratio_figure(ratio, clips) for ratio in ratios}

    def rates(self) -> dict[str, float | None]:
        """Return `recall`, `precision` and `silence`, each with its standard error, clustered by clip, as `..._se`."""
        found: dict[str, float | None] = {}
        for name, figure in zip(("recall", "precision", "silence"), self.figures().values(), strict=True):
            found |= {name: getattr(self.score, name), f"{name}_se": figure.se}
        return found


@dataclass(frozen=True)
class HeldOutClip:
    """A decoded clip that is not in the training data.

    Attributes:
        scene: the simulated scene with its events.
        chunks: for each turn, frames as uint8 (T, 3, H, W) at 2 per second, and their T times in seconds.
        decoding_s: seconds spent on decoding.
    """

    scene: Scene
    chunks: list[tuple[torch.Tensor, list[float]]]
    decoding_s: float


def held_out_seed(index: int) -> int:
    """Return the seed of an evaluation clip: negative, since the seeds of training clips are not."""
    return -1 - index


def held_out_clips(n_clips: int, first: int = 0) -> Iterator[HeldOutClip]:
    """Yield clips of `CLIP_S` seconds, encoded to an mp4 file and decoded from it.

    Args:
        n_clips: number of clips.
        first: number of the first clip.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for index in range(first, first + n_clips):
            scene = simulate(held_out_seed(index), CLIP_S)
            write_video(scene, path)
            started_s = time.perf_counter()
            chunks = [(chunk.frames, chunk.timestamps_s) for chunk in iter_chunks(path)]
            yield HeldOutClip(scene, chunks, time.perf_counter() - started_s)


def evaluate(
    model: LiveCCForConditionalGeneration,
    processor: StreamingProcessor,
    n_clips: int = 100,
    first: int = 0,
    blank_too: bool = False,
    narrator: str = DEFAULT_NARRATOR,
) -> Evaluation:
    """Score a model on held-out clips of `CLIP_S` seconds that are encoded, decoded and streamed.

    Args:
        model: the model, in evaluation mode.
        processor: the model's processor.
        n_clips: number of clips.
        first: number of the first clip.
        blank_too: play each clip a second time with black frames.
        narrator: the narrator whose verbs count, one of `NARRATORS`.

    Raises:
        ValueError: if the narrator is unknown.
    """
    result = Evaluation()
    for number, clip in enumerate(held_out_clips(n_clips, first), first):
        events = clip.scene.events
        started_s = time.perf_counter()
        segments = play(model, processor, clip.chunks)
        model_s = time.perf_counter() - started_s
        result.rows.append(_row(f"clip{number}", segments, clip, clip.decoding_s + model_s, narrator))
        result.model_s += model_s
        result.decoding_s += clip.decoding_s
        result.video_s += CLIP_S
        result.add(score_clip(turns_of(segments), events, narrator))
        if blank_too:
            black = [(torch.zeros_like(frames), times_s) for frames, times_s in clip.chunks]
            result.blanked.add(score_clip(turns_of(play(model, processor, black)), events, narrator))
    return result


def _row(
    name: str, segments: Sequence[CommentarySegment], clip: HeldOutClip, work_s: float, narrator: str
) -> CommentaryRow:
    turns = [SpokenSpan(segment.start_s, segment.end_s, segment.text) for segment in segments]
    said = [SpokenSpan(*word) for word in narrate(clip.scene.events, CLIP_S, narrator)]
    pred = " ".join(turn.text for turn in turns if turn.text)
    return CommentaryRow(name, name, 0.0, float(CLIP_S), pred, turns, said, work_s=work_s)


def turns_of(segments: list[CommentarySegment]) -> list[SpokenTurn]:
    """Return segments as turns for `score_clip`; a turn's last frame is one frame interval before its end."""
    return [SpokenTurn(segment.end_s - FRAME_STEP_S, segment.text) for segment in segments]


def play(
    model: LiveCCForConditionalGeneration,
    processor: StreamingProcessor,
    chunks: list[tuple[torch.Tensor, list[float]]],
    **options,
) -> list[CommentarySegment]:
    """Stream a clip's chunks of (frames, times in seconds), and return the segments.

    Args:
        model: the model, in evaluation mode.
        processor: the model's processor.
        chunks: for each turn, frames as uint8 (T, 3, H, W) and their T times in seconds.
        **options: options of `start_stream`.
    """
    stream = model.start_stream(processor, **options)
    segments = []
    for frames, times_s in chunks:
        segments += stream.push(frames, times_s)
    return segments + stream.finish()
