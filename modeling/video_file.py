"""Opens video files with PyAV and decodes them as a player would show them: upright, with exact times.

Files are decoded from their first frame on. Damaged parts are skipped and counted.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.request import url2pathname

if TYPE_CHECKING:
    from torch import Tensor

FILE_PREFIX = "file://"
WEB_PREFIXES = ("http://", "https://")
# Ticks per second of `container.start_time` and `container.duration` (AV_TIME_BASE).
CONTAINER_TICKS = 1_000_000
# A longer step between timestamps, in seconds, is treated as damage.
MAX_GAP_S = 3600
# Display time of a frame if neither the frame nor the stream's rate gives one.
FALLBACK_DURATION_S = Fraction(1, 25)


class VideoReadError(ValueError):
    """The file cannot be read as a video, or has no frame in the requested range."""


class NoDecoderError(VideoReadError):
    """The installed FFmpeg has no decoder for the file's video."""


class VideoReadWarning(UserWarning):
    """The file is damaged: only part of it could be decoded."""


def import_av() -> Any:
    """Return PyAV, or raise an ImportError that says how to install it."""
    try:
        import av
    except ImportError as error:
        raise ImportError("reading video files needs PyAV: pip install av") from error
    return av


def local_file(path: str | os.PathLike, folder: str | os.PathLike = ".") -> str:
    """Return the path that a `file://` URL names, and any other path unchanged.

    `file://` may be followed by `localhost`, and by a relative path. The path is percent-decoded, unless it exists as
    written.

    Args:
        path: a path or a URL.
        folder: the folder that relative paths are in.
    """
    text = os.fsdecode(path)
    if not text.startswith(FILE_PREFIX):
        return text
    written = text.removeprefix(FILE_PREFIX).removeprefix("localhost")
    return written if "%" in written and Path(folder, written).exists() else url2pathname(written)


def check_file(path: str | os.PathLike) -> None:
    """Raise FileNotFoundError if `path` does not exist, VideoReadError if it is an address, a folder or empty."""
    if not os.fspath(path):
        raise VideoReadError("the file name is empty: expected a video file")
    file = Path(local_file(path))
    if file.is_dir():
        raise VideoReadError(f"{path} is a folder: expected a video file")
    if not file.exists():
        scheme, is_address, _ = os.fsdecode(path).partition("://")  # what follows may be a password
        if is_address and scheme != "file":
            raise VideoReadError(f"an address ({scheme}://...) cannot be read here: expected a video file")
        raise FileNotFoundError(f"no such file: {path}")
    if file.is_file() and not file.stat().st_size:
        raise VideoReadError(f"{path} is empty (0 bytes): expected a video file")


def file_url(path: str | os.PathLike) -> str:
    """Return the URL to open a path with: FFmpeg would read a bare `10:30.mp4` as protocol `10`."""
    return f"file:{local_file(path)}"


def open_video(path: str | os.PathLike) -> Any:
    """Open a file, or a `file://` URL, for reading as an `av` input container; use it in a `with` statement.

    Raises:
        FileNotFoundError: no such file.
        VideoReadError: it is a folder or empty, or FFmpeg does not recognise it as media.
        ImportError: PyAV is not installed.
    """
    av = import_av()
    check_file(path)
    try:
        container = av.open(file_url(path), metadata_errors="replace")
    except Exception as error:  # not only FFmpegError: damage also surfaces as other exceptions in PyAV
        raise VideoReadError(f"{path} is not a video file that can be read: {reason_of(error)}") from error
    if container.format.name == "tty":  # FFmpeg "plays" any text file as a recorded terminal session
        container.close()
        raise VideoReadError(f"{path} is a text file, not a video")
    # PyAV sets genpts, which makes up wrong timestamps if frames are stored out of display order (AVI).
    container.flags &= ~av.container.Flags.gen_pts.value
    return container


def reason_of(error: BaseException) -> str:
    """Return a PyAV error's message in one line."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


def choose_video(container: Any) -> Any | None:
    """Return the video stream of an open file that a player would choose: by default flag, then size and length.

    Returns:
        `None` if no stream can be decoded. Cover pictures and thumbnails are ignored.
    """
    streams = [stream for stream in container.streams.video if stream.codec_context and not _is_cover(stream)]
    if container.format.name == "hls":
        return next(iter(streams), None)  # players start with the first quality of a playlist
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
        NoDecoderError: FFmpeg cannot decode any of its video streams.
        VideoReadError: it has no video stream.
    """
    stream = choose_video(container)
    if stream is not None:
        # Damage would go unreported: in VP8 with frame threads, in H.264 slices without strict error detection. The
        # decoded frames are the same.
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
    """Return the time in seconds that players show as 0:00: the earliest over all streams by the file's header."""
    if container.start_time is None:
        return default
    start = Fraction(container.start_time, CONTAINER_TICKS)
    # The container's start is rounded to its ticks; the start of the earliest stream is exact.
    starts = (stream.start_time * stream.time_base for stream in container.streams if stream.start_time is not None)
    nearest = min(starts, key=lambda time: abs(time - start), default=start)
    return nearest if abs(nearest - start) * CONTAINER_TICKS <= 1 else start


