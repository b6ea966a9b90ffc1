"""Reads small pictures of the samples from their videos, if these exist on this machine.

A separate process decodes them: a decoder may crash or hang on a video, perhaps the reason why a stage dropped it.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ....captions.naming import VIDEO_SUFFIXES
from ....data.media.paths import local_path
from ....utils.text import one_line
from ...execution.workers import Worker, WorkerDiedError
from ..video_check import why_no_video
from .options import ReportOptions
from .samples import ReportSample

_QUALITY = 70
_LIMIT_S = 60.0  # time limit for the pictures of a sample
_MOST_DEATHS = 3  # dead processes after which no more videos are opened
_ERROR_CHARS = 160


@dataclass(frozen=True)
class Picture:
    """A picture of a video.

    Attributes:
        time_s: seconds from what a player shows as 0:00.
        source: a `data:` URL; `None` if the video has no picture at that time.
        size_px: width and height.
    """

    time_s: float
    source: str | None
    size_px: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Strip:
    """The pictures of a sample, one from each of equal parts of its time span.

    Attributes:
        start_s, end_s: time span; `end_s` is `None` if the length of the video is unknown.
        pictures: in order; may be empty.
        fault: why there are no pictures; `None` if there are, or if none were requested.
    """

    start_s: float
    end_s: float | None
    pictures: Sequence[Picture] = ()
    fault: str | None = None


def choose_times(start_s: float, end_s: float, n: int, wanted_s: Sequence[float] = ()) -> list[float]:
    """Return a time in each of `n` equal parts of a span: the time of `wanted_s` nearest its middle, or the middle."""
    step_s = (end_s - start_s) / n
    times = []
    for number in range(n):
        first_s = start_s + number * step_s
        middle_s = first_s + step_s / 2
        inside = [time_s for time_s in wanted_s if first_s <= time_s < first_s + step_s]
        times.append(min(inside, key=lambda time_s: abs(time_s - middle_s), default=middle_s))
    return times


def find_video(video: str) -> Path | None:
    """Return the file of a video; `None` if it is not on this machine."""
    if not video or ("://" in video and not video.startswith("file://")):
        return None
    try:
        path = local_path(video).expanduser()
        return path if path.is_file() else None
    except (OSError, ValueError):  # not a valid file name
        return None


def link_to(video: str, folder: Path, start_s: float, end_s: float | None) -> str | None:
    """Return a link that plays a part of a video.

    Args:
        video: path or URL, as in its row.
        folder: of the page; links to videos near it are relative, so that both can be moved together.
        start_s, end_s: the part; no end: to the end of the video.

    Returns:
        The link; `None` if the video is neither on this machine nor a URL on the web.
    """
    part = f"#t={start_s:g}" + ("" if end_s is None else f",{end_s:g}")
    if video.startswith(("http://", "https://")):
        is_file = Path(urlsplit(video).path).suffix.lower() in VIDEO_SUFFIXES
        return video + part if is_file and "#" not in video else video
    path = find_video(video)
    if path is None:
        return None
    path, folder = path.absolute(), folder.absolute()
    for place, way in ((folder, ""), (folder.parent, "../")):
        if path.is_relative_to(place) and place != place.parent:
            return quote(way + path.relative_to(place).as_posix()) + part
    return path.as_uri() + part


class Photographer:
    """Reads the pictures of a report, up to its maximum number. A context manager.

    Args:
        options: number and size of pictures.
    """

    def __init__(self, options: ReportOptions):
        self.options = options
        self._left, self._deaths = options.max_pictures, 0
        self._worker: Worker | None = None

    def __enter__(self) -> Photographer:
        return self

    def __exit__(self, *error: object) -> None:
        if self._worker is not None:
            self._worker.close()

    def strip_of(self, sample: ReportSample) -> Strip:
        """Return the pictures of a sample, or why there are none."""
        none = Strip(sample.start_s, sample.end_s)
        if not self.options.frames:
            return none
        path = find_video(sample.video)
        if path is None:
            name = sample.video if "://" in sample.video else Path(sample.video).name
            return _without(none, f"{name or 'its video'} is not on this machine")
        if self._left < self.options.frames:
            return _without(
                none, f"the report has {self.options.max_pictures:,} pictures already (report.max_pictures)"
            )
        if self._deaths >= _MOST_DEATHS:
            return _without(none, f"decoding was stopped after {self._deaths} videos that killed the decoding process")
        faces_s = sorted({face["time_s"] for face in sample.faces})
        arguments = (str(path), sample.start_s, sample.end_s, faces_s, self.options.frames, self.options.frame_px)
        try:
            strip = self._run(read_strip, *arguments)
        except WorkerDiedError as error:
            self._deaths += 1
            return _without(none, f"{path.name}: {error}")
        self._left -= sum(picture.source is not None for picture in strip.pictures)
        return strip

    def _run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        if self._worker is None:
            self._worker = Worker()
        self._worker.run(_load_reader)  # without a limit, since imports may take a while
        return self._worker.run(function, *arguments, limit_s=_LIMIT_S)


def _without(strip: Strip, fault: str) -> Strip:
    return Strip(strip.start_s, strip.end_s, fault=fault)


def _load_reader() -> None:
    from ....video import reader  # noqa: F401


def read_strip(
    path: str, start_s: float, end_s: float | None, wanted_s: Sequence[float], n: int, side_px: int
) -> Strip:
    """Decode the pictures of a strip; whatever fails, the strip's `fault` says why.

    Args:
        path: of a video.
        start_s, end_s: time span, in seconds from what a player shows as 0:00; no end: to the end of the video.
        wanted_s: preferred times, see `choose_times`.
        n: number of pictures.
        side_px: longer side of a picture; smaller pictures are not enlarged.
    """
    from ....video.reader import probe_video

    fault = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if fault := why_no_video(path):
                return Strip(start_s, end_s, fault=one_line(fault, _ERROR_CHARS))
            info = probe_video(path)
            end_s = info.duration_s if end_s is None else end_s
            if end_s is None or not end_s > start_s:
                return Strip(start_s, None, fault=f"the length of {Path(path).name} is unknown")
            times_s = choose_times(start_s, end_s, n, wanted_s)
            pictures = [_read_picture(path, time_s, info.clock_start_s, side_px) for time_s in times_s]
    except Exception as error:  # whatever error FFmpeg raises for a broken file
        return Strip(start_s, end_s, fault=one_line(error, _ERROR_CHARS))
    if not any(picture.source for picture in pictures):
        return Strip(start_s, end_s, fault=f"{Path(path).name} has no picture from {start_s:g} to {end_s:g} s")
    return Strip(start_s, end_s, pictures)


def _read_picture(path: str, time_s: float, origin_s: float, side_px: int) -> Picture:
    from PIL import Image

    from ....video.reader import iter_frames

    reader = iter_frames(path, time_s, fps=1, origin_s=origin_s)
    try:
        frame = next(reader).frame
    except (ValueError, StopIteration):  # damaged at this time, or past the end
        return Picture(time_s, None)
    finally:
        reader.close()
    image = Image.fromarray(frame.permute(1, 2, 0).contiguous().numpy())
    image.thumbnail((side_px, side_px))
    with io.BytesIO() as file:
        image.save(file, "JPEG", quality=_QUALITY, optimize=True)
        source = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    return Picture(time_s, source, image.size)
