"""Plays held-out clips of the small world to a model, through real mp4 files, and scores it."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from livecc_hf.modeling.grammar_livecc import FRAME_STEP_S
from livecc_hf.modeling.video_reader_livecc import iter_chunks

from .rendering import write_video
from .scoring import Score, Turn, score_clip
from .world import simulate

if TYPE_CHECKING:
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration
    from livecc_hf.modeling.processing_livecc import StreamingProcessor
    from livecc_hf.modeling.streaming_livecc import CommentarySegment

CLIP_S = 20


@dataclass
class Evaluation:
    """The result of `evaluate`.

    Args:
        score: counts over all clips.
        blanked: the same with every frame black, where asked for: what is told right was not seen.
        video_s: seconds of video played.
        decoding_s: seconds spent on decoding.
        model_s: seconds spent in the streaming loop.
    """

    score: Score = field(default_factory=Score)
    blanked: Score = field(default_factory=Score)
    video_s: float = 0.0
    decoding_s: float = 0.0
    model_s: float = 0.0

    @property
    def real_time_factor(self) -> float:
        """Seconds of work for a second of video, decoding included; below 1 keeps up with the clock."""
        return (self.decoding_s + self.model_s) / self.video_s if self.video_s else 0.0


def held_out_seed(index: int) -> int:
    """The seed of an evaluation clip: negative, which no training clip is."""
    return -1 - index


def evaluate(
    model: LiveCCForConditionalGeneration,
    processor: StreamingProcessor,
    n_clips: int = 100,
    first: int = 0,
    blank_too: bool = False,
) -> Evaluation:
    """Scores a model on held-out clips of `CLIP_S` seconds: encoded, decoded, streamed.

    Args:
        model: in evaluation mode.
        processor: its processor.
        n_clips: how many clips.
        first: number of the first clip.
        blank_too: play each clip a second time with black frames.
    """
    result = Evaluation()
    with tempfile.TemporaryDirectory() as folder:
        for index in range(first, first + n_clips):
            scene = simulate(held_out_seed(index), CLIP_S)
            path = Path(folder) / "clip.mp4"
            write_video(scene, path)
            started_s = time.perf_counter()
            chunks = [(chunk.frames, chunk.timestamps_s) for chunk in iter_chunks(path)]
            decoded_s = time.perf_counter()
            segments = _play(model, processor, chunks)
            result.model_s += time.perf_counter() - decoded_s
            result.decoding_s += decoded_s - started_s
            result.video_s += CLIP_S
            result.score.add(score_clip(turns_of(segments), scene.events))
            if blank_too:
                black = [(torch.zeros_like(frames), times_s) for frames, times_s in chunks]
                result.blanked.add(score_clip(turns_of(_play(model, processor, black)), scene.events))
    return result


def turns_of(segments: list[CommentarySegment]) -> list[Turn]:
    """Segments as the scorer wants them: a turn's last frame is shown one step before the turn's end."""
    return [Turn(segment.end_s - FRAME_STEP_S, segment.text) for segment in segments]


def _play(model, processor, chunks: list[tuple[torch.Tensor, list[float]]]) -> list[CommentarySegment]:
    stream = model.start_stream(processor)
    segments = []
    for frames, times_s in chunks:
        segments += stream.push(frames, times_s)
    return segments + stream.finish()
