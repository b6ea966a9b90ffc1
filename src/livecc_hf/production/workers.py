"""Processes that work on one task at a time."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any

import pyarrow as pa


class WorkerDiedError(RuntimeError):
    """The process died over its task."""


class Worker:
    """One process for one task at a time: if it dies, it is known over which, and the next task gets a new one.

    Args:
        environment: variables set in the process.
    """

    def __init__(self, environment: Mapping[str, str] | None = None):
        self.environment = dict(environment or {})
        self.pid: int | None = None
        self._executor: ProcessPoolExecutor | None = None

    def run(self, function: Any, *args: Any) -> Any:
        """Calls a function there.

        Raises:
            WorkerDiedError: if the process died.
            Exception: what the function raised.
        """
        try:
            if self._executor is None:
                self._executor = ProcessPoolExecutor(
                    1, get_context("spawn"), initializer=_begin_worker, initargs=(self.environment,)
                )
                self.pid = self._executor.submit(_own_pid).result()
            return self._executor.submit(function, *args).result()
        except BrokenProcessPool as error:
            self.pid = None  # it is gone, and the number may be another's
            self.close()
            raise WorkerDiedError("the process that worked on it died (killed, out of memory, or crashed)") from error

    def close(self) -> None:
        """Ends the process, whatever it is doing."""
        executor, self._executor = self._executor, None
        if self.pid is not None and executor is not None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.pid = None
        if executor is not None:
            executor.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _own_pid() -> int:
    return os.getpid()


def _begin_worker(environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    pa.set_cpu_count(1)  # the processes share the cores
    Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """A parent that is killed cannot end its workers, which would hold the accelerator."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
