"""Opens a video source: a file, a camera, a URL, or standard input."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from livecc_hf.modeling.grammar import TURN_FRAMES
from livecc_hf.sources.feed import LagMeter, PlayoutClock, RealTimeFeed
from livecc_hf.sources.reader import ReconnectOptions, StreamReader, check_seconds
from livecc_hf.sources.spec import SourceSpec, parse_spec
from livecc_hf.video.reader import exact_number, iter_chunks, probe_video

if TYPE_CHECKING:
    from livecc_hf.video.reader import FrameChunk

# `max_hold_s` by default; HLS segments arrive whole, and this long a segment is still delivered evenly.
_HLS_HOLD_S = 10.0
_HOLD_S = 2.0


@dataclass(frozen=True)
class SourceOptions(ReconnectOptions):
    """How to read a source; see also `ReconnectOptions`.

    Attributes:
        live: `True`: read as live; `False`: read as a recording, of which every frame is shown; `None`: decide by the
            name.
        realtime: play a recording in real time, like a live source.
        start_s, end_s: the part of a recording to read, in seconds from what a player shows as 0:00; sources that can
            seek, such as HTTP with ranges, do not read the part before.
        max_hold_s: longest time that bursts are held back to be delivered evenly, in seconds; 0: none; `None`: 10 for
            HLS, else 2.
        rtsp_transport: `auto`, `tcp` or `udp`.
        verify_tls: whether servers of https, rtsps and rtmps must have a certificate that the system trusts.
        stdin_fd: the file descriptor that `-` reads.
    """

    live: bool | None = None
    realtime: bool = False
    start_s: float | None = None
    end_s: float | None = None
    max_hold_s: float | None = None
    rtsp_transport: str = "auto"
    verify_tls: bool = True
    stdin_fd: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_hold_s:
            check_seconds("max_hold_s", self.max_hold_s)
        for name in ("start_s", "end_s"):
            if (value := getattr(self, name)) is not None:
                exact_number(name, value)


@dataclass(frozen=True)
class SourceStats:
    """Counts of a source so far.

    Attributes:
        taken_frames: sampled frames that were yielded.
        skipped_frames: sampled frames that were outdated when the consumer asked for them.
        n_reconnects: number of reconnections.
        n_damaged: damaged frames and packets.
        n_undecoded: frames that were not decoded because decoding was slower than the stream.
        n_time_jumps: number of jumps of the sender's times, back or ahead.
        n_late_frames: frames that arrived after a later one and were skipped.
        n_size_changes: number of changes of the frame size.
    """

    taken_frames: int = 0
    skipped_frames: int = 0
    n_reconnects: int = 0
    n_damaged: int = 0
    n_undecoded: int = 0
    n_time_jumps: int = 0
    n_late_frames: int = 0
    n_size_changes: int = 0


class Source:
    """A video that is read once, from start to end, in chunks of one second. Made by :func:`open_source`.

    Use it in a `with` statement, and iterate over it::

        with open_source("rtsp://camera/stream") as source:
            for chunk in source:
                segments = stream.push(chunk.frames, chunk.timestamps_s)

    Every chunk is a `FrameChunk` with the frames of one second, (2, 3, H, W); the last chunk of a recording may have
    one frame. Times of a file are those that a player shows; all others are seconds from the first frame. Whole seconds
    are missing if the consumer was too slow or the source was interrupted.

    Args:
        name: the source's name without passwords.
        is_live: whether it is live, by its name and options.
        chunks: the video: a `StreamReader`, or the chunks of a file.
        clock: computes when each chunk is due; `None`: chunks are read when they are requested.
        on_message: called with one-line messages on interruptions and other events, in the thread that iterates.
    """

    def __init__(
        self,
        name: str,
        is_live: bool,
        chunks: Iterable[FrameChunk],
        clock: PlayoutClock | None = None,
        on_message: Callable[[str], None] | None = None,
    ):
        self.name = name
        self.is_live = is_live
        self.lag = LagMeter()
        self._on_message = on_message
        self._reader = chunks if isinstance(chunks, StreamReader) else None
        self._chunks = chunks
        self._taken_frames = 0
        self._feed: RealTimeFeed | None = None
        if clock is not None:
            stop = self._reader.stop if self._reader is not None else None
            self._feed = RealTimeFeed(
                chunks,
                clock,
                find_failure=self._find_failure,
                stop_reading=stop,
                sender_waits=self._reader is not None and self._reader.spec.kind == "stdin",
            )

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_paced(self) -> bool:
        """Whether chunks are delivered in real time, so that a slow consumer misses some."""
        return self._feed is not None

    @property
    def stats(self) -> SourceStats:
        """The counts so far."""
        reader = self._reader
        sampler = reader.sampler if reader is not None else None
        return SourceStats(
            taken_frames=self._taken_frames,
            skipped_frames=self._feed.skipped_frames if self._feed is not None else 0,
            n_reconnects=reader.n_reconnects if reader is not None else 0,
            n_damaged=reader.counts.n_damaged if reader is not None else 0,
            n_undecoded=reader.counts.n_undecoded if reader is not None else 0,
            n_time_jumps=sampler.clock.n_jumps if sampler is not None else 0,
            n_late_frames=sampler.clock.n_late_frames if sampler is not None else 0,
            n_size_changes=sampler.n_size_changes if sampler is not None else 0,
        )

    def wait_ready(self) -> None:
        """Start a paced source and wait for its first frames; open a recording at a web address once, to check it.

        From then on, outdated frames of a source that cannot wait, such as a camera, are skipped until the iteration
        starts. A recording or a pipe waits for the iteration.

        Raises:
            SourceOpenError: if the source cannot be opened.
        """
        if self._feed is not None:
            self._feed.wait_ready()
        elif self._reader is not None:
            self._reader.check()

    def __iter__(self) -> Generator[FrameChunk, None, None]:
        """Yield the chunks.

        Raises:
            SourceOpenError: if the source cannot be opened.
            SourceLostError: if it failed and could not be reconnected.
            VideoReadError: if a file cannot be read.
        """
        try:
            for chunk in self._feed or self._chunks:
                self._taken_frames += len(chunk.timestamps_s)
                self._pass_messages()
                yield chunk
        finally:
            self.close()
            if self._feed is None and isinstance(self._chunks, Generator):
                self._chunks.close()  # the file, which this source still refers to
            self._pass_messages()

    def note_lag(self, chunk: FrameChunk) -> float:
        """Record that a chunk was processed; return the seconds since its last frame arrived or was due."""
        lag_s = self._feed.lag_s(chunk) if self._feed is not None else 0.0
        self.lag.add(lag_s)
        return lag_s

    def close(self) -> None:
        """Stop reading. A hanging network read ends in the background, at its time limit."""
        if self._feed is not None:
            self._feed.close()
        elif self._reader is not None:
            self._reader.stop()

    def _find_failure(self) -> BaseException | None:
        self._pass_messages()
        return self._reader.find_failure() if self._reader is not None else None

    def _pass_messages(self) -> None:
        while self._reader is not None and self._reader.messages:
            message = self._reader.messages.popleft()
            if self._on_message is not None:
                self._on_message(message)


def open_source(name: str | os.PathLike, on_message: Callable[[str], None] | None = None, **options: Any) -> Source:
    """Open a file, a camera, a URL or standard input.

    Nothing is read before the first iteration, except the first frame of a file.

    Args:
        name: see `livecc_hf.sources.parse_spec`.
        on_message: called with one-line messages on interruptions and other events, in the thread that iterates.
        **options: the fields of `SourceOptions`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the kind of source is unknown, options do not fit it, or the file is not a video.
    """
    chosen = SourceOptions(**options)
    spec = parse_spec(os.fspath(name), chosen.live, chosen.rtsp_transport, chosen.verify_tls)
    if spec.is_live and (chosen.start_s is not None or chosen.end_s is not None):
        raise ValueError(
            f"{spec.name}: a live source has no start and end; leave them out, or pass live=False if it is a recording"
        )
    if chosen.end_s is not None and chosen.end_s <= (chosen.start_s or 0):
        raise ValueError(f"end_s={chosen.end_s} is not after start_s={chosen.start_s or 0}: give a later end")
    return Source(spec.name, spec.is_live, _chunks(spec, chosen), _clock(spec, chosen), on_message)


def _chunks(spec: SourceSpec, options: SourceOptions) -> Iterable[FrameChunk]:
    if spec.kind == "file":
        return iter_chunks(
            spec.url,
            options.start_s,
            options.end_s,
            frames_per_chunk=TURN_FRAMES,
            origin_s=probe_video(spec.url).clock_start_s,
            max_gap_s=options.max_gap_s,
        )
    return StreamReader(spec, options, options.stdin_fd, options.start_s, options.end_s)


def _clock(spec: SourceSpec, options: SourceOptions) -> PlayoutClock | None:
    if not spec.is_live and not options.realtime:
        return None
    usual_s = _HLS_HOLD_S if spec.kind == "hls" else _HOLD_S
    return PlayoutClock(usual_s if options.max_hold_s is None else options.max_hold_s)
