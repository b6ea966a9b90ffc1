"""Child processes that end with the process that started them."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from multiprocessing import parent_process
from threading import Thread
from typing import Any

_bound_pid: int | None = None  # the process that is set up already; its forks are not


def end_with_parent() -> None:
    """Make this process end when its parent ends, even if the parent is killed with SIGKILL.

    Call it at the start of a child process of `multiprocessing`; anywhere else it does nothing.
    """
    global _bound_pid
    parent = parent_process()
    if parent is None or _bound_pid == os.getpid():
        return
    _bound_pid = os.getpid()
    with suppress(ImportError, AttributeError, OSError):  # Linux only
        _kill_at_end_of(parent.sentinel)
    Thread(target=_exit_after, args=(parent,), name="livecc-parent", daemon=True).start()


def _kill_at_end_of(sentinel: int) -> None:
    """Let the kernel send SIGKILL when the parent's end of the pipe closes.

    The thread alone is not enough: it cannot run while a library holds the GIL.
    """
    import fcntl

    fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(sentinel, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)


def _exit_after(parent: Any) -> None:
    parent.join()
    os._exit(1)
