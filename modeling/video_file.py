"""Opens video files with PyAV and decodes them past damage, with exact times."""

import itertools
import math
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple, Self

import torch

from .video_open import (
    CONTAINER_TICKS,
    VideoReadError,
    VideoReadWarning,
    clock_start,
    demuxed,
    find_video_stream,
    import_av,
    open_video,
)
from .video_times import BestEffort, SteadyClock, usual_duration

# A file whose packets end this long before its header says is reported as cut short.
_MISSING_TAIL_S = Fraction(1)
# A start this far into the file is worth a seek; closer ones are decoded up to.
_SEEK_FROM_S = 10
# How far before the wanted time a seek aims, one try after the other; some containers land after the point aimed at.
_SEEK_MARGINS_S = (1, 20)


class Orientation(NamedTuple):
    """How a stored picture becomes the displayed one: transpose first, then the flips."""

    transpose: bool = False
    flip_horizontal: bool = False
    flip_vertical: bool = False

    @property
    def rotation_deg(self) -> int:
        """Return the counter-clockwise rotation in it: 0, 90, 180 or 270."""
        if self.transpose:
            return 90 if self.flip_vertical else 270
        return 180 if self.flip_vertical else 0


class TimedFrame(NamedTuple):
    """A decoded `av.VideoFrame` and the exact time in seconds at which it appears on screen."""

    time: Fraction
    frame: Any


