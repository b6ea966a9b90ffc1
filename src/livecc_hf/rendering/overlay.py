"""Burns captions into a copy of a video: H.264, with the original frame times and audio."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections import deque
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..captions.writers import CaptionLike
from ..modeling.grammar import FRAMES_PER_SECOND
from ..modeling.video_file import display_orientation, file_url, frame_to_rgb, local_file
from ..modeling.video_sampling import SampleTimes
from ..utils.text import one_line
from ..video.times import SteadyClock

if TYPE_CHECKING:
    from .caption_painter import CaptionStyle

# Containers for H.264 that most players support.
SUFFIXES = (".mp4", ".mov", ".mkv")
# Words stay this long after their turn unless others follow, to give time for reading.
HOLD_S = Fraction(3, 2)
# Narrower videos are enlarged by an integer factor to make room for letters.
_MIN_WIDTH_PX = 320
# No B-frames: at variable frame rates they make the times in an MP4 header wrong.
_ENCODER_OPTIONS = {"preset": "veryfast", "crf": "20", "bf": "0"}
# A larger ratio of a pixel's sides is treated as damage, and its pixels as square.
_MAX_PIXEL_ASPECT = 4
_MAX_UNIT, _FALLBACK_UNIT_S = 10**7, Fraction(1, 90_000)
_BT709 = 1  # H.264's code for this colour space, its primaries and its transfer curve


class OverlayWarning(UserWarning):
    """The copy lacks something of the video, such as its sound."""


class OverlayWriter:
    """Copies a video with captions burned in, while the captions are written.

    Damaged files are read as in `livecc_hf.video.reader.iter_frames`. Pictures with non-square pixels are stretched.
    Captions must come in order of time. The copy starts at time 0. Memory use is constant. Use it in a `with`
    statement: on normal exit the rest of the range is copied; after an exception the file ends with the last caption
    and still plays.

    Args:
        video: the file to copy.
        out: the file to write, `.mp4`, `.mov` or `.mkv`; replaced if it exists.
        start_s, end_s: the range to copy, in seconds from the time that players show as 0:00, like captions.
        style: how the captions look.
        max_gap_s: a longer step of the file's times, in seconds, is treated as damage; default as in `iter_frames`.

    Raises:
        FileNotFoundError: no such video, or no folder to write `out` to.
        ValueError: the video cannot be read, the range ends before it or before its start, or `out` has another suffix
            or is the video itself.

    Warns:
        OverlayWarning: audio is left out, because the container does not support it or packets are damaged.
        VideoReadWarning: part of the file could not be decoded, or its times were wrong.
    """

    def __init__(
        self,
        video: str | os.PathLike,
        out: str | os.PathLike,
        start_s: float | None = None,
        end_s: float | None = None,
        style: CaptionStyle | None = None,
        max_gap_s: float | None = None,
    ):
        from ..video.reader import MAX_GAP_S, RepairedSource, exact_number, nothing_decoded, on_screen, probe_video

        max_gap_s = MAX_GAP_S if max_gap_s is None else max_gap_s
        self._style, self._path = style, video
        self._out = check_output(video, out)
        # This and all other times in this class are on the file's clock.
        self._zero = exact_number("clock_start_s", probe_video(video).clock_start_s)
        self._times = SampleTimes(start_s, end_s, FRAMES_PER_SECOND, self._zero)
        start = self._times.start
        self._has_start = start is not None
        self._end = self._times.end
        self._source, frames = RepairedSource.open_before(video, start, keep_audio=True, max_gap_s=max_gap_s)
        self._container: Any = None
        try:
            self._shown = on_screen(self._source, frames)
            self._next: Any = next(self._shown, None)
            if self._next is None:
                raise nothing_decoded(video)
            self._first = self._next[0]
            self._times.begin(self._first)
            if not self._times.is_before_end(self._times.first):
                raise self._times.none_found(video)
            clock_start = self._source.clock_start(default=self._first)
            self._origin = min(clock_start, self._first) if start is None else max(clock_start, start)
            self._open_output(max_gap_s)
        except BaseException:
            self._close_files()
            raise
        self._current: tuple[Fraction, Fraction, str] | None = None

    def __enter__(self) -> OverlayWriter:
        return self

    def __exit__(self, error_type: object, *_: object) -> None:
        self.close(complete=error_type is None)

    def write(self, segment: CaptionLike) -> None:
        """Copy the video up to the end of a segment, with its words; a silent one does not end earlier words."""
        from ..video.reader import exact_number

        start, end = (exact_number(name, getattr(segment, name)) + self._zero for name in ("start_s", "end_s"))
        self._copy_until(start)
        text = one_line(segment.text)
        if text:
            self._current = (start, end + HOLD_S, text)
        self._copy_until(end)

    def close(self, complete: bool = True) -> None:
        """Finish the file, after copying the rest of the range if `complete`.

        Raises:
            ValueError: the range begins past the end of the video, so that there is nothing to copy.
        """
        if self._container is None:
            return
        try:
            if complete:
                self._copy_until(None)
        finally:
            try:
                self._mux(self._video.encode(None))
            finally:
                self._close_files()
        if complete and self._last_ticks < 0:
            self._times.reached = self._reached
            raise self._times.none_found(self._path)
        if self._sound is not None and self._sound.n_left_out:
            message = f"{self._out}: {self._sound.n_left_out} damaged packet(s) of its sound are left out"
            warnings.warn(message, OverlayWarning, stacklevel=3)
        self._source.warn_of_damage(self._first, self._reached, at_end=complete and self._next is None)

    def _open_output(self, max_gap_s: float) -> None:
        import av

        from .caption_painter import CaptionPainter

        frame, stream = self._next[2], self._source.stream
        self._orientation = display_orientation(frame)
        self._stored_size_px = _square_size_px(frame.width, frame.height, stream.sample_aspect_ratio)
        turned = self._stored_size_px[::-1] if self._orientation.transpose else self._stored_size_px
        width, height = (max(2, side // 2 * 2) for side in turned)  # H.264 needs even sides
        self._painter = CaptionPainter((width, height), self._style)
        self._container = av.open(file_url(self._out), "w")
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        self._video = self._container.add_stream("libx264", rate=rate, options=_ENCODER_OPTIONS)
        context = self._video.codec_context
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        unit = stream.time_base
        # A damaged header may have a time base that no container supports.
        self._time_base = unit if unit.numerator <= _MAX_UNIT and unit.denominator <= _MAX_UNIT else _FALLBACK_UNIT_S
        context.time_base = self._time_base
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        self._last_ticks = -1
        self._durations: deque[int] = deque()
        self._reached = self._first
        self._sound = self._open_sound(max_gap_s)

    def _open_sound(self, max_gap_s: float) -> _SoundCopy | None:
        stream = self._source.audio_stream
        if stream is None:
            return None
        name = stream.codec_context.name
        with contextlib.suppress(ValueError):
            if name in self._container.supported_codecs:
                return _SoundCopy(self._container, self._container.add_stream_from_template(stream), max_gap_s)
        warnings.warn(
            f"{self._out}: {name} audio does not fit in this container and is left out", OverlayWarning, stacklevel=4
        )
        self._source.audio_stream = None
        return None

    def _copy_until(self, time: Fraction | None) -> None:
        """Copy the frames that appear before `time`; `None`: all in the range."""
        while self._next is not None:
            appears, leaves, frame, _ = self._next
            if (time is not None and appears >= time) or (self._end is not None and appears >= self._end):
                break
            if leaves > max(appears, self._origin):
                self._encode(max(appears, self._origin), leaves, frame)
            self._reached = leaves
            self._next = next(self._shown, None)
            packets, self._source.audio_packets = self._source.audio_packets, []
            if self._sound is not None:
                # Without a start, keep the priming packets that audio codecs put before the first sound.
                self._sound.copy(packets, self._origin, self._origin if self._has_start else None, self._end)

    def _encode(self, appears: Fraction, leaves: Fraction, frame: Any) -> None:
        import av

        image = frame_to_rgb(frame, self._orientation, self._stored_size_px)
        width, height = self._painter.size_px
        picture = image[:, :height, :width].permute(1, 2, 0).contiguous().numpy()
        if self._current is not None and self._current[0] <= appears < self._current[1]:
            self._painter.draw(picture, self._current[2])
        time_base = self._time_base
        if self._end is not None:
            leaves = min(leaves, self._end)
        copy = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", interpolation="BICUBIC"
        )
        self._last_ticks = max(round((appears - self._origin) / time_base), self._last_ticks + 1)
        copy.pts, copy.time_base = self._last_ticks, time_base
        self._durations.append(max(1, round((leaves - appears) / time_base)))
        self._mux(self._video.encode(copy))

    def _mux(self, packets: list[Any]) -> None:
        for packet in packets:
            packet.duration = self._durations.popleft()  # without B-frames, packets have the order of frames
            self._container.mux(packet)

    def _close_files(self) -> None:
        container, self._container = self._container, None
        self._source.close()
        if container is not None:
            container.close()


class _SoundCopy:
    """Copies audio packets, with times corrected by `SteadyClock`."""

    def __init__(self, container: Any, stream: Any, max_gap_s: float):
        self._container, self._stream, self._max_gap_s = container, stream, max_gap_s
        self._clock: Any = None
        self._last_dts: int | None = None
        self.n_left_out = 0

    def copy(self, packets: list[Any], origin: Fraction, begin: Fraction | None, end: Fraction | None) -> None:
        """Copy the packets from `begin` to `end` (seconds; `None`: no limit), with times counted from `origin`."""
        import av

        for packet in packets:
            if packet.pts is None or packet.dts is None or not packet.time_base:
                continue
            time_base = packet.time_base
            if self._clock is None:
                usual = packet.duration or max(1, round(Fraction(1, 50) / time_base))
                self._clock = SteadyClock(usual, self._max_gap_s, second=max(1, round(1 / time_base)))
            dts = self._clock.settle(packet.dts)
            shift = None if dts is None else dts - packet.dts
            if shift is None or (self._last_dts is not None and dts <= self._last_dts):
                self.n_left_out += 1
                continue
            time = (packet.pts + shift) * time_base
            if (begin is not None and time < begin) or (end is not None and time >= end):
                continue
            self._last_dts = dts
            shift -= round(origin / time_base)
            packet.pts += shift
            packet.dts += shift
            packet.stream = self._stream
            try:
                self._container.mux(packet)
            except av.error.FFmpegError as error:
                if isinstance(error, OSError):  # such as a full disk
                    raise
                self.n_left_out += 1  # damaged packet that the container rejects


def _square_size_px(width: int, height: int, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """Return the (width, height) of a picture after stretching to square pixels and enlarging narrow ones."""
    if pixel_aspect and Fraction(1, _MAX_PIXEL_ASPECT) <= pixel_aspect <= _MAX_PIXEL_ASPECT:
        # Stretch the shorter side of a pixel, so that no detail is lost.
        width, height = round(width * max(pixel_aspect, Fraction(1))), round(height / min(pixel_aspect, Fraction(1)))
    scale = max(1, -(-_MIN_WIDTH_PX // width))
    return width * scale, height * scale


def burn_captions(
    video: str | os.PathLike,
    captions: Iterable[CaptionLike],
    out: str | os.PathLike,
    start_s: float | None = None,
    end_s: float | None = None,
    style: CaptionStyle | None = None,
    max_gap_s: float | None = None,
) -> Path:
    """Write a copy of `video` with `captions` burned in; see `OverlayWriter` for arguments and errors.

    Returns:
        The path of the copy.
    """
    with OverlayWriter(video, out, start_s, end_s, style, max_gap_s) as writer:
        for caption in captions:
            writer.write(caption)
    return Path(out)


def check_output(video: str | os.PathLike, out: str | os.PathLike) -> Path:
    """Return `out` as a path if an overlay of `video` can be written there.

    Raises:
        FileNotFoundError: its folder does not exist.
        ValueError: its suffix is not one of `SUFFIXES`, or it is the video itself.
    """
    out = Path(out)
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{out}: expected a file name that ends in {', '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {out.parent}")
    video = local_file(video)
    if out.exists() and Path(video).exists() and out.samefile(video):
        raise ValueError(f"{out} is the video itself: choose another name for the copy")
    return out
