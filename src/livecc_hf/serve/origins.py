"""Allows requests from web pages of the server itself and of listed origins.

Browsers let any page open WebSockets to any server that they can reach, including one on the user's own machine. They
name the page's origin in the `Origin` header, which pages cannot forge. Programs other than browsers send no `Origin`
and are always allowed.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from livecc_hf.serve.addresses import ANY, ip_address, is_loopback, parse_origin, quoted, split_host
from livecc_hf.serve.messages import CLOSE_POLICY


class OriginCheck:
    """Middleware that answers requests from other web pages with status 403.

    Allowed are requests without `Origin`, same-origin requests (host and port equal the request's `Host`; an http page
    may not use a server that is known to speak TLS), and requests from listed origins.

    Without a token, the `Host` of a request over the loopback interface must also be an IP address, `localhost`, this
    machine's name or the host of a listed origin. Otherwise a page whose name resolves to this machine (DNS rebinding)
    would pass as same-origin.

    Args:
        app: the application.
        allowed: the listed origins; `*` disables all checks.
        has_token: whether requests are checked for a token, which other pages do not know.
        on_refusal: called for each refused request.
    """

    def __init__(self, app: ASGIApp, allowed: Sequence[str], has_token: bool, on_refusal: Callable[[], None]):
        self._app, self._has_token, self._on_refusal = app, has_token, on_refusal
        self._allows_all = ANY in allowed
        self._allowed = {parse_origin(text) for text in allowed if text != ANY}
        self._names = {"localhost", socket.gethostname().lower()} | {origin.host for origin in self._allowed}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to the application, or refuse it."""
        reason = None if self._allows_all or scope["type"] == "lifespan" else self._refusal(scope)
        if reason is None:
            await self._app(scope, receive, send)
            return
        self._on_refusal()
        response = PlainTextResponse(f"{reason}\n", 403)
        if scope["type"] == "websocket":
            await deny(WebSocket(scope, receive, send), response)
        else:
            await response(scope, receive, send)

    def _refusal(self, scope: Scope) -> str | None:
        """Return why a request is refused; `None` if it is allowed."""
        headers = Headers(scope=scope)
        asked = headers.get("host", "")
        if not self._has_token and self._may_be_rebound(asked, scope):
            return (
                f"this server does not answer to the name {quoted(asked)}: start it with a token, or with "
                "--allowed-origins and the address of its pages, such as http://NAME:PORT"
            )
        for text in headers.getlist("origin"):
            if not self._is_allowed(text, asked, scope["scheme"]):
                return (
                    f"pages of {quoted(text)} may not use this server, requested as {quoted(asked)}: to allow them, "
                    "start it with --allowed-origins and their address"
                )
        return None

    def _is_allowed(self, text: str, asked: str, scheme: str) -> bool:
        try:
            origin = parse_origin(text)
        except ValueError:
            return False
        if origin in self._allowed:
            return True
        host, port = split_host(asked)
        # An https page may reach an http server through a TLS proxy; an http page cannot belong to a TLS server.
        is_weaker = scheme in ("https", "wss") and origin.scheme == "http"
        return (origin.host, origin.port) == (host, port or origin.usual_port) and not is_weaker

    def _may_be_rebound(self, asked: str, scope: Scope) -> bool:
        """Return whether the `Host` of a loopback request may be a foreign name that resolves to this machine."""
        server = scope.get("server")
        if not asked or not server or not is_loopback(server[0]):
            return False
        host = split_host(asked)[0]
        try:
            ip_address(host.strip("[]"))
        except ValueError:
            return host not in self._names and not host.endswith(".localhost")
        return False


async def deny(websocket: WebSocket, response: Response) -> None:
    """Answer a WebSocket handshake with an HTTP response instead of accepting it."""
    if "websocket.http.response" in websocket.scope.get("extensions", {}):
        await websocket.send_denial_response(response)
    else:
        await websocket.close(CLOSE_POLICY, "refused")  # before the handshake: the server answers HTTP 403
