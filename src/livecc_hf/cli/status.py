"""Messages on standard error: permanent lines, and one status line that is redrawn."""

from __future__ import annotations

import logging
import os
import sys
import time
import unicodedata
import warnings
from typing import TextIO

from livecc_hf.utils.quiet import quiet_missing_kernels, quiet_renamed_options
from livecc_hf.utils.text import one_line

_CLEAR_LINE = "\r\x1b[K"
_REDRAW_EVERY_S = 0.1
_FALLBACK_COLUMNS = 79


class Status:
    """Prints permanent lines and a redrawn status line; the status line only on a terminal.

    Args:
        stream: where to print; default: standard error.
        quiet: print only warnings.
    """

    def __init__(self, stream: TextIO | None = None, quiet: bool = False):
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._is_terminal = not quiet and self._stream.isatty()
        self._shown = ""
        self._drawn_at_s = 0.0

    def line(self, text: str) -> None:
        """Print a permanent line, unless quiet."""
        if not self._quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """Print a permanent line, even if quiet."""
        shown = self._shown
        self.clear()
        print(text, file=self._stream, flush=True)
        self._draw(shown)

    def update(self, text: str) -> None:
        """Redraw the status line, at most ten times a second."""
        now_s = time.monotonic()
        if self._is_terminal and now_s - self._drawn_at_s >= _REDRAW_EVERY_S:
            self._drawn_at_s = now_s
            self.clear()
            self._draw(text)

    def close(self) -> None:
        """Remove the status line."""
        self.clear()

    def clear(self) -> None:
        """Remove the status line, so that other output can go to the same terminal."""
        if self._shown:
            print(_CLEAR_LINE, end="", file=self._stream, flush=True)
            self._shown = ""

    def _draw(self, text: str) -> None:
        if text and self._is_terminal:
            # A longer line would wrap, and only its last row would be cleared.
            print(_shortened(text, self._width()), end="", file=self._stream, flush=True)
            self._shown = text

    def _width(self) -> int:
        """Return the columns of the terminal, less one, in which a cursor would wrap."""
        try:
            return os.get_terminal_size(self._stream.fileno()).columns - 1
        except (OSError, ValueError):
            return _FALLBACK_COLUMNS


def _shortened(text: str, columns: int) -> str:
    """Return a text that fits into so many columns, with its middle left out if necessary; letters may be wide."""
    widths = [2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text]
    if columns < 8 or sum(widths) <= columns:
        return text
    half = (columns - 3) // 2
    begin = next(n for n in range(len(text)) if sum(widths[: n + 1]) > half)
    end = next(n for n in range(len(text)) if sum(widths[n:]) <= half)
    return f"{text[:begin]}...{text[end:]}"


def show_warnings(status: Status, categories: tuple[type[Warning], ...], debug: bool) -> None:
    """Show warnings of these categories as one line each; hide others, unless debugging.

    Call it inside `warnings.catch_warnings()`, which restores the previous behaviour.
    """

    def show(message: Warning | str, *_: object, **__: object) -> None:
        status.warn(f"livecc: warning: {one_line(str(message))}")

    warnings.showwarning = show
    if not debug:
        warnings.simplefilter("ignore")
    for category in categories:
        warnings.filterwarnings("always", category=category)


def quiet_libraries(debug: bool) -> None:
    """Silence progress bars and log messages of the libraries that load models, unless debugging."""
    if debug:
        return
    quiet_hub(debug)
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    quiet_missing_kernels()
    quiet_renamed_options()


def quiet_hub(debug: bool) -> None:
    """Silence progress bars and log messages of huggingface_hub, unless debugging."""
    if debug:
        return
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs every retry
