"""What the benchmarks share: the command line, the machine, figures, targets, and the file of results.

A benchmark is a function under :func:`benchmark`. Its parameters are the script's options, and it returns what it
measured and what must hold of that. `--small` is a run of seconds that shows that the script works: it writes no file
unless told to, and its times are held to nothing.
"""

from __future__ import annotations

import argparse
import datetime
import inspect
import json
import os
import platform
import re
import statistics
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
Measured = tuple[dict[str, Any], list[dict[str, Any]]]


class CannotMeasureError(Exception):
    """What is needed is not here, or an option does not fit: the script says so in a line and ends with 2."""


@dataclass
class Run:
    """One run of a benchmark.

    Attributes:
        is_small: whether it is only tried.
        device: where models run, such as cpu.
        output: the file to write; `None`: that in `results`, of a small run none.
        file: its name in `results`.
    """

    is_small: bool = False
    device: str = "cpu"
    output: Path | None = None
    file: str = ""

    def keep(self, report: dict[str, Any]) -> None:
        """Write what was measured so far, where a file was asked for: a run that is cut off still tells that."""
        if self.output is not None:
            _write(self.output, {"unfinished": True, **report})

    def finish(self, report: dict[str, Any], targets: Sequence[dict[str, Any]]) -> int:
        """Write a report with its day and targets, print whether they are met, and return the exit code."""
        if self.is_small:
            targets = [target for target in targets if "limit" not in target]
        whole = {"measured_on": datetime.datetime.now(datetime.UTC).date().isoformat()} | report
        if targets:
            whole |= {"targets_met": all(target["met"] for target in targets), "targets": targets}
        if (device := report.get("device", "cpu")) != "cpu":
            self.file = self.file.replace(".json", f"-{re.sub('[^a-z0-9]+', '-', device.lower())}.json")
        if output := self.output or (None if self.is_small else RESULTS / self.file):
            _write(output, whole)
        else:
            print(json.dumps(rounded(whole), indent=1))
        for target in targets:
            number = f": {target['measured']:.4g} (limit {target['limit']:.4g})" if "limit" in target else ""
            print(f"{'met   ' if target['met'] else 'MISSED'} {target['target']}{number}")
        return 0 if all(target["met"] for target in targets) else 1


def benchmark(
    file: str, *packages: str, small: Mapping[str, Any] | None = None, runs_model: bool = False, on_cuda: bool = False
) -> Callable[[Callable[..., Measured]], Callable[..., int]]:
    """Make a function the `main` of a script: it takes a :class:`Run`, and options with their help in `Annotated`.

    Args:
        file: in `results`; results of a GPU have its name in theirs.
        *packages: whose versions are told.
        small: the options' values in a small run, where they are not given.
        runs_model: whether it takes `--device` and `--threads`; both are told.
        on_cuda: whether it needs a CUDA device, unless it is small.
    """

    def wrap(measure: Callable[..., Measured]) -> Callable[..., int]:
        def main(argv: Sequence[str] | None = None) -> int:
            parser, defaults = _parser(measure, runs_model or on_cuda)
            given = vars(parser.parse_args(argv))
            run = Run(given.pop("small"), output=given.pop("output"), file=file)
            if runs_model or on_cuda:
                import torch

                run.device = given.pop("device") or ("cuda" if torch.cuda.is_available() else "cpu")
                torch.set_num_threads(given.pop("threads") or torch.get_num_threads())
            if on_cuda and not run.device.startswith("cuda") and not run.is_small:
                print("no CUDA device is available: this needs one; --small runs the same code with a tiny model")
                return 1
            chosen = defaults | dict((small or {}) if run.is_small else {})
            chosen |= {name: value for name, value in given.items() if value is not None}
            load, began_s = os.getloadavg()[0], time.perf_counter()
            around = machine(*packages, device=run.device if runs_model or on_cuda else None)
            try:
                report, targets = measure(run, **chosen)
            except CannotMeasureError as error:
                parser.error(str(error))
            around |= {"load_average": [load, os.getloadavg()[0]], "took_s": time.perf_counter() - began_s}
            return run.finish(report | around, targets)

        return main

    return wrap


