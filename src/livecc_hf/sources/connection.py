"""One connection to a source: opened and read with PyAV, with time limits."""

from __future__ import annotations

import contextlib
import errno
import itertools
import math
import os
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from livecc_hf.modeling.video_file import (
    NoDecoderError,
    VideoReadError,
    file_url,
    find_video_stream,
    import_av,
    reason_of,
)
from livecc_hf.sources.errors import (
    SourceError,
    SourceLostError,
    SourceOpenError,
    StalledError,
    index_error,
    is_named,
    lost_error,
    open_error,
)
from livecc_hf.sources.keep_up import KeepUp
from livecc_hf.sources.pipes import MAX_KEPT_BYTES, PipeReader
from livecc_hf.sources.spec import SourceSpec
from livecc_hf.sources.timeline import ArrivedFrame

_FALLBACK_DURATION = Fraction(1, 25)
# Frames before the first key frame lack their references, so they are skipped for this long; some senders never send
# a key frame.
_KEY_FRAME_WAIT_S = 3.0
# FFmpeg renders any text file as a recorded terminal session.
_NOT_VIDEO_FORMATS = frozenset({"tty"})
# Formats without timestamps, for which FFmpeg invents some; a live frame's time is then its arrival.
_UNTIMED_FORMATS = frozenset({"mjpeg", "mpjpeg", "h264", "hevc", "m4v", "mpegvideo", "image2pipe"})
# Sources whose header may give their length, which makes them recordings.
_MAY_BE_RECORDINGS = frozenset({"http", "hls", "stdin", "stream"})
_TICKS = 1_000_000
_EARLY_END_S = 2.0
# Packets buffered while the connection opened are returned at once; a packet with a longer wait ends this backlog.
_WAITED_FOR_S = 0.02
# Limits of the backlog: seconds, packets, and seconds on the sender's clock.
_BACKLOG_S, _BACKLOG_PACKETS, _BACKLOG_SPAN_S = 0.25, 4096, 60.0


@dataclass
class DecodeCounts:
    """Counts of a source's packets, over all its connections.

    Attributes:
        n_damaged: damaged frames, and packets that could not be decoded.
        n_undecoded: frames skipped because decoding was slower than the stream.
    """

    n_damaged: int = 0
    n_undecoded: int = 0


