"""What the benchmarks share: arguments, the machine, figures, targets, and the file of results.

A benchmark is a script with a `main(argv) -> int`: it parses with :func:`parser`, measures, and ends with
:func:`finish`, which writes JSON, prints the targets, and returns 1 where one is missed. `--small` is a run of seconds
that shows that the script works; it writes no file unless told to, and its times are held to nothing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def parser(doc: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all have."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--small", action="store_true", help="a run of seconds, to try the script")
    made.add_argument("--output", type=Path, help="JSON file to write; default: in benchmarks/results")
    return made


def at_most(name: str, measured: float, limit: float) -> dict[str, Any]:
    """Return a target as it is written."""
    return {"target": name, "measured": measured, "limit": limit, "met": bool(measured <= limit)}


def at_least(name: str, measured: float, limit: float) -> dict[str, Any]:
    """Return a target as it is written."""
    return {"target": name, "measured": measured, "limit": limit, "met": bool(measured >= limit)}


def holds(name: str, is_met: bool) -> dict[str, Any]:
    """Return a target without a number, as it is written."""
    return {"target": name, "met": bool(is_met)}


def has_cuda(arguments: argparse.Namespace) -> bool:
    """Return whether a script for GPUs may run, which it may in small anywhere; say in a line why it may not."""
    import torch

    if torch.cuda.is_available() or arguments.small:
        return True
    print("no CUDA device is available: this is measured on one only; --small runs the same code with a tiny model")
    return False


def keep(arguments: argparse.Namespace, report: dict[str, Any]) -> None:
    """Write what was measured so far, where a file was asked for: a run that is cut off still tells that."""
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(rounded({"unfinished": True, **report}), indent=1) + "\n")


def finish(
    arguments: argparse.Namespace,
    report: dict[str, Any],
    targets: Sequence[dict[str, Any]] = (),
    file: str | None = None,
) -> int:
    """Write a report with its day and targets, print whether they are met, and return the exit code.

    Args:
        arguments: as parsed by :func:`parser`.
        report: what was measured.
        targets: of :func:`at_most`, :func:`at_least` and :func:`holds`.
        file: its name in `benchmarks/results`; `None`: none unless asked for.
    """
    if arguments.small:
        targets = [target for target in targets if "limit" not in target]
    report = {"measured_on": datetime.datetime.now(datetime.UTC).date().isoformat()} | report
    whole = rounded(report | ({"targets_met": all(t["met"] for t in targets), "targets": targets} if targets else {}))
    output = arguments.output or (None if arguments.small or file is None else RESULTS / file)
    if output is None:
        print(json.dumps(whole, indent=1))
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(whole, indent=1) + "\n")
    for target in targets:
        number = f": {target['measured']:.4g} (limit {target['limit']:.4g})" if "limit" in target else ""
        print(f"{'met   ' if target['met'] else 'MISSED'} {target['target']}{number}")
    return 0 if all(target["met"] for target in targets) else 1


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


def times_of(run, *arguments) -> tuple[float, float, Any]:
    """Return the seconds by the clock and of this process's CPU time that a call took, and what it returned."""
    began_s, worked_s = time.perf_counter(), time.process_time()
    found = run(*arguments)
    return time.perf_counter() - began_s, time.process_time() - worked_s, found


def in_child(script: str, *arguments: str, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Run a script in a process of its own with `--output`, and return what it wrote.

    Raises:
        RuntimeError: if it fails; with the end of what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        command = [sys.executable, script, *arguments, "--output", str(output)]
        done = subprocess.run(
            command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
        )
        if done.returncode:
            what = f"{Path(script).name} {' '.join(arguments)} ended with {done.returncode}"
            raise RuntimeError(f"{what}:\n{done.stderr.strip()[-3000:]}")
        return json.loads(output.read_text())


def hardware() -> str:
    """Return the CPU's name, with family and model, and how many cores this process may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = told.get("model name", platform.machine())
    if "cpu family" in told:  # virtual machines leave of the name no more than the maker
        name += f" (family {told['cpu family']}, model {told.get('model')})"
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def memory_gb() -> float:
    """Return the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def machine(*packages: str) -> dict[str, Any]:
    """Return the CPU and the versions of Python and packages, `None` for one that is not installed."""
    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {"hardware": hardware(), "versions": versions, "python": platform.python_version()}


def surroundings(device: str, *packages: str) -> dict[str, Any]:
    """Return what runs a model: the device, PyTorch's threads, and :func:`machine`."""
    import torch

    on_cuda = device.startswith("cuda")
    return {
        "device": torch.cuda.get_device_name() if on_cuda else "cpu",
        "threads": torch.get_num_threads(),
        **machine("torch", "transformers", *packages),
    }


def slug(device: str) -> str:
    """Return a device's name as a part of a file's."""
    return "-".join("".join(c if c.isalnum() else " " for c in device.lower()).split())
