"""A worker process that runs one task at a time, and that can be killed with the loss of only that task."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from multiprocessing import active_children, get_context
from multiprocessing.process import BaseProcess
from threading import Lock, RLock
from typing import Any

import pyarrow as pa

from ...utils.processes import end_with_parent

_FINISH_S = 5.0


class WorkerDiedError(RuntimeError):
    """The process died while it ran its task."""


class WorkerHangsError(WorkerDiedError):
    """The process did not finish its task in time, and was killed."""


class Worker:
    """A process that runs one task at a time. If it dies, its task raises, and the next task starts a new process.

    Args:
        environment: environment variables of the process.
    """

    def __init__(self, environment: Mapping[str, str] | None = None):
        self.environment = dict(environment or {})
        self._process: BaseProcess | None = None
        self._executor: ProcessPoolExecutor | None = None
        self._lock = Lock()
        self._is_closed = False

    @property
    def pid(self) -> int | None:
        """The id of the process; `None` if there is none."""
        process = self._process
        return None if process is None else process.pid

    def run(self, function: Any, *args: Any, limit_s: float | None = None) -> Any:
        """Call a function in the process and return its result.

        Args:
            function: picklable, as are its arguments and its result.
            args: the function's arguments.
            limit_s: seconds after which the process is killed; `None`: no limit.

        Raises:
            WorkerDiedError: if the process died, or the worker was closed.
            WorkerHangsError: if the call took longer than `limit_s`.
            Exception: any error of the function.
        """
        try:
            executor = self._start()
            future = executor.submit(function, *args)
        except WorkerDiedError:
            raise
        except RuntimeError as error:  # another thread ended the process: BrokenProcessPool, or an error of `submit`
            raise self._death() from error
        try:
            return future.result(limit_s)
        except BrokenProcessPool as error:
            raise self._death() from error
        except TimeoutError:
            if future.done():  # the function itself raised a TimeoutError
                raise
            self._end()
            raise WorkerHangsError(f"timed out: not finished after {limit_s:,.0f} s") from None

    def finish(self) -> None:
        """Let the idle process exit normally, so that it frees its resources; later calls of `run` raise."""
        with self._lock:
            self._is_closed = True
            executor, process = self._executor, self._process
        if executor is not None:
            executor.shutdown(wait=False)
        if process is not None:
            process.join(_FINISH_S)
        self.close()

    def close(self) -> None:
        """Kill the process, whatever it is doing; later calls of `run` raise."""
        with self._lock:
            self._is_closed = True
        self._end(wait=True)

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
            pid = executor.submit(_own_pid).result()
            # `Process` can be waited for and killed on every system, unlike its id.
            self._process = next((child for child in active_children() if child.pid == pid), None)
            with self._lock:
                is_late = self._is_closed
            if is_late:  # closed during the start, before the process id was known
                self._end()
                raise WorkerDiedError("the run has stopped")
        return executor

    def _death(self) -> WorkerDiedError:
        self._end(wait=True)
        return WorkerDiedError("its worker process died (killed, out of memory, or crashed)")

    def _end(self, wait: bool = False) -> None:
        """Kill the process, if there is one; `wait`: until its executor has ended too, which exits would disturb."""
        with self._lock:
            executor, self._executor = self._executor, None
            process, self._process = self._process, None
        if process is not None:
            process.kill()
        if executor is not None:
            executor.shutdown(wait=wait and process is not None, cancel_futures=True)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _own_pid() -> int:
    return os.getpid()


def _begin_worker(environment: Mapping[str, str]) -> None:
    end_with_parent()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    pa.set_cpu_count(1)  # the processes share the cores
    # tqdm, which shows progress while a model loads, creates an inter-process lock that would leak if this is killed.
    with suppress(ImportError):
        from tqdm import tqdm

        tqdm.set_lock(RLock())
