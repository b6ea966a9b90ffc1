"""Times and ranges of time as arguments of commands."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from livecc_hf.video.reader import VideoInfo


def parse_time(text: str) -> float:
    """Return the seconds of `90`, `1:30` or `0:01:30.5`.

    Raises:
        argparse.ArgumentTypeError: if the text is not a time.
    """
    parts = text.split(":")
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    is_time = 1 <= len(values) <= 3 and all(0 <= v < 60 for v in values[1:]) and all(v >= 0 for v in values)
    if not is_time or values[0] == float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a time: expected seconds or hh:mm:ss, such as 90 or 1:30.5")
    return sum(value * 60**power for power, value in enumerate(reversed(values)))


def parse_duration(text: str) -> float:
    """Return the seconds of a time above 0, as :func:`parse_time` does.

    Raises:
        argparse.ArgumentTypeError: if the text is not such a time.
    """
    seconds = parse_time(text)
    if not seconds:
        raise argparse.ArgumentTypeError(f"{text!r} is no time at all: expected a time above 0, such as 10 or 1:30")
    return seconds


def check_range(start_s: float | None, end_s: float | None) -> None:
    """Check that `--end` is after `--start`.

    Raises:
        ValueError: if it is not.
    """
    if end_s is not None and end_s <= (start_s or 0):
        raise ValueError(f"--end {end_s:g} is not after the start, {start_s or 0:g}: give a later end")


def check_start(video: str, info: VideoInfo, start_s: float | None) -> None:
    """Check that `--start` lies before the end of a video file.

    Args:
        video: path of the file.
        info: what `probe_video` found in it.
        start_s: the start, in seconds; `None`: the beginning.

    Raises:
        ValueError: if it does not.
    """
    from livecc_hf.video.reader import measure_duration

    by_header_s = 0.0 if info.duration_s is None else info.first_pts_s - info.clock_start_s + info.duration_s
    # The duration in the header is an estimate, so the packets are read before a start is refused.
    if start_s and start_s >= by_header_s and start_s >= (length_s := measure_duration(video)):
        raise ValueError(f"--start {start_s:g} lies past the end of {video}, at {length_s:.1f} s")
