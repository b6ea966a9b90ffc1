"""Reads video files into frames at a fixed rate, chosen by presentation time.

LiveCC sees two frames per second. Sample time `t_n = first + n / fps` takes the picture that is on
screen just before it: the first frame whose display ends at or after `t_n`. This is the choice the
reference implementation makes, and it never looks ahead of `t_n`. Times are compared as exact
rationals (`pts * time_base`), so the choice does not depend on rounding. Conventions:

* Times are seconds on the file's own clock; players show them relative to
  `VideoInfo.clock_start_s`.
* `first` is `start_s`, or the first frame's time if that is later or no start is given.
* Samples stop before `end_s` (exclusive, as in a slice: ten seconds at 2 fps are 20 frames) and
  before the last frame's display ends. Nothing is padded here.
* A frame is on screen until the next one appears, or for its own duration if it is the last. Where
  it stays for several sample times (a gap, or a frame rate below `fps`) it is repeated.
* Frames are turned upright as the display matrix asks. If the picture changes size on the way,
  later frames are resized to the first one's size. Non-square pixels are not stretched.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import torch

from .video_file_livecc import (
    TimedFrame,
    VideoInfo,
    VideoReadError,
    VideoReadWarning,
    VideoSource,
    check_file,
    display_orientation,
    frame_to_rgb,
    nothing_decoded,
    probe_video,
)

__all__ = [
    "FrameChunk",
    "SampledFrame",
    "VideoInfo",
    "VideoReadError",
    "VideoReadWarning",
    "iter_chunks",
    "iter_frames",
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
        time_s: the sample time `t_n` it was taken for, in seconds on the file's clock.
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
        timestamps_s: sample time of each frame in seconds, on the file's clock; length `T`.
    """

    frames: torch.Tensor
    timestamps_s: list[float]


def iter_frames(
    path: str | os.PathLike,
    start_s: float | Fraction | None = None,
    end_s: float | Fraction | None = None,
    fps: float | Fraction = 2.0,
) -> Iterator[SampledFrame]:
    """Stream a file's frames at `fps`, chosen by presentation time (see the module's conventions).

    Memory stays flat: frames are decoded as they are asked for, and only chosen ones are converted
    to RGB.

    Args:
        path: a video file.
        start_s: sample from this time on, in seconds on the file's clock; `None`, or a time before
            the first frame: from the first frame. 0 is a time like any other.
        end_s: sample before this time; `None`: to the end.
        fps: sample times per second.

    Returns:
        An iterator of `SampledFrame`. Arguments are checked at the call, the file's content when
        the iteration starts.

    Raises:
        FileNotFoundError: no such file.
        ValueError: `fps`, `start_s` or `end_s` make no sense.
        VideoReadError: (a ValueError) not a video, nothing decodable, or nothing in the range.
        ImportError: PyAV is not installed.

    Warns:
        VideoReadWarning: part of the file could not be decoded; says how many seconds could.
    """
    start = None if start_s is None else exact_number("start_s", start_s)
    end = None if end_s is None else exact_number("end_s", end_s)
    rate = exact_number("fps", fps)
    if rate <= 0:
        raise ValueError(f"fps={fps!r}: expected a rate above 0, such as 2.0")
    if start is not None and end is not None and end <= start:
        raise ValueError(f"end_s={end_s} is not after start_s={start_s}: give a later end")
    check_file(path)
    return _sample(path, start, end, rate)


def iter_chunks(
    path: str | os.PathLike,
    start_s: float | Fraction | None = None,
    end_s: float | Fraction | None = None,
    fps: float | Fraction = 2.0,
    frames_per_chunk: int = 2,
) -> Iterator[FrameChunk]:
    """Group the frames of `iter_frames` by `frames_per_chunk`; the last chunk may be shorter.

    Raises:
        ValueError: `frames_per_chunk` is below 1; and as `iter_frames` does.
    """
    if frames_per_chunk < 1:
        raise ValueError(f"frames_per_chunk={frames_per_chunk}: expected at least 1")
    return _group(iter_frames(path, start_s, end_s, fps), frames_per_chunk)


def exact_number(name: str, value: float | Fraction) -> Fraction:
    """The simple fraction a number stands for, or a ValueError that names it: 1.4 is 7/5."""
    number = isinstance(value, (int, float, Fraction)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ValueError(f"{name}={value!r}: expected a finite number")
    return Fraction(value).limit_denominator(_MAX_DENOMINATOR)


def open_before(
    path: str | os.PathLike, start: Fraction | None, keep_audio: bool = False
) -> tuple[VideoSource, Iterator[TimedFrame]]:
    """Open a file, with its frames from before `start` on: by a seek where that is exact."""
    for margin_s in _SEEK_MARGINS_S if start is not None else ():
        source = VideoSource(path, keep_audio)
        if start - source.clock_start() < _SEEK_FROM_S:
            return source, source.frames()
        frames = source.frames_before(start, margin_s)
        if frames is not None:
            return source, frames
        source.close()
    source = VideoSource(path, keep_audio)
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


def _sample(
    path: str | os.PathLike, start: Fraction | None, end: Fraction | None, fps: Fraction
) -> Iterator[SampledFrame]:
    source, frames = open_before(path, start)
    with source:
        first = None
        count = 0
        at_end = False
        for appears, leaves, frame, at_end in on_screen(source, frames):
            if first is None:
                first = appears if start is None else max(start, appears)
                orientation, size_px = display_orientation(frame), (frame.width, frame.height)
            image = None
            sample = first + count / fps
            while (end is None or sample < end) and (sample < leaves or (sample == leaves and not at_end)):
                image = frame_to_rgb(frame, orientation, size_px) if image is None else image
                yield SampledFrame(image, float(sample), float(appears), float(leaves))
                count += 1
                sample = first + count / fps
            if end is not None and sample >= end:
                at_end = False
                break
        if first is None:
            raise nothing_decoded(path)
        source.warn_of_damage(first, leaves, at_end)
        if count == 0 and end is not None and end <= first:
            at_s = float(first)
            raise VideoReadError(f"end_s={float(end):g}: the first frame of {path} is at {at_s:g} s")
        if count == 0:
            raise VideoReadError(f"start_s={float(first):g} lies past the end of {path}, at {float(leaves):.2f} s")


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
