"""The Ray engine: runs work units on Ray Data, on this machine or on a cluster.

Stages without a model run as tasks. Each stage with a model runs in actors, one per accelerator, which load the model
once. Several units are processed concurrently, and Ray moves them between nodes. The input, the videos and the output
folder must be at the same path on every node, as on a shared file system.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ...utils.carried_errors import pickle_error
from ...utils.extras import require_extra
from ...utils.text import one_line
from .. import watchdog
from ..inputs.videos import UnitRef
from .pipeline import GroupResult, RunPlan, StageGroup, run_group, run_group_isolated
from .units import StageStats

if TYPE_CHECKING:
    import ray.data

OnUnit = Callable[[Sequence[StageStats]], None]

_CONNECT_S = 10.0
_MAX_BLOCKS = 20_000  # Ray Data's bookkeeping grows with the number of blocks


class RayEngine:
    """Runs units on Ray.

    Args:
        plan: the stages, the input and the folder of finished units.
        address: of the cluster; `auto`: the cluster that this machine belongs to; default: `$RAY_ADDRESS`, else a new
            cluster on this machine. Ignored if this process is already connected to a cluster.
        workers: maximum number of concurrent tasks for stages without a model; default: Ray decides.
        gpus: actors of each stage with a model; default: one per accelerator of the cluster, at least one.

    Raises:
        ImportError: if Ray is not installed.
        ValueError: if the address is not one of a cluster.
        ConnectionError: if no cluster answers at the address, or Ray does not start.
    """

    def __init__(self, plan: RunPlan, address: str | None = None, workers: int | None = None, gpus: int | None = None):
        require_extra("ray", "the engine ray", "ray")
        import ray
        import ray.data

        self.plan, self.workers, self.gpus = plan, workers, gpus
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            address = address or os.environ.get("RAY_ADDRESS") or "local"
            _check_reachable(address)
            quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
            try:
                ray.init(address, include_dashboard=False, **quiet)
            except ConnectionError as error:
                raise ConnectionError(_no_cluster(address, error)) from error
            except ValueError:  # include_dashboard is only for a new cluster, and the address is one that runs
                ray.init(address, **quiet)
            except Exception as error:
                if type(error) is not Exception:  # which Ray raises if its processes do not start in time
                    raise
                raise ConnectionError(
                    f"Ray did not start ({one_line(error, 200)}): run the same command again when the machine is less "
                    "busy, or with engine=local"
                ) from error

    def run(self, units: Iterator[UnitRef], on_unit: OnUnit) -> None:
        """Run units through all stages; see `LocalEngine.run`."""
        import ray

        logger = logging.getLogger("ray.data")
        level = logger.level
        logger.setLevel(logging.ERROR)  # this package reports progress itself
        try:
            self._run(list(units), on_unit)
        finally:
            logger.setLevel(level)
            if self._is_ours:
                ray.shutdown()

    def _run(self, units: list[UnitRef], on_unit: OnUnit) -> None:
        import ray.data

        if not units:
            return
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        rows = [{"number": unit.number, "state": "ref", "payload": pickle.dumps(unit)} for unit in units]
        data: ray.data.Dataset = ray.data.from_items(rows, override_num_blocks=min(len(rows), _MAX_BLOCKS))
        for index, group in enumerate(self.plan.groups):
            data = self._add_group(data, index, group)
        for row in data.iter_rows():
            if row["state"] == "fatal":
                raise pickle.loads(row["payload"])
            if not self.plan.folder.is_done(row["number"]):
                raise ValueError(
                    f"unit {row['number']} was written on another machine and is not in {self.plan.folder.folder} here:"
                    " expected out to be on storage that all nodes share"
                )
            on_unit([StageStats(**item) for item in json.loads(row["payload"])])

    def _add_group(self, data: ray.data.Dataset, index: int, group: StageGroup) -> ray.data.Dataset:
        """Append a group of stages to the dataset's operations, with one unit per batch."""
        import ray.data

        options: dict[str, Any] = {"batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True}
        if not group.needs_gpu:
            options |= {} if self.workers is None else {"concurrency": self.workers}
            return data.map_batches(_GroupTask(self.plan, index), num_cpus=1, **options)
        resources = ray.cluster_resources()
        n_models = sum(other.needs_gpu for other in self.plan.groups)
        actors = self.gpus or max(int(resources.get("GPU", 0)), 1)
        options |= actor_shares(resources.get("CPU", 1), resources.get("GPU", 0), n_models * actors, n_models)
        return data.map_batches(
            _GroupActor,
            fn_constructor_args=(self.plan, index),
            compute=ray.data.ActorPoolStrategy(size=actors),
            **options,
        )


def actor_shares(cpus: float, gpus: float, n_actors: int, n_models: int) -> dict[str, float]:
    """Return the share of cores and accelerators that each actor asks for, so that all of them start.

    An accelerator holds one model of each stage, as in the local engine, and more if there are more actors. Without
    accelerators, half of the cores are left to tasks.

    Args:
        cpus, gpus: of the cluster.
        n_actors: actors of all stages with a model.
        n_models: number of these stages.
    """
    cores = cpus / (2 * n_actors)
    if not gpus:
        return {"num_cpus": _floor(min(1.0, cores))}
    return {"num_cpus": _floor(min(0.1, cores)), "num_gpus": _floor(1 / max(n_models, math.ceil(n_actors / gpus)))}


def _floor(share: float) -> float:
    """Return a share rounded down to Ray's precision, so that the sum of shares does not exceed what there is."""
    return max(math.floor(share * 10_000) / 10_000, 0.0001)


def _no_cluster(address: str, error: Exception) -> str:
    return (
        f"no Ray cluster answers at {address} ({one_line(error, 200)}): start one with ray start --head, or leave out "
        "ray_address and $RAY_ADDRESS to start Ray on this machine"
    )


def _check_reachable(address: str) -> None:
    """Check an address early: Ray itself would try for over ten minutes to reach HOST:PORT.

    Raises:
        ValueError: if it is not the address of a cluster.
        ConnectionError: if nothing listens there.
    """
    if address in ("auto", "local") or "://" in address:  # such as a client's ray://
        return
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and 0 < int(port) < 1 << 16):
        raise ValueError(f"the Ray address is {address!r}: expected auto, local, HOST:PORT or ray://HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as error:
        raise ConnectionError(_no_cluster(address, error)) from error


class _GroupTask:
    """Runs units through a group of stages, in a task."""

    def __init__(self, plan: RunPlan, index: int):
        self.plan, self.index = plan, index

    def __call__(self, batch: pa.Table) -> pa.Table:
        rows = [self._run(row) for row in batch.to_pylist()]
        schema = pa.schema([("number", pa.int64()), ("state", pa.string()), ("payload", pa.large_binary())])
        return pa.Table.from_pylist(rows, schema)

    def _run(self, row: dict[str, Any]) -> dict[str, Any]:
        number, state, payload = row["number"], row["state"], row["payload"]
        if state == "fatal":
            return row
        try:
            result = self._attempt(number, pickle.loads(payload) if state == "ref" else payload)
        except Exception as error:  # returned as a row, since Ray would wrap the error or retry
            return {"number": number, "state": "fatal", "payload": pickle_error(error)}
        if isinstance(result, bytes):
            return {"number": number, "state": "unit", "payload": result}
        stats = json.dumps([asdict(item) for item in result[1]])
        return {"number": number, "state": "done", "payload": stats.encode()}

    def _attempt(self, number: int, payload: UnitRef | bytes) -> GroupResult:
        """Run the unit; isolate the item at fault after `max_retries` retries, or if a stage hung.

        If a process dies, Ray Data silently passes its unit to another process, without limit. So each attempt appends
        a byte to a file, whose size is the number of attempts.
        """
        folder = self.plan.folder.folder
        marks = folder / f".{number:06d}.{self.index}.attempts"
        with marks.open("ab") as file:
            file.write(b".")
        is_deadly = marks.stat().st_size > self.plan.max_retries + 1 or watchdog.has_hung(folder, number, self.index)
        result = (run_group_isolated if is_deadly else run_group)(self.plan, self.index, payload)
        marks.unlink(missing_ok=True)
        return result


class _GroupActor(_GroupTask):
    """Runs units through a group of stages, in an actor that keeps the model loaded."""
