"""Run data production for `benchmarks/data/data.py`, in processes: measured from outside, or profiled inside."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "recipes/data/pretrain.yaml"
STAGES = "metadata,captions,language,pretrain_clips"  # those of the recipe that run no model of ours
PACKAGE = str(ROOT / "src" / "livecc_hf")
_SAMPLE_S = 0.1  # between two looks at the processes
_PROFILE_S = 0.002  # of CPU time, between two samples of the profile
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
_ASSEMBLY = "writing the dataset"  # what the build says when all units are done


@dataclass(frozen=True)
class Run:
    """One run of `livecc_hf.production.build.build`, in a process of its own.

    Attributes:
        wall_s: from its start to its end, imports included.
        units_s: of that, until the last unit was done.
        cpu_s: CPU time of it and all processes it started.
        peak_mb: most resident memory of all of them at a time, 1e6 bytes; what they share counts in each.
        clips: in the dataset.
        stages: statistics of each stage, as in funnel.json.
        out_mb: size of the dataset folder.
    """

    wall_s: float
    units_s: float
    cpu_s: float
    peak_mb: float
    clips: int
    stages: list[dict[str, Any]]
    out_mb: float


def run_build(manifest: Path, out: Path, **options: Any) -> Run:
    """Run the pipeline and measure its processes from outside.

    Args:
        manifest: the input.
        out: where the dataset goes; removed before.
        options: of `BuildOptions`, such as engine and workers.

    Raises:
        RuntimeError: if it fails.
    """
    shutil.rmtree(out, ignore_errors=True)
    if options.get("engine") == "ray":
        options["ray_address"] = "local"  # and not a cluster that others run here
    seen = _call(["build", str(manifest), str(out), json.dumps(options)])
    said = json.loads(seen["output"].splitlines()[-1])
    stages = json.loads((out / "funnel.json").read_text())["stages"]
    size = sum(file.stat().st_size for file in (out / "dataset").rglob("*") if file.is_file())
    wall_s, cpu_s, peak_mb = (round(seen[key], 2) for key in ("wall_s", "cpu_s", "peak_mb"))
    return Run(wall_s, round(said["units_s"], 2), cpu_s, peak_mb, said["clips"], stages, round(size / 1e6, 1))


def run_profile(manifest: Path, out: Path) -> dict[str, Any]:
    """Run the pipeline in one process and return where its time goes; see `profiled_build`."""
    shutil.rmtree(out, ignore_errors=True)
    return json.loads(_call(["profile", str(manifest), str(out), "{}"])["output"].splitlines()[-1])


def best(runs: Sequence[Run]) -> Run:
    """Return the fastest of repeated runs: least wall, units' and CPU time, each by itself, and most memory."""
    least = {key: min(getattr(run, key) for run in runs) for key in ("wall_s", "units_s", "cpu_s")}
    fastest = min(runs, key=lambda run: run.cpu_s)
    return replace(fastest, peak_mb=max(run.peak_mb for run in runs), **least)


def _call(arguments: list[str]) -> dict[str, Any]:
    """Run this file with arguments, looking at the tree of its processes as it works."""
    with tempfile.TemporaryDirectory(prefix="ray") as ray_folder:  # which others would find it by
        environment = os.environ | _ENVIRONMENT | {"RAY_TMPDIR": ray_folder}
        return _watched(arguments, environment)


def _watched(arguments: list[str], environment: dict[str, str]) -> dict[str, Any]:
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment, cwd=ROOT,
    )  # fmt: skip
    watch = _TreeWatch(process.pid)
    output, errors = process.communicate()
    wall_s = time.perf_counter() - began
    watch.stop()
    if process.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.returncode}: {errors[-2000:]}")
    return {"output": output, "wall_s": wall_s, "cpu_s": watch.cpu_s, "peak_mb": watch.peak_bytes / 1e6}


