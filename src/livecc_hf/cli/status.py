"""What the command line says on standard error: lines that stay, and one status line that is redrawn."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from typing import TextIO

_CLEAR_LINE = "\r\x1b[K"
_REDRAW_EVERY_S = 0.1


class Status:
    """Lines and a redrawn status line on a stream; the status line only if the stream is a terminal.

    Args:
        stream: default: standard error.
        quiet: say nothing but warnings.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False):
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._is_terminal = not quiet and self._stream.isatty()
        self._shown = ""
        self._drawn_at_s = 0.0

    def line(self, text: str) -> None:
        """Print a line that stays."""
        if not self._quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """Print a line that stays, even if quiet."""
        shown = self._shown
        self.clear()
        print(text, file=self._stream, flush=True)
        self._draw(shown)

    def update(self, text: str) -> None:
        """Redraw the status line, not more often than the eye follows."""
        now_s = time.monotonic()
        if self._is_terminal and now_s - self._drawn_at_s >= _REDRAW_EVERY_S:
            self._drawn_at_s = now_s
            self.clear()
            self._draw(text)

    def close(self) -> None:
        """Remove the status line for good."""
        self.clear()

    def clear(self) -> None:
        """Remove the status line, to write on the same terminal by other means."""
        if self._shown:
            print(_CLEAR_LINE, end="", file=self._stream, flush=True)
            self._shown = ""

    def _draw(self, text: str) -> None:
        if text and self._is_terminal:
            print(text, end="", file=self._stream, flush=True)
            self._shown = text


def show_warnings(status: Status, categories: tuple[type[Warning], ...], debug: bool) -> None:
    """Show warnings of these categories as one line each, and others only if debugging.

    Call it inside `warnings.catch_warnings()`, which undoes it.
    """

    def show(message: Warning | str, *_: object, **__: object) -> None:
        status.warn(f"livecc: warning: {' '.join(str(message).split())}")

    warnings.showwarning = show
    if not debug:
        warnings.simplefilter("ignore")
    for category in categories:
        warnings.filterwarnings("always", category=category)


def quiet_libraries(debug: bool) -> None:
    """Keep progress bars and advice of the libraries that load models off the terminal, unless debugging."""
    if debug:
        return
    quiet_hub(debug)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it speaks of CPU kernels that are not installed


def quiet_hub(debug: bool) -> None:
    """Keep progress bars and advice of the Hub's library off the terminal, unless debugging."""
    if debug:
        return
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it counts its attempts to reach the Hub
