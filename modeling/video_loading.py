"""Loads whole videos for questions: 2 frames per second within a clip's token budget, resized while decoding."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import torch

from .frames import picture_tensor, rgb_picture
from .grammar import FRAMES_PER_SECOND, MAX_FRAMES
from .stream_options import check_number
from .video_file import WEB_PREFIXES, VideoTimes, local_file, read_times
from .video_sampling import SampledFrame, exact_number, iter_frames

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_FETCH_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class LoadOptions:
    """Which frames of a video to load, and how large.

    Attributes:
        fps: frames per second; lowered if the video would have more than `max_frames`.
        max_frames: maximum number of frames, spread evenly over a longer video.
        num_frames: exact number of frames, spread evenly, instead of `fps`.
        min_pixels, max_pixels: limits of a frame; default: the processor's limits and its share of the clip's budget.
        do_resize: whether frames are resized.
        start_s, end_s: the part to load, in seconds from the time that players show as 0:00.
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
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), from_=1, kind=int)
        for name in ("min_pixels", "max_pixels"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), above=0)
        if self.fps is not None and exact_number("fps", self.fps) <= 0:
            raise ValueError(f"fps={self.fps!r}: expected a rate above 0, such as 2.0")
        if self.fps is not None and self.num_frames is not None:
            raise ValueError(f"fps={self.fps} and num_frames={self.num_frames} are given: expected one of them")

    @property
    def most(self) -> int:
        """The maximum number of frames."""
        return self.num_frames or self.max_frames or MAX_FRAMES


@dataclass(frozen=True)
class LoadedVideo:
    """A video as the model sees it.

    Attributes:
        frames: uint8 (T, 3, H, W), RGB, resized.
        times_s: T sample times in seconds from the time that players show as 0:00.
    """

    frames: torch.Tensor
    times_s: list[float]

    @property
    def metadata(self) -> dict[str, Any]:
        """The `video_metadata` of a processor call, from which some backbones read the times of frames.

        Frame indices count from the time that players show as 0:00, at the video's `fps`. They are not whole numbers if
        a part starts between two of these.
        """
        n_frames, fps = len(self.frames), frame_rate(self.times_s)
        return {
            "total_num_frames": n_frames,
            "fps": fps,
            "frames_indices": [round(time_s * fps, 6) for time_s in self.times_s],
            "duration": n_frames / fps,
            "video_backend": "pyav",
        }


def frame_rate(times_s: Sequence[float]) -> float:
    """Return the frames per second of evenly spaced times; for a single time, LiveCC's rate."""
    length_s = times_s[-1] - times_s[0]
    # Rounded because labels are rounded too: float noise above 2 fps would change the label of a time.
    return round((len(times_s) - 1) / length_s, 9) if length_s > 0 else float(FRAMES_PER_SECOND)


def load_video(
    path: str | os.PathLike,
    video_processor: Any,
    options: LoadOptions | None = None,
    read: Callable[..., Generator[SampledFrame, None, None]] = iter_frames,
    measure: Callable[[str], VideoTimes] = read_times,
) -> LoadedVideo:
    """Load a video for a question about it.

    Frames are chosen by time, as everywhere in LiveCC: 2 per second, or 480 spread evenly over a video longer than
    240 s. Each is resized as soon as it is decoded.

    Args:
        path: a video file, a `file://` URL, or an http(s) URL, which is downloaded first.
        video_processor: a `LiveCCVideoProcessor`; resizes frames within its limits and the clip's token budget.
        options: a :class:`LoadOptions`.
        read: reads the frames of a file, with the signature of :func:`iter_frames`.
        measure: reads the times of a file, with the signature of :func:`read_times`.

    Raises:
        FileNotFoundError: no such file.
        OSError: the download failed.
        VideoReadError: (a ValueError) not a video, or no frame in the part.
        ImportError: PyAV is not installed.
    """
    options = options or LoadOptions()
    path = local_file(path)
    if path.startswith(WEB_PREFIXES):
        with downloaded(path) as file:
            return load_video(file, video_processor, options, read, measure)
    times = measure(path)
    n_frames, fps = _plan(times.end_s - times.zero_s, times.first_s - times.zero_s, options)
    resize = _resizer(video_processor, n_frames, options)
    times_s: list[float] = []
    frames: list[torch.Tensor] = []
    source: torch.Tensor | None = None
    with closing(read(path, options.start_s, options.end_s, fps, times.zero_s)) as sampled:
        for item in sampled:
            frames.append(frames[-1] if item.frame is source else resize(item.frame))  # repeated: same tensor
            source = item.frame
            times_s.append(item.time_s)
    if len(frames) > options.most:  # by rounding, or because of damaged times
        kept = torch.linspace(0, len(frames) - 1, options.most).round().long().tolist()
        times_s, frames = [times_s[i] for i in kept], [frames[i] for i in kept]
    return LoadedVideo(torch.stack(frames), times_s)


