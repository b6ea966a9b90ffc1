"""Downloads small files that a dataset names by address, safely even if the dataset is not trusted."""

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

WEB_PREFIXES = ("http://", "https://")
TIME_LIMIT_S = 20.0
MAX_BYTES = 20_000_000
MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_CHUNK_BYTES = 65_536


class WebFileError(OSError):
    """A file on the web may not, or cannot, be downloaded."""


def fetch_file(
    url: str, hosts: bool | Sequence[str], time_limit_s: float = TIME_LIMIT_S, max_bytes: int = MAX_BYTES
) -> bytes:
    """Download a file.

    Connections go to the IP address that was checked, so that a name that resolves differently later has no effect.
    Proxies are not used, since the addresses behind a proxy cannot be checked.

    Args:
        url: `http://` or `https://`.
        hosts: allowed hosts: `True` for any host with only public IP addresses, else the names of hosts, which may have
            any address.
        time_limit_s: for the whole download, redirects included.
        max_bytes: largest file.

    Raises:
        WebFileError: if a host is not allowed, does not answer in time, or does not send a file within the limits.
    """
    deadline = time.monotonic() + time_limit_s
    asked = url
    for _ in range(MAX_REDIRECTS + 1):
        parts = _check_url(url, hosts)
        try:
            found = _ask(parts, hosts, deadline, max_bytes)
        except WebFileError:
            raise
        except (OSError, ValueError, http.client.HTTPException) as error:
            late = time.monotonic() >= deadline
            why = f"no whole answer within {time_limit_s:g} s" if late else str(error) or type(error).__name__
            raise WebFileError(f"{_displayable(parts)}: {why}") from error
        if time.monotonic() >= deadline:  # an answer without a length looks whole even if it was cut off
            raise WebFileError(f"{_displayable(parts)}: no whole answer within {time_limit_s:g} s")
        if isinstance(found, bytes):
            return found
        url = urljoin(url, found)
    raise WebFileError(f"{_displayable(urlsplit(asked))}: more than {MAX_REDIRECTS} redirects")


def is_public(address: str) -> bool:
    """Return whether an IP address is public, and does not lead to a private one (as some IPv6 forms do)."""
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
        raise WebFileError(f"{url[:100]!r} is not an address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise WebFileError(f"{_displayable(parts)}: expected an address that begins with http:// or https://")
    if not isinstance(hosts, bool) and parts.hostname not in {host.lower() for host in hosts}:
        raise WebFileError(f"{_displayable(parts)}: {parts.hostname} is not among the allowed hosts")
    return parts


def _ask(parts: SplitResult, hosts: bool | Sequence[str], deadline: float, max_bytes: int) -> bytes | str:
    """Return the file, or the address of a redirect."""
    connection = _Connection(parts, hosts is not True, deadline)
    # Timeouts of single reads do not help against a server that sends a byte now and then.
    timer = threading.Timer(max(deadline - time.monotonic(), 0), connection.cut)
    timer.daemon = True
    timer.start()
    try:
        target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", target, headers={"Accept": "image/*,*/*;q=0.5", "User-Agent": "livecc-hf"})
        answer = connection.getresponse()
        if answer.status in _REDIRECTS and answer.headers.get("Location"):
            return answer.headers["Location"]
        if answer.status != http.HTTPStatus.OK:
            raise WebFileError(f"{_displayable(parts)}: the answer is {answer.status} {answer.reason}")
        return _read(answer, parts, max_bytes)
    finally:
        timer.cancel()
        connection.close()


def _read(answer: http.client.HTTPResponse, parts: SplitResult, max_bytes: int) -> bytes:
    chunks, n_bytes = [], answer.length or 0
    while n_bytes <= max_bytes and (chunk := answer.read(_CHUNK_BYTES)):
        chunks.append(chunk)
        n_bytes = sum(map(len, chunks))
    if n_bytes > max_bytes:
        raise WebFileError(f"{_displayable(parts)}: it is larger than {max_bytes:,} bytes")
    if answer.length:  # the bytes still missing
        raise WebFileError(f"{_displayable(parts)}: it breaks off after {n_bytes} bytes")
    return b"".join(chunks)


class _Connection(http.client.HTTPConnection):
    """A connection to an IP address that was checked first.

    Args:
        parts: of the URL.
        is_named: whether the user allowed this host by name, so that it may have any address.
        deadline: on the monotonic clock.
    """

    def __init__(self, parts: SplitResult, is_named: bool, deadline: float):
        self.default_port = 443 if parts.scheme == "https" else 80
        super().__init__(parts.hostname or "", parts.port or self.default_port)
        self._is_secure = parts.scheme == "https"
        self._is_named = is_named
        self._deadline = deadline
        self._open: socket.socket | None = None  # `sock` is handed to an answer of unknown length

    def connect(self) -> None:
        """Connect to the first of the host's addresses that answers, if all of them are allowed."""
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        for *_, address in found:
            if not self._is_named and not is_public(str(address[0])):
                raise WebFileError(
                    f"{self.host} is at {address[0]}, which is not a public address: name the host in allow_urls "
                    "to allow it"
                )
        failed: OSError | None = None
        for family, kind, protocol, _, address in found:
            self.sock = socket.socket(family, kind, protocol)
            self._open = self.sock
            self.sock.settimeout(max(self._deadline - time.monotonic(), 0.001))
            try:
                self.sock.connect(address)
                break
            except OSError as error:
                self.sock.close()
                failed = error
        else:
            raise failed or OSError("it has no address")
        if self._is_secure:
            self.sock = _tls_context().wrap_socket(self.sock, server_hostname=self.host, do_handshake_on_connect=False)
            self._open = self.sock
            self.sock.do_handshake()

    def cut(self) -> None:
        """Close the socket, which ends any wait on it."""
        if self._open is not None:
            with contextlib.suppress(OSError):  # ended already
                self._open.shutdown(socket.SHUT_RDWR)


def _tls_context() -> ssl.SSLContext:
    """Return a verifying context with the system's certificate authorities, and certifi's if installed."""
    context = ssl.create_default_context()
    if find_spec("certifi"):
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _displayable(parts: SplitResult) -> str:
    """Return an address for messages, without parts that may be secret."""
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"[:120]
