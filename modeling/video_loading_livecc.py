"""Whole videos for questions: a file's frames at 2 per second, within a clip's budget, resized as they are read."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .frames_livecc import picture_tensor
from .grammar_livecc import FRAMES_PER_SECOND, MAX_FRAMES
from .video_file_livecc import VideoInfo, probe_video
from .video_reader_livecc import exact_number, iter_frames

if TYPE_CHECKING:
    from .video_processing_livecc import LiveCCVideoProcessor

# A length in a header is an estimate: a plan made by it is made anew where the file is so much shorter or longer.
_GOOD_GUESS = 0.9
_FETCH_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class LoadOptions:
    """How a video is read.

    Attributes:
        fps: frames for each second; fewer where that would be more than `max_frames`.
        max_frames: most frames, spread evenly over the video.
        n_frames: as many frames, spread evenly, instead of `fps`.
        min_pixels, max_pixels: of a frame; by default the processor's limits, and the clip's share of the budget.
        do_resize: whether frames are resized.
        start_s, end_s: which part, in seconds from what a player shows as 0:00.
    """

    fps: float | None = None
    max_frames: int | None = None
    n_frames: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    do_resize: bool = True
    start_s: float | None = None
    end_s: float | None = None

    def __post_init__(self):
        for name in ("max_frames", "n_frames"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{name}={value!r:.80}: expected a whole number at least 1")
        if self.fps is not None and exact_number("fps", self.fps) <= 0:
            raise ValueError(f"fps={self.fps!r}: expected a rate above 0, such as 2.0")
        if self.fps is not None and self.n_frames is not None:
            raise ValueError(f"fps={self.fps} and n_frames={self.n_frames} are given: expected one of them")

    @property
    def most(self) -> int:
        """The most frames."""
        return self.n_frames or self.max_frames or MAX_FRAMES


@dataclass(frozen=True)
class LoadedVideo:
    """A video as the model sees it.

    Attributes:
        frames: uint8 (T, 3, H, W), RGB, resized.
        times_s: T sample times in seconds from what a player shows as 0:00.
        fps: frames for each second.
    """

    frames: torch.Tensor
    times_s: list[float]
    fps: float


@dataclass(frozen=True)
class _Plan:
    """How many frames a video is taken to have, and at which rate."""

    n_frames: int
    fps: float

    @classmethod
    def of(cls, length_s: float | None, options: LoadOptions) -> _Plan:
        fps, most = float(options.fps or FRAMES_PER_SECOND), options.most
        if length_s is None:
            return cls(most, fps)
        length_s = max(length_s, 1e-3)
        if options.n_frames is not None or length_s * fps > most:
            return cls(most, most / length_s)
        return cls(max(round(length_s * fps), 1), fps)

    def is_like(self, other: _Plan) -> bool:
        pairs = (self.n_frames, other.n_frames), (self.fps, other.fps)
        return all(min(pair) >= _GOOD_GUESS * max(pair) for pair in pairs)


def load_video(
    path: str | os.PathLike, video_processor: LiveCCVideoProcessor, options: LoadOptions | None = None
) -> LoadedVideo:
    """Read a video as the model is asked about it.

    Frames are chosen by time, as everywhere in LiveCC: 2 for each second, or 480 spread evenly over a video that is
    longer than 240 s. They are resized once, while they are read.

    Args:
        path: a video file, or its http(s) address, from where it is fetched first.
        video_processor: resizes the frames, within its limits and the budget of a clip.
        options: a :class:`LoadOptions`.

    Raises:
        FileNotFoundError: no such file.
        OSError: it cannot be fetched.
        VideoReadError: (a ValueError) it is no video, or nothing lies in that part of it.
        ImportError: PyAV is not installed.
    """
    options = options or LoadOptions()
    path = os.fspath(path)
    if path.startswith(("http://", "https://")):
        with tempfile.NamedTemporaryFile() as file, urllib.request.urlopen(path, timeout=_FETCH_TIMEOUT_S) as answer:
            shutil.copyfileobj(answer, file)
            file.flush()
            return load_video(file.name, video_processor, options)
    path = path.removeprefix("file://")
    info = probe_video(path)
    plan = _Plan.of(_length_s(info, options), options)
    times_s, frames, shown_until_s = _read(path, info, plan, video_processor, options)
    better = _Plan.of(shown_until_s - times_s[0], options)
    if not plan.is_like(better):
        plan = better
        times_s, frames, _ = _read(path, info, plan, video_processor, options)
    if len(frames) > options.most:
        kept = torch.linspace(0, len(frames) - 1, options.most).round().long().tolist()
        times_s, frames = [times_s[i] for i in kept], [frames[i] for i in kept]
    return LoadedVideo(torch.stack(frames), times_s, plan.fps)


def load_pictures(
    paths: list[str], video_processor: LiveCCVideoProcessor, options: LoadOptions | None = None
) -> LoadedVideo:
    """Read a video that is given as picture files, which are taken as they are, in the size of the first.

    Raises:
        ValueError: if there are none, or one cannot be read.
    """
    options = options or LoadOptions()
    if not paths:
        raise ValueError("a video is an empty list: expected a file, or picture files")
    first = read_picture(paths[0])
    pictures = [first, *(read_picture(path).resize(first.size) for path in paths[1:])]
    limits = video_processor.clip_limits(len(pictures), options.min_pixels, options.max_pixels)
    frames = [_resized(picture_tensor(picture), limits, video_processor, options) for picture in pictures]
    fps = float(options.fps or FRAMES_PER_SECOND)
    return LoadedVideo(torch.stack(frames), [n / fps for n in range(len(frames))], fps)


def read_picture(path: str | os.PathLike):
    """Return a picture file as a PIL image; :func:`rgb_picture` makes it RGB.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is no picture, or damaged.
    """
    try:
        Image = importlib.import_module("PIL.Image")
    except ImportError as error:
        raise ImportError("pictures need Pillow: pip install pillow") from error
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.copy()
    except FileNotFoundError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's for broken files
        raise ValueError(f"{path} cannot be read as a picture: {' '.join(str(error).split())[:200]}") from error


def _length_s(info: VideoInfo, options: LoadOptions) -> float | None:
    """Return the length of the part that is read, by the header; `None` where nothing says it."""
    first_s = info.first_pts_s - info.clock_start_s
    end_s = None if info.duration_s is None else first_s + info.duration_s
    if options.end_s is not None:
        end_s = options.end_s if end_s is None else min(options.end_s, end_s)
    return None if end_s is None else end_s - max(first_s, options.start_s or first_s)


def _read(
    path: str | os.PathLike, info: VideoInfo, plan: _Plan, video_processor: LiveCCVideoProcessor, options: LoadOptions
) -> tuple[list[float], list[torch.Tensor], float]:
    """Read frames by a plan; where they are twice as many as there may be, every other is kept from there on.

    Returns:
        Their times and the frames, resized, and when the last one read leaves the screen.
    """
    limits = video_processor.clip_limits(plan.n_frames, options.min_pixels, options.max_pixels)
    times_s, frames, stride, source, resized = [], [], 1, None, None
    span = {"start_s": options.start_s, "end_s": options.end_s, "origin_s": info.clock_start_s}
    with closing(iter_frames(path, fps=plan.fps, **span)) as sampled:
        for n, item in enumerate(sampled):
            if n % stride:
                continue
            if item.frame is not source:
                source, resized = item.frame, _resized(item.frame, limits, video_processor, options)
            times_s.append(item.time_s)
            frames.append(resized)
            if len(frames) >= 2 * options.most:
                times_s, frames, stride = times_s[::2], frames[::2], 2 * stride
    return times_s, frames, max(item.end_s, item.time_s)


def _resized(frame: torch.Tensor, limits, video_processor: LiveCCVideoProcessor, options: LoadOptions) -> torch.Tensor:
    video_processor.check_frames(frame[None], options.do_resize)
    return video_processor.resized(frame[None], limits.shortest_edge, limits.longest_edge, options.do_resize)[0]
