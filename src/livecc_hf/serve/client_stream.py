"""The stream of one client."""

from __future__ import annotations

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
    from livecc_hf.pool import PooledStream
    from livecc_hf.serve.sampling import ClientFrameSampler, Frame
    from livecc_hf.serve.service import CommentaryService


class ClientStream:
    """A stream that takes a slot of the pool with its first frame: a client that shows nothing holds none.

    Before that, a trial stream says what is wrong with a query. What the client did wrong is raised as `ClientError`.
    Its methods wait for decoding and for rounds of the pool, so they are called in a thread, one at a time.

    Args:
        service: what it is served by.
        sampler: gives the sampling times of a frame.
        on_segment: called with each segment, by the pool's thread.
        on_end: called once with the error that ended the stream, or `None`, by the pool's thread.
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
        self._query: str | None = None  # the last that was asked
        self._trial: CommentaryStream | None = None
        self._stream: PooledStream | None = None
        # Sampling time, when its frame came, and when the model got it.
        self._arrivals: deque[tuple[float, float, float]] = deque()

    @property
    def n_dropped(self) -> int:
        """How many frames the pool has dropped."""
        return 0 if self._stream is None else self._stream.n_dropped_frames

    def start(self, start: Start) -> int:
        """Take the options of a client; return how many pixels of a frame the model sees at most."""
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
        """Ask a question beside the commentary; return the answer to come."""
        limit = self._service.settings.max_answer_tokens
        if (item.max_new_tokens or 0) > limit:
            what = f"max_new_tokens={item.max_new_tokens}: expected at most {limit} on this server"
            raise ClientError("bad_question", what, id=item.id)
        if self._stream is None:
            what = "nothing has been seen yet: ask when the first words have come"
            raise ClientError("bad_question", what, id=item.id)
        try:
            self._service.model.check_length(item.question, "the question has")
            return self._stream.answer(item.question, item.max_new_tokens or limit)
        except ValueError as error:
            raise ClientError("bad_question", one_line(error), id=item.id) from None
        except OverloadedError as error:
            raise ClientError("too_fast", one_line(error), id=item.id) from None

    def show(self, frame: Frame) -> dict | None:
        """Decode a frame and push it; return a notice to the client, if there is one."""
        count = self._service.metrics.count_frames
        try:
            image, notice = self._fitter.decode(frame.image)
            prepared = self._current.prepare(image[None])  # once, for several sampling times
            stream = self._join() if self._stream is None else self._stream
            times_s = self._sampler.times_of(frame.timestamp_s)
            # Before the push: its words may come before this thread continues.
            pushed_s = time.monotonic()
            self._arrivals.extend((time_s, frame.arrived_s, pushed_s) for time_s in times_s)
            n_dropped = stream.push(prepared.expand(len(times_s)), times_s)
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

    def arrival_s(self, segment: CommentarySegment) -> tuple[float, float] | None:
        """Return when the last frame of a segment came, and when it was decoded and pushed; `None` if it is not known.

        Both on the clock of `time.monotonic`.
        """
        arrived = None
        while self._arrivals and self._arrivals[0][0] < segment.end_s - FRAME_STEP_S / 2:
            arrived = self._arrivals.popleft()[1:]
        return arrived

    def finish(self) -> bool:
        """Declare that no more frames come; return whether words may still come."""
        if self._stream is not None:
            self._stream.finish()
        return self._stream is not None

    def leave(self) -> None:
        """Give the slot back."""
        if self._stream is not None:
            self._stream.leave()

    @property
    def _current(self) -> PooledStream | CommentaryStream:
        """The stream, or before the first frame the one that takes no slot."""
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
        self._stream = stream  # at once: leaving gives its slot back, whatever comes next
        if self._query is not None:
            stream.ask(self._query)
        self._trial = None
        return stream
