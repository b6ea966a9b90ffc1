"""What can go wrong with a source, each as one line that never shows a password."""

from __future__ import annotations

import errno
from typing import Any


class SourceError(RuntimeError):
    """A source cannot be opened, or failed while it was read."""


class SourceOpenError(SourceError):
    """A source cannot be opened.

    Attributes:
        is_final: whether trying again cannot help, such as with a wrong password.
        is_answered: whether something answered at the address (it refuses, or has no such stream).
    """

    def __init__(self, message: str, is_final: bool = False, is_answered: bool = False):
        super().__init__(message)
        self.is_final = is_final
        self.is_answered = is_answered


class SourceLostError(SourceError):
    """A source that had been open failed: it broke off, stalled, or did not come back."""


class StalledError(SourceLostError):
    """No frame came for too long."""


# What FFmpeg's own error classes mean: name, message, whether that is final. All are answers of a server.
_HTTP_REASONS = (
    ("HTTPUnauthorizedError", "401, not authorised: give the name and password as {scheme}://NAME:PASSWORD@...", True),
    ("HTTPForbiddenError", "403, forbidden: this address is not for you", True),
    ("HTTPNotFoundError", "404, not found: is the path right, and is the stream on air?", False),
    ("HTTPBadRequestError", "400, the server did not understand the request", True),
    ("HTTPTooManyRequestsError", "429, too many requests", False),
    ("HTTPOtherClientError", "the server refused the request (HTTP 4xx)", False),
    ("HTTPServerError", "the server failed (HTTP 5xx)", False),
)
_NETWORK_REASONS = {
    errno.ECONNREFUSED: "connection refused: is the server running, and is the port right?",
    errno.ECONNRESET: "the server reset the connection",
    errno.EPIPE: "the server closed the connection",
    errno.ETIMEDOUT: "no answer: the connection timed out",
    errno.EHOSTUNREACH: "no route to that host",
    errno.ENETUNREACH: "the network cannot be reached",
    errno.EPROTONOSUPPORT: "the server does not carry video that way: try another RTSP transport (auto, tcp, udp)",
    errno.EIO: "it cannot be reached, or sends no video: are the host's name and the path right?",
}
_DEVICE_REASONS = {
    errno.ENOENT: "no such camera: is it plugged in? (ls /dev/video*)",
    errno.ENODEV: "no such camera: is it plugged in? (ls /dev/video*)",
    errno.ENXIO: "no such camera: is it plugged in? (ls /dev/video*)",
    errno.EACCES: "permission denied: is this user in the group 'video'?",
    errno.EPERM: "permission denied: is this user in the group 'video'?",
    errno.EBUSY: "the camera is in use by another program",
    errno.ENOTTY: "this is not a camera",
    errno.EINVAL: "the camera does not capture video in a form that can be read",
}


def open_error(error: BaseException, name: str, kind: str, timeout_s: float, is_late: bool) -> SourceOpenError:
    """The error for a source that did not open.

    Args:
        error: what PyAV raised.
        name: the source as it may be shown.
        kind: a `SourceSpec.kind`.
        timeout_s: the longest wait.
        is_late: whether so long was waited. FFmpeg's protocols report their own error for a wait that was ended.
    """
    for class_name, reason, is_final in _HTTP_REASONS:
        if type(error).__name__ == class_name:
            scheme = name.split("://")[0]
            return SourceOpenError(f"{name}: {reason.format(scheme=scheme)}", is_final, is_answered=True)
    if is_late or is_named(error, "ExitError"):
        return SourceOpenError(f"{name}: no video came within {timeout_s:g} s of connecting")
    if is_named(error, "InvalidDataError"):
        return SourceOpenError(f"{name}: what comes from there is not a video that can be read", is_answered=True)
    if is_named(error, "EOFError"):
        return SourceOpenError(f"{name}: it ended before any video came", is_answered=True)
    if is_named(error, "ProtocolNotFoundError"):
        return SourceOpenError(f"{name}: the installed PyAV was built without this protocol", is_final=True)
    number = getattr(error, "errno", None)
    reasons = _DEVICE_REASONS if kind == "camera" else _NETWORK_REASONS
    reason = reasons.get(number) or getattr(error, "strerror", None) or type(error).__name__
    return SourceOpenError(f"{name}: {reason}", is_final=kind == "camera" and number in (errno.EACCES, errno.ENOTTY))


def lost_error(error: BaseException, name: str, stall_s: float, is_late: bool) -> SourceLostError:
    """The error for a source that broke off; arguments as in :func:`open_error`."""
    if is_late or is_named(error, "ExitError"):
        return StalledError(f"{name}: nothing came for {stall_s:g} s")
    reason = _NETWORK_REASONS.get(getattr(error, "errno", None)) or getattr(error, "strerror", None)
    return SourceLostError(f"{name}: {reason or type(error).__name__}")


def is_named(error: Any, class_name: str) -> bool:
    """Whether an error is of one of PyAV's classes, which are not imported here."""
    return any(kind.__name__ == class_name and kind.__module__.startswith("av.") for kind in type(error).__mro__)
