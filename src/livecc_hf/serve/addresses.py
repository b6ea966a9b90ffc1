"""IP addresses of clients and origins of web pages."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, NamedTuple
from urllib.parse import urlsplit

ANY = "*"
_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+\]|[^\s/@:\[\]?#]+")
_MAX_SHOWN = 100


class Origin(NamedTuple):
    """The origin of a web page: scheme, host and port."""

    scheme: str
    host: str
    port: int

    @property
    def usual_port(self) -> int:
        """The default port of the scheme, which origins leave out."""
        return _PORTS[self.scheme]

    def __str__(self) -> str:
        port = "" if self.port == self.usual_port else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


def network_of(peer: Any) -> str:
    """Return the address by which a client is counted: its IPv4 address or its /64 IPv6 network; "" without one.

    Args:
        peer: (address, port, ...) of a socket; anything else, such as the peer of a Unix socket, has no address.
    """
    try:
        address = ip_address(peer[0].partition("%")[0])
    except (TypeError, IndexError, AttributeError, ValueError):
        return ""
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Parse an IP address; an IPv4-mapped IPv6 address is returned as IPv4.

    Raises:
        ValueError: if the text is not an IP address.
    """
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(text: str) -> bool:
    """Return whether an address or `localhost` can only be reached from this machine."""
    try:
        return ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return text.lower() == "localhost"


def parse_origin(text: str) -> Origin:
    """Parse an origin as browsers write it: `https://example.com` or `http://localhost:3000`.

    Raises:
        ValueError: if the text is not an origin. `null` is refused too, since pages of any site can have it.
    """
    try:
        parts = urlsplit(text.strip())
    except ValueError:  # such as unbalanced brackets
        parts = urlsplit("")
    host, port = split_host(parts.netloc)
    has_more = parts.path not in ("", "/") or parts.query or parts.fragment
    if parts.scheme not in ("http", "https") or not host or has_more:
        raise ValueError(
            f"origin {quoted(text)}: expected a page's scheme, host and port, such as https://example.com:8443"
        )
    return Origin(parts.scheme, host, port or _PORTS[parts.scheme])


def split_host(netloc: str) -> tuple[str, int | None]:
    """Return the host in lower case and the port of `host:port`; "" and `None` if it cannot be parsed."""
    match = re.fullmatch(rf"({_HOST.pattern})(?::(\d{{1,5}}))?", netloc.strip())
    if match is None:
        return "", None
    return match[1].lower().removesuffix("."), int(match[2]) if match[2] else None


def quoted(text: str) -> str:
    """Return untrusted text quoted and shortened, for a message."""
    return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "...")
