"""Reads a stream across interruptions: reconnects with back-off, and tells the end of a stream from a failure."""

from __future__ import annotations

import contextlib
import math
import random
import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from livecc_hf.sources.connection import Connection, DecodeCounts
from livecc_hf.sources.diagnosis import has_ranges
from livecc_hf.sources.errors import SourceError, SourceLostError, SourceOpenError
from livecc_hf.sources.spec import SourceSpec
from livecc_hf.sources.timeline import LiveFrameSampler, StreamClock
from livecc_hf.video.reader import MAX_GAP_S, FrameChunk, exact_number

# A connection that lasted this many seconds resets the count of failures.
_GOOD_AFTER_S = 5.0
# After the sender has ended the stream, this many refusals by its server confirm the end.
_REFUSALS_AT_END = 3
# Kinds of sources that cannot be reconnected after their end.
_ENDS_ONCE = frozenset({"stdin", "pattern"})
# A start this many seconds into a recording is worth a seek; the margins before it to try, in seconds.
_SEEK_FROM_S = 10
_SEEK_MARGINS_S = (1, 20)
# Seconds past its time limit after which a read counts as hung.
_HUNG_AFTER_S = 10.0


@dataclass(frozen=True)
class ReconnectOptions:
    """Time limits and retries of a stream.

    Attributes:
        open_timeout_s: longest time to connect and find the video, in seconds.
        stall_s: longest time without a frame before the stream counts as stalled, in seconds.
        max_reconnects: attempts in a row to connect again before giving up; 0: none.
        first_backoff_s: wait before the first such attempt in seconds, doubled for each further one up to
            `max_backoff_s`, and varied at random by up to a quarter.
        max_backoff_s: longest wait between two attempts, in seconds.
        max_gap_s: a longer step in a recording's times, in seconds, counts as damage and is skipped.

    Raises:
        ValueError: if a value is out of range.
    """

    open_timeout_s: float = 15.0
    stall_s: float = 10.0
    max_reconnects: int = 8
    first_backoff_s: float = 0.5
    max_backoff_s: float = 15.0
    max_gap_s: float = MAX_GAP_S

    def __post_init__(self) -> None:
        for name in ("open_timeout_s", "stall_s", "first_backoff_s", "max_backoff_s", "max_gap_s"):
            check_seconds(name, getattr(self, name))
        retries = self.max_reconnects
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise ValueError(f"max_reconnects={self.max_reconnects!r}: expected a whole number, 0 or more")

    def backoff_s(self, n_failures: int) -> float:
        """Return the seconds to wait after the `n_failures`-th failure in a row, with its random part."""
        backoff_s = min(self.first_backoff_s * 2.0 ** min(n_failures - 1, 60), self.max_backoff_s)
        return backoff_s * random.uniform(0.75, 1.25)


