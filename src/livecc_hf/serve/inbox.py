"""Queue of a client's messages: validated, rate-limited, and in order."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from livecc_hf.modeling.grammar import FRAME_STEP_S
from livecc_hf.serve.messages import (
    CLOSE_POLICY,
    Ask,
    ClientError,
    Finish,
    Pause,
    QuestionMessage,
    Start,
    read_message,
    unpack_frame,
)
from livecc_hf.serve.sampling import ClientFrameSampler, Frame, RateLimit

if TYPE_CHECKING:
    from livecc_hf.serve.settings import ServeSettings

_MAX_WAITING_ASKS = 8
Request = Start | Ask | QuestionMessage | Finish | Frame


class Inbox:
    """A bounded queue of requests. When it is full, it drops the oldest frame and refuses new requests of other types.

    Args:
        settings: the limits.
        sampler: selects the frames that the model sees.
        count: called with the outcome of each frame that does not reach the model; see `ServeMetrics.count_frames`.

    Attributes:
        has_started: whether the client has sent its `Start`.
        is_finishing: whether it has sent its `Finish`.
        n_dropped: number of frames dropped because too many were waiting.
    """

    def __init__(self, settings: ServeSettings, sampler: ClientFrameSampler, count: Callable[[str], None]):
        self._settings, self._sampler, self._count = settings, sampler, count
        self._messages, self._bytes = RateLimit(settings.max_messages_per_s), RateLimit(settings.max_bytes_per_s)
        self._requests: deque[Request] = deque()
        self._has_news = asyncio.Event()
        self._is_closed = self.has_started = self.is_finishing = False
        self._active_s = time.monotonic()  # when the last new frame came
        self._held_s = 0.0  # until when a pause or a question keeps the session open
        self.n_dropped = 0

    @property
    def wait_s(self) -> float | None:
        """Seconds from now after which a silent client is disconnected; `None`: no limit."""
        if self.is_finishing:
            return None
        settings = self._settings
        if not self.has_started:
            return self._active_s + settings.start_timeout_s - time.monotonic()
        held_s = min(self._held_s, self._active_s + settings.max_pause_s)
        return max(self._active_s + settings.idle_timeout_s, held_s) - time.monotonic()

    def timeout(self) -> ClientError:
        """Return the error that ends the session after :attr:`wait_s`."""
        if self.has_started:
            idle_s = round(time.monotonic() - self._active_s)
            return ClientError("idle", f"no new frame for {idle_s} s: connect again", CLOSE_POLICY)
        what = f"no 'start' within {self._settings.start_timeout_s:g} s: connect again"
        return ClientError("not_started", what, CLOSE_POLICY)

    def receive(self, text: str | None, data: bytes | None) -> None:
        """Validate a message and queue it.

        Args:
            text: JSON, or `None`.
            data: a frame's message, if `text` is `None`.

        Raises:
            ClientError: if the message is invalid, out of order, or exceeds a limit.
        """
        n_bytes = len(data or b"") if text is None else len(text.encode())
        if not self._messages.allows() or not self._bytes.allows(n_bytes):
            raise ClientError(
                "too_fast",
                f"more than {self._settings.max_messages_per_s:,.10g} messages or "
                f"{self._settings.max_bytes_per_s:,.10g} bytes a second: send no more than the model sees, 2 frames a "
                "second",
                CLOSE_POLICY,
            )
        received = self._unpack(data or b"") if text is None else read_message(text)
        if self.is_finishing:
            raise ClientError("finished", "a message after 'finish': no message may follow it")
        if isinstance(received, Start) == self.has_started:
            what = (
                "a second 'start': connect again" if self.has_started else "a message before 'start': send that first"
            )
            raise ClientError("bad_order", what)
        if isinstance(received, Frame):
            self._queue_frame(received)
            return
        if isinstance(received, Pause):
            self._held_s = math.inf
            return
        if isinstance(received, Ask | QuestionMessage):
            self._check_waiting(received)
        if isinstance(received, Start):
            self._active_s = time.monotonic()
        self.has_started = True
        self.is_finishing = isinstance(received, Finish)
        self._put(received)

    async def get(self) -> Request | None:
        """Wait for the next request and return it; `None` after :meth:`close`."""
        while not self._is_closed:
            if self._requests:
                return self._requests.popleft()
            self._has_news.clear()
            await self._has_news.wait()
        return None

    def close(self) -> None:
        """Discard waiting requests and end :meth:`get`."""
        self._is_closed = True
        self._requests.clear()
        self._has_news.set()

    def _put(self, request: Request) -> None:
        self._requests.append(request)
        self._has_news.set()

    def _check_waiting(self, received: Ask | QuestionMessage) -> None:
        if sum(isinstance(item, type(received)) for item in self._requests) >= _MAX_WAITING_ASKS:
            id = getattr(received, "id", None)
            raise ClientError("too_fast", f"too many are waiting: this {received.type} was not accepted", id=id)
        if isinstance(received, QuestionMessage):
            self._held_s = max(self._held_s, time.monotonic() + self._settings.idle_timeout_s)

    def _unpack(self, data: bytes) -> Frame:
        try:
            return Frame(*unpack_frame(data, self._settings.max_frame_bytes), time.monotonic())
        except ClientError:
            self._count("bad")
            raise

    def _queue_frame(self, frame: Frame) -> None:
        """Queue a frame if the model should see it; if too many are waiting, drop the oldest."""
        if frame.timestamp_s > self._sampler.last_s:
            self._active_s, self._held_s = time.monotonic(), 0.0
        try:
            is_wanted = self._sampler.wants(frame.timestamp_s)
        except ValueError as error:
            self._count("bad")
            raise ClientError("time_goes_back", str(error)) from None
        if not is_wanted:
            self._count("skipped")
            return
        self._put(frame)
        waiting = [item for item in self._requests if isinstance(item, Frame)]
        if len(waiting) * FRAME_STEP_S > self._settings.max_lag_s:
            self._requests.remove(waiting[0])
            self.n_dropped += 1
            self._count("dropped")
