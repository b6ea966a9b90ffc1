"""Which web pages may use a server: its own, and those of a list.

Any page that somebody opens can connect to what their browser reaches, a server on their own machine above all; no
rule of the browser stops WebSockets. But a browser says where the page comes from, in `Origin`, which pages cannot
forge. Programs that are no browsers send none, and need no leave.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from livecc_hf.serve.addresses import ANY, ip_address, is_loopback, parse_origin, shown, split_host
from livecc_hf.serve.messages import CLOSE_POLICY


class OriginCheck:
    """Refuses what comes from pages that may not use the server, with status 403, before anything else looks at it.

    Allowed are requests without `Origin`, from the page's own server (its host and port are those that the request is
    for, and its scheme, where that is known), and from listed origins.

    Where there is no token, a request over this machine's loopback must also be for a host that can only be this
    machine: an address, `localhost`, its own name, or the host of a listed origin. Else a page could give its own name
    this machine's address, and so be taken for its server's own page.

    Args:
        app: the application.
        allowed: the list; `*`: all, whatever they ask for.
        has_token: whether clients show a token, which no other page knows.
        on_refusal: called for each refusal.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str], has_token: bool, on_refusal: Callable[[], None]):
        self._app, self._has_token, self._on_refusal = app, has_token, on_refusal
        self._allows_all = ANY in allowed
        self._allowed = {parse_origin(text) for text in allowed if text != ANY}
        self._names = {"localhost", socket.gethostname().lower()} | {origin.host for origin in self._allowed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the application, or refuse it."""
        reason = None if self._allows_all or scope["type"] == "lifespan" else self._objection(scope)
        if reason is None:
            await self._app(scope, receive, send)
            return
        self._on_refusal()
        response = PlainTextResponse(f"{reason}\n", 403)
        if scope["type"] == "websocket":
            await deny(WebSocket(scope, receive, send), response)
        else:
            await response(scope, receive, send)

    def _objection(self, scope: Scope) -> str | None:
        headers = Headers(scope=scope)
        asked = headers.get("host", "")
        if not self._has_token and not self._is_certain(asked, scope):
            return (
                f"this server is not known as {shown(asked)}: start it with --allowed-origins and the address of its "
                "pages, such as http://NAME:PORT, or with a token"
            )
        for text in headers.getlist("origin"):
            if not self._may(text, asked, scope["scheme"]):
                return (
                    f"pages of {shown(text)} may not use this server, which was asked for as {shown(asked)}: if they "
                    f"should, start it with --allowed-origins and their address"
                )
        return None

    def _may(self, text: str, asked: str, scheme: str) -> bool:
        try:
            origin = parse_origin(text)
        except ValueError:
            return False
        if origin in self._allowed:
            return True
        host, port = split_host(asked)
        # A proxy in front may speak TLS and not say so; who speaks TLS here has no pages without it.
        is_weaker = scheme in ("https", "wss") and origin.scheme == "http"
        return (origin.host, origin.port) == (host, port or origin.usual_port) and not is_weaker

    def _is_certain(self, asked: str, scope: Scope) -> bool:
        """Return whether a name asked for cannot be another server's that was given this machine's address."""
        server = scope.get("server")
        if not asked or not server or not is_loopback(server[0]):
            return True
        host = split_host(asked)[0]
        try:
            ip_address(host.strip("[]"))
        except ValueError:
            return host in self._names or host.endswith(".localhost")
        return True


async def deny(websocket: WebSocket, response: Response) -> None:
    """Answer a WebSocket's request with a response in place of accepting it."""
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(response)
    else:
        await websocket.close(CLOSE_POLICY, "refused")  # before it is accepted: HTTP 403
