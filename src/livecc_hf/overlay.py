"""Burns commentary into a playable copy of a video: H.264, the frames' own timing, the audio kept."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .captions.writers import TimedText, one_line

if TYPE_CHECKING:
    from .caption_art import CaptionStyle

# Containers that hold H.264 and play nearly everywhere.
SUFFIXES = (".mp4", ".mov", ".mkv")
# Words stay this long after their turn, unless others follow: a turn alone is short to read.
HOLD_S = Fraction(3, 2)
# Narrower videos are enlarged by a whole factor, so that there is room for letters.
_MIN_WIDTH_PX = 320
# No B-frames: they make the times in an MP4 header wrong at variable frame rates.
_ENCODER_OPTIONS = {"preset": "veryfast", "crf": "20", "bf": "0"}
_BT709 = 1  # the number of this colour space, its primaries and its transfer curve in H.264


class OverlayWarning(UserWarning):
    """The copy lacks something of the video, such as its sound."""


class OverlayWriter:
    """Copies a video with captions in it, following the captions as they are written.

    Captions must come in order of time. The copy begins at 0 where the range begins. Nothing but the frames
    in work is held in memory. Use it in a `with` statement: left normally, the rest of the range is copied;
    left by an exception, the file ends where the captions did and still plays.

    Args:
        video: the file to copy.
        out: the file to write, `.mp4`, `.mov` or `.mkv`; replaced if it exists.
        start_s, end_s: the range to copy, in seconds from what a player shows as 0:00, as captions are timed.
        style: how the captions look.

    Raises:
        FileNotFoundError: no such video, or no folder to write `out` to.
        ValueError: the video cannot be read, or `out` has another suffix or is the video itself.

    Warns:
        OverlayWarning: the audio cannot be put in this container and is left out.
    """

    def __init__(
        self,
        video: str | os.PathLike,
        out: str | os.PathLike,
        start_s: float | None = None,
        end_s: float | None = None,
        style: CaptionStyle | None = None,
    ):
        from .modeling.video_file_livecc import nothing_decoded
        from .modeling.video_reader_livecc import exact_number, on_screen, open_before, probe_video

        self._style = style
        self._out = check_output(video, out)
        # On the file's clock, as are all times in here.
        self._zero = exact_number("clock_start_s", probe_video(video).clock_start_s)
        start = None if start_s is None else exact_number("start_s", start_s) + self._zero
        self._has_start = start is not None
        self._end = None if end_s is None else exact_number("end_s", end_s) + self._zero
        self._source, frames = open_before(video, start, keep_audio=True)
        self._container: Any = None
        try:
            self._shown = on_screen(self._source, frames)
            self._next: Any = next(self._shown, None)
            if self._next is None:
                raise nothing_decoded(video)
            clock_start = self._source.clock_start(default=self._next[0])
            self._origin = min(clock_start, self._next[0]) if start is None else max(clock_start, start)
            self._open_output()
        except BaseException:
            self._close_files()
            raise
        self._current: tuple[Fraction, Fraction, str] | None = None

    def __enter__(self) -> OverlayWriter:
        return self

    def __exit__(self, error_type: object, *_: object) -> None:
        self.close(complete=error_type is None)

    def write(self, segment: TimedText) -> None:
        """Copy the video up to the end of a segment, with its words in it; a silent one shows nothing new."""
        from .modeling.video_reader_livecc import exact_number

        start, end = (exact_number(name, getattr(segment, name)) + self._zero for name in ("start_s", "end_s"))
        self._copy_until(start)
        text = one_line(segment.text)
        if text:
            self._current = (start, end + HOLD_S, text)
        self._copy_until(end)

    def close(self, complete: bool = True) -> None:
        """Finish the file: with the rest of the range if `complete`, else as far as it came."""
        if self._container is None:
            return
        try:
            if complete:
                self._copy_until(None)
        finally:
            try:
                self._container.mux(self._video.encode(None))
            finally:
                self._close_files()

    def _open_output(self) -> None:
        import av

        from .caption_art import CaptionPainter
        from .modeling.video_file_livecc import display_orientation

        frame = self._next[2]
        self._orientation = display_orientation(frame)
        scale = max(1, -(-_MIN_WIDTH_PX // frame.width))
        self._stored_size_px = (frame.width * scale, frame.height * scale)
        turned = self._stored_size_px[::-1] if self._orientation.transpose else self._stored_size_px
        width, height = (max(2, side // 2 * 2) for side in turned)  # H.264 needs even sides
        self._painter = CaptionPainter((width, height), self._style)
        self._container = av.open(str(self._out), "w")
        stream = self._source.stream
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        self._video = self._container.add_stream("libx264", rate=rate, options=_ENCODER_OPTIONS)
        context = self._video.codec_context
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        context.time_base = stream.time_base
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        self._audio = self._open_audio()

    def _open_audio(self) -> Any:
        stream = self._source.audio_stream
        if stream is None:
            return None
        name = stream.codec_context.name
        with contextlib.suppress(ValueError):
            if name in self._container.supported_codecs:
                return self._container.add_stream_from_template(stream)
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
            if leaves > self._origin:
                self._encode(max(appears, self._origin), leaves, frame)
            self._next = next(self._shown, None)
            self._copy_audio()

    def _encode(self, appears: Fraction, leaves: Fraction, frame: Any) -> None:
        import av

        from .modeling.video_file_livecc import frame_to_rgb

        image = frame_to_rgb(frame, self._orientation, self._stored_size_px)
        width, height = self._painter.size_px
        picture = image[:, :height, :width].permute(1, 2, 0).contiguous().numpy()
        if self._current is not None and self._current[0] <= appears < self._current[1]:
            self._painter.draw(picture, self._current[2])
        time_base = self._source.stream.time_base
        if self._end is not None:
            leaves = min(leaves, self._end)
        copy = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
            format="yuv420p", dst_colorspace="ITU709", interpolation="BICUBIC"
        )
        copy.pts, copy.time_base = round((appears - self._origin) / time_base), time_base
        copy.duration = max(1, round((leaves - appears) / time_base))
        self._container.mux(self._video.encode(copy))

    def _copy_audio(self) -> None:
        packets, self._source.audio_packets = self._source.audio_packets, []
        for packet in packets if self._audio is not None else ():
            if packet.pts is None or packet.dts is None:
                continue
            time = packet.pts * packet.time_base
            # A whole copy keeps what an audio codec puts ahead of its first sound.
            is_early = self._has_start and time < self._origin
            if is_early or (self._end is not None and time >= self._end):
                continue
            shift = round(self._origin / packet.time_base)
            packet.pts -= shift
            packet.dts -= shift
            packet.stream = self._audio
            self._container.mux(packet)

    def _close_files(self) -> None:
        container, self._container = self._container, None
        self._source.close()
        if container is not None:
            container.close()


def burn_captions(
    video: str | os.PathLike,
    captions: Iterable[TimedText],
    out: str | os.PathLike,
    start_s: float | None = None,
    end_s: float | None = None,
    style: CaptionStyle | None = None,
) -> Path:
    """Write a copy of `video` with `captions` in it; see `OverlayWriter` for arguments and errors.

    Returns:
        The file written.
    """
    with OverlayWriter(video, out, start_s, end_s, style) as writer:
        for caption in captions:
            writer.write(caption)
    return Path(out)


def check_output(video: str | os.PathLike, out: str | os.PathLike) -> Path:
    """Return `out` as a path if an overlay of `video` can be written there.

    Raises:
        FileNotFoundError: its folder does not exist.
        ValueError: it has another suffix than a video with H.264, or is the video itself.
    """
    out = Path(out)
    if out.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{out}: expected a file name that ends in {', '.join(SUFFIXES)}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {out.parent}")
    if out.exists() and Path(video).exists() and out.samefile(video):
        raise ValueError(f"{out} is the video itself: choose another name for the copy")
    return out
