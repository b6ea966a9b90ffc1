"""Who a client is, as far as its address says, and where a web page comes from."""

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
    """Where a page comes from."""

    scheme: str
    host: str
    port: int

    @property
    def usual_port(self) -> int:
        """The one that is left out."""
        return _PORTS[self.scheme]

    def __str__(self) -> str:
        port = "" if self.port == self.usual_port else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"


def network_of(peer: Any) -> str:
    """Return what stands for one client among addresses: of IPv6, its network of 64 bits; "" where there is none.

    Args:
        peer: (address, port, ...) of a socket; anything else, such as a Unix socket's, has no address.
    """
    try:
        address = ip_address(peer[0].partition("%")[0])
    except (TypeError, IndexError, AttributeError, ValueError):
        return ""
    if address.version == 6:
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def ip_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return an IP address; one of IPv4 written as one of IPv6 is one of IPv4.

    Raises:
        ValueError: if it is none.
    """
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(text: str) -> bool:
    """Say whether an address, or `localhost`, is reached from this machine only."""
    try:
        return ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return text.lower() == "localhost"


def parse_origin(text: str) -> Origin:
    """Read an origin as browsers write it: `https://example.com` or `http://localhost:3000`.

    Raises:
        ValueError: if it is none; `null` is none: pages of any site can have that.
    """
    try:
        parts = urlsplit(text.strip())
    except ValueError:  # such as of brackets that do not belong together
        parts = urlsplit("")
    host, port = split_host(parts.netloc)
    is_more = parts.path not in ("", "/") or parts.query or parts.fragment
    if parts.scheme not in ("http", "https") or not host or is_more:
        raise ValueError(
            f"origin {shown(text)}: expected a page's scheme, host and port, such as https://example.com:8443"
        )
    return Origin(parts.scheme, host, port or _PORTS[parts.scheme])


def split_host(netloc: str) -> tuple[str, int | None]:
    """Return host, in lower case, and port of `host:port`."""
    match = re.fullmatch(rf"({_HOST.pattern})(?::(\d{{1,5}}))?", netloc.strip())
    if match is None:
        return "", None
    return match[1].lower().removesuffix("."), int(match[2]) if match[2] else None


def shown(text: str) -> str:
    """Return a stranger's text for a message."""
    return repr(text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "...")
