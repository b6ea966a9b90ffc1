"""Samples the frames of video files at a fixed rate, by presentation time.

LiveCC sees two frames per second. Sample time `t_n = first + n / fps` takes the frame that is on screen just before
it: the first frame whose display ends at or after `t_n`. The reference implementation makes the same choice, and it
never looks ahead of `t_n`. Times are exact fractions (`pts * time_base`), so rounding cannot change the choice.

* Times are seconds from `origin_s` on the file's own clock. Captions and words count from the time that players show
  as 0:00, `read_clock_start_s(path)`.
* `first` is `start_s`, or the first frame's time if that is later or there is no start.
* Samples stop before `end_s` (exclusive, as in a slice: ten seconds at 2 fps are 20 frames) and before the end of the
  last frame's display. Nothing is padded here.
* A frame is on screen until the next one appears; the last one for its own duration. If it stays for several sample
  times (a gap, or a frame rate below `fps`), it is repeated.
* Frames are turned upright by the display matrix. If the size changes within a file, later frames are resized to the
  first one's size. Non-square pixels are not stretched.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from .video_file import (
    TimedFrame,
    VideoReadError,
    VideoSource,
    check_file,
    display_orientation,
    frame_to_rgb,
    nothing_decoded,
    warn_of_damage,
)

if TYPE_CHECKING:
    from torch import Tensor

# Floats are read as the nearest fraction with at most this denominator: 1.4 means 7/5, not 1.39999...
_MAX_DENOMINATOR = 10**6


def exact_number(name: str, value: float | Fraction) -> Fraction:
    """Return the simple fraction that a number stands for: 1.4 is 7/5.

    Args:
        name: name of the argument, for the error.
        value: a number.

    Raises:
        ValueError: if the value is not a finite number.
    """
    number = isinstance(value, (int, float, Fraction)) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise ValueError(f"{name}={value!r}: expected a finite number")
    return Fraction(value).limit_denominator(_MAX_DENOMINATOR)


class SampledFrame(NamedTuple):
    """One sampled frame; times count from `origin_s`, in seconds.

    Attributes:
        frame: uint8 tensor `(3, height, width)`, RGB, upright. A repeated frame is the same tensor object.
        time_s: the sample time `t_n`.
        pts_s: when the frame appeared on screen.
        end_s: when the next frame replaced it; training compares word times with this.
    """

    frame: Tensor
    time_s: float
    pts_s: float
    end_s: float


class SampleTimes:
    """The sample times of a part of a video, exact, on the file's clock; arguments as in `iter_frames`.

    Attributes:
        start, end: start and end of the part in seconds; `None`: the first frame, and the end of the file.
        fps: sample times per second.
        origin: the time on the file's clock from which arguments and results count.
        first: the first sample time; valid after `begin`.
        reached: end of display of the last frame examined.
    """

    def __init__(self, start_s: Any, end_s: Any, fps: Any, origin_s: Any):
        start = None if start_s is None else exact_number("start_s", start_s)
        end = None if end_s is None else exact_number("end_s", end_s)
        self.fps, self.origin = exact_number("fps", fps), exact_number("origin_s", origin_s)
        if self.fps <= 0:
            raise ValueError(f"fps={fps!r}: expected a rate above 0, such as 2.0")
        if start is not None and end is not None and end <= start:
            raise ValueError(f"end_s={end_s} is not after start_s={start_s}: give a later end")
        self.start, self.end = (None if time is None else time + self.origin for time in (start, end))
        self.first = self.reached = Fraction(0)

    def begin(self, appears: Fraction) -> None:
        """Set the first sample time, given when the first frame appears, in seconds."""
        self.first = self.reached = appears if self.start is None else max(self.start, appears)

    def sample(self, number: int) -> Fraction:
        """Return sample time `number` in seconds, counted from 0."""
        return self.first + number / self.fps

    def is_before_end(self, sample: Fraction) -> bool:
        """Return whether a time lies before the end of the part."""
        return self.end is None or sample < self.end

    def none_found(self, path: str | os.PathLike) -> VideoReadError:
        """Return the error for a part without any frame."""
        first_s, reached_s = float(self.first - self.origin), float(self.reached - self.origin)
        if self.end is not None and self.end <= self.first:
            end_s = float(self.end - self.origin)
            return VideoReadError(f"end_s={end_s:g}: the first frame of {path} is at {first_s:g} s")
        return VideoReadError(f"start_s={first_s:g} lies past the end of {path}, at {reached_s:.2f} s")


def choose_frames(
    shown: Iterable[tuple[Fraction, Fraction, Any, bool]],
    times: SampleTimes,
    picture: Callable[[Any], Tensor],
    number: int = 0,
) -> Iterator[SampledFrame]:
    """Yield the frames on screen at the sample times, by the rule at the top of this module.

    Args:
        shown: frames as `on_screen` yields them.
        times: the sample times, after `begin`.
        picture: converts a decoded frame to an RGB tensor; called for sampled frames only.
        number: index of the first sample time to yield.
    """
    for appears, times.reached, frame, is_last in shown:
        image, leaves = None, times.reached
        while times.is_before_end(sample := times.sample(number)) and sample <= leaves:
            if sample == leaves and is_last:
                return
            image = picture(frame) if image is None else image
            number += 1
            yield SampledFrame(image, *(float(time - times.origin) for time in (sample, appears, leaves)))
        if not times.is_before_end(sample):
            return


def on_screen(source: VideoSource, frames: Iterator[TimedFrame]) -> Iterator[tuple[Fraction, Fraction, Any, bool]]:
    """Yield (appears, leaves, frame, is last) for each frame; times on screen in seconds."""
    shown = next(frames, None)
    if shown is None:
        return
    for following in frames:
        yield shown.time, following.time, shown.frame, False
        shown = following
    yield shown.time, source.display_end(shown), shown.frame, True


def iter_frames(
    path: str | os.PathLike,
    start_s: float | Fraction | None = None,
    end_s: float | Fraction | None = None,
    fps: float | Fraction = 2.0,
    origin_s: float | Fraction = 0,
) -> Generator[SampledFrame, None, None]:
    """Stream a file's frames at `fps`, chosen by presentation time.

    Memory use is constant: frames are decoded on demand, and only sampled ones are converted to RGB.

    Args:
        path: a video file.
        start_s: sample from this time on, in seconds from `origin_s`; `None` or a time before the first frame: from
            the first frame.
        end_s: sample before this time; `None`: to the end.
        fps: sample times per second.
        origin_s: the time on the file's clock, in seconds, from which all times given and returned count: 0 for the
            file's own clock, or `read_clock_start_s(path)` for the time that players show.

    Returns:
        An iterator of `SampledFrame`. Arguments are checked by this call, the file's content when iteration starts.

    Raises:
        FileNotFoundError: no such file.
        ValueError: invalid `fps`, `start_s`, `end_s` or `origin_s`.
        VideoReadError: (a ValueError) not a video, nothing can be decoded, or no frame in the range.
        ImportError: PyAV is not installed.

    Warns:
        VideoReadWarning: part of the file could not be decoded; issued when reading ends or the iterator is closed.
    """
    times = SampleTimes(start_s, end_s, fps, origin_s)
    check_file(path)
    return _read(path, times)


def _read(path: str | os.PathLike, times: SampleTimes) -> Generator[SampledFrame, None, None]:
    with closing(VideoSource(path)) as source:
        frames = source.frames()
        first = next(frames, None)
        if first is None:
            raise nothing_decoded(path)
        times.begin(first.time)
        form = display_orientation(first.frame), (first.frame.width, first.frame.height)
        shown = on_screen(source, itertools.chain([first], frames))
        chosen = None
        try:
            for chosen in choose_frames(shown, times, lambda frame: frame_to_rgb(frame, *form)):
                yield chosen
        finally:
            warn_of_damage(path, times.first, times.reached, source.damage())
        if chosen is None:
            raise times.none_found(path)
