"""Queue of messages to a client."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

from starlette.websockets import WebSocketDisconnect

from livecc_hf.serve.messages import CLOSE_FAILED, CLOSE_POLICY, ClientError, close_reason

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

SLOW_READER = "slow_reader"
_FAREWELL_S = 5.0  # time limit for a client to receive its last messages


class Outbox:
    """A bounded queue of messages, with room for a last one.

    Args:
        websocket: the accepted connection.
        max_unread: maximum number of waiting messages.
    """

    def __init__(self, websocket: WebSocket, max_unread: int):
        self._websocket, self._max_unread = websocket, max_unread
        # Unbounded, since `close` must find room for the last message; `put` checks the bound.
        self._unread: asyncio.Queue[dict | None] = asyncio.Queue()

    def put(self, message: dict) -> None:
        """Queue a message.

        Raises:
            ClientError: if the queue is full, which ends the session.
        """
        if self._unread.qsize() >= self._max_unread:
            raise ClientError(SLOW_READER, f"{self._max_unread} messages are unread: read faster", CLOSE_POLICY)
        self._unread.put_nowait(message)

    async def send_all(self) -> bool:
        """Send queued messages until the last one; return `False` if the client disconnected before."""
        try:
            while (message := await self._unread.get()) is not None:
                await self._websocket.send_text(json.dumps(message, ensure_ascii=False))
        except (WebSocketDisconnect, RuntimeError, OSError):  # the connection was closed
            return False
        return True

    async def close(self, writer: asyncio.Task, end: ClientError | None, farewell: dict) -> None:
        """Send the waiting messages and a last one, then close; a client that does not read is cut off after 5 seconds.

        Args:
            writer: the task that runs :meth:`send_all`.
            end: why the session ends; `None`: the client has disconnected, and nothing is sent.
            farewell: the last message; a client that does not read (``slow_reader``) does not get it.
        """
        if end is not None and end.code != SLOW_READER:
            self._unread.put_nowait(farewell)
            self._unread.put_nowait(None)
            await asyncio.wait([writer], timeout=_FAREWELL_S)
        writer.cancel()
        await asyncio.wait([writer])
        if end is not None:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError, TimeoutError):
                async with asyncio.timeout(_FAREWELL_S):
                    await self._websocket.close(end.close_code or CLOSE_FAILED, close_reason(end))
