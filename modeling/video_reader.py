"""Reads video files into frames at a fixed rate, chosen by presentation time.

LiveCC sees two frames per second. Sample time `t_n = first + n / fps` takes the picture that is on
screen just before it: the first frame whose display ends at or after `t_n`. This is the choice the
reference implementation makes, and it never looks ahead of `t_n`. Times are compared as exact
rationals (`pts * time_base`), so the choice does not depend on rounding. Conventions:

* Times are seconds on the file's own clock. Captions and words count from what a player shows as
  0:00, `VideoInfo.clock_start_s`: with that as `origin_s`, so do these times.
* `first` is `start_s`, or the first frame's time if that is later or no start is given.
* Samples stop before `end_s` (exclusive, as in a slice: ten seconds at 2 fps are 20 frames) and
  before the last frame's display ends. Nothing is padded here.
* A frame is on screen until the next one appears, or for its own duration if it is the last. Where
  it stays for several sample times (a gap, or a frame rate below `fps`) it is repeated.
* Frames are turned upright as the display matrix asks. If the picture changes size on the way,
  later frames are resized to the first one's size. Non-square pixels are not stretched.
* What is neither chosen nor needed to decode what is chosen is not decoded, where the codec lets
  that be known (H.264, intra-only codecs); the frames given are the same, bit for bit. Damage that
  lies inside what is not decoded is not reported.
"""

import itertools
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import torch

from .video_file import (
    TimedFrame,
    VideoInfo,
    VideoReadError,
    VideoReadWarning,
    VideoSource,
    display_orientation,
    frame_to_rgb,
    nothing_decoded,
    probe_video,
)
from .video_open import check_file
from .video_packets import SkippedFramesError
from .video_scan import may_seek, measure_duration
from .video_times import MAX_GAP_S

__all__ = [
    "FrameChunk",
    "SampledFrame",
    "VideoInfo",
    "VideoReadError",
    "VideoReadWarning",
    "iter_chunks",
    "iter_frames",
    "measure_duration",
    "probe_video",
]

# A start this far into the file is worth a seek; closer ones are decoded up to.
_SEEK_FROM_S = 10
# How far before the wanted time a seek aims, one try after the other.
_SEEK_MARGINS_S = (1, 20)
# Floats are read as the nearest fraction up to this denominator: 1.4 means 7/5, not 1.39999...
_MAX_DENOMINATOR = 10**6


class SampledFrame(NamedTuple):
    """One chosen frame.

    Attributes:
        frame: uint8 tensor `(3, height, width)`, RGB, upright. A repeated frame is the same tensor.
        time_s: the sample time `t_n` it was taken for, in seconds, as `start_s` counts.
        pts_s: the frame's own presentation time, at which it appeared.
        end_s: when the next frame replaced it; the time that words are compared with in training.
    """

    frame: torch.Tensor
    time_s: float
    pts_s: float
    end_s: float


