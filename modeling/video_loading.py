"""Whole videos for questions: a file's frames at 2 per second, within a clip's budget, resized as they are read."""

from __future__ import annotations

import importlib
import math
import os
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch

from .frames import picture_tensor
from .grammar import FRAMES_PER_SECOND, MAX_FRAMES
from .video_file import VideoTimes, read_times
from .video_sampling import SampledFrame, exact_number, iter_frames

_FETCH_TIMEOUT_S = 30.0


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
    """

    frames: torch.Tensor
    times_s: list[float]

    @property
    def metadata(self) -> dict[str, Any]:
        """What a processor's call is told of the frames as `video_metadata`: some backbones read when they are."""
        n_frames, fps = len(self.frames), frame_rate(self.times_s)
        return {
            "total_num_frames": n_frames,
            "fps": fps,
            "frames_indices": list(range(n_frames)),
            "duration": n_frames / fps,
            "video_backend": "pyav",
        }


def frame_rate(times_s: Sequence[float]) -> float:
    """Return how many there are a second of frames that are spread evenly over time; of a single one, LiveCC's rate."""
    length_s = times_s[-1] - times_s[0]
    # Rounded, since labels are: what is a float's noise above 2 a second would make another label of a time.
    return round((len(times_s) - 1) / length_s, 9) if length_s > 0 else float(FRAMES_PER_SECOND)


def load_video(
    path: str | os.PathLike,
    video_processor: Any,
    options: LoadOptions | None = None,
    read: Callable[..., Generator[SampledFrame, None, None]] = iter_frames,
    measure: Callable[[str], VideoTimes] = read_times,
) -> LoadedVideo:
    """Read a video as the model is asked about it.

    Frames are chosen by time, as everywhere in LiveCC: 2 for each second, or 480 spread evenly over a video that is
    longer than 240 s. They are resized once, while they are read.

    Args:
        path: a video file, or its http(s) address, from where it is fetched first.
        video_processor: a `LiveCCVideoProcessor`; resizes frames, within its limits and the budget of a clip.
        options: a :class:`LoadOptions`.
        read: gives a file's frames, as :func:`iter_frames`.
        measure: gives a file's times, as :func:`read_times`.

    Raises:
        FileNotFoundError: no such file.
        OSError: it cannot be fetched.
        VideoReadError: (a ValueError) it is not a video, or nothing lies in that part of it.
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
    times = measure(path)
    n_frames, fps = _plan(times.end_s - times.zero_s, times.first_s - times.zero_s, options)
    resize = _resizer(video_processor, n_frames, options)
    times_s: list[float] = []
    frames: list[torch.Tensor] = []
    source: torch.Tensor | None = None
    with closing(read(path, options.start_s, options.end_s, fps, times.zero_s)) as sampled:
        for item in sampled:
            frames.append(frames[-1] if item.frame is source else resize(item.frame))  # else it is shown for longer
            source = item.frame
            times_s.append(item.time_s)
    if len(frames) > options.most:  # by rounding, or where times are damaged
        kept = torch.linspace(0, len(frames) - 1, options.most).round().long().tolist()
        times_s, frames = [times_s[i] for i in kept], [frames[i] for i in kept]
    return LoadedVideo(torch.stack(frames), times_s)


def load_pictures(paths: Sequence[str], video_processor: Any, options: LoadOptions) -> LoadedVideo:
    """Read a video that is given as picture files, which are taken as they are, in the size of the first.

    Raises:
        ValueError: if one cannot be read.
    """
    first = read_picture(paths[0])
    pictures = [first, *(read_picture(path).resize(first.size) for path in paths[1:])]
    resize = _resizer(video_processor, len(pictures), options)
    fps = options.fps or FRAMES_PER_SECOND
    frames = [resize(picture_tensor(picture)) for picture in pictures]
    return LoadedVideo(torch.stack(frames), [n / fps for n in range(len(frames))])


def read_picture(path: str | os.PathLike):
    """Return a picture file as a PIL image; :func:`rgb_picture` makes it RGB.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is not a picture, or damaged.
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
    fps = options.fps or FRAMES_PER_SECOND
    first_s = max(first_s, options.start_s or -math.inf)
    end_s = min(duration_s, math.inf if options.end_s is None else options.end_s)
    length_s = max(end_s - first_s, 1e-3)  # what lies outside of the video, the reader says
    if options.num_frames is not None or length_s * fps > options.most:
        return options.most, options.most / length_s
    return max(math.ceil(length_s * fps), 1), fps


def _resizer(video_processor: Any, n_frames: int, options: LoadOptions) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what resizes a frame (3, H, W) of a clip."""
    limits = video_processor.clip_limits(n_frames, options.min_pixels, options.max_pixels)

    def resized(frame: torch.Tensor) -> torch.Tensor:
        video_processor.check_frames(frame[None], options.do_resize)
        return video_processor.resized(frame[None], limits.shortest_edge, limits.longest_edge, options.do_resize)[0]

    return resized
