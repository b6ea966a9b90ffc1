"""Messages for PyAV's errors whose device or server no test can provide."""

import errno
import sys

import av
import pytest

from livecc_hf.sources import parse_spec
from livecc_hf.sources.errors import StalledError, lost_error, open_error


def pyav_error(number):
    """Return the error that PyAV raises for a return value of FFmpeg."""
    with pytest.raises(Exception) as error:
        av.error.err_check(-number)
    return error.value


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="errors of Video4Linux")
@pytest.mark.parametrize(
    ("number", "message", "is_final"),
    [
        (errno.EBUSY, "camera:0: the camera is in use by another program", False),
        (errno.EACCES, "camera:0: permission denied: is this user in the group 'video'?", True),
        (errno.ENODEV, "camera:0: no such camera: is it plugged in?", False),
        (errno.ENOTTY, "camera:0: this is not a camera", True),
        (errno.EINVAL, "camera:0: the camera does not capture video in a form that can be read", False),
    ],
)
def test_cameras(number, message, is_final):
    error = open_error(pyav_error(number), parse_spec("camera:0"), 15, False)
    assert str(error).startswith(message)
    assert error.is_final == is_final
    assert str(lost_error(pyav_error(number), parse_spec("camera:0"), 10, False)).startswith(message)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Video4Linux")
def test_pyav_without_cameras():
    error = open_error(ValueError("no container format 'v4l2'"), parse_spec("camera:0"), 15, False)
    assert str(error) == "camera:0: the installed PyAV was built without the input format v4l2"


def test_a_connection_that_breaks():
    spec = parse_spec("rtsp://me:geheim@host/a")
    assert str(lost_error(pyav_error(errno.EIO), spec, 10, False)) == "rtsp://***@host/a: the connection broke"
    stalled = lost_error(pyav_error(errno.EIO), spec, 10, True)
    assert isinstance(stalled, StalledError)
    assert str(stalled) == "rtsp://***@host/a: no data came for 10 s"
