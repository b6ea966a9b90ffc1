"""Opens video files with PyAV, and decodes what a player would show, upright and with exact times.

All frames from the file's first on are decoded; what is damaged is left out and counted.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

# The unit of a container's times, in fractions of a second.
CONTAINER_TICKS = 1_000_000
# A step of the file's times that is longer than this, in seconds, is damage.
MAX_GAP_S = 3600
# How long a picture stays when nothing says.
FALLBACK_DURATION_S = Fraction(1, 25)


class VideoReadError(ValueError):
    """The file cannot be read as a video, or holds no frame in the range asked for."""


class NoDecoderError(VideoReadError):
    """The file's video is in a format that FFmpeg, as it is here, cannot decode."""


class VideoReadWarning(UserWarning):
    """The file is damaged: only part of it could be decoded."""


def import_av() -> Any:
    """Return PyAV, or raise an ImportError that says how to get it."""
    try:
        import av
    except ImportError as error:
        raise ImportError("reading video files needs PyAV: pip install av") from error
    return av


def check_file(path: str | os.PathLike) -> None:
    """Raise FileNotFoundError or VideoReadError unless `path` is there and no folder."""
    if Path(path).is_dir():
        raise VideoReadError(f"{path} is a folder: expected a video file")
    if not Path(path).exists():
        raise FileNotFoundError(f"no such file: {path}")


def file_url(path: str | os.PathLike) -> str:
    """Return what PyAV is given for a path: FFmpeg takes `10:30.mp4` for an address of protocol `10`."""
    return f"file:{os.fsdecode(path)}"


def open_video(path: str | os.PathLike) -> Any:
    """Open a file for reading as an `av` input container; use it in a `with` statement.

    Raises:
        FileNotFoundError: no such file.
        VideoReadError: FFmpeg cannot make sense of it.
        ImportError: PyAV is not installed.
    """
    av = import_av()
    check_file(path)
    try:
        container = av.open(file_url(path), metadata_errors="replace")
    except Exception as error:  # whatever PyAV makes of damage: by far not all of it is an FFmpegError
        raise VideoReadError(f"{path} is not a video file that can be read: {reason_of(error)}") from error
    if container.format.name == "tty":  # FFmpeg "plays" any text file as a recorded terminal session
        container.close()
        raise VideoReadError(f"{path} is a text file, not a video")
    # Without this, FFmpeg gives as many times as it can; with it, PyAV has it make up those that are missing, wrongly
    # where pictures are stored in another order than shown (AVI).
    container.flags &= ~av.container.Flags.gen_pts.value
    return container


def reason_of(error: BaseException) -> str:
    """Return what an error of PyAV says, in one line."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def choose_video(container: Any) -> Any | None:
    """Return the video stream of an open file that a player would choose: by default flag, then size and length.

    Returns:
        `None` if there is none that can be decoded. Cover pictures and thumbnails do not count.
    """
    streams = [stream for stream in container.streams.video if stream.codec_context and not _is_cover(stream)]
    if container.format.name == "hls":
        return next(iter(streams), None)  # players begin with the first quality of a playlist
    default, usual = import_av().stream.Disposition.default, container.streams.best("video")

    def rank(stream: Any) -> tuple:
        n_pixels = stream.codec_context.width * stream.codec_context.height
        is_default = bool(stream.disposition & default)
        return stream.frames != 1, is_default, n_pixels, stream.frames, stream is usual

    return max(streams, key=rank, default=None)


def _is_cover(stream: Any) -> bool:
    kinds = import_av().stream.Disposition
    return bool(stream.disposition & (kinds.attached_pic | kinds.timed_thumbnails))


def find_video_stream(container: Any, path: str | os.PathLike) -> Any:
    """Return the video stream of an open file that a player would choose, set to decode with threads.

    Raises:
        NoDecoderError: there are only such that FFmpeg cannot decode.
        VideoReadError: there is none.
    """
    stream = choose_video(container)
    if stream is not None:
        # FFmpeg passes over damage to VP8 where it decodes several frames at once, and over the end of a damaged slice
        # of H.264 unless it is told to be strict; what it gives is the same.
        codec = stream.codec_context
        stream.thread_type = "SLICE" if codec.name == "vp8" else "AUTO"
        if codec.name == "h264":
            codec.options = {**codec.options, "err_detect": "aggressive"}
        return stream
    if any(s.codec_context is None and not _is_cover(s) for s in container.streams.video):
        raise NoDecoderError(
            f"{path} has a video stream in a format that cannot be decoded here, or its description is damaged: "
            "convert it with the program that made it"
        )
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise VideoReadError(f"{path} has no video stream to watch (it holds: {kinds})")


def clock_start(container: Any, default: Fraction = Fraction(0)) -> Fraction:
    """Return the earliest time over all streams by an open file's header, in seconds: what players show as 0:00."""
    if container.start_time is None:
        return default
    start = Fraction(container.start_time, CONTAINER_TICKS)
    # The header's is rounded to its ticks; that of the stream which begins there is exact.
    starts = (stream.start_time * stream.time_base for stream in container.streams if stream.start_time is not None)
    nearest = min(starts, key=lambda time: abs(time - start), default=start)
    return nearest if abs(nearest - start) * CONTAINER_TICKS <= 1 else start


