"""What benchmarks share: command line, machine, times, targets, and the result file.

A benchmark is a function under :func:`benchmark`. Its parameters become the script's options; it returns figures and
targets. `--small` runs it in seconds to check that the script works: times then have no targets, and a file is written
only with `--output`.
"""

import argparse
import inspect
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args, get_type_hints
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
Measured = tuple[dict[str, Any], list[dict[str, Any]]]


class CannotMeasureError(Exception):
    """Something needed is missing, or an option does not fit: the script prints one line and exits with 2."""


@dataclass
class Run:
    """One run of a benchmark."""

    is_small: bool = False  # only checks that the script works
    device: str = "cpu"  # of models
    output: Path | None = None  # the file to write; None: `file` in `results`, nothing in a small run
    file: str = ""

    @property
    def on_cuda(self) -> bool:
        """Whether models run on a CUDA device."""
        return self.device.startswith("cuda")

    def tell(self, line: str, report: dict[str, Any] | None = None) -> None:
        """Print progress; write the figures so far to `output`, if given, in case the run is cut off."""
        print(line, flush=True)
        if report is not None and self.output is not None:
            _write(self.output, {"unfinished": True, **report})

    def finish(self, report: dict[str, Any], targets: Sequence[dict[str, Any]]) -> int:
        """Write the report with date and targets, print each target, and return the exit code."""
        targets = [target for target in targets if not (self.is_small and "limit" in target)]
        is_met = all(target["met"] for target in targets)
        whole = {"measured_on": time.strftime("%Y-%m-%d", time.gmtime())} | report
        whole |= {"targets_met": is_met, "targets": targets} if targets else {}
        file, device = self.file, report.get("device", "cpu")
        if device != "cpu":
            file = file.replace(".json", f"-{re.sub('[^a-z0-9]+', '-', device.lower())}.json")
        if output := self.output or (None if self.is_small else RESULTS / file):
            _write(output, whole)
        else:
            print(json.dumps(rounded(whole), indent=1))
        for target in targets:
            number = f": {target['measured']:.4g} (limit {target['limit']:.4g})" if "limit" in target else ""
            print(f"{'met   ' if target['met'] else 'MISSED'} {target['target']}{number}")
        return 0 if is_met else 1


def benchmark(
    file: str, *packages: str, small: Mapping[str, Any] = {}, runs_model: bool = False, on_cuda: bool = False
) -> Callable[[Callable[..., Measured]], Callable[..., int]]:
    """Make a function the `main` of a script, and run it if the script is run: it has to be the last in its file.

    The function takes a :class:`Run`, then options whose help is in `Annotated`.

    Args:
        file: name of the result file; on a GPU, the GPU's name is added.
        *packages: whose versions are recorded.
        small: the options' defaults in a small run.
        runs_model: whether it takes `--device` and `--threads`, which are recorded.
        on_cuda: whether it needs a CUDA device, unless the run is small.
    """
    has_device = runs_model or on_cuda

    def wrap(measure: Callable[..., Measured]) -> Callable[..., int]:
        def main(argv: Sequence[str] | None = None) -> int:
            parser = _parser(measure, has_device)
            if parser.parse_args(argv).small:
                parser.set_defaults(**small)
            options = vars(parser.parse_args(argv))
            run = Run(options.pop("small"), output=options.pop("output"), file=file)
            if has_device:
                import torch

                run.device = options.pop("device") or ("cuda" if torch.cuda.is_available() else "cpu")
                torch.set_num_threads(options.pop("threads") or torch.get_num_threads())
            if on_cuda and not run.on_cuda and not run.is_small:
                print("no CUDA device is available: this needs one; --small runs the same code with a tiny model")
                return 1
            around, load = machine(*packages, device=run.device if has_device else None), os.getloadavg()[0]
            try:
                took_s, _, (report, targets) = times_of(lambda: measure(run, **options))
            except CannotMeasureError as error:
                parser.error(str(error))
            around |= {"load_average": [load, os.getloadavg()[0]], "took_s": took_s}
            return run.finish(report | around, targets)

        if measure.__module__ == "__main__":
            sys.exit(main())
        return main

    return wrap