class Orientation(NamedTuple):
    """How to turn a stored picture into the displayed one: transpose first, then flip."""

    transpose: bool = False
    flip_horizontal: bool = False
    flip_vertical: bool = False


def display_orientation(frame: Any) -> Orientation:
    """Return the orientation given by a decoded frame's display matrix, to the nearest multiple of 90°."""
    entry = frame.side_data.get("DISPLAYMATRIX")
    if entry is None:
        return Orientation()
    # Nine int32 a b u c d v x y w: pixel (p, q) is displayed at (a p + c q, b p + d q). PyAV's `frame.rotation` has no
    # flips.
    a, b, _, c, d = memoryview(bytes(entry)).cast("i")[:5]
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(transpose=True, flip_horizontal=c < 0, flip_vertical=b < 0)
    return Orientation(flip_horizontal=a < 0, flip_vertical=d < 0)


def frame_to_rgb(frame: Any, orientation: Orientation, stored_size_px: tuple[int, int]) -> Tensor:
    """Convert a decoded PyAV frame to an upright RGB tensor.

    Args:
        frame: an `av.VideoFrame` in any pixel format.
        orientation: how to turn the stored picture.
        stored_size_px: (width, height) to resize the stored picture to, before it is turned.

    Returns:
        uint8 tensor `(3, height, width)` of the upright picture, contiguous, not sharing memory with the frame.
    """
    from torch import from_numpy  # keeps torch out of processes that only need times or sound

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
        n_damaged: damaged spots so far, skipped or concealed by the decoder.

    Raises:
        FileNotFoundError: no such file.
        VideoReadError: not a video.
        ImportError: PyAV is not installed.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = local_file(path)
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
        """Yield the remaining frames in order of time; a frame whose time lies in the past is skipped.

        Raises:
            VideoReadError: a time jumps ahead by more than `MAX_GAP_S`.
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
                    raise VideoReadError(f"{self.path} is damaged: its times jump {jump}; re-encode it")
                if last is not None and time < last:
                    self.n_damaged += 1
                    continue
                last = time
                yield TimedFrame(time, frame)

    def packets(self) -> Iterator[Any]:
        """Yield the video's packets, then `None` to flush the decoder."""
        try:
            yield from self.container.demux(self.stream)
        except IndexError:
            pass  # PyAV raises this at the end of files with streams that appear after opening
        except Exception:  # damage surfaces as many types of exception in PyAV
            self.n_damaged += 1
        yield None

    def decode(self, packet: Any) -> list[Any]:
        """Return the frames that become available with a packet."""
        self.n_damaged += packet is not None and packet.is_corrupt
        try:
            return self.stream.decode(packet)
        except import_av().error.EOFError:
            return []
        except Exception:  # damage surfaces as many types of exception in PyAV
            self.n_damaged += 1
            return []

    def damage(self) -> list[str]:
        """Return a description of each kind of damage found so far."""
        return [f"{self.n_damaged} damaged spot(s) were skipped or patched"] if self.n_damaged else []

    def display_end(self, shown: TimedFrame) -> Fraction:
        """Return when the file's last frame leaves the screen, in seconds."""
        duration = (shown.frame.duration or 0) * (shown.frame.time_base or self.stream.time_base)
        return shown.time + (duration if duration > 0 else usual_duration(self.stream))


def usual_duration(stream: Any) -> Fraction:
    """Return the seconds a frame of an `av` stream lasts by its frame rate; a fallback for streams without one."""
    rate = (stream.average_rate or stream.guessed_rate) if stream.type == "video" else None
    return 1 / rate if rate else FALLBACK_DURATION_S


def warn_of_damage(path: str | os.PathLike, first: Fraction, last_end: Fraction, damage: Sequence[str]) -> None:
    """Warn if there is any `damage` in the part of a video from `first` to `last_end`, in seconds."""
    if damage:
        decoded = f"{max(float(last_end - first), 0):.1f} s of video were decoded, up to {float(last_end):.1f} s"
        warnings.warn(f"{path}: {decoded}: {'; '.join(damage)}", VideoReadWarning, stacklevel=4)


def nothing_decoded(path: str | os.PathLike) -> VideoReadError:
    """Return the error for a video stream without any usable frame."""
    return VideoReadError(f"{path} has a video stream, but no frame of it can be decoded")


def read_clock_start_s(path: str | os.PathLike) -> float:
    """Return the time on the file's clock, in seconds, that players show as 0:00; raises as `VideoSource`."""
    with closing(VideoSource(path)) as source:
        return float(clock_start(source.container))


class VideoTimes(NamedTuple):
    """Times on a file's clock in seconds: what players show as 0:00, the first frame, and the end of the last."""

    zero_s: float
    first_s: float
    end_s: float


def read_times(path: str | os.PathLike) -> VideoTimes:
    """Read all packets of a video, without decoding, for exact times; headers only have estimates.

    Raises:
        VideoReadError: the file has no frame; otherwise as `VideoSource`.
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
            raise nothing_decoded(path)
        return VideoTimes(float(clock_start(source.container)), float(min(begins)), float(max(ends)))
