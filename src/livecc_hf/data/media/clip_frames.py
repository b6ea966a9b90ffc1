"""Reads the frames of a clip of a video file: planned from its header, read by seeking, resized while decoding.

The times of a clip and its words count from what a player shows as 0:00; this module converts them to the file's clock.
"""

from __future__ import annotations

import math
import os
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from livecc_hf.modeling.grammar import (
    FIRST_TURN_FRAMES,
    FRAME_STEP_S,
    FRAMES_PER_SECOND,
    MAX_FRAMES,
    TURN_FRAMES,
)
from livecc_hf.modeling.video_processing_livecc import resize_limits
from livecc_hf.video.reader import (
    VideoInfo,
    VideoReadError,
    exact_number,
    iter_frames,
    measure_duration,
    probe_video,
)

from ..unusable import UnusableSample

if TYPE_CHECKING:
    from livecc_hf.modeling.video_processing_livecc import LiveCCVideoProcessor

# A clip's end is inclusive, as in LiveCC's training: its last word may need the frame shown right at the end.
# The reader's end is exclusive, so it gets one this much later, which also covers rounded times.
_END_INCLUDED_S = Fraction(1, 1000)
# A frame leaves the screen within one frame's time of its sample time, unless the picture stays; two for rounded rates.
_HOLD_FRAMES = 2


@dataclass(frozen=True)
class ClipPlan:
    """The frames that reading a clip will give, planned without decoding.

    Attributes:
        start_s: first sample time on the player's clock; `None` reads from the first frame.
        end_s: no sample after it; `None` reads to the end.
        first_s: the first sample time that is expected.
        n_frames: frames of the clip, an even number: the last is repeated if needed. The clip may have fewer if the
            file is damaged or its header gives too long a duration, never more.
        n_sampled: frames to read, `n_frames` or one less.
        n_uncut_frames: `n_frames` before the cut to `max_frames`; estimated from the header if the clip ends with the
            file.
        height_px, width_px: size of a resized frame, multiples of 28.
        min_pixels, max_pixels: the limits that led to this size.
        n_pair_tokens: tokens of two frames.
        hold_s: longest time after its sample time that a frame counts as shown: two frames at the file's rate, or one
            sampling step.
        origin_s: what a player shows as 0:00, in seconds on the file's clock.
    """

    start_s: float | None
    end_s: float | None
    first_s: float
    n_frames: int
    n_sampled: int
    n_uncut_frames: int
    height_px: int
    width_px: int
    min_pixels: int
    max_pixels: int
    n_pair_tokens: int
    hold_s: float
    origin_s: float

    @property
    def last_s(self) -> float:
        """The last sample time, in seconds on the player's clock."""
        return self.first_s + (self.n_sampled - 1) * FRAME_STEP_S

    @property
    def was_cut(self) -> bool:
        """Whether the clip is longer than the limit of frames."""
        return self.n_frames < self.n_uncut_frames


@dataclass(frozen=True)
class DecodedClip:
    """The frames of a clip.

    Attributes:
        frames: uint8 (T, 3, H, W), resized.
        end_times_s: T times at which the frames leave the screen, in seconds on the player's clock, to compare with
            the ends of words. A picture that stays on screen counts as shown for `ClipPlan.hold_s` after each sample
            time, so that the model does not get a word long before it is spoken.
        stopped_early: whether reading stopped at `until_s`, with frames left.
    """

    frames: torch.Tensor
    end_times_s: list[float]
    stopped_early: bool = False


@dataclass(frozen=True)
class FrameSize:
    """Size of a resized frame, the limits that led to it, and the tokens of two such frames."""

    height_px: int
    width_px: int
    min_pixels: int
    max_pixels: int
    n_pair_tokens: int