def check_seconds(name: str, value: float) -> None:
    """Check that an option is a number of seconds above 0.

    Raises:
        ValueError: if it is not.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise ValueError(f"{name}={value!r}: expected a number of seconds above 0")


class StreamReader:
    """Yields a stream's frames in pairs, one for each second, from its start to its end.

    Iterate over it once, in one thread.

    Args:
        spec: the source.
        options: time limits and retries; recordings are not reconnected.
        stdin_fd: file descriptor that `-` reads.
        start_s, end_s: the part of a recording to read, in seconds from what a player shows as 0:00; if there is a
            start, the times of the chunks count from there too.

    Attributes:
        messages: one-line messages on events, which the owner of the reader takes from the left.
        n_reconnects: number of reconnections.
        counts: the packets' counts.
        sampler: samples the frames; `None` before the first connection.
    """

    def __init__(
        self,
        spec: SourceSpec,
        options: ReconnectOptions,
        stdin_fd: int = 0,
        start_s: float | None = None,
        end_s: float | None = None,
    ):
        self.spec = spec
        self.options = options
        self.messages: deque[str] = deque(maxlen=100)
        self.n_reconnects = 0
        self.counts = DecodeCounts()
        self.sampler: LiveFrameSampler | None = None
        self._stdin_fd = stdin_fd
        self._start = None if start_s is None else exact_number("start_s", start_s)
        self._end_s = math.inf if end_s is None else end_s
        self._shift_s = 0.0  # added to the chunks' times: the time of the first frame
        self._n_given = 0  # chunks yielded
        self._connection: Connection | None = None  # the one being read
        self._stop = threading.Event()
        self._hung_at_s = math.inf  # when the reader counts as hung, on the monotonic clock
        self._n_failures = 0  # in a row
        self._n_refusals = 0  # failures among them with `is_answered`
        self._was_ended = False  # whether the sender ended the last connection in order
        self._reported_sizes = self._reported_jumps = 0

    def stop(self) -> None:
        """End the iteration, as soon as the current read returns."""
        self._stop.set()

    def check(self) -> None:
        """Open a recording at a web address and close it again; other sources may be readable only once.

        Raises:
            SourceOpenError: if it cannot be opened.
        """
        if self.spec.kind in ("http", "hls"):
            self._open().close()

    def find_failure(self) -> SourceError | None:
        """Return an error if the reader hangs in a read without a time limit, such as that of a camera; else `None`."""
        if time.monotonic() > self._hung_at_s:
            return SourceLostError(f"{self.spec.name}: reading hangs; no data came for too long")
        return None

    def __iter__(self) -> Iterator[FrameChunk]:
        while not self._stop.is_set():
            try:
                connected = self._connect()
            except SourceOpenError as error:
                if self.sampler is None:
                    raise
                if not self._try_again(error, self.sampler.clock.is_live):
                    break
                continue
            if connected is None:
                break
            connection, sampler = connected
            with contextlib.closing(connection):
                self._connection = connection
                lost = yield from self._read(connection, sampler)
                self._connection = None
            if sampler.is_empty and lost is not None:
                raise lost
            if self._stop.is_set() or (lost is None and (connection.is_recording or self.spec.kind in _ENDS_ONCE)):
                break
            yield from self._pass_on(sampler.cut())
            if not isinstance(lost, SourceOpenError):
                self._was_ended = lost is None
            if not self._try_again(lost, sampler.clock.is_live):
                break
        if self.sampler is not None:
            yield from self._pass_on(self.sampler.end())
            if self._start is not None and not self._n_given and not self._stop.is_set():
                raise SourceOpenError(f"{self.spec.name}: the start, {float(self._start):g} s, lies past its end")

    def _connect(self) -> tuple[Connection, LiveFrameSampler] | None:
        """Return a connection and the sampler of its frames; `None` if the stream turned out to have ended."""
        options = self.options
        self._hung_at_s = time.monotonic() + 2 * options.open_timeout_s + _HUNG_AFTER_S
        if self.spec.kind == "stdin":
            self._hung_at_s = math.inf  # the open has its own time limit, or for a recording's pipe none
        connection = self._open()
        if self.sampler is None:
            origin = None
            if self._start is not None:
                connection = self._at_start(connection, self._start)
                origin = connection.clock_start + self._start
            self.sampler = LiveFrameSampler(StreamClock(not connection.is_recording, options.max_gap_s, origin))
        elif connection.is_recording and self.sampler.clock.is_live:
            connection.close()  # the playlist is complete now: no more frames will come
            return None
        return connection, self.sampler

    def _open(self) -> Connection:
        options = self.options
        return Connection(self.spec, options.open_timeout_s, options.stall_s, self._stop, self.counts, self._stdin_fd)

    def _at_start(self, connection: Connection, start: Fraction) -> Connection:
        """Return a connection whose frames begin before the start: after a seek if the source supports it."""
        for margin_s in _SEEK_MARGINS_S if start >= _SEEK_FROM_S and self._can_seek() else ():
            if connection.seek_before(connection.clock_start + start, margin_s):
                return connection
            connection.close()
            connection = self._open()
        return connection  # from the beginning, which takes longer

    def _can_seek(self) -> bool:
        if self.spec.kind == "http":  # without ranges, FFmpeg would seek by reading ahead, and fail at the end
            return has_ranges(self.spec.url, self.spec.av_options.get("tls_verify") == "1")
        return self.spec.kind != "stdin"

    def _read(
        self, connection: Connection, sampler: LiveFrameSampler
    ) -> Generator[FrameChunk, None, SourceError | None]:
        """Yield chunks until the connection ends; return why it was lost, or `None` if the sender ended it."""
        began_s = time.monotonic()
        n_frames = 0
        try:
            self._expect_data()
            for arrived in connection.frames():
                n_frames += 1
                if self._start is not None and sampler.is_empty:
                    first = arrived.pts if arrived.pts is not None else connection.clock_start
                    self._shift_s = float(max(first - connection.clock_start, self._start))
                if n_frames == 1 and self._n_failures:
                    self.n_reconnects += 1
                    self.messages.append(f"{self.spec.name}: connected again")
                if arrived.arrived_s - began_s > _GOOD_AFTER_S:
                    self._n_failures = self._n_refusals = 0
                yield from self._pass_on(sampler.add(arrived))
                self._note_changes(sampler)
                self._expect_data()
        except SourceLostError as error:
            return error
        if n_frames == 0 and not self._stop.is_set():
            return SourceOpenError(f"{self.spec.name}: ended before a frame could be decoded", is_answered=True)
        return None

    def _try_again(self, error: SourceError | None, is_live: bool) -> bool:
        """Wait before the next attempt; `False` if the stream has ended.

        Args:
            error: what went wrong; `None`: the sender ended the stream.
            is_live: whether the stream is live; a recording is not connected to again.

        Raises:
            SourceError: if there is to be no further attempt.
        """
        options, name = self.options, self.spec.name
        self._n_failures += 1
        self._n_refusals += isinstance(error, SourceOpenError) and error.is_answered
        if self._was_ended and (options.max_reconnects == 0 or self._n_refusals >= _REFUSALS_AT_END):
            return False
        reason = str(error).removeprefix(f"{name}: ") if error is not None else "the sender ended the stream"
        if not is_live or self.spec.kind == "stdin" or (isinstance(error, SourceOpenError) and error.is_final):
            if error is None or isinstance(error, SourceOpenError):
                raise SourceLostError(f"{name}: lost: {reason}")
            raise error
        if self._n_failures > options.max_reconnects:
            attempts = f"; {options.max_reconnects} attempts to connect again failed" if options.max_reconnects else ""
            raise SourceLostError(f"{name}: lost: {reason}{attempts}")
        wait_s = options.backoff_s(self._n_failures)
        attempt = f"attempt {self._n_failures} of {options.max_reconnects} in {wait_s:.1f} s"
        self.messages.append(f"{name}: {reason}; {attempt}")
        self._hung_at_s = math.inf
        self._stop.wait(wait_s)
        return not self._stop.is_set()

    def _pass_on(self, chunks: Iterator[FrameChunk]) -> Iterator[FrameChunk]:
        for chunk in map(self._within_range, chunks):
            if chunk is None:
                self._stop.set()
                return
            self._n_given += 1
            self._hung_at_s = math.inf  # the consumer may take any time
            given_s = time.monotonic()
            yield chunk
            if self._connection is not None:
                self._connection.note_pause(time.monotonic() - given_s)

    def _within_range(self, chunk: FrameChunk) -> FrameChunk | None:
        """Return the chunk with its times shifted and its end cut to `end_s`; `None` if all of it is after that."""
        if self._start is None and self._end_s == math.inf:
            return chunk
        times_s = [time_s + self._shift_s for time_s in chunk.timestamps_s]
        n_frames = sum(time_s < self._end_s for time_s in times_s)
        return replace(chunk, frames=chunk.frames[:n_frames], timestamps_s=times_s[:n_frames]) if n_frames else None

    def _expect_data(self) -> None:
        if self.spec.kind != "stdin":
            self._hung_at_s = time.monotonic() + self.options.stall_s + _HUNG_AFTER_S

    def _note_changes(self, sampler: LiveFrameSampler) -> None:
        if sampler.n_size_changes > self._reported_sizes == 0:
            self.messages.append(f"{self.spec.name}: the frame size changed; frames are resized to the first size")
        self._reported_sizes = sampler.n_size_changes
        clock = sampler.clock
        if clock.n_jumps > self._reported_jumps == 0 and not clock.is_live:
            self.messages.append(f"{self.spec.name}: its timestamps jump; later frames continue without the jump")
        self._reported_jumps = clock.n_jumps
