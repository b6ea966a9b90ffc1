"""One client of a server, from its connection to its end."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import logging
import math
import time
from collections import deque
from typing import TYPE_CHECKING

from starlette.websockets import WebSocket, WebSocketDisconnect

from livecc_hf.modeling.grammar import FRAME_STEP_S
from livecc_hf.pool import PoolFullError, PoolStoppedError
from livecc_hf.pool.stream import OverloadedError, StreamEndedError
from livecc_hf.serve.images import FrameFitter
from livecc_hf.serve.messages import (
    CLOSE_AWAY,
    CLOSE_DONE,
    CLOSE_FAILED,
    CLOSE_POLICY,
    CLOSE_RESTART,
    Ask,
    ClientError,
    Finish,
    Pause,
    Question,
    Start,
    answer_message,
    close_reason,
    error_message,
    read_message,
    started_message,
    unpack_frame,
)
from livecc_hf.serve.sampling import Frame, FrameSampler, RateLimit
from livecc_hf.utils.text import one_line

if TYPE_CHECKING:
    from livecc_hf.modeling import CommentarySegment, CommentaryStream
    from livecc_hf.pool.stream import PooledStream
    from livecc_hf.serve.service import CommentaryService

_log = logging.getLogger(__name__)
_FAREWELL_S = 5.0  # for a client to take its last messages
_MAX_WAITING_ASKS = 8


class Session:
    """A client and its stream.

    Four parties: a reader takes messages in and never waits for anything else; a worker brings frames to the model,
    in order, with decoding in threads; the pool calls back with segments; a writer sends. Whoever sees a reason to end
    says so, and :meth:`run` takes all down.

    Args:
        service: what it is served by.
        websocket: the accepted connection.
        number: of the session on its server.
    """

    def __init__(self, service: CommentaryService, websocket: WebSocket, number: int):
        self._service, self._settings, self._metrics = service, service.settings, service.metrics
        self._websocket, self._number = websocket, number
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[ClientError | None] = self._loop.create_future()  # `None`: the client has gone
        self._messages = RateLimit(self._settings.max_messages_per_s)
        self._bytes = RateLimit(self._settings.max_bytes_per_s)
        self._todo: deque[Start | Ask | Question | Finish | Frame] = deque()
        self._has_todo = asyncio.Event()
        self._unread: asyncio.Queue[dict | None] = asyncio.Queue()  # bounded by hand, so that a farewell fits
        self._has_started = self._is_finishing = False
        self._active_s = self._loop.time()  # when the video last moved on
        self._held_s = 0.0  # until when a pause or a question holds the place
        self._n_errors = 0  # in a row
        # Of the stream; the worker's, one thread at a time.
        self._start: Start | None = None
        self._query: str | None = None  # the last that was asked
        self._rehearsal: CommentaryStream | None = None  # hears queries until there is a stream
        self._stream: PooledStream | None = None  # from the first frame on
        self._sampler = FrameSampler()
        self._fitter = FrameFitter(self._settings.max_frame_px)
        self._arrivals: deque[tuple[float, float]] = deque()  # sampling time, and when its frame came
        self._n_sifted = 0  # frames dropped before they were decoded
        self._n_turns = 0
        self._gone = "vanished"  # how the client went, if it did
        self._began_s = time.monotonic()

    @property
    def _n_dropped(self) -> int:
        return self._n_sifted + (0 if self._stream is None else self._stream.n_dropped_frames)

    def stop(self) -> None:
        """Tell the client that the server stops, and end."""
        self._end("stopping", "the server stops: connect again later", CLOSE_RESTART)

    def fail(self, reason: str) -> None:
        """Tell the client that its words will not come, and end."""
        self._end("generation_failed", f"the generation failed ({reason}): connect again later", CLOSE_FAILED)

    async def run(self) -> None:
        """Serve the client until the end."""
        address = self._websocket.client.host if self._websocket.client else "an unknown address"
        _log.info("session %d began, from %s", self._number, address)
        reader, worker, writer = (
            self._loop.create_task(self._guarded(party)) for party in (self._read, self._work, self._write)
        )
        limit_s = self._settings.max_session_s
        timer = self._loop.call_later(
            limit_s, self._end, "session_too_long", f"sessions last {limit_s:g} s at most: connect again", CLOSE_POLICY
        )
        try:
            end = await asyncio.shield(self._ended)
            code = self._gone if end is None else end.code
        except asyncio.CancelledError:  # the server is forced to stop
            self.stop()
            end, code = None, "stopping"
            raise
        finally:
            timer.cancel()
            reader.cancel()
            self._todo.clear()
            self._has_todo.set()
            leaving = self._loop.create_task(self._leave(worker))
            self._metrics.endings.labels(code).inc()
            lasted_s, what = time.monotonic() - self._began_s, code if end is None else f"{end.code}: {end.message}"
            _log.info("session %d ended after %.0f s and %d turns: %s", self._number, lasted_s, self._n_turns, what)
            await self._say_farewell(writer, end)
            await leaving

    async def _leave(self, worker: asyncio.Task) -> None:
        """Leave the model, beside the farewell: neither waits for the other."""
        await worker  # a job in a thread cannot be cancelled, and what it brings must be put away
        if self._stream is not None:
            with contextlib.suppress(RuntimeError):  # the threads have stopped, and all streams before them
                await self._in_thread(self._stream.leave)

    async def _guarded(self, party) -> None:
        """Run a party; a defect in it ends the session, not silently."""
        try:
            await party()
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("session %d failed", self._number)
            self._end("server_error", "a defect in the server: see its log", CLOSE_FAILED)

    # The reader.

    async def _read(self) -> None:
        settings = self._settings
        start_by_s = self._loop.time() + settings.start_timeout_s
        while not self._ended.done():
            end_s = self._idle_by_s() if self._has_started else start_by_s
            wait_s = None if self._is_finishing else end_s - self._loop.time()
            try:
                if wait_s is not None and wait_s <= 0:  # or what is there already would be taken all the same
                    raise TimeoutError
                async with asyncio.timeout(wait_s):
                    message = await self._websocket.receive()
            except TimeoutError:
                if self._has_started:
                    idle_s = round(self._loop.time() - self._active_s)
                    self._end("idle", f"no new frame for {idle_s} s: connect again", CLOSE_POLICY)
                else:
                    what = f"no 'start' for {settings.start_timeout_s:g} s: connect again"
                    self._end("not_started", what, CLOSE_POLICY)
                return
            if message["type"] == "websocket.disconnect":
                if message.get("code") in (CLOSE_DONE, CLOSE_AWAY):
                    self._gone = "left"
                self._end_as(None)
                return
            try:
                self._receive(message.get("text"), message.get("bytes"))
            except ClientError as error:
                self._tell_error(error)

    def _idle_by_s(self) -> float:
        """Return when the session ends if the video does not move on, on the loop's clock."""
        settings = self._settings
        held_s = min(self._held_s, self._active_s + settings.max_pause_s)
        return max(self._active_s + settings.idle_timeout_s, held_s)

    def _receive(self, text: str | None, data: bytes | None) -> None:
        if not self._messages.allows() or not self._bytes.allows(len(text or data or "")):
            raise ClientError(
                "too_fast",
                f"more than {self._settings.max_messages_per_s:g} messages or {self._settings.max_bytes_per_s:g} bytes "
                "a second: send no more than the model sees, 2 frames a second",
                CLOSE_POLICY,
            )
        received = self._unpacked(data) if text is None else read_message(text)
        if self._is_finishing:
            raise ClientError("finished", "a message after 'finish': nothing may follow it")
        if isinstance(received, Start) == self._has_started:
            what = (
                "a second 'start': connect again" if self._has_started else "a message before 'start': send that first"
            )
            raise ClientError("bad_order", what)
        if isinstance(received, Frame):
            self._sift(received)
            return
        if isinstance(received, Pause):
            self._held_s = math.inf
            return
        if isinstance(received, Ask | Question):
            if sum(isinstance(item, type(received)) for item in self._todo) >= _MAX_WAITING_ASKS:
                id = getattr(received, "id", None)
                raise ClientError("too_fast", f"too many wait: this {received.type} was not taken", id=id)
            if isinstance(received, Question):
                self._held_s = max(self._held_s, self._loop.time() + self._settings.idle_timeout_s)
        if isinstance(received, Start):
            self._active_s = self._loop.time()
        self._has_started = True
        self._is_finishing = isinstance(received, Finish)
        self._todo.append(received)
        self._has_todo.set()

    def _unpacked(self, data: bytes) -> Frame:
        try:
            return Frame(*unpack_frame(data, self._settings.max_frame_bytes), time.monotonic())
        except ClientError:
            self._count("bad")
            raise

    def _sift(self, frame: Frame) -> None:
        """Let a frame wait if the model should see it; where too many wait, the newest win."""
        if frame.timestamp_s > self._sampler.last_s:
            self._active_s, self._held_s = self._loop.time(), 0.0
        try:
            is_wanted = self._sampler.wants(frame.timestamp_s)
        except ValueError as error:
            self._count("bad")
            raise ClientError("time_goes_back", str(error)) from None
        if not is_wanted:
            self._count("skipped")
            return
        self._todo.append(frame)
        self._has_todo.set()
        waiting = [item for item in self._todo if isinstance(item, Frame)]
        if len(waiting) * FRAME_STEP_S > self._settings.max_lag_s:
            self._todo.remove(waiting[0])
            self._n_sifted += 1
            self._count("dropped")

    # The worker.

    async def _work(self) -> None:
        while True:
            await self._has_todo.wait()
            if self._ended.done():
                return
            if not self._todo:
                self._has_todo.clear()
                continue
            item = self._todo.popleft()
            try:
                if isinstance(item, Frame):
                    notice = await self._in_thread(self._show, item)
                    self._n_errors = 0
                    if notice is not None:
                        self._tell(notice)
                elif isinstance(item, Start):
                    await self._in_thread(self._rehearse, item)
                    service = self._service
                    self._tell(
                        started_message(self._number, self._settings, service.model_name, self._rehearsal.max_pixels)
                    )
                elif isinstance(item, Ask):
                    await self._in_thread(self._ask, item)
                elif isinstance(item, Question):
                    await self._in_thread(self._question, item)
                elif self._stream is not None:
                    self._stream.finish()
                else:
                    self._end("finished", "all is said", CLOSE_DONE)
            except ClientError as error:
                self._tell_error(error)
            except StreamEndedError:
                pass  # the pool has said why, or will

    def _rehearse(self, start: Start) -> None:
        try:
            self._start, self._rehearsal = start, self._service.rehearse(start)
        except ValueError as error:
            raise ClientError("bad_start", one_line(error), CLOSE_POLICY) from None

    def _join(self) -> None:
        """Take a place, at the first frame: who shows nothing holds none."""
        try:
            self._stream = self._service.join(self._start, self._on_segment, self._on_end)
        except PoolFullError:
            raise self._service.full() from None
        except PoolStoppedError as error:
            raise ClientError("not_ready", f"{one_line(error)}: try again later", CLOSE_RESTART) from None
        if self._query is not None:
            self._stream.ask(self._query)
        self._rehearsal = None

    def _ask(self, item: Ask) -> None:
        try:
            self._service.check_length(item.query)
            (self._stream or self._rehearsal).ask(item.query)
            self._query = item.query
        except ValueError as error:
            raise ClientError("bad_query", one_line(error)) from None

    def _question(self, item: Question) -> None:
        limit = self._settings.max_answer_tokens
        if (item.max_new_tokens or 0) > limit:
            what = f"max_new_tokens={item.max_new_tokens}: expected at most {limit} on this server"
            raise ClientError("bad_question", what, id=item.id)
        if self._stream is None:
            what = "nothing has been seen yet: ask when the first words have come"
            raise ClientError("bad_question", what, id=item.id)
        try:
            self._service.check_length(item.question, "the question has")
            future = self._stream.answer(item.question, item.max_new_tokens or limit)
        except ValueError as error:
            raise ClientError("bad_question", one_line(error), id=item.id) from None
        except OverloadedError as error:
            raise ClientError("too_fast", one_line(error), id=item.id) from None
        asked_s = time.monotonic()
        future.add_done_callback(
            lambda answered: self._loop.call_soon_threadsafe(
                self._tell_answer, item, answered, time.monotonic() - asked_s
            )
        )

    def _show(self, frame: Frame) -> dict | None:
        """Decode a frame and push it; return a notice to the client, if there is one."""
        try:
            image, notice = self._fitter.decode(frame.image)
            prepared = (self._stream or self._rehearsal).prepare(image[None])  # once, for several sampling times
            if self._stream is None:
                self._join()
            times_s = self._sampler.times_of(frame.timestamp_s)
            # Before the push: its words may come before this thread goes on.
            self._arrivals.extend((time_s, frame.arrived_s) for time_s in times_s)
            n_dropped = self._stream.push(prepared.expand(len(times_s)), times_s)
        except ValueError as error:
            self._count("bad")
            raise ClientError("bad_frame", one_line(error)) from None
        except OverloadedError as error:
            self._count("refused")
            return {"type": "notice", "code": "overloaded", "message": one_line(error)}
        self._sampler.take(times_s)
        self._fitter.take()
        self._count("shown")
        if n_dropped:
            self._count("dropped", n_dropped)
        return None if notice is None else {"type": "notice", "code": "size_changed", "message": notice}

    # The pool's thread calls these two.

    def _on_segment(self, segment: CommentarySegment) -> None:
        self._loop.call_soon_threadsafe(self._tell_segment, segment, time.monotonic())

    def _on_end(self, error: Exception | None) -> None:
        if error is None and self._is_finishing:
            end = ("finished", "all is said", CLOSE_DONE)
        elif error is None:
            self._loop.call_soon_threadsafe(self.stop)
            return
        elif isinstance(error, PoolStoppedError):  # which is in the log
            self._loop.call_soon_threadsafe(self.fail, one_line(error))
            return
        else:
            _log.error("session %d: the generation failed", self._number, exc_info=error)
            what = one_line(error) if isinstance(error, ValueError) else type(error).__name__
            end = ("generation_failed", f"the generation failed ({what}): connect again", CLOSE_FAILED)
        self._loop.call_soon_threadsafe(self._end, *end)

    # The writer, and what it is given.

    async def _write(self) -> None:
        try:
            while (message := await self._unread.get()) is not None:
                await self._websocket.send_text(json.dumps(message, ensure_ascii=False))
        except (WebSocketDisconnect, RuntimeError, OSError):  # closed meanwhile
            self._end_as(None)

    def _tell(self, message: dict) -> None:
        if self._ended.done():
            return
        if self._unread.qsize() >= self._settings.max_unread:
            self._end("slow_reader", f"{self._settings.max_unread} messages lie unread: read faster", CLOSE_POLICY)
            return
        self._unread.put_nowait(message)

    def _tell_error(self, error: ClientError) -> None:
        self._metrics.errors.labels(error.code).inc()
        self._n_errors += 1
        if error.close_code is None and self._n_errors > self._settings.max_errors:
            error = ClientError("too_many_errors", f"too many bad messages; the last: {error.message}", CLOSE_POLICY)
        if error.close_code is None:
            self._tell(error_message(error))
        else:
            self._end_as(error)

    def _tell_segment(self, segment: CommentarySegment, said_s: float) -> None:
        arrived_s = said_s
        while self._arrivals and self._arrivals[0][0] < segment.end_s - FRAME_STEP_S / 2:
            arrived_s = self._arrivals.popleft()[1]
        self._metrics.latency_s.observe(said_s - arrived_s)
        self._n_turns += 1
        self._tell(
            {
                "type": "segment",
                "start_s": segment.start_s,
                "end_s": segment.end_s,
                "text": segment.text,
                "was_cut": segment.was_cut,
                "latency_s": round(said_s - arrived_s, 4),
                "n_dropped_frames": self._n_dropped,
            }
        )

    def _tell_answer(self, item: Question, answered: concurrent.futures.Future[str], took_s: float) -> None:
        error = answered.exception()
        if error is None:
            self._metrics.answer_s.observe(took_s)
            self._tell(answer_message(item, answered.result()))
        elif not isinstance(error, StreamEndedError):  # of which the client hears as such
            if not isinstance(error, ValueError):
                _log.error("session %d: a question was not answered", self._number, exc_info=error)
            what = one_line(error) if isinstance(error, ValueError) else f"it failed ({type(error).__name__})"
            self._tell_error(ClientError("bad_question", f"the question was not answered: {what}", id=item.id))

    # The end.

    def _end(self, code: str, message: str, close_code: int) -> None:
        self._end_as(ClientError(code, message, close_code))

    def _end_as(self, end: ClientError | None) -> None:
        if not self._ended.done():
            self._ended.set_result(end)
            self._has_todo.set()

    async def _say_farewell(self, writer: asyncio.Task, end: ClientError | None) -> None:
        """Send what is left and close; a client that does not take it is given up."""
        if end is not None and end.code != "slow_reader":
            is_good = end.close_code == CLOSE_DONE
            self._unread.put_nowait(
                {"type": "end", "n_dropped_frames": self._n_dropped} if is_good else error_message(end)
            )
            self._unread.put_nowait(None)
            await asyncio.wait([writer], timeout=_FAREWELL_S)
        writer.cancel()
        await asyncio.wait([writer])
        if end is not None:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError, TimeoutError):
                async with asyncio.timeout(_FAREWELL_S):
                    await self._websocket.close(end.close_code, close_reason(end))

    async def _in_thread(self, function, *args):
        return await self._loop.run_in_executor(self._service.threads, function, *args)

    def _count(self, result: str, n: int = 1) -> None:
        self._metrics.frames.labels(result).inc(n)
