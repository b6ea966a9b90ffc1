"""Whole videos for questions: a file's frames at 2 per second, within a clip's budget, resized as they are read."""

from __future__ import annotations

import importlib
import math
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from .frames import picture_tensor
from .grammar import FRAMES_PER_SECOND, MAX_FRAMES
from .video_file import probe_video
from .video_reader import SampledFrame, exact_number, iter_frames, measure_duration

_FETCH_TIMEOUT_S = 30.0


class FrameResizer(Protocol):
    """What is asked of a `LiveCCVideoProcessor`."""

    def clip_limits(self, n_frames: int, min_pixels: int | None = None, max_pixels: int | None = None) -> Any:
        """Return the pixel limits of a frame in a clip."""

    def check_frames(self, frames: torch.Tensor, do_resize: bool = True) -> None:
        """Raise `ValueError` for frames that it does not take."""

    def resized(
        self, frames: torch.Tensor, min_pixels: int | None, max_pixels: int | None, do_resize: bool = True
    ) -> torch.Tensor:
        """Return frames in the size in which the model sees them."""


@dataclass(frozen=True)
class LoadOptions:
    """How a video is read.

    Attributes:
        fps: frames for each second; fewer where that would be more than `max_frames`.
        max_frames: most frames, spread evenly over the video.
        num_frames: as many frames, spread evenly, instead of `fps`.
        min_pixels, max_pixels: of a frame; by default the processor's limits, and the clip's share of the budget.
        do_resize: whether frames are resized.
        start_s, end_s: which part, in seconds from what a player shows as 0:00.
    """

    fps: float | None = None
    max_frames: int | None = None
    num_frames: int | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    do_resize: bool = True
    start_s: float | None = None
    end_s: float | None = None

    def __post_init__(self):
        for name in ("max_frames", "num_frames"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{name}={value!r:.80}: expected a whole number at least 1")
        if self.fps is not None and exact_number("fps", self.fps) <= 0:
            raise ValueError(f"fps={self.fps!r}: expected a rate above 0, such as 2.0")
        if self.fps is not None and self.num_frames is not None:
            raise ValueError(f"fps={self.fps} and num_frames={self.num_frames} are given: expected one of them")

    @property
    def most(self) -> int:
        """The most frames."""
        return self.num_frames or self.max_frames or MAX_FRAMES


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

    @property
    def metadata(self) -> dict[str, Any]:
        """What a processor's call is told of the frames as `video_metadata`: some backbones read when they are."""
        n_frames = len(self.frames)
        return {
            "total_num_frames": n_frames,
            "fps": self.fps,
            "frames_indices": list(range(n_frames)),
            "duration": n_frames / self.fps,
            "video_backend": "pyav",
        }


def load_video(
    path: str | os.PathLike,
    video_processor: FrameResizer,
    options: LoadOptions | None = None,
    read: Callable[..., Generator[SampledFrame, None, None]] = iter_frames,
    measure: Callable[[str], float] = measure_duration,
) -> LoadedVideo:
    """Read a video as the model is asked about it.

    Frames are chosen by time, as everywhere in LiveCC: 2 for each second, or 480 spread evenly over a video that is
    longer than 240 s. They are resized once, while they are read.

    Args:
        path: a video file, or its http(s) address, from where it is fetched first.
        video_processor: resizes the frames, within its limits and the budget of a clip.
        options: a :class:`LoadOptions`.
        read: gives a file's frames, as :func:`iter_frames`.
        measure: gives a file's length, as :func:`measure_duration`.

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
            return load_video(file.name, video_processor, options, read, measure)
    path = path.removeprefix("file://")
    info = probe_video(path)
    origin_s = info.clock_start_s
    n_frames, fps = _plan(measure(path), info.first_pts_s - origin_s, options)
    limits = video_processor.clip_limits(n_frames, options.min_pixels, options.max_pixels)
    times_s: list[float] = []
    frames: list[torch.Tensor] = []
    source: torch.Tensor | None = None
    with closing(read(path, options.start_s, options.end_s, fps, origin_s)) as sampled:
        for item in sampled:
            is_same = item.frame is source  # shown for longer
            frames.append(frames[-1] if is_same else _resized(item.frame, limits, video_processor, options))
            source = item.frame
            times_s.append(item.time_s)
    if len(frames) > options.most:  # by rounding, or where times are damaged
        kept = torch.linspace(0, len(frames) - 1, options.most).round().long().tolist()
        times_s, frames = [times_s[i] for i in kept], [frames[i] for i in kept]
    return LoadedVideo(torch.stack(frames), times_s, fps)


def load_pictures(paths: list[str], video_processor: FrameResizer, options: LoadOptions | None = None) -> LoadedVideo:
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


def _plan(duration_s: float, first_s: float, options: LoadOptions) -> tuple[int, float]:
    """Return how many frames a video has, whose first appears at `first_s`, and how many for each second."""
    fps = float(options.fps or FRAMES_PER_SECOND)
    first_s = max(first_s, options.start_s or -math.inf)
    end_s = min(duration_s, math.inf if options.end_s is None else options.end_s)
    length_s = max(end_s - first_s, 1e-3)  # what lies outside of the video, the reader says
    if options.num_frames is not None or length_s * fps > options.most:
        return options.most, options.most / length_s
    return max(math.ceil(length_s * fps), 1), fps


def _resized(frame: torch.Tensor, limits, video_processor: FrameResizer, options: LoadOptions) -> torch.Tensor:
    video_processor.check_frames(frame[None], options.do_resize)
    return video_processor.resized(frame[None], limits.shortest_edge, limits.longest_edge, options.do_resize)[0]
