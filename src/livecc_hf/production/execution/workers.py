"""Processes that work on one task at a time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import get_context, parent_process
from threading import Lock, RLock, Thread
from typing import Any

import pyarrow as pa

_FINISH_S = 5.0


class WorkerDiedError(RuntimeError):
    """The process died over its task."""


class WorkerHangsError(WorkerDiedError):
    """The process did not finish its task in time, and was ended."""


class Worker:
    """One process for one task at a time: if it dies, it is known over which, and the next task gets a new one.

    Args:
        environment: variables set in the process.
    """

    def __init__(self, environment: Mapping[str, str] | None = None):
        self.environment = dict(environment or {})
        self.pid: int | None = None
        self._executor: ProcessPoolExecutor | None = None
        self._lock = Lock()
        self._is_closed = False

    def run(self, function: Any, *args: Any, limit_s: float | None = None) -> Any:
        """Call a function there.

        Args:
            function: importable, like what it is given.
            args: its arguments.
            limit_s: the process is ended when it takes longer than this.

        Raises:
            WorkerDiedError: if the process died, or the worker was closed.
            WorkerHangsError: if it took too long.
            Exception: what the function raised.
        """
        try:
            executor = self._start()
            future = executor.submit(function, *args)
        except WorkerDiedError:
            raise
        except RuntimeError as error:  # another thread closed it: a BrokenProcessPool, or what submit says of it
            raise self._death() from error
        try:
            return future.result(limit_s)
        except BrokenProcessPool as error:
            raise self._death() from error
        except TimeoutError:
            if future.done():  # it is the function's own
                raise
            self._end()
            raise WorkerHangsError(f"timed out: not finished after {limit_s:,.0f} s") from None

    def finish(self) -> None:
        """Lets an idle process end by itself, so that what it holds is given back; starts no other."""
        with self._lock:
            self._is_closed = True
            executor, pid = self._executor, self.pid
        if executor is not None:
            executor.shutdown(wait=False)
        if pid is not None:
            with suppress(ProcessLookupError):
                for _ in range(round(_FINISH_S / 0.01)):
                    os.kill(pid, 0)
                    time.sleep(0.01)
        self.close()

    def close(self) -> None:
        """End the process, whatever it is doing, and start no other."""
        with self._lock:
            self._is_closed = True
        self._end()

    def _start(self) -> ProcessPoolExecutor:
        with self._lock:
            if self._is_closed:
                raise WorkerDiedError("the run has stopped")
            executor, is_new = self._executor, self._executor is None
            if executor is None:
                executor = self._executor = ProcessPoolExecutor(
                    1, get_context("spawn"), initializer=_begin_worker, initargs=(self.environment,)
                )
        if is_new:
            self.pid = executor.submit(_own_pid).result()
            with self._lock:
                is_late = self._is_closed
            if is_late:  # closed while it started, when its number was not known yet
                self._end()
                raise WorkerDiedError("the run has stopped")
        return executor

    def _death(self) -> WorkerDiedError:
        self.pid = None  # it is gone, and the number may be another's
        self._end()
        return WorkerDiedError("the process that worked on it died (killed, out of memory, or crashed)")

    def _end(self) -> None:
        with self._lock:
            executor, self._executor = self._executor, None
            pid, self.pid = self.pid, None
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
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
    # A lock between processes, as tqdm makes for the progress of loading a model, outlives a process that is killed.
    with suppress(ImportError):
        from tqdm import tqdm

        tqdm.set_lock(RLock())
    Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    """End this process with its parent: one that is killed cannot, and the accelerator would stay held."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
