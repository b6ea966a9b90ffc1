"""Opens video files with PyAV and decodes them past damage, with exact times."""

import itertools
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .video_packets_livecc import PacketFilter

# A file whose packets end this long before its header says is reported as cut short.
_MISSING_TAIL_S = Fraction(1)
# How long a picture stays when neither it nor the stream says.
_FALLBACK_DURATION_S = Fraction(1, 25)
# FFmpeg "plays" any text file as a recorded terminal session.
_NOT_VIDEO_FORMATS = frozenset({"tty"})
# The unit of a container's times, in fractions of a second.
_CONTAINER_TICKS = 1_000_000


class VideoReadError(ValueError):
    """The file cannot be read as a video, or holds no frame in the range asked for."""


class VideoReadWarning(UserWarning):
    """The file is damaged: only part of it could be decoded."""


class Orientation(NamedTuple):
    """How a stored picture becomes the displayed one: transpose first, then the flips."""

    transpose: bool = False
    flip_horizontal: bool = False
    flip_vertical: bool = False

    @property
    def rotation_deg(self) -> int:
        """The counter-clockwise rotation in it: 0, 90, 180 or 270."""
        if self.transpose:
            return 90 if self.flip_vertical else 270
        return 180 if self.flip_vertical else 0


class TimedFrame(NamedTuple):
    """A decoded `av.VideoFrame` and the exact time in seconds at which it appears on screen.

    The frame is `None` where decoding it was skipped (see `VideoSource.skip_unless`).
    """

    time: Fraction
    frame: Any


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says about itself, and its first frame.

    Attributes:
        duration_s: length of the video in seconds by its header, `None` if it does not say.
        clock_start_s: the file's earliest time over all its streams; what players show as 0:00. A time on the
            player's clock plus this is one on the file's.
        first_pts_s: presentation time of the first decodable frame.
        width, height: size as displayed (after rotation), in pixels.
        frame_rate: average frames per second by its header, `None` if it does not say.
        orientation: what turns the stored picture into the displayed one.
        codec: name of the video codec.
        has_audio: whether there is an audio stream.
    """

    duration_s: float | None
    clock_start_s: float
    first_pts_s: float
    width: int
    height: int
    frame_rate: float | None
    orientation: Orientation
    codec: str
    has_audio: bool

    @property
    def rotation_deg(self) -> int:
        """Counter-clockwise rotation from stored to displayed picture: 0, 90, 180 or 270."""
        return self.orientation.rotation_deg


def probe_video(path: str | os.PathLike) -> VideoInfo:
    """Read a video's header and decode its first frame.

    Raises:
        FileNotFoundError: no such file.
        VideoReadError: not a video, or no frame can be decoded.
        ImportError: PyAV is not installed.
    """
    with VideoSource(path) as source:
        first = next(source.frames(), None)
        if first is None:
            raise nothing_decoded(path)
        stream, container = source.stream, source.container
        orientation = display_orientation(first.frame)
        size = (first.frame.width, first.frame.height)
        width, height = size[::-1] if orientation.transpose else size
        duration = None
        if stream.duration is not None:
            duration = float(stream.duration * stream.time_base)
        elif (end := source.header_end()) is not None:
            duration = float(end - source.clock_start())
        rate = stream.average_rate or stream.guessed_rate
        return VideoInfo(
            duration_s=duration,
            clock_start_s=float(source.clock_start(default=first.time)),
            first_pts_s=float(first.time),
            width=width,
            height=height,
            frame_rate=float(rate) if rate else None,
            orientation=orientation,
            codec=stream.codec_context.name,
            has_audio=bool(container.streams.audio),
        )


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
        container = av.open(os.fspath(path), metadata_errors="replace")
    except (av.error.FFmpegError, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise VideoReadError(f"{path} is not a video file that can be read: {reason}") from error
    if container.format.name in _NOT_VIDEO_FORMATS:
        container.close()
        raise VideoReadError(f"{path} is a text file, not a video")
    return container


def clock_start(container: Any, default: Fraction = Fraction(0)) -> Fraction:
    """The earliest time over all streams of an open file by its header, in seconds: what players show as 0:00."""
    if container.start_time is None:
        return default
    start = Fraction(container.start_time, _CONTAINER_TICKS)
    # The header's is rounded to its ticks; that of the stream which begins there is exact.
    starts = (stream.start_time * stream.time_base for stream in container.streams if stream.start_time is not None)
    nearest = min(starts, key=lambda time: abs(time - start), default=start)
    return nearest if abs(nearest - start) * _CONTAINER_TICKS <= 1 else start


def find_video_stream(container: Any, path: str | os.PathLike) -> Any:
    """The first video stream of an open file that is no cover picture, set to decode with threads.

    Raises:
        VideoReadError: there is none.
    """
    av = import_av()
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            stream.thread_type = "AUTO"
            return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
    raise VideoReadError(f"{path} has no video stream to watch (it holds: {kinds})")


def display_orientation(frame: Any) -> Orientation:
    """The orientation a decoded frame's display matrix asks for, to the nearest quarter turn."""
    entry = frame.side_data.get("DISPLAYMATRIX")
    if entry is None:
        return Orientation()
    # Nine 32-bit numbers a b u c d v x y w: pixel (p, q) is displayed at (a p + c q, b p + d q).
    a, b, _, c, d = memoryview(bytes(entry)).cast("i")[:5]
    if abs(b) + abs(c) > abs(a) + abs(d):
        return Orientation(transpose=True, flip_horizontal=c < 0, flip_vertical=b < 0)
    return Orientation(flip_horizontal=a < 0, flip_vertical=d < 0)