class Orientation(NamedTuple):
    """How a stored picture becomes the displayed one: transpose first, then the flips."""

    transpose: bool = False
    flip_horizontal: bool = False
    flip_vertical: bool = False


def display_orientation(frame: Any) -> Orientation:
    """Return the orientation a decoded frame's display matrix asks for, to the nearest quarter turn."""
    entry = frame.side_data.get("DISPLAYMATRIX")
    if entry is None:
        return Orientation()
    # Nine 32-bit numbers a b u c d v x y w: pixel (p, q) is displayed at (a p + c q, b p + d q).
    a, b, _, c, d = memoryview(bytes(entry)).cast("i")[:5]
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(transpose=True, flip_horizontal=c < 0, flip_vertical=b < 0)
    return Orientation(flip_horizontal=a < 0, flip_vertical=d < 0)


def frame_to_rgb(frame: Any, orientation: Orientation, stored_size_px: tuple[int, int]) -> Tensor:
    """Convert a decoded PyAV frame to an upright RGB tensor.

    Args:
        frame: an `av.VideoFrame` in any pixel format.
        orientation: what to do to the stored picture.
        stored_size_px: (width, height) to resize the stored picture to.

    Returns:
        uint8 tensor `(3, height, width)`, contiguous, sharing no memory with the frame.
    """
    from torch import from_numpy  # here: who asks for times or sound alone need not wait for it

    width, height = stored_size_px
    array = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BICUBIC")
    image = from_numpy(array).permute(2, 0, 1)
    if orientation.transpose:
        image = image.transpose(1, 2)
    axes = [axis for axis, flips in ((2, orientation.flip_horizontal), (1, orientation.flip_vertical)) if flips]
    return (image.flip(axes) if axes else image).contiguous()


class TimedFrame(NamedTuple):
    """A decoded `av.VideoFrame` and the exact time in seconds at which it appears on screen."""

    time: Fraction
    frame: Any


