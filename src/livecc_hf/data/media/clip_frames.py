"""Reads the frames of a clip: planned from the header, read by seeking, resized on the fly.

Clip and word times are in seconds from what a player shows as 0:00; this module converts them to the file's clock.
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

from livecc_hf.modeling.frames import resize_to
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

# A clip's end is inclusive, as in LiveCC's training: its last word may need the frame shown right at the end. The
# reader's end is exclusive, so it gets an end this much later, which also absorbs rounding.
_END_INCLUDED_S = Fraction(1, 1000)
# In a moving video, a frame leaves the screen within one frame period of its sample time; two allow for rounded rates.
_HOLD_FRAMES = 2


@dataclass(frozen=True)
class ClipPlan:
    """The frames that reading a clip will return, planned without decoding.

    Attributes:
        start_s: first sample time on the player's clock; `None` reads from the first frame.
        end_s: last possible sample time; `None` reads to the end.
        first_s: the expected first sample time.
        n_frames: frames of the clip, an even number: the last frame is repeated if necessary. The clip may have fewer
            if the file is damaged or its header overstates the duration, but never more.
        n_sampled: frames to read, either `n_frames` or one less.
        n_uncut_frames: `n_frames` before the cut to `max_frames`; estimated from the header if the clip ends with the
            file.
        height_px, width_px: size of a resized frame, a multiple of the size of a token (28 or 32 pixels).
        min_pixels, max_pixels: the limits from which this size was computed.
        n_pair_tokens: tokens of two frames.
        hold_s: longest time for which a frame counts as shown after its sample time: two frame periods of the file,
            but at most one sampling step.
        origin_s: the file's time, in seconds, at which a player shows 0:00.
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


@dataclass(frozen=True)
class DecodedClip:
    """The frames of a clip.

    Attributes:
        frames: uint8 (T, 3, H, W), resized.
        end_times_s: T times at which the frames leave the screen, in seconds on the player's clock, to compare with the
            ends of words. A still picture counts as shown for only `ClipPlan.hold_s` after each sample time, so that a
            word is not assigned to a frame long before it is spoken.
    """

    frames: torch.Tensor
    end_times_s: list[float]


@dataclass(frozen=True)
class FrameSize:
    """The size of a resized frame, the limits that led to it, and the tokens of two frames."""

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
    """Return the size to which the video processor resizes the frames of a clip.

    Args:
        height_px, width_px: size of a frame before resizing.
        n_frames: frames in the clip, which share the budget of `grammar.frame_pixel_budget`.
        video_processor: gives the default limits and the patch size.
        min_pixels, max_pixels: limits for the pixels of a frame, instead of the default ones.

    Raises:
        ValueError: if a pixel limit is invalid, or one side is more than 200 times the other.
    """
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import smart_resize

    limits = video_processor.clip_limits(n_frames, min_pixels, max_pixels)
    factor = video_processor.factor
    height_px, width_px = smart_resize(
        height_px, width_px, factor=factor, min_pixels=limits.shortest_edge, max_pixels=limits.longest_edge
    )
    n_tokens = height_px * width_px // factor**2
    return FrameSize(height_px, width_px, limits.shortest_edge, limits.longest_edge, n_tokens)


