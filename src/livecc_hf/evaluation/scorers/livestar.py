"""TimDiff, TimRedun and TimCover, as LiveStar computes them (yzy-bupt/LiveStar, utils/eval_infer_result.py).

The reference is a list of captions at whole seconds, and predictions are whole seconds too. Each caption has a segment:
the first caption's is its own second; a later caption's starts one second after the previous caption and ends at its
own second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class LiveStarTiming(NamedTuple):
    """The three measures of one video.

    Attributes:
        tim_diff: seconds from a segment's start to its first prediction; without one, to the segment's end.
        tim_redun: |1 - number of predictions in a segment|.
        tim_cover: share of segments with a prediction, 0 to 1.
    """

    tim_diff: float
    tim_redun: float
    tim_cover: float


def livestar_segments(caption_times_s: Sequence[int]) -> list[tuple[int, int]]:
    """Return start and end second, both included, of each caption's segment."""
    times = sorted(caption_times_s)
    return [(time if i == 0 else times[i - 1] + 1, time) for i, time in enumerate(times)]


def livestar_timing(caption_times_s: Sequence[int], prediction_times_s: Sequence[int]) -> LiveStarTiming:
    """Return the measures of one video.

    If two captions have the same time, the second one's segment ends a second before it starts. As in LiveStar's code,
    such a segment has no predictions, and its difference is -1.

    Args:
        caption_times_s: whole seconds; at least one.
        prediction_times_s: whole seconds.

    Raises:
        ValueError: if there is no caption.
    """
    if not caption_times_s:
        raise ValueError("got no captions: the measures need a reference")
    predictions = sorted(prediction_times_s)
    differences, counts = [], []
    at = 0
    for begin, end in livestar_segments(caption_times_s):
        while at < len(predictions) and predictions[at] < begin:
            at += 1
        first, count = at, 0
        while at < len(predictions) and predictions[at] <= end:
            at += 1
            count += 1
        differences.append(predictions[first] - begin if count else end - begin)
        counts.append(count)
    n = len(counts)
    return LiveStarTiming(
        sum(differences) / n, sum(abs(1 - count) for count in counts) / n, sum(count > 0 for count in counts) / n
    )


def parse_time_s(text: str) -> int:
    """Return the seconds of a time written as `HH:MM:SS`, `MM:SS` or `SS`.

    Raises:
        ValueError: if the text has another form.
    """
    parts = text.strip().split(":")
    if not 1 <= len(parts) <= 3 or not all(part.strip().isdecimal() for part in parts):
        raise ValueError(f"{text!r} is not a time: expected HH:MM:SS, MM:SS or SS")
    return sum(int(part) * 60**power for power, part in enumerate(reversed(parts)))
