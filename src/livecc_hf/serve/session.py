"""The session of one client."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.websockets import WebSocket

from livecc_hf.pool import PoolStoppedError, StreamEndedError
from livecc_hf.serve.client_stream import ClientStream
from livecc_hf.serve.inbox import Inbox, Request
from livecc_hf.serve.messages import (
    CLOSE_AWAY,
    CLOSE_DONE,
    CLOSE_FAILED,
    CLOSE_POLICY,
    CLOSE_RESTART,
    Ask,
    ClientError,
    QuestionMessage,
    Start,
    answer_message,
    error_message,
    segment_message,
    started_message,
)
from livecc_hf.serve.outbox import Outbox
from livecc_hf.serve.sampling import ClientFrameSampler, Frame
from livecc_hf.utils.text import one_line

if TYPE_CHECKING:
    from livecc_hf.modeling import CommentarySegment
    from livecc_hf.serve.service import CommentaryService

Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class Session:
    """A client's connection and its stream.

    Four parties work at once: the reader task moves messages from the connection to the inbox, the worker task passes
    requests from the inbox to the stream (decoding runs in threads), the pool calls back with segments, and the writer
    task sends the outbox. The first party with a reason to end the session sets it, and :meth:`run` stops the others.

    Args:
        service: the service.
        websocket: the accepted connection.
        number: number of the session, for its client and the log.
    """

    def __init__(self, service: CommentaryService, websocket: WebSocket, number: int):
        self._service, self._websocket, self._number = service, websocket, number
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[ClientError | None] = self._loop.create_future()  # `None`: the client disconnected
        sampler = ClientFrameSampler()
        self._inbox = Inbox(service.settings, sampler, service.metrics.count_frames)
        self._outbox = Outbox(websocket, service.settings.max_unread)
        self._stream = ClientStream(service, sampler, self._on_segment, self._on_end)
        self._n_errors = 0  # in a row
        self._n_turns = 0
        self._gone = "vanished"  # how the client disconnected: "left" after a closing handshake

    @property
    def _n_dropped(self) -> int:
        return self._inbox.n_dropped + self._stream.n_dropped

    def stop(self) -> None:
        """Tell the client that the server stops, and end."""
        self._end("stopping", "the server stops: connect again later", CLOSE_RESTART)

    def fail(self, reason: str) -> None:
        """Tell the client that the generation failed, and end."""
        self._end("generation_failed", f"the generation failed ({reason}): connect again later", CLOSE_FAILED)

    async def run(self) -> None:
        """Run the session until it ends."""
        began_s = time.monotonic()
        address = self._websocket.client.host if self._websocket.client else "an unknown address"
        _log.info("session %d began, from %s", self._number, address)
        reader, worker, writer = (
            self._loop.create_task(self._run_party(party)) for party in (self._read, self._work, self._write)
        )
        limit_s = self._service.settings.max_session_s
        timer = self._loop.call_later(
            limit_s, self._end, "session_too_long", f"the limit is {limit_s:g} s: connect again", CLOSE_POLICY
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
            # Concurrent with the farewell: neither has to wait for the other.
            leaving = self._loop.create_task(self._leave(worker))
            self._service.metrics.endings.labels(code).inc()
            lasted_s, what = time.monotonic() - began_s, code if end is None else f"{end.code}: {end.message}"
            _log.info("session %d ended after %.0f s and %d turns: %s", self._number, lasted_s, self._n_turns, what)
            await self._outbox.close(writer, end, self._farewell(end))
            await leaving

    async def _leave(self, worker: asyncio.Task) -> None:
        await worker  # a job in a thread cannot be cancelled, and may still take a slot
        with contextlib.suppress(RuntimeError):  # the executor was shut down, after all streams had ended
            await self._in_thread(self._stream.leave)

    async def _run_party(self, party: Callable[[], Awaitable[None]]) -> None:
        """Run a task; log an unexpected error and end the session."""
        try:
            await party()
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("session %d failed", self._number)
            self._end("server_error", "an internal error of the server: see its log", CLOSE_FAILED)

    async def _read(self) -> None:
        """Move messages from the connection to the inbox."""
        while not self._ended.done():
            wait_s = self._inbox.wait_s
            try:
                if wait_s is not None and wait_s <= 0:  # asyncio.timeout would still receive a waiting message
                    raise TimeoutError
                async with asyncio.timeout(wait_s):
                    message = await self._websocket.receive()
            except TimeoutError:
                self._end_as(self._inbox.timeout())
                return
            if message["type"] == "websocket.disconnect":
                if message.get("code") in (CLOSE_DONE, CLOSE_AWAY):
                    self._gone = "left"
                self._end_as(None)
                return
            try:
                self._inbox.receive(message.get("text"), message.get("bytes"))
            except ClientError as error:
                self._tell_error(error)

    async def _work(self) -> None:
        """Pass requests from the inbox to the stream."""
        while (request := await self._inbox.get()) is not None:
            try:
                await self._handle(request)
            except ClientError as error:
                self._tell_error(error)
            except StreamEndedError:
                pass  # the pool calls on_end with the reason

    async def _handle(self, request: Request) -> None:
        if isinstance(request, Frame):
            notice = await self._in_thread(self._stream.show, request)
            self._n_errors = 0
            if notice is not None:
                self._tell(notice)
        elif isinstance(request, Start):
            max_pixels = await self._in_thread(self._stream.start, request)
            service = self._service
            self._tell(started_message(self._number, service.settings, service.model.name, max_pixels))
        elif isinstance(request, Ask):
            await self._in_thread(self._stream.ask, request)
        elif isinstance(request, QuestionMessage):
            asked_s, future = time.monotonic(), await self._in_thread(self._stream.answer, request)
            future.add_done_callback(
                lambda answered: self._loop.call_soon_threadsafe(
                    self._tell_answer, request, answered, time.monotonic() - asked_s
                )
            )
        elif not self._stream.finish():
            self._end("finished", "all frames are commented on", CLOSE_DONE)

    async def _write(self) -> None:
        """Send the outbox."""
        if not await self._outbox.send_all():
            self._end_as(None)

    # The two callbacks of the pool, called in its thread.

    def _on_segment(self, segment: CommentarySegment) -> None:
        self._loop.call_soon_threadsafe(self._tell_segment, segment, time.monotonic())

    def _on_end(self, error: Exception | None) -> None:
        if error is None and self._inbox.is_finishing:
            end = ("finished", "all frames are commented on", CLOSE_DONE)
        elif error is None:
            self._loop.call_soon_threadsafe(self.stop)
            return
        elif isinstance(error, PoolStoppedError):  # logged by the service
            self._loop.call_soon_threadsafe(self.fail, one_line(error))
            return
        else:
            _log.error("session %d: the generation failed", self._number, exc_info=error)
            what = one_line(error) if isinstance(error, ValueError) else type(error).__name__
            end = ("generation_failed", f"the generation failed ({what}): connect again", CLOSE_FAILED)
        self._loop.call_soon_threadsafe(self._end, *end)

    # Messages to the client.

    def _tell(self, message: dict) -> None:
        if self._ended.done():
            return
        try:
            self._outbox.put(message)
        except ClientError as error:
            self._end_as(error)

    def _tell_error(self, error: ClientError) -> None:
        self._service.metrics.errors.labels(error.code).inc()
        self._n_errors += 1
        if error.close_code is None and self._n_errors > self._service.settings.max_errors:
            error = ClientError("too_many_errors", f"too many bad messages; the last: {error.message}", CLOSE_POLICY)
        if error.close_code is None:
            self._tell(error_message(error))
        else:
            self._end_as(error)

    def _tell_segment(self, segment: CommentarySegment, generated_s: float) -> None:
        arrived_s, pushed_s = self._stream.arrival_s(segment) or (generated_s, generated_s)
        latency_s, turn_s = generated_s - arrived_s, generated_s - pushed_s
        self._service.metrics.latency_s.observe(latency_s)
        self._n_turns += 1
        self._tell(segment_message(segment, latency_s, turn_s, self._n_dropped))

    def _tell_answer(self, item: QuestionMessage, answered: concurrent.futures.Future[str], took_s: float) -> None:
        error = answered.exception()
        if error is None:
            self._service.metrics.answer_s.observe(took_s)
            self._tell(answer_message(item, answered.result()))
        elif not isinstance(error, StreamEndedError):  # the client gets the end of the session instead
            if not isinstance(error, ValueError):
                _log.error("session %d: a question was not answered", self._number, exc_info=error)
            what = one_line(error) if isinstance(error, ValueError) else f"it failed ({type(error).__name__})"
            self._tell_error(ClientError("bad_question", f"the question was not answered: {what}", id=item.id))

    # The end of the session.

    def _farewell(self, end: ClientError | None) -> dict:
        if end is None or end.close_code == CLOSE_DONE:
            return {"type": "end", "n_dropped_frames": self._n_dropped}
        return error_message(end)

    def _end(self, code: str, message: str, close_code: int) -> None:
        self._end_as(ClientError(code, message, close_code))

    def _end_as(self, end: ClientError | None) -> None:
        if not self._ended.done():
            self._ended.set_result(end)
            self._inbox.close()

    async def _in_thread(self, function: Callable[..., Result], *args: Any) -> Result:
        return await self._loop.run_in_executor(self._service.threads, function, *args)