class Connection:
    """An open source.

    Args:
        spec: what to open.
        open_timeout_s: longest time to connect and find the video.
        stall_s: longest time without a frame.
        stop: set to end reading, where that is possible.
        counts: incremented as packets are decoded.
        stdin_fd: file descriptor that `-` reads.

    Attributes:
        is_recording: whether the source turned out to have a length.

    Raises:
        SourceOpenError: if it cannot be opened.
    """

    def __init__(
        self,
        spec: SourceSpec,
        open_timeout_s: float,
        stall_s: float,
        stop: threading.Event,
        counts: DecodeCounts,
        stdin_fd: int = 0,
    ):
        self.spec = spec
        self._counts = counts
        self._stall_s = stall_s
        self._stop = stop
        with contextlib.ExitStack() as opened:
            pipe = None
            if spec.kind == "stdin":
                pipe = opened.enter_context(contextlib.closing(_open_pipe(spec, stall_s, stop, stdin_fd)))
            self._container = _open(spec, pipe or spec.url, open_timeout_s, stall_s)
            opened.callback(self._container.close)
            self._stream = self._find_stream()
            self._resources = opened.pop_all()
        # For a fragmented MP4, whose header counts no frames, FFmpeg gives the duration of the fragments so far.
        grows = "mp4" in self._container.format.name and not self._stream.frames
        duration = 0 if grows and spec.kind != "file" else self._container.duration or 0
        self._duration_s = duration / _TICKS
        rate = self._stream.average_rate or self._stream.guessed_rate
        self._duration = 1 / rate if rate else _FALLBACK_DURATION
        format_name = self._container.format.name
        self._is_untimed = format_name in _UNTIMED_FORMATS or format_name.endswith("_pipe")
        # An HTTP body with a Content-Length ends too, except for cameras that send JPEG with an arbitrary length.
        has_end = duration > 0 or (spec.kind == "http" and self._container.size > 0 and not self._is_untimed)
        self.is_recording = not spec.is_live or (spec.kind in _MAY_BE_RECORDINGS and has_end)
        self._keep_up = KeepUp(self._stream.codec_context)
        self._has_picture = False
        self._reached_s: float | None = None  # the latest frame's time on the sender's clock
        self._opened_s = time.monotonic()
        self._sought: Iterator[ArrivedFrame] | None = None

    def close(self) -> None:
        """Close the connection."""
        self._resources.close()

    def frames(self) -> Iterator[ArrivedFrame]:
        """Yield the frames as they arrive, until the sender ends the stream.

        Raises:
            SourceLostError: if the connection broke off, or (StalledError) no frame came for too long.
        """
        if self._sought is not None:
            yield from self._sought
            return
        began_s = self._last_s = time.monotonic()
        for packet, arrived_s, waited_s in self._dated_packets():
            for arrived in self._decode(packet, arrived_s, waited_s):
                is_usable = arrived.frame.key_frame or arrived_s - began_s > _KEY_FRAME_WAIT_S
                self._has_picture = self._has_picture or is_usable
                if self._has_picture:
                    self._last_s = arrived_s
                    yield arrived
            if arrived_s - self._last_s > self._stall_s:
                hint = "" if self._has_picture else ": if its key frames are further apart, allow a longer stall"
                raise StalledError(f"{self.spec.name}: data arrives, but no frame for {self._stall_s:g} s{hint}")
        self._check_end()

    @property
    def clock_start(self) -> Fraction:
        """The time that a player shows as 0:00, in seconds on the sender's clock: the earliest of all streams."""
        return Fraction(self._container.start_time or 0, _TICKS)

    def seek_before(self, start: Fraction, margin_s: int) -> bool:
        """Seek to a key frame before a time; :meth:`frames` continues from there.

        Args:
            start: the time, in seconds on the sender's clock.
            margin_s: seconds to seek before it, since some containers land after the requested time.

        Returns:
            Whether it worked. If not, the connection cannot be used any more.
        """
        try:
            ticks = math.floor((start - margin_s) / self._stream.time_base)
            self._container.seek(ticks, stream=self._stream)
            frames = self.frames()
            first = next(frames, None)
        except (import_av().error.FFmpegError, OSError, SourceError):
            return False
        if first is None:
            return False
        self._sought = itertools.chain([first], frames)
        return first.pts is not None and first.pts < start

    def note_pause(self, pause_s: float) -> None:
        """Note that no frame was requested for these seconds, so that they do not count as a stall or as slowness."""
        self._last_s += pause_s
        self._keep_up.note_pause(pause_s)

    def _dated_packets(self) -> Iterator[tuple[Any, float, float]]:
        """Yield the packets of `_packets` with the seconds that each waited to be read.

        FFmpeg may take seconds to find the video, and a server may send all frames since its last key frame at once.
        The arrival times of such a backlog are computed from its packet with the least delay, by the sender's times.
        """
        backlog: list[tuple[Any, float]] = []
        lost = None
        packets = self._packets()
        try:
            for packet, arrived_s in packets:
                asked_s = backlog[-1][1] if backlog else self._opened_s
                backlog.append((packet, arrived_s))
                is_waited_for = arrived_s - asked_s > max(_WAITED_FOR_S, float(self._duration) / 2)
                is_long = arrived_s - self._opened_s > _BACKLOG_S or len(backlog) >= _BACKLOG_PACKETS
                if is_waited_for or is_long or self.is_recording or self._is_untimed:
                    break
        except SourceLostError as error:
            lost = error
        for (packet, arrived_s), waited_s in zip(backlog, self._waits_s(backlog), strict=True):
            yield packet, arrived_s, waited_s
        if lost is not None:
            raise lost
        for packet, arrived_s in packets:
            yield packet, arrived_s, 0.0

    def _waits_s(self, backlog: list[tuple[Any, float]]) -> list[float]:
        """Return the seconds that each packet of a backlog waited, computed from the one with the least delay."""
        times_s = [_time_of(packet) for packet, _ in backlog]
        following_s = None
        for i in reversed(range(len(backlog))):  # the first frame over RTSP has no time
            if times_s[i] is None and backlog[i][0] is not None and following_s is not None:
                times_s[i] = following_s - float(self._duration)
            following_s = times_s[i] if times_s[i] is not None else following_s
        delays_s = [None if t is None else arrived_s - t for (_, arrived_s), t in zip(backlog, times_s, strict=True)]
        least_s = min((delay_s for delay_s in delays_s if delay_s is not None), default=0.0)
        waits_s = [0.0 if delay_s is None else delay_s - least_s for delay_s in delays_s]
        return [wait_s if wait_s <= _BACKLOG_SPAN_S else 0.0 for wait_s in waits_s]

    def _packets(self) -> Iterator[tuple[Any, float]]:
        """Yield the video's packets, or `None` for those of other streams (to check time limits), and their arrival."""
        av = import_av()
        packets = self._container.demux()
        asked_s = time.monotonic()
        try:
            while not self._stop.is_set():
                asked_s = time.monotonic()
                packet = next(packets, None)
                arrived_s = time.monotonic()
                if packet is None:
                    return
                # After an aborted wait, FFmpeg may first return packets from its parser, then wait again.
                if arrived_s - asked_s > self._stall_s and self.spec.is_live:
                    raise StalledError(f"{self.spec.name}: no data came for {self._stall_s:g} s")
                is_video = packet.stream is self._stream
                if is_video and not self.is_recording:
                    self._keep_up.note(packet, asked_s, arrived_s)
                yield (packet if is_video else None), arrived_s
        except SourceLostError:
            raise
        except (av.error.FFmpegError, OSError) as error:
            is_late = time.monotonic() - asked_s >= self._stall_s
            if self.spec.kind == "stdin" and is_named(error, "InvalidDataError"):
                raise _open_error(error, self.spec, self._stall_s, is_late) from None
            # FFmpeg reports EIO when a server ends a body without a length, or RTMP, by closing the connection.
            if self.spec.kind in ("http", "rtmp") and error.errno == errno.EIO and not (is_late or self.is_recording):
                return
            is_mp4 = "mp4" in self._container.format.name
            if is_mp4 and not (self._has_picture or is_late) and (reason := index_error(self.spec)) is not None:
                raise reason from None
            raise lost_error(error, self.spec, self._stall_s, is_late) from None
        except IndexError:
            return  # PyAV raises this at the end if a stream was added after the source was opened
        except Exception as error:  # PyAV raises errors of many types for damaged data
            raise SourceLostError(f"{self.spec.name}: cannot be read any further: {reason_of(error)}") from error

    def _decode(self, packet: Any, arrived_s: float, waited_s: float) -> Iterator[ArrivedFrame]:
        if packet is None:
            return
        av = import_av()
        try:
            frames = self._stream.decode(packet)
        except av.error.EOFError:
            return
        except Exception:  # PyAV raises errors of many types for damaged data
            self._counts.n_damaged += self._has_picture  # frames before the first key frame never decode
            return
        if self._keep_up.level and packet.size and not frames:
            self._counts.n_undecoded += 1
        for frame in frames:
            self._counts.n_damaged += frame.is_corrupt
            ticks = frame.pts if frame.pts is not None else frame.dts
            pts = None if ticks is None else ticks * Fraction(frame.time_base or self._stream.time_base)
            if self._is_untimed and not self.is_recording:
                pts = Fraction(arrived_s).limit_denominator(_TICKS)
            if pts is not None:
                self._reached_s = float(pts)
            yield ArrivedFrame(frame, pts, self._duration, arrived_s, waited_s)

    def _check_end(self) -> None:
        """Raise a SourceLostError if a recording ended before its duration."""
        if self._stop.is_set() or not self.is_recording or not self._duration_s:
            return
        # The duration of Matroska counts from 0, that of other formats from their first timestamp.
        starts_at_0 = "matroska" in self._container.format.name
        start_s = 0.0 if starts_at_0 else (self._container.start_time or 0) / _TICKS
        reached_s = 0.0 if self._reached_s is None else self._reached_s - start_s
        if reached_s < self._duration_s - _EARLY_END_S:
            raise SourceLostError(f"{self.spec.name}: broke off at {reached_s:.1f} of {self._duration_s:.1f} s")

    def _find_stream(self) -> Any:
        name = self.spec.name
        if self._container.format.name in _NOT_VIDEO_FORMATS:
            raise SourceOpenError(f"{name}: this is text, not a video", is_answered=True)
        try:
            stream = find_video_stream(self._container, name)
        except NoDecoderError:
            raise SourceOpenError(f"{name}: the installed PyAV has no decoder for this video", is_final=True) from None
        except VideoReadError as error:
            raise SourceOpenError(str(error), is_answered=True) from None
        if self.spec.kind == "hls":  # otherwise FFmpeg fetches every quality of the playlist
            for other in self._container.streams:
                if other is not stream:
                    other.discard = import_av().stream.Discard.all
        if self.spec.is_live:
            stream.thread_type = "SLICE"  # frame threading would delay each frame
        return stream


