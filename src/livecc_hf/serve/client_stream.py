"""The commentary stream of one client."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING

from livecc_hf.modeling.grammar import FRAME_STEP_S
from livecc_hf.pool import OverloadedError, PoolFullError, PoolStoppedError
from livecc_hf.serve.images import FrameFitter
from livecc_hf.serve.messages import CLOSE_POLICY, CLOSE_RESTART, Ask, ClientError, QuestionMessage, Start
from livecc_hf.utils.text import one_line

if TYPE_CHECKING:
    from collections.abc import Callable

    from livecc_hf.modeling import CommentarySegment, CommentaryStream
    from livecc_hf.modeling.frames import PreparedFrames
    from livecc_hf.pool import PooledStream
    from livecc_hf.serve.sampling import ClientFrameSampler, Frame
    from livecc_hf.serve.service import CommentaryService


class ClientStream:
    """A stream that takes a slot of the pool with its first frame, so that a client without frames holds none.

    Before the first frame, a trial stream without a slot validates options and queries. Mistakes of the client raise
    `ClientError`. The methods block while frames are decoded and rounds of the pool run: call them from worker
    threads, one at a time.

    Args:
        service: the service.
        sampler: gives the sampling times of a frame.
        on_segment: called with each segment in the pool's thread.
        on_end: called once in the pool's thread, with the error that ended the stream or `None`.
    """

    def __init__(
        self,
        service: CommentaryService,
        sampler: ClientFrameSampler,
        on_segment: Callable[[CommentarySegment], None],
        on_end: Callable[[Exception | None], None],
    ):
        self._service, self._sampler = service, sampler
        self._on_segment, self._on_end = on_segment, on_end
        self._fitter = FrameFitter(service.settings.max_frame_px)
        self._start: Start | None = None
        self._query: str | None = None  # the latest of `ask`
        self._trial: CommentaryStream | None = None
        self._stream: PooledStream | None = None
        # (sampling time on the client's clock; when its frame arrived and when it was pushed, by time.monotonic)
        self._arrivals: deque[tuple[float, float, float]] = deque()
        self._lock = threading.Lock()  # for _arrivals, which the event loop reads

    @property
    def n_dropped(self) -> int:
        """Number of frames that the pool has dropped."""
        return 0 if self._stream is None else self._stream.n_dropped_frames

    def start(self, start: Start) -> int:
        """Validate a client's options and keep them; return the maximum pixels of a frame that the model sees."""
        try:
            self._start, self._trial = start, self._service.model.trial_stream(start)
        except ValueError as error:
            raise ClientError("bad_start", one_line(error), CLOSE_POLICY) from None
        return self._trial.waiting.max_pixels

    def ask(self, item: Ask) -> None:
        """Change the query."""
        try:
            self._service.model.check_length(item.query)
            self._current.ask(item.query)
            self._query = item.query
        except ValueError as error:
            raise ClientError("bad_query", one_line(error)) from None

    def answer(self, item: QuestionMessage) -> Future[str]:
        """Ask a question next to the commentary; return the future answer."""
        limit = self._service.settings.max_answer_tokens
        if (item.max_new_tokens or 0) > limit:
            what = f"max_new_tokens={item.max_new_tokens}: expected at most {limit} on this server"
            raise ClientError("bad_question", what, id=item.id)
        if self._stream is None:
            what = "nothing has been seen yet: ask after the first segment"
            raise ClientError("bad_question", what, id=item.id)
        try:
            self._service.model.check_length(item.question, "the question has")
            return self._stream.answer(item.question, item.max_new_tokens or limit)
        except ValueError as error:
            raise ClientError("bad_question", one_line(error), id=item.id) from None
        except OverloadedError as error:
            raise ClientError("too_fast", one_line(error), id=item.id) from None

    def show(self, frame: Frame) -> dict | None:
        """Decode a frame and push it to the model; return a notice for the client, or `None`."""
        count = self._service.metrics.count_frames
        try:
            image, notice = self._fitter.decode(frame.image)
            prepared = self._current.prepare(image[None])  # resized once for all its sampling times
            stream = self._join() if self._stream is None else self._stream
            times_s = self._sampler.times_of(frame.timestamp_s)
            n_dropped = self._push(stream, prepared.expand(len(times_s)), times_s, frame.arrived_s)
        except ValueError as error:
            count("bad")
            raise ClientError("bad_frame", one_line(error)) from None
        except OverloadedError as error:
            count("refused")
            return {"type": "notice", "code": "overloaded", "message": one_line(error)}
        self._sampler.take(times_s)
        self._fitter.take()
        count("shown")
        if n_dropped:
            count("dropped", n_dropped)
        return None if notice is None else {"type": "notice", "code": "size_changed", "message": notice}

    def _push(self, stream: PooledStream, frames: PreparedFrames, times_s: list[float], arrived_s: float) -> int:
        """Push frames and record when they arrived; return how many waiting frames the pool dropped for them."""
        pushed_s = time.monotonic()
        # Recorded before the push, since the segment may come before `push` returns.
        with self._lock:
            self._arrivals.extend((time_s, arrived_s, pushed_s) for time_s in times_s)
        try:
            return stream.push(frames, times_s)
        except BaseException:
            with self._lock:  # the next frame is pushed for these times
                for _ in times_s:
                    self._arrivals.pop()
            raise

    def arrival_s(self, segment: CommentarySegment) -> tuple[float, float] | None:
        """Return when the segment's last frame arrived and when it was pushed, in seconds of `time.monotonic`.

        Returns:
            Both times; `None` if they are not known.
        """
        arrived = None
        with self._lock:
            while self._arrivals and self._arrivals[0][0] < segment.end_s - FRAME_STEP_S / 2:
                arrived = self._arrivals.popleft()[1:]
        return arrived

    def finish(self) -> bool:
        """Declare that no more frames come; return whether the pool will still call `on_end`."""
        if self._stream is not None:
            self._stream.finish()
        return self._stream is not None

    def leave(self) -> None:
        """Leave the pool, which frees the slot."""
        if self._stream is not None:
            self._stream.leave()

    @property
    def _current(self) -> PooledStream | CommentaryStream:
        """The stream in the pool; before the first frame, the trial stream."""
        stream = self._stream or self._trial
        if stream is None:
            raise RuntimeError("the client has not started: call start first")
        return stream

    def _join(self) -> PooledStream:
        if self._start is None:
            raise RuntimeError("the client has not started: call start first")
        try:
            stream = self._service.join(self._start, self._on_segment, self._on_end)
        except PoolFullError:
            raise self._service.full() from None
        except PoolStoppedError as error:
            raise ClientError("not_ready", f"{one_line(error)}: try again later", CLOSE_RESTART) from None
        self._stream = stream  # set at once, so that `leave` frees the slot even if the next line fails
        if self._query is not None:
            stream.ask(self._query)
        self._trial = None
        return stream
