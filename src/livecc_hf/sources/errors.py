"""Errors of sources; every message is one line without passwords."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from livecc_hf.sources.diagnosis import distrust, is_listening, is_mp4_without_ranges, unknown_host

if TYPE_CHECKING:
    from livecc_hf.sources.spec import SourceSpec


class SourceError(RuntimeError):
    """A source could not be opened, or failed while being read."""


class SourceOpenError(SourceError):
    """A source could not be opened.

    Attributes:
        is_final: whether another attempt would fail too, as with a wrong password.
        is_answered: whether a server answered, but without this stream.
    """

    def __init__(self, message: str, is_final: bool = False, is_answered: bool = False):
        super().__init__(message)
        self.is_final = is_final
        self.is_answered = is_answered


class SourceLostError(SourceError):
    """An open source failed: it broke off, stalled, or could not be reconnected."""


class StalledError(SourceLostError):
    """No frame arrived within the time limit."""


# PyAV's error classes of HTTP: (name, reason, `is_final`, `is_answered`). A failing or busy server says nothing about
# the stream.
_HTTP_REASONS = (
    (
        "HTTPUnauthorizedError",
        "401, not authorised: give the right name and password as {scheme}://NAME:PASSWORD@...",
        True,
        True,
    ),
    ("HTTPForbiddenError", "403, forbidden: you may not read this address", True, True),
    ("HTTPNotFoundError", "404, not found: check the path, and that the stream is live", False, True),
    ("HTTPBadRequestError", "400, bad request: the server did not understand the request", True, True),
    ("HTTPTooManyRequestsError", "429, too many requests", False, False),
    ("HTTPOtherClientError", "the server refused the request (HTTP 4xx)", False, True),
    ("HTTPServerError", "the server failed (HTTP 5xx)", False, False),
)
_NETWORK_REASONS: dict[int | None, str] = {
    errno.ECONNREFUSED: "connection refused: check that the server is running, and the port",
    errno.ECONNRESET: "the server reset the connection",
    errno.EPIPE: "the server closed the connection",
    errno.ETIMEDOUT: "the connection timed out",
    errno.EHOSTUNREACH: "no route to this host",
    errno.ENETUNREACH: "the network is unreachable",
    errno.EPROTONOSUPPORT: "the server does not support this transport: try another RTSP transport (auto, tcp, udp)",
    errno.EIO: "unreachable, or no video is sent: check the host name and the path",
}
_DEVICE_REASONS: dict[int | None, str] = {
    errno.ENOENT: "no such camera: is it plugged in? (ls /dev/video*)",
    errno.ENODEV: "no such camera: is it plugged in? (ls /dev/video*)",
    errno.ENXIO: "no such camera: is it plugged in? (ls /dev/video*)",
    errno.EACCES: "permission denied: is this user in the group 'video'?",
    errno.EPERM: "permission denied: is this user in the group 'video'?",
    errno.EBUSY: "the camera is in use by another program",
    errno.ENOTTY: "this is not a camera",
    errno.EINVAL: "the camera does not capture video in a form that can be read",
}


def open_error(error: BaseException, spec: SourceSpec, timeout_s: float, is_late: bool) -> SourceOpenError:
    """Return the error for a source that could not be opened.

    Args:
        error: the error raised by PyAV.
        spec: the source.
        timeout_s: the time limit for opening, in seconds.
        is_late: whether the time limit has passed; FFmpeg's protocols report an aborted wait by various errors.
    """
    name, number = spec.name, getattr(error, "errno", None)
    scheme = name.split("://")[0].lower()
    for class_name, reason, is_final, is_answered in _HTTP_REASONS:
        if type(error).__name__ == class_name:
            return SourceOpenError(f"{name}: {reason.format(scheme=scheme)}", is_final, is_answered)
    if is_late or is_named(error, "ExitError"):
        return _late_error(spec, timeout_s)
    if is_named(error, "InvalidDataError"):
        if (of_index := index_error(spec)) is not None:
            return of_index
        hint = "; RTP other than MPEG-TS needs its description: give the .sdp file" if scheme == "rtp" else ""
        reason = f"the data is not a video that can be read{hint}"
        return SourceOpenError(f"{name}: {reason}", is_final=bool(hint), is_answered=True)
    if is_named(error, "EOFError"):
        return SourceOpenError(f"{name}: ended before any video came", is_answered=True)
    if is_named(error, "ProtocolNotFoundError") or (isinstance(error, ValueError) and number is None):
        lacking = "this protocol" if spec.av_format is None else f"the input format {spec.av_format}"
        return SourceOpenError(f"{name}: the installed PyAV was built without {lacking}", is_final=True)
    if spec.kind == "rtmp" and number == errno.EPERM:
        return SourceOpenError(f"{name}: the server refused: is a stream being published there?", is_answered=True)
    if spec.kind == "camera":
        reason = _DEVICE_REASONS.get(number) or _plain_reason(error)
        return SourceOpenError(f"{name}: {reason}", is_final=number in (errno.EACCES, errno.ENOTTY))
    if number == errno.EIO and (unreachable := _why_unreachable(spec)) is not None:
        return unreachable
    return SourceOpenError(f"{name}: {_NETWORK_REASONS.get(number) or _plain_reason(error)}")


def lost_error(error: BaseException, spec: SourceSpec, stall_s: float, is_late: bool) -> SourceLostError:
    """Return the error for a source that broke off; arguments as in :func:`open_error`."""
    if is_late or is_named(error, "ExitError"):
        return StalledError(f"{spec.name}: no data came for {stall_s:g} s")
    reasons = _DEVICE_REASONS if spec.kind == "camera" else _NETWORK_REASONS | {errno.EIO: "the connection broke"}
    return SourceLostError(f"{spec.name}: {reasons.get(getattr(error, 'errno', None)) or _plain_reason(error)}")


def index_error(spec: SourceSpec) -> SourceOpenError | None:
    """Return the error for an MP4 whose index is at its end, on a server without ranges; `None` if it is not one."""
    if spec.kind != "http" or not is_mp4_without_ranges(spec.url, spec.av_options.get("tls_verify") == "1"):
        return None
    return SourceOpenError(
        f"{spec.name}: an MP4 with its index at the end, from a server that sends whole files only (no HTTP ranges): "
        "download it first, or write it with its index in front (ffmpeg -i IN -c copy -movflags +faststart OUT.mp4)",
        is_final=True,
        is_answered=True,
    )


def is_named(error: Any, class_name: str) -> bool:
    """Return whether an error is an instance of a class of PyAV, which is not imported here."""
    return any(kind.__name__ == class_name and kind.__module__.startswith("av.") for kind in type(error).__mro__)


def _late_error(spec: SourceSpec, timeout_s: float) -> SourceOpenError:
    reason = f"no video came within {timeout_s:g} s of connecting"
    # An RTMP server keeps viewers waiting while nothing is published.
    if spec.kind == "rtmp" and is_listening(spec.url):
        return SourceOpenError(f"{spec.name}: {reason}: is a stream being published there?", is_answered=True)
    return SourceOpenError(f"{spec.name}: {reason}")


def _why_unreachable(spec: SourceSpec) -> SourceOpenError | None:
    if (host := unknown_host(spec.url)) is not None:
        return SourceOpenError(f"{spec.name}: unknown host {host}: check its name and the network")
    if spec.av_options.get("tls_verify") == "1" and (reason := distrust(spec.url)) is not None:
        what = f"the server's certificate is not trusted ({reason}); --no-verify-tls (verify_tls=False) accepts it"
        return SourceOpenError(f"{spec.name}: {what}", is_final=True)
    return None


def _plain_reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