def plan_frame_size(
    height_px: int,
    width_px: int,
    n_frames: int,
    video_processor: LiveCCVideoProcessor,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> FrameSize:
    """Return the size to which the processor resizes the frames of a clip.

    Args:
        height_px, width_px: size of a frame before resizing.
        n_frames: frames in the clip, which share the budget of `grammar.frame_pixel_budget`.
        video_processor: its limits apply too.
        min_pixels, max_pixels: fewest and most pixels of a frame; override the processor's limits.

    Raises:
        ValueError: if the limits contradict each other, or one side is 200 times the other.
    """
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import smart_resize

    limits = video_processor.clip_limits(n_frames, min_pixels, max_pixels)
    factor = video_processor.factor
    height_px, width_px = smart_resize(
        height_px, width_px, factor=factor, min_pixels=limits.shortest_edge, max_pixels=limits.longest_edge
    )
    n_tokens = height_px * width_px // factor**2
    return FrameSize(height_px, width_px, limits.shortest_edge, limits.longest_edge, n_tokens)


def plan_clip(
    path: str | os.PathLike,
    start_s: float | None,
    end_s: float | None,
    video_processor: LiveCCVideoProcessor,
    *,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    max_frames: int = MAX_FRAMES,
) -> ClipPlan:
    """Plan `read_clip` from the file's header and its first frame.

    The length in a header is an estimate: if it is missing, or shorter than the clip, the file's packets are read to
    the end, once.

    Args:
        path: a video file.
        start_s, end_s: the clip in seconds from what a player shows as 0:00, the end included; `None`: from the first
            frame, to the last.
        video_processor: resizes the frames.
        min_pixels, max_pixels: fewest and most pixels of a frame; see `plan_frame_size`.
        max_frames: most frames of the clip (rounded down to an even number).

    Raises:
        UnusableSample: "missing_file", "unreadable_media", "no_frames" (the clip lies outside the file), or
            "malformed" (the clip's times make no sense).
        ValueError: if `max_frames` is not 2 to 480, or the pixel limits contradict each other.
    """
    if not TURN_FRAMES <= max_frames <= MAX_FRAMES:
        raise ValueError(f"max_frames={max_frames}: expected {TURN_FRAMES} to {MAX_FRAMES}")
    start, end = _exact_span(path, start_s, end_s)
    info = _probe(path)
    origin = exact_number("clock_start_s", info.clock_start_s)
    shown = exact_number("first_pts_s", info.first_pts_s) - origin
    first = shown if start is None else max(start, shown)
    max_frames -= max_frames % TURN_FRAMES
    needed = first + max_frames * exact_number("step", FRAME_STEP_S) if end is None else end + _END_INCLUDED_S
    file_end = _file_end(path, info, needed)
    n_uncut = math.ceil(((file_end if end is None else min(needed, file_end)) - first) * FRAMES_PER_SECOND)
    if n_uncut <= 0:
        clip = f"{'its start' if start is None else f'{start_s:g} s'} to {'its end' if end is None else f'{end_s:g} s'}"
        raise UnusableSample(
            "no_frames",
            f"{path} has no frame from {clip}: its first is at {float(shown):.2f} s and its end at "
            f"{float(file_end):.2f} s",
        )
    n_sampled = min(n_uncut, max_frames)
    n_frames = n_sampled + n_sampled % TURN_FRAMES
    resize_limits(video_processor, min_pixels, max_pixels)  # the user's limits, not the file, are wrong
    try:
        size = plan_frame_size(info.height, info.width, n_frames, video_processor, min_pixels, max_pixels)
    except ValueError as error:
        raise UnusableSample("unreadable_media", f"{path}, {info.width}x{info.height} pixels: {error}") from error
    n_uncut += n_uncut % TURN_FRAMES
    hold_s = min(FRAME_STEP_S, _HOLD_FRAMES / info.frame_rate) if info.frame_rate else FRAME_STEP_S
    return ClipPlan(
        start_s=start_s,
        end_s=end_s,
        first_s=float(first),
        n_frames=n_frames,
        n_sampled=n_sampled,
        n_uncut_frames=n_uncut,
        hold_s=hold_s,
        origin_s=float(origin),
        **vars(size),
    )


def read_clip(
    path: str | os.PathLike, plan: ClipPlan, video_processor: LiveCCVideoProcessor, until_s: float | None = None
) -> DecodedClip:
    """Read a clip at 2 frames a second. Only its part of the file is decoded, and only resized frames are kept.

    Args:
        path: the video file.
        plan: from `plan_clip` for the same file and processor.
        video_processor: resizes the frames; the result equals resizing all of them at once.
        until_s: stop after the first turn whose last frame leaves the screen at this time or later, such as the end of
            the last word if silence at the end is dropped.

    Raises:
        UnusableSample: "missing_file", "unreadable_media" or "no_frames".
    """
    images: list[torch.Tensor] = []
    ends_s: list[float] = []
    source: torch.Tensor | None = None
    stopped = False
    end = None if plan.end_s is None else exact_number("end_s", plan.end_s) + _END_INCLUDED_S
    try:
        with closing(iter_frames(path, plan.start_s, end, origin_s=plan.origin_s)) as sampled:
            for frame in sampled:
                is_shown_on = frame.frame is source
                images.append(images[-1] if is_shown_on else resize_frame(frame.frame, plan, video_processor))
                source = frame.frame
                ends_s.append(min(frame.end_s, frame.time_s + plan.hold_s))
                n = len(images)
                ends_turn = n >= FIRST_TURN_FRAMES and n % TURN_FRAMES == 0
                stopped = until_s is not None and ends_turn and ends_s[-1] >= until_s and n < plan.n_sampled
                if stopped or n == plan.n_sampled:
                    break
    except FileNotFoundError as error:
        raise UnusableSample("missing_file", str(error)) from error
    except VideoReadError as error:
        # A file whose first frame can be decoded is a video: then the clip lies outside it.
        _probe(path)
        raise UnusableSample("no_frames", str(error)) from error
    return DecodedClip(torch.stack(images), ends_s, stopped)


def resize_frame(frame: torch.Tensor, plan: ClipPlan, video_processor: LiveCCVideoProcessor) -> torch.Tensor:
    """Return a frame (3, H, W) at the plan's size."""
    frame = video_processor.resized(frame[None], plan.min_pixels, plan.max_pixels)
    if frame.shape[-2:] != (plan.height_px, plan.width_px):
        # The size of the picture changes in the file, before the clip begins.
        from torchvision.transforms.v2.functional import InterpolationMode, resize

        frame = resize(frame, [plan.height_px, plan.width_px], InterpolationMode.BICUBIC, antialias=True)
    return frame[0]


def _exact_span(
    path: str | os.PathLike, start_s: float | None, end_s: float | None
) -> tuple[Fraction | None, Fraction | None]:
    try:
        start = None if start_s is None else exact_number("start_s", start_s)
        end = None if end_s is None else exact_number("end_s", end_s)
    except ValueError as error:
        raise UnusableSample("malformed", f"{path}: {error}") from error
    if start is not None and end is not None and end <= start:
        raise UnusableSample(
            "malformed", f"{path}: the clip runs from {start_s:g} to {end_s:g} s: expected a later end"
        )
    return start, end


def _file_end(path: str | os.PathLike, info: VideoInfo, needed: Fraction) -> Fraction:
    """Return the end of a file, in seconds from what a player shows as 0:00; only roughly if it is after `needed`.

    The header gives an estimate. If by that the file ends before `needed`, the packets are read.
    """
    if info.duration_s is not None:
        shown = exact_number("first_pts_s", info.first_pts_s) - exact_number("clock_start_s", info.clock_start_s)
        by_header = max(shown, Fraction(0)) + exact_number("duration_s", info.duration_s)
        if by_header >= needed:
            return by_header
    try:
        return exact_number("duration_s", measure_duration(path))
    except OSError as error:
        raise UnusableSample("missing_file", f"video {path} cannot be opened: {error.strerror or error}") from error
    except VideoReadError as error:
        raise UnusableSample("unreadable_media", str(error)) from error


def _probe(path: str | os.PathLike) -> VideoInfo:
    try:
        stat = Path(path).stat()
        return _probe_once(os.fspath(path), stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise UnusableSample("missing_file", f"video {path} cannot be opened: {error.strerror or error}") from error
    except VideoReadError as error:
        raise UnusableSample("unreadable_media", str(error)) from error


@lru_cache(maxsize=4096)
def _probe_once(path: str, size_bytes: int, mtime_ns: int) -> VideoInfo:
    """Probe a file; size and modification time are arguments so that the cache notices a replaced file."""
    return probe_video(path)