@dataclass(frozen=True)
class VideoInfo:
    """What a video file says about itself, and its first frame.

    Attributes:
        duration_s: length of the video in seconds by its header, which is an estimate; `None` if it does not say.
            `measure_duration` finds it.
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
        elif (end := source.header_end) is not None:
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

    Attributes:
        header_end: when the longest stream ends by the header, an estimate, in seconds; `None` if it does not say.

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
        self.clock: SteadyClock[Fraction] = SteadyClock(usual_duration(self.stream))
        self.n_damaged = 0
        self.header_end = self._end_by_header()
        self._best_effort = BestEffort()
        self._broke_off = False
        self._reached = Fraction(0)

    @classmethod
    def open_before(
        cls, path: str | os.PathLike, start: Fraction | None, **options: Any
    ) -> tuple[Self, Iterator[TimedFrame]]:
        """Open a file, with its frames from before `start` (seconds) on: by a seek where that is exact.

        Args:
            path: a video file.
            start: `None`: from the first frame on.
            **options: of the class.
        """
        for margin_s in _SEEK_MARGINS_S:
            if start is None:
                break
            source = cls(path, **options)
            # What lies past the end by the header is past a jump of times that is damage, or the header is wrong.
            is_far = start - source.clock_start() >= _SEEK_FROM_S and start <= (source.header_end or start)
            if not is_far or not source.may_seek():
                return source, source.frames()
            frames = source.frames_before(start, margin_s)
            if frames is not None:
                return source, frames
            source.close()
        source = cls(path, **options)
        return source, source.frames()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def clock_start(self, default: Fraction = Fraction(0)) -> Fraction:
        """Return the earliest time over all streams by the header, in seconds."""
        return clock_start(self.container, default)

    def may_seek(self) -> bool:
        """Return whether a time leads to one position in the file: where its index names all of its pictures."""
        name = self.container.format.name
        return self.stream.frames > 0 and (name == "avi" or "mp4" in name)

    def frames(self) -> Iterator[TimedFrame]:
        """Yield the frames from here on, in order of time."""
        for packet in self.packets():
            for frame in self.decode(packet):
                self.n_damaged += frame.is_corrupt
                time = self.settle(self.time_by_file(frame))
                if time is not None:
                    yield TimedFrame(time, frame)

    def packets(self) -> Iterator[Any]:
        """Yield the video's packets, the flushing one last (`None`) even where reading breaks off."""
        flushed = False
        # All streams are read: how far the others reach tells a cut file from a short picture.
        for packet in demuxed(self.container, self._break_off):
            self.note(packet)
            if packet.stream is self.stream:
                flushed = packet.size == 0
                yield packet
        if not flushed:
            yield None

    def note(self, packet: Any) -> None:
        """Take account of a packet of any stream."""
        if packet.size and (end := packet_end(packet)) is not None:
            self._reached = max(self._reached, end)

    def reached(self) -> Fraction:
        """Return how far the longest stream was read, in seconds."""
        return self._reached

    def decode(self, packet: Any) -> list[Any]:
        """Return the frames that a packet completes."""
        self.n_damaged += self._broke_off if packet is None else packet.is_corrupt
        try:
            return self.stream.decode(packet)
        except import_av().error.EOFError:
            return []
        except Exception:  # whatever PyAV makes of damage
            self.n_damaged += 1
            return []

    def time_by_file(self, frame: Any) -> Fraction | None:
        """Return when a decoded frame appears as the file says, in seconds; `None` if it does not say."""
        ticks = self._best_effort.ticks_of(frame.pts, frame.dts)
        return None if ticks is None else ticks * (frame.time_base or self.stream.time_base)

    def settle(self, time: Fraction | None) -> Fraction | None:
        """Return when the next frame appears that the file says to appear at `time`; `None`: it lies in the past."""
        return self.clock.settle(time)

    def frames_before(self, start: Fraction, margin_s: int) -> Iterator[TimedFrame] | None:
        """Seek to `margin_s` before `start` (seconds), and return the frames from a key frame before `start` on.

        Returns:
            `None` if the file did not go to such a position: use another source then.
        """
        try:
            ticks = math.floor((start - margin_s) / self.stream.time_base)
            self.container.seek(ticks, stream=self.stream)
        except Exception:  # whatever PyAV makes of damage
            return None
        frames = self.frames()
        # What comes ahead of the first key frame may lack the pictures it refers to.
        key = next((timed for timed in frames if timed.frame.key_frame), None)
        self.n_damaged = 0
        return itertools.chain([key], frames) if key and key.time < start else None

    def display_end(self, shown: TimedFrame) -> Fraction:
        """Return when the file's last frame leaves the screen, in seconds."""
        duration = (shown.frame.duration or 0) * (shown.frame.time_base or self.stream.time_base)
        return shown.time + self.clock.length(shown.time, duration)

    def damage(self, at_end: bool) -> list[str]:
        """Return what was found damaged, for a message; a missing tail only shows `at_end` of the file."""
        damage = []
        if at_end and self.header_end is not None and self.header_end - self.reached() > _MISSING_TAIL_S:
            damage.append(f"it is cut short (by its header it ends at {float(self.header_end):.1f} s)")
        if self.n_damaged:
            damage.append(f"{self.n_damaged} damaged spot(s) were skipped or patched")
        return damage + self.clock.faults()

    def warn_of_damage(self, first: Fraction, last_end: Fraction, at_end: bool) -> None:
        """Warn of what could not be decoded.

        Args:
            first, last_end: the range in seconds that could.
            at_end: whether the file was read to its end, where a missing tail shows.
        """
        if damage := self.damage(at_end):
            decoded = f"{max(float(last_end - first), 0):.1f} s of video were decoded"
            message = f"{self.path}: {decoded}, up to {float(last_end):.1f} s: {'; '.join(damage)}"
            warnings.warn(message, VideoReadWarning, stacklevel=4)

    def _end_by_header(self) -> Fraction | None:
        if self.container.duration is None:
            return None
        # Matroska counts its duration from 0, the others from where they start.
        starts_at_0 = "matroska" in self.container.format.name
        start = Fraction(0) if starts_at_0 else self.clock_start()
        return start + Fraction(self.container.duration, CONTAINER_TICKS)

    def _break_off(self) -> None:
        self._broke_off = True


def packet_end(packet: Any) -> Fraction | None:
    """Return when what a packet holds is over, in seconds; `None` if it does not say."""
    ticks = packet.dts if packet.pts is None else packet.pts
    usual = usual_duration(packet.stream) / packet.time_base
    return None if ticks is None else (ticks + (packet.duration or usual)) * packet.time_base


def nothing_decoded(path: str | os.PathLike) -> VideoReadError:
    """Return the error for a video stream of which nothing can be used."""
    return VideoReadError(f"{path} has a video stream, but not one frame of it could be decoded")