def _parser(measure: Callable[..., Measured], runs_model: bool) -> tuple[argparse.ArgumentParser, dict[str, Any]]:
    """Return a parser of a function's options, which are `None` where they are not given, and their defaults."""
    made = argparse.ArgumentParser(
        description=measure.__globals__["__doc__"], formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--small", action="store_true", help="a run of seconds, to try the script")
    made.add_argument("--output", type=Path, help="JSON file to write; default: in benchmarks/results")
    if runs_model:
        made.add_argument("--device", help="such as cpu; default: CUDA if there is any")
        made.add_argument("--threads", type=int, help="of PyTorch, on CPUs")
    hints = get_type_hints(measure, include_extras=True)
    defaults = {}
    for name, parameter in list(inspect.signature(measure).parameters.items())[1:]:
        kind, text, *choices = get_args(hints[name])
        if get_origin(kind) is types.UnionType:
            kind = get_args(kind)[0]
        defaults[name] = default = parameter.default
        shown = " ".join(map(str, default)) if isinstance(default, list | tuple) else default
        settings: dict[str, Any] = {"type": get_args(kind)[0] if get_origin(kind) is list else kind}
        settings |= {"nargs": "+"} if get_origin(kind) is list else {}
        settings |= {"choices": list(choices[0])} if choices else {}
        made.add_argument(
            f"--{name.replace('_', '-')}", help=text + (f"; default: {shown}" if shown else ""), **settings
        )
    return made, defaults


def at_most(name: str, measured: float, limit: float) -> dict[str, Any]:
    """Return a target as it is written."""
    return {"target": name, "measured": measured, "limit": limit, "met": bool(measured <= limit)}


def at_least(name: str, measured: float, limit: float) -> dict[str, Any]:
    """Return a target as it is written."""
    return {"target": name, "measured": measured, "limit": limit, "met": bool(measured >= limit)}


def holds(name: str, is_met: bool) -> dict[str, Any]:
    """Return a target without a number, as it is written."""
    return {"target": name, "met": bool(is_met)}


def _write(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rounded(report), indent=1) + "\n")


def rounded(value: Any) -> Any:
    """Return a copy of nested figures with four significant digits."""
    if isinstance(value, Mapping):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the 95th and the 99th percentile."""
    ordered = sorted(values)
    at = {f"p{p}": ordered[min(len(ordered) - 1, -(-len(ordered) * p // 100) - 1)] for p in (95, 99)}
    return {"median": statistics.median(ordered), **at}


def times_of(run: Callable, *arguments: Any) -> tuple[float, float, Any]:
    """Return the seconds by the clock and of this process's CPU time that a call took, and what it returned.

    Work that it left to a CUDA device is waited for.
    """
    torch = sys.modules.get("torch")
    wait = torch.cuda.synchronize if torch is not None and torch.cuda.is_initialized() else lambda: None
    wait()
    began_s, worked_s = time.perf_counter(), time.process_time()
    found = run(*arguments)
    wait()
    return time.perf_counter() - began_s, time.process_time() - worked_s, found


def in_child(
    function: Callable,
    *arguments: Any,
    environment: Mapping[str, str] | None = None,
    watch: Callable[[int, Future], None] = lambda *_: None,
) -> Any:
    """Return what a function of a module returns in a process of its own; `watch` is given its id meanwhile."""
    with patch.dict(os.environ, environment or {}), ProcessPoolExecutor(1, get_context("spawn")) as pool:
        process_id = pool.submit(os.getpid).result()
        future = pool.submit(function, *arguments)
        watch(process_id, future)
        return future.result()


def machine(*packages: str, device: str | None = None) -> dict[str, Any]:
    """Return the CPU, the versions of Python and packages (`None`: not installed), and a device that models run on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = told.get("model name", platform.machine())
    if "cpu family" in told:  # virtual machines leave of the name no more than the maker
        name += f" (family {told['cpu family']}, model {told.get('model')})"
    around: dict[str, Any] = {"hardware": f"{name}, {len(os.sched_getaffinity(0))} cores"}
    if device is not None:
        import torch

        around["device"] = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
        around["threads"] = torch.get_num_threads()
        packages = ("torch", "transformers", *packages)
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return around | {"versions": versions, "python": platform.python_version()}
