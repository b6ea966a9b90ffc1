"""Finds out why FFmpeg could not open an address, for which it only reports "Input/output error"."""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
import urllib.request
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

_PORTS = {"http": 80, "https": 443, "rtsp": 554, "rtsps": 322, "rtmp": 1935, "rtmps": 443}
_CONNECT_S = 5.0
TLS_SCHEMES = frozenset({"https", "rtsps", "rtmps"})


def trusted_certificates() -> str | None:
    """Return the file of trusted certificate authorities, the system's or `SSL_CERT_FILE`; `None` without one."""
    paths = ssl.get_default_verify_paths()
    found = next((path for path in (paths.cafile, "/etc/ssl/certs/ca-certificates.crt") if path), None)
    if found is not None and Path(found).is_file():
        return found
    try:
        import certifi
    except ImportError:
        return None
    return certifi.where()


def unknown_host(url: str) -> str | None:
    """Return the host of an address if its name cannot be resolved."""
    parts = urlsplit(url)
    if not parts.hostname:
        return None
    try:
        socket.getaddrinfo(parts.hostname, None)
    except (OSError, UnicodeError):
        return parts.hostname
    return None


def distrust(url: str) -> str | None:
    """Return why the server's certificate is not trusted; `None` if it is, or cannot be checked."""
    parts = urlsplit(url)
    if parts.scheme.lower() not in TLS_SCHEMES:
        return None
    context = ssl.create_default_context(cafile=trusted_certificates())
    try:
        with _connect(parts) as plain, context.wrap_socket(plain, server_hostname=parts.hostname):
            return None
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except OSError:
        return None


def is_listening(url: str) -> bool:
    """Return whether something accepts connections at the address."""
    try:
        _connect(urlsplit(url)).close()
    except OSError:
        return False
    return True


def is_mp4_without_ranges(url: str, verify_tls: bool) -> bool:
    """Return whether an HTTP address is an MP4 on a server that sends only whole files, not ranges."""
    is_part, beginning = _part_of(url, verify_tls)
    return not is_part and beginning[4:8] == b"ftyp"


def has_ranges(url: str, verify_tls: bool) -> bool:
    """Return whether the server of an HTTP address sends ranges of files."""
    return _part_of(url, verify_tls)[0]


def _part_of(url: str, verify_tls: bool) -> tuple[bool, bytes]:
    """Return whether the server answers a range request with a range, and the first 12 bytes; on failure none."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(parts._replace(netloc=host).geturl(), headers={"Range": "bytes=0-11"})
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        request.add_header("Authorization", f"Basic {base64.b64encode(login).decode()}")
    context = ssl.create_default_context(cafile=trusted_certificates())
    if not verify_tls:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(request, timeout=_CONNECT_S, context=context) as answer:
            return answer.status == http.client.PARTIAL_CONTENT, answer.read(12)
    except (OSError, ValueError, http.client.HTTPException):
        return False, b""


def _connect(parts: SplitResult) -> socket.socket:
    return socket.create_connection((parts.hostname, parts.port or _PORTS[parts.scheme.lower()]), _CONNECT_S)