def round_up_to_pairs(n_frames: int) -> int:
    """Return the number of frames, rounded up to an even number by repeating the last frame."""
    return n_frames + n_frames % TURN_FRAMES


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

    The duration in a header is only an estimate: if it is missing, or shorter than the clip, the file's packets are
    read to the end once.

    Args:
        path: a video file.
        start_s, end_s: start and (inclusive) end of the clip, in seconds from what a player shows as 0:00; `None` for
            the first or the last frame.
        video_processor: the model's, which resizes the frames.
        min_pixels, max_pixels: limits for the pixels of a frame; see `plan_frame_size`.
        max_frames: largest number of frames, rounded down to an even number.

    Raises:
        UnusableSample: "missing_file", "unreadable_media", "no_frames" (the clip lies outside the file), or
            "malformed" (the clip's times are invalid).
        ValueError: if `max_frames` is not 2 to 480, or a pixel limit is invalid.
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
    n_frames = round_up_to_pairs(n_sampled)
    resize_limits(video_processor, min_pixels, max_pixels)  # raises a ValueError for limits that fit no file
    try:
        size = plan_frame_size(info.height, info.width, n_frames, video_processor, min_pixels, max_pixels)
    except ValueError as error:
        raise UnusableSample("unreadable_media", f"{path}, {info.width}x{info.height} pixels: {error}") from error
    hold_s = min(FRAME_STEP_S, _HOLD_FRAMES / info.frame_rate) if info.frame_rate else FRAME_STEP_S
    return ClipPlan(
        start_s=start_s,
        end_s=end_s,
        first_s=float(first),
        n_frames=n_frames,
        n_sampled=n_sampled,
        n_uncut_frames=round_up_to_pairs(n_uncut),
        hold_s=hold_s,
        origin_s=float(origin),
        **vars(size),
    )


def read_clip(
    path: str | os.PathLike, plan: ClipPlan, video_processor: LiveCCVideoProcessor, until_s: float | None = None
) -> DecodedClip:
    """Read a clip at 2 frames a second, decoding only its part of the file.

    Args:
        path: the video file.
        plan: from `plan_clip`, for the same file and processor.
        video_processor: resizes each frame; the result is the same as for resizing all frames at once.
        until_s: stop after the first turn whose last frame leaves the screen at this time or later, for example at the
            end of the last word if trailing silence is dropped.

    Raises:
        UnusableSample: "missing_file", "unreadable_media" or "no_frames".
    """
    images: list[torch.Tensor] = []
    ends_s: list[float] = []
    source: torch.Tensor | None = None
    end = None if plan.end_s is None else exact_number("end_s", plan.end_s) + _END_INCLUDED_S
    try:
        with closing(iter_frames(path, plan.start_s, end, origin_s=plan.origin_s)) as sampled:
            for frame in sampled:
                is_same = frame.frame is source  # a still picture is resized once
                images.append(images[-1] if is_same else resize_frame(frame.frame, plan, video_processor))
                source = frame.frame
                ends_s.append(min(frame.end_s, frame.time_s + plan.hold_s))
                n = len(images)
                ends_turn = n >= FIRST_TURN_FRAMES and n % TURN_FRAMES == 0
                if n == plan.n_sampled or (until_s is not None and ends_turn and ends_s[-1] >= until_s):
                    break
    except FileNotFoundError as error:
        raise UnusableSample("missing_file", str(error)) from error
    except VideoReadError as error:
        _probe(path)  # raises "unreadable_media" if not even the first frame can be decoded
        raise UnusableSample("no_frames", str(error)) from error
    return DecodedClip(torch.stack(images), ends_s)


def resize_frame(frame: torch.Tensor, plan: ClipPlan, video_processor: LiveCCVideoProcessor) -> torch.Tensor:
    """Resize a frame (3, H, W) to the plan's size."""
    frame = video_processor.resized(frame[None], plan.min_pixels, plan.max_pixels)
    if frame.shape[-2:] != (plan.height_px, plan.width_px):
        # The video changes its resolution between its first frame, which was planned for, and the clip.
        frame = resize_to(frame, (plan.height_px, plan.width_px))
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
            "malformed", f"{path}: the clip runs from {start_s:g} to {end_s:g} s: expected an end after its start"
        )
    return start, end


def _file_end(path: str | os.PathLike, info: VideoInfo, needed: Fraction) -> Fraction:
    """Return the end of a file in seconds on the player's clock, estimated if it is after `needed`.

    The header gives the estimate. If it is before `needed`, the file's packets are read for the exact end.
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
    """Probe a file; size and modification time are part of the cache key."""
    return probe_video(path)
