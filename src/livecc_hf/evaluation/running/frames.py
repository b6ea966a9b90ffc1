"""Samples the frames of a clip uniformly by frame number, as the reference does for its benchmarks."""

from __future__ import annotations

import bisect
import math
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import torch

from livecc_hf.acceleration.video_packets import SkippedFramesError
from livecc_hf.modeling.frames import picture_tensor, rgb_picture
from livecc_hf.modeling.grammar import PIXELS_PER_TOKEN, frame_pixel_budget
from livecc_hf.modeling.video_file import (
    Orientation,
    VideoReadError,
    clock_start,
    display_orientation,
    find_video_stream,
    frame_to_rgb,
    local_file,
    open_video,
)
from livecc_hf.modeling.video_sampling import on_screen
from livecc_hf.video.scan import demuxed
from livecc_hf.video.source import RepairedSource

from ..tasks.questions import FrameRule

FRAME_FACTOR = 2  # the model merges frames in pairs
FRAME_FOLDER_FPS = 3  # frame rate of MVBench's folders of frames
_PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp"})
Resize = Callable[[torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class ClipFrames:
    """The sampled frames of a clip.

    Attributes:
        frames: uint8 (T, 3, H, W), T even, in the model's input size.
        times_s: the time at which each frame leaves the screen, in seconds as a player shows; frames are chosen by it.
        max_pixels: the limit on the pixels of a frame.
        appears_s: the time at which each frame appears on the screen, which the model is told if its backbone reads
            times.
    """

    frames: torch.Tensor
    times_s: list[float]
    max_pixels: int
    appears_s: list[float]


def n_frames_of(rule: FrameRule, total: int, video_fps: float) -> int:
    """Return the number of frames to sample from a clip, which is even, as qwen-vl-utils' `smart_nframes` does.

    Args:
        rule: how frames are sampled.
        total: number of frames in the clip.
        video_fps: frame rate of the video.
    """
    if rule.n_frames is not None:
        return max(min(rule.n_frames, total) // FRAME_FACTOR * FRAME_FACTOR, FRAME_FACTOR)
    total = max(total, FRAME_FACTOR)
    if video_fps < rule.fps:  # frames are repeated
        total, video_fps = max(int(total * rule.fps / video_fps), FRAME_FACTOR), rule.fps
    least = math.ceil(rule.min_frames / FRAME_FACTOR) * FRAME_FACTOR
    most = min(rule.max_frames, total) // FRAME_FACTOR * FRAME_FACTOR
    n = min(max(total / video_fps * rule.fps, least), most, total)
    return max(math.floor(n / FRAME_FACTOR) * FRAME_FACTOR, FRAME_FACTOR)


def spread(total: int, n: int) -> list[int]:
    """Return `n` uniformly spaced integers from 0 to `total` - 1, both included."""
    return torch.linspace(0, total - 1, n).round().long().tolist()


def sample_clip(
    path: str | os.PathLike,
    start_s: float | None,
    end_s: float | None,
    rule: FrameRule,
    resize: Resize,
    pixels_per_token: int = PIXELS_PER_TOKEN,
) -> ClipFrames:
    """Read the frames that a rule samples from a clip.

    As in the reference, a frame is in the clip if it leaves the screen during the clip, and a clip that is shorter than
    a second is extended to one second.

    Args:
        path: a video file, or a folder of frames at 3 per second; a path or `file://` URL.
        start_s: start of the clip in seconds, as a player shows; `None` for the start of the video.
        end_s: end of the clip in seconds; `None` for the end of the video.
        rule: how frames are sampled.
        resize: called with a frame, uint8 (1, 3, H, W), and the largest number of pixels; returns the resized frame.
        pixels_per_token: pixels of a frame per token; see `frame_pixel_budget`.

    Raises:
        VideoReadError: (a ValueError) if the file cannot be read, or has no frame in the clip.
    """
    path = local_file(path)
    if Path(path).is_dir():
        return _read_folder(Path(path), start_s, end_s, rule, resize, pixels_per_token)
    stat = Path(path).stat()
    times, fps, origin = _frame_times(str(path), stat.st_size, stat.st_mtime_ns)
    first, stop = _range(times[1:], start_s, end_s, path)
    n = n_frames_of(rule, stop - first, fps)
    numbers = [first + number for number in spread(stop - first, n)]
    chosen = [times[number + 1] for number in numbers]
    max_pixels = rule.max_pixels or frame_pixel_budget(n, pixels_per_token)
    frames = _decode(path, chosen, origin, lambda frame: resize(frame[None], max_pixels)[0])
    appears_s = [float(times[number]) for number in numbers]
    return ClipFrames(torch.stack(frames), [float(time) for time in chosen], max_pixels, appears_s)


@lru_cache(maxsize=8)  # consecutive questions are about one video, with different clips
def _frame_times(path: str, size_bytes: int, mtime_ns: int) -> tuple[list[Fraction], float, Fraction]:
    """Return the times at which frames appear, the frame rate, and the origin of these times.

    Args:
        path: a video file.
        size_bytes: its size; like `mtime_ns`, only for the cache, so that a changed file is read again.
        mtime_ns: its modification time.

    Returns:
        The times in seconds from the origin, in order, and last the time at which the last frame leaves the screen;
        frames per second; and the origin: the timestamp in seconds that a player shows as 0:00.
    """
    with open_video(path) as container:
        stream = find_video_stream(container, path)
        origin = clock_start(container)
        rate = stream.average_rate or stream.guessed_rate
        times, length = [], Fraction(0)
        for packet in demuxed(container):
            if packet.stream is stream and packet.pts is not None:
                times.append(packet.pts * stream.time_base - origin)
                length = (packet.duration or 0) * stream.time_base or length
    if not times:
        raise VideoReadError(f"{path} has no frames: it is not a video, or it is damaged")
    times = sorted(set(times))
    length = length or (1 / Fraction(rate) if rate else Fraction(1, 25))
    fps = float(rate) if rate else len(times) / float(times[-1] + length - times[0])
    return [*times, times[-1] + length], fps, origin


def _range(
    ends: list[Fraction], start_s: float | None, end_s: float | None, path: str | os.PathLike
) -> tuple[int, int]:
    """Return the index of a clip's first frame, and that after its last frame."""
    low, high = ends[0], ends[-1]
    start = min(max(low, Fraction(start_s) if start_s is not None else low), high)
    end = min(max(low, Fraction(end_s) if end_s is not None else high), high)
    end = max(start + 1, end)
    first, stop = bisect.bisect_left(ends, start), bisect.bisect_right(ends, end)
    if first >= stop:
        raise VideoReadError(f"{path} has no frame between {float(start):g} and {float(end):g} s")
    return first, stop


def _decode(
    path: str | os.PathLike, ends: list[Fraction], origin: Fraction, keep: Callable[[torch.Tensor], torch.Tensor]
) -> list[torch.Tensor]:
    """Return the frames that leave the screen at the given times after `origin`, each converted by `keep`."""
    wanted = [end + origin for end in ends]
    try:
        return _decode_once(path, wanted, keep, skip=True)
    except SkippedFramesError:  # the file is damaged: decode every frame
        return _decode_once(path, wanted, keep, skip=False)


def _decode_once(
    path: str | os.PathLike, wanted: list[Fraction], keep: Callable[[torch.Tensor], torch.Tensor], skip: bool
) -> list[torch.Tensor]:
    source, frames = RepairedSource.open_before(path, wanted[0] - 1)
    with closing(source):
        if skip:
            source.skip_unless(lambda appears, leaves: _is_between(wanted, appears, leaves))
        kept: list[torch.Tensor] = []
        shape: tuple[Orientation, tuple[int, int]] | None = None  # orientation and (width, height) of the first frame
        last_image = None
        for _, leaves, frame, is_last in on_screen(source, frames):
            if shape is None and frame is not None:
                shape = display_orientation(frame), (frame.width, frame.height)
            image = None
            while len(kept) < len(wanted) and (wanted[len(kept)] <= leaves or is_last):
                if image is None:
                    if frame is None or shape is None:
                        raise SkippedFramesError
                    image = last_image = keep(frame_to_rgb(frame, *shape))
                kept.append(image)
            if len(kept) == len(wanted):
                break
    if last_image is None:
        raise VideoReadError(f"{path}: none of the clip's frames can be decoded")
    return kept + [last_image] * (len(wanted) - len(kept))


def _is_between(wanted: list[Fraction], appears: Fraction, leaves: Fraction) -> bool:
    """Return whether one of the wanted times is in (appears, leaves]."""
    at = bisect.bisect_right(wanted, appears)
    return at < len(wanted) and wanted[at] <= leaves


def _read_folder(
    folder: Path,
    start_s: float | None,
    end_s: float | None,
    rule: FrameRule,
    resize: Resize,
    pixels_per_token: int,
) -> ClipFrames:
    """Read a clip from a folder of frames at 3 per second; without bounds, they are sampled as if at `rule.fps`."""
    from PIL import Image

    pictures = sorted(file for file in folder.iterdir() if file.suffix.lower() in _PICTURES)
    first = 0 if start_s is None else max(round(start_s * FRAME_FOLDER_FPS), 0)
    stop = len(pictures) if end_s is None else min(round(end_s * FRAME_FOLDER_FPS), len(pictures))
    if first >= stop:
        raise VideoReadError(f"{folder} has {len(pictures)} pictures, none of them between {start_s} and {end_s} s")
    fps = rule.fps if start_s is None and end_s is None else FRAME_FOLDER_FPS
    n = n_frames_of(rule, stop - first, fps)
    max_pixels = rule.max_pixels or frame_pixel_budget(n, pixels_per_token)
    numbers = [first + number for number in spread(stop - first, n)]
    frames = []
    for number in numbers:
        with Image.open(pictures[number]) as picture:
            frames.append(resize(picture_tensor(rgb_picture(picture))[None], max_pixels)[0])
    if len({frame.shape for frame in frames}) > 1:
        raise VideoReadError(f"the pictures in {folder} have different shapes: expected the frames of one video")
    ends_s = [(number + 1) / FRAME_FOLDER_FPS for number in numbers]
    return ClipFrames(torch.stack(frames), ends_s, max_pixels, [number / FRAME_FOLDER_FPS for number in numbers])
