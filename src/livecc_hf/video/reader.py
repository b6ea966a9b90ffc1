"""Reads video files as `livecc_hf.modeling.video_reader` does: faster, and past more kinds of damage.

The frames are chosen by the same rule and are the same bit for bit. What is neither chosen nor needed to decode what
is chosen is not decoded, where the codec lets that be known (H.264, intra-only codecs); damage that lies inside what is
not decoded is not reported.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterator
from fractions import Fraction
from typing import Any

import torch

from livecc_hf.acceleration.video_packets import SkippedFramesError
from livecc_hf.modeling.video_file import TimedFrame, VideoInfo, VideoSource, nothing_decoded, probe_video
from livecc_hf.modeling.video_open import VideoReadError, VideoReadWarning
from livecc_hf.modeling.video_reader import (
    FrameChunk,
    FrameSampler,
    SampledFrame,
    exact_number,
    group_frames,
    on_screen,
)
from livecc_hf.modeling.video_times import MAX_GAP_S

from .scan import measure_duration
from .source import RepairedSource

__all__ = [
    "MAX_GAP_S",
    "FrameChunk",
    "RepairedSource",
    "SampledFrame",
    "VideoInfo",
    "VideoReadError",
    "VideoReadWarning",
    "exact_number",
    "iter_chunks",
    "iter_frames",
    "measure_duration",
    "nothing_decoded",
    "on_screen",
    "probe_video",
]


def iter_frames(
    path: str | os.PathLike,
    start_s: float | Fraction | None = None,
    end_s: float | Fraction | None = None,
    fps: float | Fraction = 2.0,
    origin_s: float | Fraction = 0,
    max_gap_s: float | Fraction = MAX_GAP_S,
) -> Generator[SampledFrame, None, None]:
    """Stream a file's frames at `fps`; as `livecc_hf.modeling.video_reader.iter_frames`, but for one argument.

    Args:
        path, start_s, end_s, fps, origin_s: as there.
        max_gap_s: a step of the file's times that is longer than this, past all that its packets have
            reached, is damage and left out, as of an entry of its time table.

    Raises:
        ValueError: `max_gap_s` makes no sense; and as there.
    """
    return _RepairedSampler(path, start_s, end_s, fps, origin_s, max_gap_s).frames()


def iter_chunks(
    path: str | os.PathLike,
    start_s: float | Fraction | None = None,
    end_s: float | Fraction | None = None,
    fps: float | Fraction = 2.0,
    frames_per_chunk: int = 2,
    origin_s: float | Fraction = 0,
    max_gap_s: float | Fraction = MAX_GAP_S,
) -> Iterator[FrameChunk]:
    """Group the frames of `iter_frames` by `frames_per_chunk`; the last chunk may be shorter.

    Raises:
        ValueError: `frames_per_chunk` is below 1; and as `iter_frames` does.
    """
    return group_frames(iter_frames(path, start_s, end_s, fps, origin_s, max_gap_s), frames_per_chunk)


class _RepairedSampler(FrameSampler):
    """Skips what need not be decoded; one that has to read the file again goes on where it was."""

    def __init__(self, path: str | os.PathLike, *args: Any):
        *those, max_gap_s = args
        super().__init__(path, *those)
        self._max_gap = exact_number("max_gap_s", max_gap_s)
        if self._max_gap <= 0:
            raise ValueError(f"max_gap_s={max_gap_s!r}: expected a number of seconds above 0")
        self._skips = True

    def open(self, start: Fraction | None) -> tuple[VideoSource, Iterator[TimedFrame]]:
        return RepairedSource.open_before(self.path, start, max_gap_s=self._max_gap)

    def read(self, start: Fraction | None) -> Iterator[SampledFrame]:
        try:
            yield from super().read(start)
        except SkippedFramesError:
            # Damage: frames that were skipped may be wanted in place of those that did not come.
            self._skips = False
            yield from super().read(self.sample_time(max(self.count - 1, 0)))

    def begin(self) -> None:
        if self._skips and isinstance(self.source, RepairedSource):
            self.source.skip_unless(self._is_wanted)

    def picture(self, frame: Any) -> torch.Tensor:
        if frame is None:
            raise SkippedFramesError
        return super().picture(frame)

    def _is_wanted(self, appears: Fraction, leaves: Fraction) -> bool:
        """Return whether a frame, not the first, is chosen for any sample time."""
        sample = self.sample_time(max(0, math.floor((appears - self.first) * self.fps) + 1))
        return sample <= leaves and self.is_before_end(sample)
