"""Downloads small files from URLs in a dataset, safely even if the dataset is not trusted."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from importlib.util import find_spec
from urllib.parse import SplitResult, quote, urljoin, urlsplit

TIME_LIMIT_S = 20.0
MAX_BYTES = 20_000_000
MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 65_536
_URL_CHARS = "/%:@!$&'()*+,;=~"  # not quoted in a URL's path


class WebFileError(OSError):
    """A file on the web is not allowed to be downloaded, or cannot be."""


def fetch_file(
    url: str, hosts: bool | Sequence[str], time_limit_s: float = TIME_LIMIT_S, max_bytes: int = MAX_BYTES
) -> bytes:
    """Download a file, following redirects, and return its content.

    Each connection goes to the IP address that was checked, so that DNS rebinding has no effect. Proxies are not used,
    since the addresses behind a proxy cannot be checked.

    Args:
        url: an `http://` or `https://` URL.
        hosts: `True` allows every host that has only public IP addresses; a list allows the hosts named in it, with any
            addresses.
        time_limit_s: limit for the whole download including redirects, in seconds.
        max_bytes: largest file size.

    Raises:
        WebFileError: if a host is not allowed, does not respond in time, or does not send a file within the limits.
    """
    deadline = time.monotonic() + time_limit_s
    first_url = url
    for _ in range(MAX_REDIRECTS + 1):
        parts = _check_url(url, hosts)
        try:
            found = _request(parts, hosts, deadline, max_bytes)
        except WebFileError:
            raise
        except (OSError, ValueError, http.client.HTTPException) as error:
            is_late = time.monotonic() >= deadline
            why = f"no complete response within {time_limit_s:g} s" if is_late else str(error) or type(error).__name__
            raise WebFileError(f"{_displayable(parts)}: {why}") from error
        if time.monotonic() >= deadline:  # a response without Content-Length looks complete even if it was cut off
            raise WebFileError(f"{_displayable(parts)}: no complete response within {time_limit_s:g} s")
        if isinstance(found, bytes):
            return found
        url = urljoin(url, found)
    raise WebFileError(f"{_displayable(urlsplit(first_url))}: more than {MAX_REDIRECTS} redirects")


def is_public(address: str) -> bool:
    """Return whether an IP address, or the IPv4 address embedded in it, is public."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFF_FFFF)
        if inner:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast


def _check_url(url: str, hosts: bool | Sequence[str]) -> SplitResult:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 (raises if it is not a number)
    except ValueError as error:
        raise WebFileError(f"{url[:100]!r} is not a valid URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise WebFileError(f"{_displayable(parts)}: expected a URL that begins with http:// or https://")
    if not isinstance(hosts, bool) and parts.hostname not in {host.lower() for host in hosts}:
        raise WebFileError(f"{_displayable(parts)}: {parts.hostname} is not among the allowed hosts")
    return parts


def _request(parts: SplitResult, hosts: bool | Sequence[str], deadline: float, max_bytes: int) -> bytes | str:
    """Send one request; return the file's content, or the URL of a redirect."""
    connection = _Connection(parts, hosts is not True, deadline)
    # Socket timeouts apply to single reads, so a server that sends a byte now and then would never hit them.
    timer = threading.Timer(max(deadline - time.monotonic(), 0), connection.cut)
    timer.daemon = True
    timer.start()
    try:
        target = quote(parts.path or "/", safe=_URL_CHARS)
        if parts.query:
            target += f"?{quote(parts.query, safe=_URL_CHARS + '?')}"
        connection.request("GET", target, headers={"Accept": "image/*,*/*;q=0.5", "User-Agent": "livecc-hf"})
        response = connection.getresponse()
        if response.status in _REDIRECTS and response.headers.get("Location"):
            return response.headers["Location"]
        if response.status != http.HTTPStatus.OK:
            raise WebFileError(f"{_displayable(parts)}: the server responded {response.status} {response.reason}")
        return _read(response, parts, max_bytes)
    finally:
        timer.cancel()
        connection.close()


def _read(response: http.client.HTTPResponse, parts: SplitResult, max_bytes: int) -> bytes:
    content = bytearray()
    is_too_large = (response.length or 0) > max_bytes
    while not is_too_large and (chunk := response.read(_CHUNK_BYTES)):
        content += chunk
        is_too_large = len(content) > max_bytes
    if is_too_large:
        raise WebFileError(f"{_displayable(parts)}: the file is larger than {max_bytes:,} bytes")
    if response.length:  # bytes that were announced but not sent
        raise WebFileError(f"{_displayable(parts)}: the file breaks off after {len(content)} bytes")
    return bytes(content)


class _Connection(http.client.HTTPConnection):
    """A connection that checks the host's IP addresses before it connects to one of them.

    Args:
        parts: the parsed URL.
        is_named: whether the user allowed this host by name, so that any address is accepted.
        deadline: time limit on the monotonic clock, in seconds.
    """

    def __init__(self, parts: SplitResult, is_named: bool, deadline: float):
        self.default_port = 443 if parts.scheme == "https" else 80
        super().__init__(parts.hostname or "", parts.port or self.default_port)
        self._is_secure = parts.scheme == "https"
        self._is_named = is_named
        self._deadline = deadline
        self._open: socket.socket | None = None  # `sock` is None once a response of unknown length owns it

    def connect(self) -> None:
        """Connect to the first of the host's addresses that accepts, if all of them are allowed."""
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        for *_, address in found:
            if not self._is_named and not is_public(str(address[0])):
                raise WebFileError(
                    f"{self.host} is at {address[0]}, which is not a public address: name the host in allow_urls "
                    "to allow it"
                )
        failure: OSError | None = None
        for family, kind, protocol, _, address in found:
            self.sock = socket.socket(family, kind, protocol)
            self._open = self.sock
            self.sock.settimeout(max(self._deadline - time.monotonic(), 0.001))
            try:
                self.sock.connect(address)
                break
            except OSError as error:
                self.sock.close()
                failure = error
        else:
            raise failure or OSError("the host has no address")
        if self._is_secure:
            self.sock = _tls_context().wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self._open = self.sock
            self.sock.do_handshake()

    def cut(self) -> None:
        """Shut the socket down, which ends any blocking call on it."""
        if self._open is not None:
            with contextlib.suppress(OSError):  # already closed
                self._open.shutdown(socket.SHUT_RDWR)


def _tls_context() -> ssl.SSLContext:
    """Return a TLS context with the system's and, if installed, certifi's authorities."""
    context = ssl.create_default_context()
    if find_spec("certifi"):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _displayable(parts: SplitResult) -> str:
    """Return a URL for messages, without user, password and query, which may be secret."""
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"[:120]