@contextmanager
def downloaded(url: str) -> Iterator[str]:
    """Download a file, and yield the path of a temporary copy.

    A `ValueError` of the `with` block that names the copy is raised with the URL instead.

    Raises:
        OSError: if the download fails, or the URL has a user name.
    """
    login, at, _ = urlsplit(url).netloc.rpartition("@")
    name = url.partition("?")[0].replace(login + at, "", 1)  # without what may be secret
    if login:
        raise OSError(f"{name}: a URL with a user name or password cannot be read here: download the file first")
    with tempfile.NamedTemporaryFile() as file:
        try:
            with urllib.request.urlopen(url, timeout=_FETCH_TIMEOUT_S) as reply:
                shutil.copyfileobj(reply, file)
            file.flush()
        except (OSError, HTTPException) as error:
            reason = error if isinstance(error, urllib.error.HTTPError) else getattr(error, "reason", error)
            raise OSError(f"{name} cannot be downloaded: {reason}") from error
        try:
            yield file.name
        except ValueError as error:
            if file.name not in str(error):
                raise
            raise type(error)(str(error).replace(file.name, name)) from error


def load_pictures(paths: Sequence[str], video_processor: Any, options: LoadOptions) -> LoadedVideo:
    """Load a video given as picture files, one per frame; all are resized to the size of the first.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file is not a picture, or is damaged.
    """
    pictures = [rgb_picture(read_picture(path)) for path in paths]
    resize = _resizer(video_processor, len(pictures), options)
    frames = [resize(picture_tensor(picture.resize(pictures[0].size))) for picture in pictures]
    fps = options.fps or FRAMES_PER_SECOND
    return LoadedVideo(torch.stack(frames), [n / fps for n in range(len(frames))])


def read_picture(path: str | os.PathLike) -> Picture:
    """Return a picture file, or a `file://` URL, as a PIL image in its own mode; :func:`rgb_picture` makes it RGB.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is not a picture, or is damaged.
    """
    from PIL import Image

    try:
        with Image.open(local_file(path)) as picture:
            picture.load()
            return picture.copy()
    except FileNotFoundError:
        raise
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # damaged files
        raise ValueError(f"{path} cannot be read as a picture: {' '.join(str(error).split())[:200]}") from error


def _plan(duration_s: float, first_s: float, options: LoadOptions) -> tuple[int, float]:
    """Return how many frames to load, and how many per second; times are relative to what players show as 0:00."""
    fps = options.fps or FRAMES_PER_SECOND
    first_s = max(first_s, options.start_s or -math.inf)
    end_s = min(duration_s, math.inf if options.end_s is None else options.end_s)
    length_s = max(end_s - first_s, 1e-3)  # the reader reports a part outside of the video
    if options.num_frames is not None or length_s * fps > options.most:
        return options.most, options.most / length_s
    return max(math.ceil(length_s * fps), 1), fps


def _resizer(video_processor: Any, n_frames: int, options: LoadOptions) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that resizes a frame (3, H, W) of a clip with `n_frames` frames."""
    limits = video_processor.clip_limits(n_frames, options.min_pixels, options.max_pixels)

    def resize(frame: torch.Tensor) -> torch.Tensor:
        video_processor.check_frames(frame[None], options.do_resize)
        return video_processor.resized(frame[None], limits.shortest_edge, limits.longest_edge, options.do_resize)[0]

    return resize
