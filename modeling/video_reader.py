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
"""

import itertools
import math
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import torch

from .video_file import (
    VideoInfo,
    VideoSource,
    display_orientation,
    frame_to_rgb,
    nothing_decoded,
    packet_end,
    probe_video,
)
from .video_open import VideoReadError, VideoReadWarning, check_file

__all__ = [
    "FrameChunk",
    "FrameSampler",
    "SampledFrame",
    "VideoInfo",
    "VideoReadError",
    "VideoReadWarning",
    "iter_chunks",
    "iter_frames",
    "measure_duration",
    "probe_video",
]

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
) -> Generator[SampledFrame, None, None]:
    """Stream a file's frames at `fps`, chosen by presentation time (see the module's conventions).

    Memory stays flat: frames are decoded as they are asked for, and only chosen ones are converted to RGB.

    Args:
        path: a video file.
        start_s: sample from this time on, in seconds from `origin_s`; `None`, or a time before
            the first frame: from the first frame. 0 is a time like any other.
        end_s: sample before this time; `None`: to the end.
        fps: sample times per second.
        origin_s: what all times, given and returned, count from, in seconds on the file's clock; the
            file's own 0, or `probe_video(path).clock_start_s` for the time that a player shows.

    Returns:
        An iterator of `SampledFrame`. Arguments are checked at the call, the file's content when
        the iteration starts.

    Raises:
        FileNotFoundError: no such file.
        ValueError: `fps`, `start_s`, `end_s` or `origin_s` make no sense.
        VideoReadError: (a ValueError) not a video, nothing decodable, or nothing in the range.
        ImportError: PyAV is not installed.

    Warns:
        VideoReadWarning: part of the file could not be decoded, or its times were wrong; says how many seconds were
            decoded. It comes where reading ends, also where the iterator is closed before.
    """
    return FrameSampler(path, start_s, end_s, fps, origin_s).frames()


def iter_chunks(
    path: str | os.PathLike,
    start_s: float | Fraction | None = None,
    end_s: float | Fraction | None = None,
    fps: float | Fraction = 2.0,
    frames_per_chunk: int = 2,
    origin_s: float | Fraction = 0,
) -> Iterator[FrameChunk]:
    """Group the frames of `iter_frames` by `frames_per_chunk`; the last chunk may be shorter.

    Raises:
        ValueError: `frames_per_chunk` is below 1; and as `iter_frames` does.
    """
    return group_frames(iter_frames(path, start_s, end_s, fps, origin_s), frames_per_chunk)


def measure_duration(path: str | os.PathLike) -> float:
    """Return how long a video is, in seconds from what a player shows as 0:00 to the end of its last picture.

    Its packets are read to the end, which headers only estimate; none is decoded.

    Raises:
        FileNotFoundError: no such file.
        VideoReadError: not a video, or it holds no picture.
        ImportError: PyAV is not installed.
    """
    with VideoSource(path) as source:
        for packet in source.packets():
            if packet is not None and packet.size and (end := packet_end(packet)) is not None:
                source.settle(end)  # one that lies before others is passed over
        if source.clock.last is None:
            raise VideoReadError(f"{path} has a video stream, but it holds no picture")
        return float(source.clock.last - source.clock_start())


def exact_number(name: str, value: float | Fraction) -> Fraction:
    """Return the simple fraction a number stands for, or raise a ValueError that names it: 1.4 is 7/5."""
    number = isinstance(value, (int, float, Fraction)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ValueError(f"{name}={value!r}: expected a finite number")
    return Fraction(value).limit_denominator(_MAX_DENOMINATOR)


class FrameSampler:
    """Chooses the frames of one file; arguments and errors as `iter_frames`.

    Its own times are on the file's clock; those that it gives and tells count from `origin_s`.

    Attributes:
        source: the open file, `None` before it is read.
        count: how many frames were given.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        start_s: float | Fraction | None,
        end_s: float | Fraction | None,
        fps: float | Fraction,
        origin_s: float | Fraction,
    ):
        start = None if start_s is None else exact_number("start_s", start_s)
        end = None if end_s is None else exact_number("end_s", end_s)
        self.fps, self.origin = exact_number("fps", fps), exact_number("origin_s", origin_s)
        if self.fps <= 0:
            raise ValueError(f"fps={fps!r}: expected a rate above 0, such as 2.0")
        if start is not None and end is not None and end <= start:
            raise ValueError(f"end_s={end_s} is not after start_s={start_s}: give a later end")
        check_file(path)
        self.path = path
        self.start, self.end = (None if time is None else time + self.origin for time in (start, end))
        self.source: VideoSource | None = None
        self._first: Fraction | None = None
        self._leaves: Fraction | None = None
        self.count = 0
        self.at_end = False

    def frames(self) -> Generator[SampledFrame, None, None]:
        """Yield the chosen frames, and warn of damage where reading ends."""
        try:
            yield from self.read(self.start)
            self._finish()
        except GeneratorExit:
            self._warn()
            raise
        finally:
            self.close()

    def open(self, start: Fraction | None) -> tuple[VideoSource, Iterator[Any]]:
        """Open the file, with its frames from before `start` on."""
        return VideoSource.open_before(self.path, start)

    def read(self, start: Fraction | None) -> Iterator[SampledFrame]:
        """Yield the frames of the sample times from the next one on; `start` is where to begin to read."""
        self.close()
        self.source, frames = self.open(start)
        shown = next(frames, None)
        if shown is None:
            return
        if self._first is None:
            self._first = shown.time if start is None else max(start, shown.time)
            self._orientation = display_orientation(shown.frame)
            self._size_px = (shown.frame.width, shown.frame.height)
        self.begin()
        yield from self._choose(on_screen(self.source, itertools.chain([shown], frames)))

    def begin(self) -> None:
        """Prepare for the frames after the first: nothing to do here."""

    def picture(self, frame: Any) -> torch.Tensor:
        """Return a decoded frame as the model sees it."""
        return frame_to_rgb(frame, self._orientation, self._size_px)

    @property
    def first(self) -> Fraction:
        """The first sample time, in seconds.

        Raises:
            VideoReadError: if no frame was decoded.
        """
        if self._first is None:
            raise nothing_decoded(self.path)
        return self._first

    def sample_time(self, number: int) -> Fraction:
        """Return a sample time in seconds; the first has number 0."""
        return self.first + number / self.fps

    def is_before_end(self, sample: Fraction) -> bool:
        """Return whether a time lies before the end of the range."""
        return self.end is None or sample < self.end

    def close(self) -> None:
        """Close the file."""
        if self.source is not None:
            self.source.close()

    def _choose(self, shown: Iterator[tuple[Fraction, Fraction, Any, bool]]) -> Iterator[SampledFrame]:
        sample = self.sample_time(self.count)
        for appears, leaves, frame, self.at_end in shown:
            self._leaves, image = leaves, None
            while self.is_before_end(sample) and (sample < leaves or (sample == leaves and not self.at_end)):
                if image is None:
                    image = self.picture(frame)
                # Counted first: a frame that was given is not given again.
                self.count += 1
                yield SampledFrame(image, *(float(time - self.origin) for time in (sample, appears, leaves)))
                sample = self.sample_time(self.count)
            if not self.is_before_end(sample):
                self.at_end = False
                break

    def _warn(self) -> None:
        if self.source is not None and self._leaves is not None:
            self.source.warn_of_damage(self.first, self._leaves, self.at_end)

    def _finish(self) -> None:
        """Warn of damage, and raise VideoReadError if nothing was given."""
        first = self.first
        self._warn()
        if self.count:
            return
        first_s, last_s = float(first - self.origin), float((self._leaves or first) - self.origin)
        if self.end is not None and self.end <= first:
            end_s = float(self.end - self.origin)
            raise VideoReadError(f"end_s={end_s:g}: the first frame of {self.path} is at {first_s:g} s")
        raise VideoReadError(f"start_s={first_s:g} lies past the end of {self.path}, at {last_s:.2f} s")


def on_screen(source: VideoSource, frames: Iterator[Any]) -> Iterator[tuple[Fraction, Fraction, Any, bool]]:
    """Yield frames with the times they appear and leave the screen in seconds, and whether it is the last one."""
    shown = next(frames, None)
    if shown is None:
        return
    for following in frames:
        yield shown.time, following.time, shown.frame, False
        shown = following
    yield shown.time, source.display_end(shown), shown.frame, True


def group_frames(frames: Iterator[SampledFrame], frames_per_chunk: int) -> Iterator[FrameChunk]:
    """Group sampled frames; see `iter_chunks`."""
    if frames_per_chunk < 1:
        raise ValueError(f"frames_per_chunk={frames_per_chunk}: expected at least 1")
    return _groups(frames, frames_per_chunk)


def _groups(frames: Iterator[SampledFrame], frames_per_chunk: int) -> Iterator[FrameChunk]:
    while sampled := list(itertools.islice(frames, frames_per_chunk)):
        yield FrameChunk(torch.stack([item.frame for item in sampled]), [item.time_s for item in sampled])
