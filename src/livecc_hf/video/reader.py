"""Samples frames of video files like `livecc_hf.modeling.video_sampling`, but faster, with seeks and past more damage.

The same rule chooses the frames, and they are equal bit for bit. Frames that are not sampled and not needed as
references are not decoded if the codec shows which ones those are (H.264, intra-only codecs). Damage in them is not
reported.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch

from livecc_hf.acceleration.video_packets import SkippedFramesError
from livecc_hf.modeling.video_file import (
    MAX_GAP_S,
    VideoReadError,
    VideoReadWarning,
    check_file,
    display_orientation,
    frame_to_rgb,
    nothing_decoded,
)
from livecc_hf.modeling.video_sampling import SampledFrame, SampleTimes, choose_frames, exact_number, on_screen

from .probe import VideoInfo, probe_video
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


@dataclass(frozen=True)
class FrameChunk:
    """Consecutive sampled frames.

    Attributes:
        frames: uint8 tensor `(T, 3, height, width)`, RGB, upright.
        timestamps_s: T sample times in seconds, counted from `origin_s`.
    """

    frames: torch.Tensor
    timestamps_s: list[float]


def iter_frames(
    path: str | os.PathLike,
    start_s: float | Fraction | None = None,
    end_s: float | Fraction | None = None,
    fps: float | Fraction = 2.0,
    origin_s: float | Fraction = 0,
    max_gap_s: float | Fraction = MAX_GAP_S,
) -> Generator[SampledFrame, None, None]:
    """Stream a file's frames at `fps`, as `livecc_hf.modeling.video_sampling.iter_frames`.

    Args:
        path, start_s, end_s, fps: as there.
        origin_s: the time on the file's clock, in seconds, from which all times given and returned count: 0 for the
            file's own clock, or `probe_video(path).clock_start_s` for the time that players show.
        max_gap_s: a longer step of the file's times beyond the end of all packets so far, in seconds, is treated as
            damage (such as a wrong time table entry) and removed.

    Raises:
        ValueError: invalid `max_gap_s`; otherwise as there.

    Warns:
        VideoReadWarning: part of the file could not be decoded, or its times were wrong; says how many seconds were
            decoded. Issued when reading ends or the iterator is closed.
    """
    max_gap = exact_number("max_gap_s", max_gap_s)
    if max_gap <= 0:
        raise ValueError(f"max_gap_s={max_gap_s!r}: expected a number of seconds above 0")
    times = SampleTimes(start_s, end_s, fps, origin_s)
    check_file(path)
    return _Reading(path, times, max_gap).frames()


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
    if frames_per_chunk < 1:
        raise ValueError(f"frames_per_chunk={frames_per_chunk}: expected at least 1")
    return _groups(iter_frames(path, start_s, end_s, fps, origin_s, max_gap_s), frames_per_chunk)


def _groups(frames: Iterator[SampledFrame], frames_per_chunk: int) -> Iterator[FrameChunk]:
    while sampled := list(itertools.islice(frames, frames_per_chunk)):
        yield FrameChunk(torch.stack([item.frame for item in sampled]), [item.time_s for item in sampled])


class _Reading:
    """One pass over a file's sampled frames that skips frames it need not decode."""

    def __init__(self, path: str | os.PathLike, times: SampleTimes, max_gap: Fraction):
        self._path, self._times, self._max_gap = path, times, max_gap
        self._source: RepairedSource | None = None
        self._form: tuple | None = None  # orientation and stored size of the first frame
        self._n_given = 0
        self._at_end = False
        self._skips = True

    def frames(self) -> Generator[SampledFrame, None, None]:
        """Yield the sampled frames, and warn of damage when reading ends."""
        times = self._times
        try:
            try:
                yield from self._read(times.start)
            except SkippedFramesError:
                # Damage: a skipped frame may be needed instead of one that is missing. Read again without skipping.
                self._skips = False
                yield from self._read(times.sample(max(self._n_given - 1, 0)))
            if self._form is None:
                raise nothing_decoded(self._path)
            self._warn()
            if not self._n_given:
                raise times.none_found(self._path)
        except GeneratorExit:
            self._warn()
            raise
        finally:
            self._close()

    def _read(self, start: Fraction | None) -> Iterator[SampledFrame]:
        """Yield the frames of the remaining sample times, reading from `start` (seconds) on."""
        self._close()
        source, frames = RepairedSource.open_before(self._path, start, max_gap_s=self._max_gap)
        self._source = source
        first = next(frames, None)
        if first is None:
            return
        if self._form is None:
            self._times.begin(first.time)
            self._form = display_orientation(first.frame), (first.frame.width, first.frame.height)
        if self._skips:
            source.skip_unless(self._is_wanted)
        shown = self._track_end(on_screen(source, itertools.chain([first], frames)))
        for chosen in choose_frames(shown, self._times, self._picture, self._n_given):
            self._n_given += 1  # before the yield, so that a second pass does not repeat the frame
            yield chosen
        self._at_end = self._at_end and self._times.is_before_end(self._times.sample(self._n_given))

    def _track_end(self, shown: Iterator[tuple]) -> Iterator[tuple]:
        for each in shown:
            self._at_end = each[-1]
            yield each

    def _picture(self, frame: Any) -> torch.Tensor:
        if frame is None or self._form is None:
            raise SkippedFramesError
        return frame_to_rgb(frame, *self._form)

    def _is_wanted(self, appears: Fraction, leaves: Fraction) -> bool:
        """Return whether a frame other than the first is chosen for any sample time."""
        times = self._times
        sample = times.sample(max(0, math.floor((appears - times.first) * times.fps) + 1))
        return sample <= leaves and times.is_before_end(sample)

    def _warn(self) -> None:
        if self._source is not None and self._form is not None:
            self._source.warn_of_damage(self._times.first, self._times.reached, self._at_end)

    def _close(self) -> None:
        if self._source is not None:
            self._source.close()
