"""Opens video files with PyAV and decodes them past damage, with exact times."""

import itertools
import math
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, NamedTuple

import torch

from .video_open import (
    CONTAINER_TICKS,
    VideoReadError,
    VideoReadWarning,
    choose_stream,
    clock_start,
    demuxed,
    find_video_stream,
    import_av,
    open_video,
)
from .video_packets import PacketFilter
from .video_times import MAX_GAP_S, BestEffort, PacketReach, SteadyClock, usual_duration

# A file whose packets end this long before its header says is reported as cut short.
_MISSING_TAIL_S = Fraction(1)


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
        keep_audio: collect the packets of its sound on the way, in `audio_packets`.
        max_gap_s: a longer step of the file's times, past all that its packets have reached, is damage.

    Attributes:
        header_end: when the longest stream ends by the header, an estimate, in seconds; `None` if it does not say.

    Raises:
        FileNotFoundError: no such file.
        VideoReadError: not a video.
        ImportError: PyAV is not installed.
    """

    def __init__(self, path: str | os.PathLike, keep_audio: bool = False, max_gap_s: float | Fraction = MAX_GAP_S):
        self.path = path
        self.audio_packets: list[Any] = []
        self.container = open_video(path)
        try:
            self.stream = find_video_stream(self.container, path)
        except BaseException:
            self.container.close()
            raise
        self.audio_stream = choose_stream(self.container, "audio", self.stream) if keep_audio else None
        self._index = self.stream.index
        self._best_effort = BestEffort()
        self._clock = SteadyClock(usual_duration(self.stream), max_gap_s)
        self._reach = PacketReach(self.container.streams, max_gap_s)
        self._damaged_spots = 0
        self._broke_off = False
        self._filter = PacketFilter(self.stream)
        self.header_end = self._end_by_header()

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

    def _end_by_header(self) -> Fraction | None:
        if self.container.duration is None:
            return None
        # Matroska counts its duration from 0, the others from where they start.
        starts_at_0 = "matroska" in self.container.format.name
        start = Fraction(0) if starts_at_0 else self.clock_start()
        return start + Fraction(self.container.duration, CONTAINER_TICKS)

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
        for packet in self._filter.needed(self._packets()):
            self._damaged_spots += self._broke_off if packet is None else packet.is_corrupt
            frames = self._decoded(packet)
            if frames is None:
                break
            if self._damaged_spots:
                self._filter.give_up()
            for frame in frames:
                self._damaged_spots += frame.is_corrupt
                said = self._time_by_file(frame)
                skipped = list(self._filter.skipped_before(frame))
                times = [self._clock.settle(each, self._reach.of_sound()) for each in (*skipped, said)]
                if frame.is_corrupt or times != [*skipped, said]:
                    self._filter.give_up()
                yield from (TimedFrame(each, None) for each in skipped)
                if times[-1] is not None:
                    yield TimedFrame(times[-1], frame)
        self._damaged_spots += self._filter.check_end()

    def _decoded(self, packet: Any) -> list[Any] | None:
        """The frames that a packet completes; `None` at the end."""
        try:
            return self.stream.decode(packet)
        except import_av().error.EOFError:
            return None
        except Exception:  # whatever PyAV makes of damage
            self._damaged_spots += 1
            return []

    def _time_by_file(self, frame: Any) -> Fraction | None:
        ticks = self._best_effort.ticks_of(frame.pts, frame.dts)
        if ticks != frame.pts:
            self._filter.give_up()
        return None if ticks is None else ticks * (frame.time_base or self.stream.time_base)

    def frames_before(self, start: Fraction, margin_s: int) -> Iterator[TimedFrame] | None:
        """Seek, and give the frames from a key frame that appears before `start` on.

        Args:
            start: the wanted time in seconds.
            margin_s: how far before it to aim; some containers land after the point aimed at.

        Returns:
            `None` if the file did not go to such a place: use another source then.
        """
        try:
            ticks = math.floor((start - margin_s) / self.stream.time_base)
            self.container.seek(ticks, stream=self.stream)
        except Exception:  # whatever PyAV makes of damage
            return None
        frames = self.frames()
        # What comes ahead of the first key frame may lack the pictures it refers to.
        key = next((timed for timed in frames if timed.frame.key_frame), None)
        self._damaged_spots = 0
        return itertools.chain([key], frames) if key and key.time < start else None

    def display_end(self, shown: TimedFrame) -> Fraction:
        """When the file's last frame leaves the screen, in seconds."""
        duration = (shown.frame.duration or 0) * (shown.frame.time_base or self.stream.time_base)
        return shown.time + self._clock.length(shown.time, duration, self._reach.of_sound())

    def warn_of_damage(self, first: Fraction, last_end: Fraction, at_end: bool) -> None:
        """Warn of what could not be decoded.

        Args:
            first, last_end: the range in seconds that could.
            at_end: whether the file was read to its end, where a missing tail shows.
        """
        damage = []
        end = self.header_end
        if at_end and end is not None and end - (self._reach.of_all() or 0) > _MISSING_TAIL_S:
            damage.append(f"it is cut short (by its header it ends at {float(end):.1f} s)")
        if self._damaged_spots:
            damage.append(f"{self._damaged_spots} damaged spot(s) were skipped or patched")
        if (lost := self._reach.lost_s(self._index)) > 0:
            damage.append(f"{float(lost):.1f} s in it hold neither picture nor sound")
        faults = self._clock.faults()
        if not faults and self._reach.n_jumps(self._index):
            faults = ["its times jump, and what follows could not be read"]
        damage += faults
        if damage:
            decoded = f"{float(max(last_end - first, 0)):.1f} s of video were decoded"
            message = f"{self.path}: {decoded}, up to {float(last_end):.1f} s: {'; '.join(damage)}"
            warnings.warn(message, VideoReadWarning, stacklevel=4)

    def _packets(self) -> Iterator[Any]:
        """The video's packets, the flushing one last even where reading breaks off."""
        flushed = False
        # All streams are read: how far the others reach tells a cut file from a short picture.
        for packet in demuxed(self.container, self._break_off):
            self._reach.note(packet)
            if packet.stream is self.stream:
                flushed = packet.size == 0
                yield packet
            elif packet.stream is self.audio_stream and packet.size:
                self.audio_packets.append(packet)
        if not flushed:
            yield None

    def _break_off(self) -> None:
        self._broke_off = True


def nothing_decoded(path: str | os.PathLike) -> VideoReadError:
    """The error for a video stream of which nothing can be used."""
    return VideoReadError(f"{path} has a video stream, but not one frame of it could be decoded")