def _time_of(packet: Any) -> float | None:
    """Return a packet's decoding timestamp on the sender's clock, in seconds; `None` if it has none."""
    ticks = None if packet is None else packet.dts if packet.dts is not None else packet.pts
    return None if ticks is None or packet.time_base is None else float(ticks * packet.time_base)


def _open(spec: SourceSpec, file: Any, open_timeout_s: float, stall_s: float) -> Any:
    av = import_av()
    options: dict[str, Any] = {"metadata_errors": "replace", "options": spec.av_options, "format": spec.av_format}
    asked_s = time.monotonic()
    try:
        if spec.kind == "stdin":
            return av.open(file, **options)
        if spec.is_path:
            file = file_url(file)
        return av.open(file, timeout=(open_timeout_s, stall_s), **options)
    except StalledError as error:
        raise SourceOpenError(str(error)) from None
    except (av.error.FFmpegError, OSError, ValueError) as error:
        is_late = time.monotonic() - asked_s >= open_timeout_s
        raise _open_error(error, spec, open_timeout_s, is_late) from None


def _open_error(error: BaseException, spec: SourceSpec, timeout_s: float, is_late: bool) -> SourceOpenError:
    if spec.kind == "stdin" and is_named(error, "InvalidDataError"):
        return SourceOpenError(
            f"{spec.name}: the data is not a video that can be read from a pipe; send it with such as "
            "ffmpeg ... -f mpegts - (an MP4 may have its index at the end: give the file itself)"
        )
    if spec.kind == "pattern":
        return SourceOpenError(f"{spec.name}: FFmpeg cannot make this test pattern; expected such as lavfi:testsrc")
    return open_error(error, spec, timeout_s, is_late)


def _open_pipe(spec: SourceSpec, stall_s: float, stop: threading.Event, fd: int) -> Any:
    limit_s = stall_s if spec.is_live else None
    max_kept_bytes = MAX_KEPT_BYTES if spec.is_live else 0
    if spec.url != "-":  # a named pipe; opened without waiting for its writer
        fd = os.open(spec.url, os.O_RDONLY | os.O_NONBLOCK)
        return PipeReader(fd, True, spec.name, limit_s, stop, max_kept_bytes)
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        raise SourceOpenError("standard input is closed: pipe a video into it") from None
    if os.isatty(fd):
        raise SourceOpenError("standard input is a terminal: pipe a video into it, as in ffmpeg ... | livecc ... -")
    if stat.S_ISREG(mode):
        return os.fdopen(os.dup(fd), "rb")  # `- < file`: seekable
    return PipeReader(fd, False, spec.name, limit_s, stop, max_kept_bytes)