def _parser(measure: Callable[..., Measured], has_device: bool) -> argparse.ArgumentParser:
    """Return a parser of a function's options."""
    about = measure.__globals__["__doc__"]
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="run for seconds, to check that the script works")
    parser.add_argument("--output", type=Path, help="JSON file to write; default: in benchmarks/results")
    if has_device:
        parser.add_argument("--device", help="such as cpu; default: CUDA if there is any")
        parser.add_argument("--threads", type=int, help="of PyTorch, on CPUs")
    hints = get_type_hints(measure, include_extras=True)
    for name, parameter in list(inspect.signature(measure).parameters.items())[1:]:
        kind, text, choices = (*get_args(hints[name]), None)[:3]
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=next(iter(get_args(kind)), kind),
            nargs="+" if isinstance(parameter.default, tuple) else None,
            choices=choices,
            default=parameter.default,
            help=f"{text}; default: %(default)s" if parameter.default else text,
        )
    return parser


def at_most(name: str, measured: float, limit: float) -> dict[str, Any]:
    """Return a target: the measured value is at most the limit."""
    return {"target": name, "measured": measured, "limit": limit, "met": bool(measured <= limit)}


def at_least(name: str, measured: float, limit: float) -> dict[str, Any]:
    """Return a target: the measured value is at least the limit."""
    return {"target": name, "measured": measured, "limit": limit, "met": bool(measured >= limit)}


def holds(name: str, is_met: bool) -> dict[str, Any]:
    """Return a target without a number."""
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
    """Return the median and the 95th and 99th percentile."""
    ordered = sorted(values)
    at = {f"p{p}": ordered[-(-len(ordered) * p // 100) - 1] for p in (95, 99)}
    return {"median": statistics.median(ordered), **at}


def times_of(run: Callable, *arguments: Any) -> tuple[float, float, Any]:
    """Return a call's wall time and this process's CPU time in seconds, pending CUDA work included, and its result."""
    torch = sys.modules.get("torch")
    wait = torch.cuda.synchronize if torch is not None and torch.cuda.is_initialized() else lambda: None
    wait()
    began_s, worked_s = time.perf_counter(), time.process_time()
    found = run(*arguments)
    wait()
    return time.perf_counter() - began_s, time.process_time() - worked_s, found


def in_child(
    function: Callable, *arguments: Any, environment: Mapping[str, str] = {}, watch: Callable = lambda *_: None
) -> Any:
    """Run a module's function in a new process and return its result; `watch` gets the process id and the future."""
    with patch.dict(os.environ, environment), ProcessPoolExecutor(1, get_context("spawn")) as pool:
        process_id = pool.submit(os.getpid).result()
        future = pool.submit(function, *arguments)
        watch(process_id, future)
        return future.result()


def machine(*packages: str, device: str | None = None) -> dict[str, Any]:
    """Return the CPU, the versions of Python and packages (`None`: not installed), and the device of models."""
    info = Path("/proc/cpuinfo")
    values = dict(re.findall(r"^(.+?)\s*: (.+)$", info.read_text() if info.exists() else "", re.MULTILINE))
    name = values.get("model name", platform.machine())
    if "cpu family" in values:  # in a virtual machine the name may be the maker's alone
        name += f" (family {values['cpu family']}, model {values.get('model')})"
    around: dict[str, Any] = {"hardware": f"{name}, {len(os.sched_getaffinity(0))} cores"}
    if device is not None:
        import torch

        around["device"] = torch.cuda.get_device_name() if device.startswith("cuda") else "cpu"
        around["threads"] = torch.get_num_threads()
        packages = ("torch", "transformers", *packages)
    versions = {name: metadata.version(name) if any(metadata.distributions(name=name)) else None for name in packages}
    return around | {"versions": versions, "python": platform.python_version()}
