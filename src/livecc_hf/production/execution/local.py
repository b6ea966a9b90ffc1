"""The local engine: runs work units in processes on this machine.

All stages without a model share one pool of processes. Each stage with a model has a pool of its own, one process per
accelerator. Several units are processed concurrently, each in its own stage.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from queue import SimpleQueue

from .. import watchdog
from ..errors import StageBrokenError
from ..inputs.videos import UnitRef
from .pipeline import GroupResult, RunPlan, StageGroup, run_group, run_group_isolated
from .units import StageStats
from .workers import Worker, WorkerDiedError

OnUnit = Callable[[Sequence[StageStats]], None]


class _Pool:
    """A pool of workers; each runs one task at a time."""

    def __init__(self, environments: Sequence[dict[str, str]]):
        self.workers = [Worker(environment) for environment in environments]
        self._idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self.workers:
            self._idle.put(worker)

    @contextmanager
    def lend(self) -> Iterator[Worker]:
        worker = self._idle.get()
        try:
            yield worker
        finally:
            self._idle.put(worker)


class LocalEngine:
    """Runs units on this machine.

    Args:
        plan: the stages, the input and the folder of finished units.
        workers: processes for the stages without a model; default: one per core, or one less if a stage has a model.
        gpus: processes for each stage with a model; default: one per accelerator, at least one.
    """

    def __init__(self, plan: RunPlan, workers: int | None = None, gpus: int | None = None):
        self.plan = plan
        has_models = any(group.needs_gpu for group in plan.groups)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.cpu_workers = workers or max(cores - has_models, 1)
        cpu = _Pool([{}] * self.cpu_workers)
        shared = _gpu_environments(gpus) if has_models else []
        self._pools = [
            _Pool(_model_environments(group, gpus, shared)) if group.needs_gpu else cpu for group in plan.groups
        ]
        self._stopping = threading.Event()

    def _workers(self) -> list[Worker]:
        return list({id(worker): worker for pool in self._pools for worker in pool.workers}.values())

    def run(self, units: Iterator[UnitRef], on_unit: OnUnit) -> None:
        """Run units through all stages.

        Args:
            units: the unfinished units; read lazily while others are processed.
            on_unit: called with the statistics of each finished unit.

        Raises:
            ValueError, ImportError: if a stage cannot run at all.
            OSError: if the disk is full.

        Finished units are kept whatever the error.
        """
        # Two more than processes, so that no process idles while results are passed on.
        in_flight = len(self._workers()) + 2
        threads = ThreadPoolExecutor(in_flight, thread_name_prefix="unit")
        pending: set[Future] = set()
        try:
            while True:
                for unit in islice(units, in_flight - len(pending)):
                    pending.add(threads.submit(self._process, unit))
                if not pending:
                    for worker in self._workers():
                        worker.finish()
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    on_unit(future.result())
        finally:
            self._stopping.set()
            for worker in self._workers():
                worker.close()
            threads.shutdown(wait=False, cancel_futures=True)

    def _process(self, unit: UnitRef) -> Sequence[StageStats]:
        payload: UnitRef | bytes = unit
        for index in range(len(self.plan.groups)):
            result = self._run_group(index, unit.number, payload)
            if not isinstance(result, bytes):
                return result[1]
            payload = result
        raise RuntimeError(f"unit {unit.number} passed all stages but was not written: this is a bug")

    def _run_group(self, index: int, number: int, payload: UnitRef | bytes) -> GroupResult:
        for attempt in range(self.plan.max_retries + 1):
            with self._pools[index].lend() as worker:
                try:
                    return worker.run(run_group, self.plan, index, payload)
                except WorkerDiedError:
                    if self._stopping.is_set():
                        raise
            # A unit that hung is not retried as a whole, since each attempt would take the full time limit.
            if attempt == self.plan.max_retries or watchdog.has_hung(self.plan.folder.folder, number, index):
                break
        with self._pools[index].lend() as worker:
            try:
                return worker.run(run_group_isolated, self.plan, index, payload)
            except WorkerDiedError as error:
                if self._stopping.is_set():
                    raise
                raise StageBrokenError(
                    f"each process that worked on unit {number} died (killed, out of memory, or crashed), also one "
                    "that no item can crash. Finished units are kept: make sure that there is enough memory and that "
                    "nobody ends the processes, and run the same command again"
                ) from error


def _model_environments(group: StageGroup, gpus: int | None, shared: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return the environment of each process of a stage; all devices stay visible if the recipe names one (cuda:1)."""
    return [{}] * (gpus or 1) if getattr(group.stages[0], "device", None) else shared


def _gpu_environments(gpus: int | None) -> list[dict[str, str]]:
    """Return the environments of the processes of a stage with a model, which assign an accelerator to each."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [] if given is None else [device for device in given.split(",") if device.strip()]
    if given is None and _may_have_accelerator():
        import torch

        devices = [str(number) for number in range(torch.cuda.device_count())]
    count = gpus or max(len(devices), 1)
    if not devices:
        return [{}] * count
    return [{"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} for number in range(count)]


def _may_have_accelerator() -> bool:
    """Return whether the system may have an accelerator, without torch, which takes seconds to import."""
    devices = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    return not sys.platform.startswith("linux") or any(Path(device).exists() for device in devices)