class VideoSource:
    """One pass over a file: its decoded frames with exact times.

    Args:
        path: a video file.

    Attributes:
        n_damaged: spots that were left out or patched.

    Raises:
        FileNotFoundError: no such file.
        VideoReadError: not a video.
        ImportError: PyAV is not installed.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = path
        self.container = open_video(path)
        try:
            self.stream = find_video_stream(self.container, path)
        except BaseException:
            self.container.close()
            raise
        self.n_damaged = 0

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def frames(self) -> Iterator[TimedFrame]:
        """Yield the frames from here on, in order of time; those that come with a time in the past are left out.

        Raises:
            VideoReadError: the times jump ahead so far that it is damage.
        """
        last: Fraction | None = None
        for packet in self.packets():
            for frame in self.decode(packet):
                ticks = frame.dts if frame.pts is None else frame.pts
                time = ticks * (frame.time_base or self.stream.time_base) if ticks is not None else None
                if time is None:
                    time = Fraction(0) if last is None else last + usual_duration(self.stream)
                self.n_damaged += frame.is_corrupt
                if last is not None and time - last > MAX_GAP_S:
                    jump = f"from {float(last):.1f} to {float(time):.1f} s"
                    raise VideoReadError(f"{self.path} is damaged: its times jump {jump}; have it written anew")
                if last is not None and time < last:
                    self.n_damaged += 1
                    continue
                last = time
                yield TimedFrame(time, frame)

    def packets(self) -> Iterator[Any]:
        """Yield the video's packets, at the end of what can be read the flushing one (`None`)."""
        try:
            yield from self.container.demux(self.stream)
        except IndexError:
            pass  # PyAV reads all, then trips over streams that began after it opened the file
        except Exception:  # whatever PyAV makes of damage
            self.n_damaged += 1
        yield None

    def decode(self, packet: Any) -> list[Any]:
        """Return the frames that a packet completes."""
        self.n_damaged += packet is not None and packet.is_corrupt
        try:
            return self.stream.decode(packet)
        except import_av().error.EOFError:
            return []
        except Exception:  # whatever PyAV makes of damage
            self.n_damaged += 1
            return []

    def damage(self) -> list[str]:
        """Return what was found damaged so far, for a message."""
        return [f"{self.n_damaged} damaged spot(s) were skipped or patched"] if self.n_damaged else []

    def display_end(self, shown: TimedFrame) -> Fraction:
        """Return when the file's last frame leaves the screen, in seconds."""
        duration = (shown.frame.duration or 0) * (shown.frame.time_base or self.stream.time_base)
        return shown.time + (duration if duration > 0 else usual_duration(self.stream))


def usual_duration(stream: Any) -> Fraction:
    """Return how long a picture of an `av` stream usually stays, in seconds; a stand-in for streams of other kinds."""
    rate = (stream.average_rate or stream.guessed_rate) if stream.type == "video" else None
    return 1 / rate if rate else FALLBACK_DURATION_S


def warn_of_damage(path: str | os.PathLike, first: Fraction, last_end: Fraction, damage: Sequence[str]) -> None:
    """Warn of `damage`, if there is any, in the part of a video from `first` to `last_end`, in seconds."""
    if damage:
        decoded = f"{max(float(last_end - first), 0):.1f} s of video were decoded, up to {float(last_end):.1f} s"
        warnings.warn(f"{path}: {decoded}: {'; '.join(damage)}", VideoReadWarning, stacklevel=4)


def nothing_decoded(path: str | os.PathLike) -> VideoReadError:
    """Return the error for a video stream of which nothing can be used."""
    return VideoReadError(f"{path} has a video stream, but not one frame of it could be decoded")


def read_clock_start_s(path: str | os.PathLike) -> float:
    """Return what a player shows as 0:00 of a video, in seconds on the file's clock; errors as of `VideoSource`."""
    with closing(VideoSource(path)) as source:
        return float(clock_start(source.container))


class VideoTimes(NamedTuple):
    """What a player shows as 0:00 of a video, when its first frame appears and when its last is over, in seconds."""

    zero_s: float
    first_s: float
    end_s: float


def read_times(path: str | os.PathLike) -> VideoTimes:
    """Read a video's packets to the end, which headers only estimate; none is decoded.

    Raises:
        VideoReadError: it holds no frame; and as of `VideoSource`.
    """
    with closing(VideoSource(path)) as source:
        unit, usual = source.stream.time_base, usual_duration(source.stream)
        begins, ends = [], []
        for packet in source.packets():
            ticks = None if packet is None else packet.dts if packet.pts is None else packet.pts
            if ticks is not None and packet.size and not packet.is_discard:
                begins.append(ticks * unit)
                ends.append(begins[-1] + (packet.duration * unit if packet.duration else usual))
        if not begins:
            raise VideoReadError(f"{path} has a video stream, but it holds no picture")
        return VideoTimes(float(clock_start(source.container)), float(min(begins)), float(max(ends)))
