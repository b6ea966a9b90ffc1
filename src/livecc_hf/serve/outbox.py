"""Messages on their way to a client."""

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
_FAREWELL_S = 5.0  # for a client to take its last messages


class Outbox:
    """A bounded queue of messages, and a farewell, for which there is always room.

    Args:
        websocket: the accepted connection.
        max_unread: how many messages may wait.
    """

    def __init__(self, websocket: WebSocket, max_unread: int):
        self._websocket, self._max_unread = websocket, max_unread
        self._unread: asyncio.Queue[dict | None] = asyncio.Queue()  # bounded by hand, so that a farewell fits

    def put(self, message: dict) -> None:
        """Let a message wait until it can be sent.

        Raises:
            ClientError: if too many wait, so that the session must end.
        """
        if self._unread.qsize() >= self._max_unread:
            raise ClientError(SLOW_READER, f"{self._max_unread} messages lie unread: read faster", CLOSE_POLICY)
        self._unread.put_nowait(message)

    async def send_all(self) -> bool:
        """Send what comes until the farewell; return whether that was sent: if not, the client has gone."""
        try:
            while (message := await self._unread.get()) is not None:
                await self._websocket.send_text(json.dumps(message, ensure_ascii=False))
        except (WebSocketDisconnect, RuntimeError, OSError):  # closed meanwhile
            return False
        return True

    async def close(self, writer: asyncio.Task, end: ClientError | None, farewell: dict) -> None:
        """Send what waits and close the connection; a client that does not take it is given up after 5 seconds.

        Args:
            writer: what runs :meth:`send_all`.
            end: why the session ends; `None`: the client has gone, so nothing is sent.
            farewell: the last message, for a client that reads.
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