def frame_to_rgb(
    frame: Any,
    orientation: Orientation | None = None,
    stored_size_px: tuple[int, int] | None = None,
) -> torch.Tensor:
    """Convert a decoded PyAV frame to an upright RGB tensor.

    Args:
        frame: an `av.VideoFrame` in any pixel format.
        orientation: what to do to the stored picture; `None`: nothing.
        stored_size_px: (width, height) to resize the stored picture to; `None` keeps its own.

    Returns:
        uint8 tensor `(3, height, width)`, contiguous, sharing no memory with the frame.
    """
    orientation = orientation or Orientation()
    width, height = stored_size_px or (frame.width, frame.height)
    array = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="BICUBIC")
    image = torch.from_numpy(array).permute(2, 0, 1)
    if orientation.transpose:
        image = image.transpose(1, 2)
    if orientation.flip_horizontal:
        image = image.flip(2)
    if orientation.flip_vertical:
        image = image.flip(1)
    return image.contiguous()


class VideoSource:
    """One pass over a file: its decoded frames with exact times, past damage, which is counted.

    Args:
        path: a video file.
        keep_audio: collect the packets of the first audio stream on the way, in `audio_packets`.

    Raises:
        FileNotFoundError: no such file.
        VideoReadError: not a video.
        ImportError: PyAV is not installed.
    """

    def __init__(self, path: str | os.PathLike, keep_audio: bool = False):
        self.path = path
        self.audio_packets: list[Any] = []
        self.container = open_video(path)
        try:
            self.stream = find_video_stream(self.container, path)
        except BaseException:
            self.container.close()
            raise
        audio = self.container.streams.audio
        self.audio_stream = audio[0] if keep_audio and audio else None
        rate = self.stream.average_rate or self.stream.guessed_rate
        self._usual_duration = 1 / rate if rate else _FALLBACK_DURATION_S
        self._last_time: Fraction | None = None
        self._packets_end: Fraction | None = None
        self._damaged_spots = 0
        self._backward_frames = 0
        self._broke_off = False
        self._filter = PacketFilter(self.stream)

    def __enter__(self) -> "VideoSource":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def clock_start(self, default: Fraction = Fraction(0)) -> Fraction:
        """The earliest time over all streams by the header, in seconds."""
        return clock_start(self.container, default)

    def header_end(self) -> Fraction | None:
        """When the longest stream ends by the header, in seconds; `None` if it does not say."""
        if self.container.duration is None:
            return None
        # Matroska counts its duration from 0, the others from where they start.
        starts_at_0 = "matroska" in self.container.format.name
        start = Fraction(0) if starts_at_0 else self.clock_start()
        return start + Fraction(self.container.duration, _CONTAINER_TICKS)

    def skip_unless(self, wanted: Callable[[Fraction, Fraction], bool]) -> None:
        """From here on, skip decoding frames that are not wanted where the others do not need them.

        Skipped frames come from `frames` as times without a frame. Damage inside them goes unseen; at any other sign
        that the file is not as its packets say, the iterator of frames raises `SkippedFramesError`: read the file
        again then, without skipping.

        Args:
            wanted: says of a frame that appears at the first and leaves the screen at the second time, in seconds,
                whether it has to be decoded.
        """
        self._filter.skip_unless(wanted)

    def frames(self) -> Iterator[TimedFrame]:
        """The frames from here on, in order of time.

        Raises:
            SkippedFramesError: see `skip_unless`.
        """
        av = import_av()
        for packet in self._filter.needed(self._packets()):
            self._damaged_spots += self._broke_off if packet is None else packet.is_corrupt
            try:
                frames = self.stream.decode(packet)
            except av.error.EOFError:
                break
            except av.error.FFmpegError:
                self._damaged_spots += 1
                frames = []
            if self._damaged_spots:
                self._filter.give_up()
            for frame in frames:
                self._damaged_spots += frame.is_corrupt
                time = self._time_of(frame)
                if self._last_time is not None and time < self._last_time:
                    self._filter.give_up()
                    self._backward_frames += 1
                    continue
                if frame.is_corrupt:
                    self._filter.give_up()
                for skipped in self._filter.skipped_before(frame):
                    yield TimedFrame(skipped, None)
                self._last_time = time
                yield TimedFrame(time, frame)
        self._filter.check_end()

    def frames_before(self, start: Fraction, margin_s: int) -> Iterator[TimedFrame] | None:
        """Seek, and give the frames from a key frame that appears before `start` on.

        Args:
            start: the wanted time in seconds.
            margin_s: how far before it to aim; some containers land after the point aimed at.

        Returns:
            `None` if the file did not go to such a place: use another source then.
        """
        av = import_av()
        try:
            ticks = math.floor((start - margin_s) / self.stream.time_base)
            self.container.seek(ticks, stream=self.stream)
        except (av.error.FFmpegError, OSError):
            return None
        frames = self.frames()
        # What comes ahead of the first key frame may lack the pictures it refers to.
        key = next((timed for timed in frames if timed.frame.key_frame), None)
        self._damaged_spots = 0
        return itertools.chain([key], frames) if key and key.time < start else None

    def display_end(self, shown: TimedFrame) -> Fraction:
        """When the file's last frame leaves the screen, in seconds."""
        duration = (shown.frame.duration or 0) * (shown.frame.time_base or self.stream.time_base)
        return shown.time + (duration or self._usual_duration)

    def warn_of_damage(self, first: Fraction, last_end: Fraction, at_end: bool) -> None:
        """Warn of what could not be decoded.

        Args:
            first, last_end: the range in seconds that could.
            at_end: whether the file was read to its end, where a missing tail shows.
        """
        damage = []
        end = self.header_end()
        if at_end and end is not None and end - (self._packets_end or 0) > _MISSING_TAIL_S:
            damage.append(f"it is cut short (by its header it ends at {float(end):.1f} s)")
        if self._damaged_spots:
            damage.append(f"{self._damaged_spots} damaged spot(s) were skipped or patched")
        if self._backward_frames:
            damage.append(f"{self._backward_frames} frame(s) with a time in the past were skipped")
        if damage:
            decoded = f"{float(max(last_end - first, 0)):.1f} s of video were decoded"
            message = f"{self.path}: {decoded}, up to {float(last_end):.1f} s: {'; '.join(damage)}"
            warnings.warn(message, VideoReadWarning, stacklevel=4)

    def _packets(self) -> Iterator[Any]:
        """The video's packets, the flushing one last even where reading breaks off."""
        av = import_av()
        flushed = False
        try:
            # All streams are read: how far the others reach tells a cut file from a short picture.
            for packet in self.container.demux():
                if packet.pts is not None and packet.time_base:
                    end = (packet.pts + (packet.duration or 0)) * packet.time_base
                    self._packets_end = max(self._packets_end or end, end)
                if packet.stream is self.stream:
                    flushed = packet.size == 0
                    yield packet
                elif packet.stream is self.audio_stream and packet.size:
                    self.audio_packets.append(packet)
        except (av.error.FFmpegError, OSError):
            self._broke_off = True
        if self._broke_off or not flushed:
            yield None

    def _time_of(self, frame: Any) -> Fraction:
        ticks = frame.pts if frame.pts is not None else frame.dts
        if ticks is not None:
            return ticks * (frame.time_base or self.stream.time_base)
        return Fraction(0) if self._last_time is None else self._last_time + self._usual_duration


def import_av() -> Any:
    """PyAV, or an ImportError that says how to get it."""
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


def nothing_decoded(path: str | os.PathLike) -> VideoReadError:
    """The error for a video stream of which nothing can be used."""
    return VideoReadError(f"{path} has a video stream, but not one frame of it could be decoded")
