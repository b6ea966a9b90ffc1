"""Messages and the redrawn status line."""

import io
import os
import warnings

import pytest

from livecc_hf.cli.status import Status, show_warnings

if os.name == "posix":
    import termios


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_status_line_is_drawn_on_terminals_only():
    for stream, shown in ((Terminal(), "working\r\x1b[K"), (io.StringIO(), "")):
        status = Status(stream)
        status.update("working")
        status.close()
        assert stream.getvalue() == shown


def test_a_message_moves_the_status_line_down():
    stream = Terminal()
    status = Status(stream)
    status.update("working")
    status.line("note")
    assert stream.getvalue() == "working\r\x1b[Knote\nworking"


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("writing video.mp4: 00:10", "writing video.mp4: 00:10"),
        ("writing /a/long/folder/of/mine/video.mp4: 00:10", "writing /a/lon...deo.mp4: 00:10"),
        ("writing 比赛比赛比赛比赛比赛比赛.mp4: 00:10", "writing 比赛比...赛.mp4: 00:10"),
    ],
)
def test_a_long_status_line_fits_into_one_row_of_the_terminal(text, shown):
    ours, its = os.openpty()
    with os.fdopen(ours, "rb", 0) as screen, os.fdopen(its, "w", encoding="utf-8") as stream:
        termios.tcsetwinsize(its, (24, 32))
        status = Status(stream)
        status.update(text)
        assert screen.read(1000).decode() == shown


def test_quiet_leaves_warnings_only():
    stream = Terminal()
    status = Status(stream, quiet=True)
    status.update("working")
    status.line("note")
    status.warn("careful")
    assert stream.getvalue() == "careful\n"


def test_warnings_are_one_line_and_others_are_hidden():
    stream = io.StringIO()
    with warnings.catch_warnings():
        show_warnings(Status(stream), (ResourceWarning,), debug=False)
        warnings.warn("the file is\n  damaged", ResourceWarning, stacklevel=1)
        warnings.warn("of no interest", DeprecationWarning, stacklevel=1)
    assert stream.getvalue() == "livecc: warning: the file is damaged\n"