@dataclass(frozen=True)
class FrameChunk:
    """Consecutive sampled frames.

    Attributes:
        frames: uint8 tensor `(T, 3, height, width)`, RGB, upright.
        timestamps_s: sample time of each frame in seconds, as `start_s` counts; length `T`.
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
) -> Iterator[SampledFrame]:
    """Stream a file's frames at `fps`, chosen by presentation time (see the module's conventions).

    Memory stays flat: frames are decoded as they are asked for, only those needed, and only chosen
    ones are converted to RGB.

    Args:
        path: a video file.
        start_s: sample from this time on, in seconds from `origin_s`; `None`, or a time before
            the first frame: from the first frame. 0 is a time like any other.
        end_s: sample before this time; `None`: to the end.
        fps: sample times per second.
        origin_s: what all times, given and returned, count from, in seconds on the file's clock; the
            file's own 0, or `probe_video(path).clock_start_s` for the time that a player shows.
        max_gap_s: a step of the file's times that is longer than this, past all that its packets have
            reached, is damage and left out, as of an entry of its time table.

    Returns:
        An iterator of `SampledFrame`. Arguments are checked at the call, the file's content when
        the iteration starts.

    Raises:
        FileNotFoundError: no such file.
        ValueError: `fps`, `start_s`, `end_s`, `origin_s` or `max_gap_s` make no sense.
        VideoReadError: (a ValueError) not a video, nothing decodable, or nothing in the range.
        ImportError: PyAV is not installed.

    Warns:
        VideoReadWarning: part of the file could not be decoded, or its times were wrong; says how many seconds were
            decoded. It comes where reading ends, also where the iterator is closed before.
    """
    start = None if start_s is None else exact_number("start_s", start_s)
    end = None if end_s is None else exact_number("end_s", end_s)
    rate = exact_number("fps", fps)
    if rate <= 0:
        raise ValueError(f"fps={fps!r}: expected a rate above 0, such as 2.0")
    if start is not None and end is not None and end <= start:
        raise ValueError(f"end_s={end_s} is not after start_s={start_s}: give a later end")
    origin = exact_number("origin_s", origin_s)
    max_gap = exact_number("max_gap_s", max_gap_s)
    if max_gap <= 0:
        raise ValueError(f"max_gap_s={max_gap_s!r}: expected a number of seconds above 0")
    check_file(path)
    return _sample(_Sampler(path, (start, end), rate, origin, max_gap))


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
    return _group(iter_frames(path, start_s, end_s, fps, origin_s, max_gap_s), frames_per_chunk)


def exact_number(name: str, value: float | Fraction) -> Fraction:
    """The simple fraction a number stands for, or a ValueError that names it: 1.4 is 7/5."""
    number = isinstance(value, (int, float, Fraction)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ValueError(f"{name}={value!r}: expected a finite number")
    return Fraction(value).limit_denominator(_MAX_DENOMINATOR)


def open_before(
    path: str | os.PathLike, start: Fraction | None, keep_audio: bool = False, max_gap_s: float | Fraction = MAX_GAP_S
) -> tuple[VideoSource, Iterator[TimedFrame]]:
    """Open a file, with its frames from before `start` on: by a seek where that is exact."""
    for margin_s in _SEEK_MARGINS_S if start is not None else ():
        source = VideoSource(path, keep_audio, max_gap_s)
        # What lies past the end by the header is past a jump of times that is damage, or the header is wrong.
        is_far = start - source.clock_start() >= _SEEK_FROM_S and start <= (source.header_end or start)
        if not is_far or not may_seek(path, source.container, source.stream):
            return source, source.frames()
        frames = source.frames_before(start, margin_s)
        if frames is not None:
            return source, frames
        source.close()
    source = VideoSource(path, keep_audio, max_gap_s)
    return source, source.frames()


def on_screen(source: VideoSource, frames: Iterator[TimedFrame]) -> Iterator[tuple[Fraction, Fraction, Any, bool]]:
    """Frames with the times they appear and leave the screen in seconds, and whether it is the last one."""
    shown = next(frames, None)
    if shown is None:
        return
    for following in frames:
        yield shown.time, following.time, shown.frame, False
        shown = following
    yield shown.time, source.display_end(shown), shown.frame, True


def _sample(sampler: "_Sampler") -> Iterator[SampledFrame]:
    try:
        try:
            yield from sampler.read(sampler.start, skip=True)
        except SkippedFramesError:
            # Damage: frames that were skipped may be wanted in place of those that did not come.
            yield from sampler.read(sampler.last_sample(), skip=False)
        sampler.finish()
    except GeneratorExit:
        sampler.warn()
        raise
    finally:
        sampler.close()


class _Sampler:
    """Chooses frames; one that has to read the file again goes on where it was.

    Its times are on the file's clock; those that it gives and tells count from `origin`.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        span: tuple[Fraction | None, Fraction | None],
        fps: Fraction,
        origin: Fraction,
        max_gap: Fraction,
    ):
        self.start, self.end = (None if time is None else time + origin for time in span)
        self.path, self.fps, self.origin, self.max_gap = path, fps, origin, max_gap
        self.source: VideoSource | None = None
        self.first: Fraction | None = None
        self.leaves: Fraction | None = None
        self.count = 0
        self.at_end = False

    def sample_time(self) -> Fraction:
        """The next sample time in seconds."""
        return self.first + self.count / self.fps

    def last_sample(self) -> Fraction:
        """The last sample time for which a frame was given; the first one if there is none yet."""
        return self.first + max(self.count - 1, 0) / self.fps

    def read(self, start: Fraction | None, skip: bool) -> Iterator[SampledFrame]:
        """Give the frames of the sample times from the next one on.

        Args:
            start: where to begin to read: at or before the next sample time.
            skip: decode only what is needed.
        """
        self.close()
        self.source, frames = open_before(self.path, start, max_gap_s=self.max_gap)
        shown = next(frames, None)
        if shown is None:
            return
        if self.first is None:
            self.first = shown.time if start is None else max(start, shown.time)
            self.orientation = display_orientation(shown.frame)
            self.size_px = (shown.frame.width, shown.frame.height)
        if skip:
            self.source.skip_unless(self._is_wanted)
        yield from self._choose(on_screen(self.source, itertools.chain([shown], frames)))

    def close(self) -> None:
        """Close the file."""
        if self.source is not None:
            self.source.close()

    def _choose(self, shown: Iterator[tuple[Fraction, Fraction, Any, bool]]) -> Iterator[SampledFrame]:
        sample = self.sample_time()
        for appears, self.leaves, frame, self.at_end in shown:
            image = None
            while self._is_before_end(sample) and (sample < self.leaves or (sample == self.leaves and not self.at_end)):
                if image is None:
                    if frame is None:
                        raise SkippedFramesError
                    image = frame_to_rgb(frame, self.orientation, self.size_px)
                # Counted first: a frame that was given is not given again.
                self.count += 1
                yield SampledFrame(image, *map(self._told, (sample, appears, self.leaves)))
                sample = self.sample_time()
            if not self._is_before_end(sample):
                self.at_end = False
                break

    def _told(self, time: Fraction) -> float:
        return float(time - self.origin)

    def _is_before_end(self, sample: Fraction) -> bool:
        return self.end is None or sample < self.end

    def _is_wanted(self, appears: Fraction, leaves: Fraction) -> bool:
        """Whether a frame, not the first, is chosen for any sample time."""
        n = max(0, math.floor((appears - self.first) * self.fps) + 1)
        sample = self.first + n / self.fps
        return sample <= leaves and self._is_before_end(sample)

    def warn(self) -> None:
        """Warn of damage to what was read."""
        if self.leaves is not None:
            self.source.warn_of_damage(self.first, self.leaves, self.at_end)

    def finish(self) -> None:
        """Warn of damage, and raise VideoReadError if nothing was given."""
        path, first = self.path, self.first
        if first is None:
            raise nothing_decoded(path)
        self.warn()
        told = self._told
        if self.count == 0 and self.end is not None and self.end <= first:
            raise VideoReadError(f"end_s={told(self.end):g}: the first frame of {path} is at {told(first):g} s")
        if self.count == 0:
            raise VideoReadError(f"start_s={told(first):g} lies past the end of {path}, at {told(self.leaves):.2f} s")


def _group(frames: Iterator[SampledFrame], frames_per_chunk: int) -> Iterator[FrameChunk]:
    pending: list[SampledFrame] = []
    for sampled in frames:
        pending.append(sampled)
        if len(pending) == frames_per_chunk:
            yield _chunk(pending)
            pending = []
    if pending:
        yield _chunk(pending)


def _chunk(sampled: list[SampledFrame]) -> FrameChunk:
    frames = torch.stack([item.frame for item in sampled])
    return FrameChunk(frames, [item.time_s for item in sampled])