class _TreeWatch:
    """Looks at a process and all its descendants every tenth of a second.

    Attributes:
        peak_bytes: most resident memory of all at a time.
    """

    def __init__(self, pid: int):
        import psutil

        self._root = psutil.Process(pid)
        self._cpu_of: dict[tuple[int, float], float] = {}  # by process, the last seen
        self.peak_bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def cpu_s(self) -> float:
        """CPU time of all processes, but for what each did after it was last looked at."""
        return sum(self._cpu_of.values())

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        import psutil

        while not self._done.wait(_SAMPLE_S):
            resident = 0
            try:
                processes = [self._root, *self._root.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for process in processes:
                try:
                    with process.oneshot():
                        times = process.cpu_times()
                        resident += process.memory_info().rss
                        self._cpu_of[process.pid, process.create_time()] = times.user + times.system
                except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
                    continue
            self.peak_bytes = max(self.peak_bytes, resident)


def timed_build(manifest: str, out: str, options: dict[str, Any]) -> dict[str, Any]:
    """Run the pipeline in this process; return `clips` and `units_s`."""
    began = time.perf_counter()
    from livecc_hf.production.build import build

    units_s = None

    def say(line: str) -> None:
        nonlocal units_s
        if line == _ASSEMBLY:
            units_s = time.perf_counter() - began

    result = build(build_options(manifest, out, options), say)
    if units_s is None:
        raise RuntimeError(
            f"the build did not say {_ASSEMBLY!r}: set _ASSEMBLY to what it says when all units are done"
        )
    return {"clips": result.n_clips, "units_s": units_s}


def build_options(manifest: str, out: str, options: dict[str, Any]) -> Any:
    """Return the recipe's options with the manifest as input."""
    from livecc_hf.production.options import load_options

    return load_options(RECIPE, only_stages=STAGES, input=manifest, out=out, **options)


def profiled_build(manifest: str, out: str, options: dict[str, Any]) -> dict[str, Any]:
    """Run the pipeline with its units in this process, one after the other, and find where the time goes.

    A timer of CPU time interrupts the process; the time since the last interrupt counts for what runs, libraries that
    it calls included.

    Returns:
        `cpu_s`; `stages`, the share of each stage, of reading, of the dataset's files, the report and the rest.
    """
    from livecc_hf.production import build as module

    module.LocalEngine = _UnitsHere
    chosen = build_options(manifest, out, options)
    with _Profile() as profile:
        module.build(chosen, lambda line: None)
    total_s = profile.places.total()
    shares = {name: round(seconds / total_s, 3) for name, seconds in profile.places.most_common()}
    return {"cpu_s": round(total_s, 2), "stages": shares}


class _UnitsHere:
    """An engine that runs the units in its own process."""

    def __init__(self, work: Any, *limits: Any):
        import pyarrow

        self.work = work
        pyarrow.set_cpu_count(1)  # as in the local engine's processes

    def run(self, units: Iterator[Any], on_unit: Callable[[Any], None]) -> None:
        from livecc_hf.production.execution.pipeline import run_group

        for unit in units:
            on_unit(run_group(self.work, 0, unit)[1])


class _Profile:
    """Samples of what runs, weighed by the CPU time that passed since the one before.

    Attributes:
        places: seconds by what ran.
    """

    def __init__(self):
        self.places: Counter[str] = Counter()
        self._last_s = 0.0

    def __enter__(self) -> _Profile:
        self._before = signal.signal(signal.SIGPROF, self._sample)
        self._last_s = time.process_time()
        signal.setitimer(signal.ITIMER_PROF, _PROFILE_S, _PROFILE_S)
        return self

    def __exit__(self, *error: object) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, self._before)

    def _sample(self, number: int, frame: FrameType | None) -> None:
        now_s = time.process_time()
        passed_s, self._last_s = now_s - self._last_s, now_s
        place = "start and the rest"
        while frame is not None:
            if frame.f_code.co_filename.startswith(PACKAGE):
                place = _place_of(frame) or place
            frame = frame.f_back
        self.places[place] += passed_s


_PLACES = {  # functions that everything below belongs to, the outermost wins
    "JsonLinesInput.read": "reading the manifest",
    "UnitFolder.write": "writing units",
    "write_dataset_folder": "writing the dataset",
    "write_report": "report",
    "JsonLinesInput._places": "cutting into units",
}


def _place_of(frame: FrameType) -> str | None:
    name = frame.f_code.co_qualname
    if name == "run_stage":
        return f"stage {frame.f_locals['stage'].name}"
    return _PLACES.get(name)


if __name__ == "__main__":
    _mode, _manifest, _out, _options = sys.argv[1:]
    _function = {"build": timed_build, "profile": profiled_build}[_mode]
    print(json.dumps(_function(_manifest, _out, json.loads(_options))))
