"""Data production without models, from a manifest to a dataset: speed, memory, where the time goes, and scaling.

    python benchmarks/data/data.py [--small] [--lines 1000000] [--engine-lines 3000000] [--repeats 3] [--output FILE]

About 15 minutes on 2 quiet cores. Writes benchmarks/results/data.json: the whole of `recipes/data/pretrain.yaml` but
its two model stages on a million caption lines, a profile of it, the engines local and ray with 1 and 2 workers, and
from the measured rates what 10 million videos take.
Every run is a process of its own, with all that it starts; each is repeated and the fastest counts. Rates a core are
those of CPU time, which other work on the machine disturbs least; --small is for trying the script.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from data_manifest import ManifestCounts, write_manifest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import ROOT, Measured, Run, at_most, benchmark, in_child

RECIPE = ROOT / "recipes/data/pretrain.yaml"
STAGES = "metadata,captions,language,pretrain_clips"  # those of the recipe that run no model of ours
SERIAL = ("writing the dataset", "report", "start and the rest", "cutting into units")  # done by one process
_SAMPLE_S = 0.1  # between two looks at the processes
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
_ASSEMBLY, _REPORT = "writing the dataset", "writing the report"  # what a build says when all units are done
PEAK_LIMIT_MB = 2000.0
WORKERS = (1, 2)
QUIET_LOAD = 0.5
TABLE_VIDEOS = 10_000_000
TABLE_CORES = (16, 64, 256)


@dataclass(frozen=True)
class BuildRun:
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


def run_build(manifest: Path, out: Path, **options: Any) -> BuildRun:
    """Run the pipeline and measure its processes from outside; `options` are those of `BuildOptions`."""
    if options.get("engine") == "ray":
        options["ray_address"] = "local"  # and not a cluster that others run here
    watch, began_s = _TreeWatch(), time.perf_counter()
    said = _in_child(timed_build, manifest, out, options, watch)
    wall_s = time.perf_counter() - began_s
    stages = json.loads((out / "funnel.json").read_text())["stages"]
    out_mb = sum(file.stat().st_size for file in (out / "dataset").rglob("*") if file.is_file()) / 1e6
    return BuildRun(wall_s, said["units_s"], watch.cpu_s, watch.peak_bytes / 1e6, said["clips"], stages, out_mb)


def run_profile(manifest: Path, out: Path) -> dict[str, Any]:
    """Run the pipeline in one process and return where its time goes; see `profiled_build`."""
    return _in_child(profiled_build, manifest, out, {})


def best(runs: Sequence[BuildRun]) -> BuildRun:
    """Return the fastest of repeated runs: least wall, units' and CPU time, each by itself, and most memory."""
    least = {key: min(getattr(run, key) for run in runs) for key in ("wall_s", "units_s", "cpu_s")}
    fastest = min(runs, key=lambda run: run.cpu_s)
    return replace(fastest, peak_mb=max(run.peak_mb for run in runs), **least)


def _in_child(
    function: Callable, manifest: Path, out: Path, options: dict[str, Any], watch: Callable = lambda *_: None
) -> Any:
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="ray") as ray_folder:  # which others would find it by
        environment = _ENVIRONMENT | {"RAY_TMPDIR": ray_folder}
        return in_child(function, manifest, out, options, environment=environment, watch=watch)


class _TreeWatch:
    """Looks at a process and all its descendants every tenth of a second.

    Attributes:
        peak_bytes: most resident memory of all at a time.
    """

    def __init__(self) -> None:
        self._cpu_of: dict[Any, float] = {}  # by process, the last seen
        self.peak_bytes = 0

    @property
    def cpu_s(self) -> float:
        """CPU time of all processes, but for what each did after it was last looked at."""
        return sum(self._cpu_of.values())

    def __call__(self, process_id: int, future: Future) -> None:
        """Look until the process's work is done."""
        import psutil

        root = psutil.Process(process_id)
        while not wait([future], _SAMPLE_S).done:
            resident = 0
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.Error), process.oneshot():
                    times = process.cpu_times()
                    resident += process.memory_info().rss
                    self._cpu_of[process] = times.user + times.system
            self.peak_bytes = max(self.peak_bytes, resident)


def timed_build(manifest: Path, out: Path, options: dict[str, Any], make_engine: Callable | None = None) -> dict:
    """Run the pipeline in this process; return `clips`, `units_s`, and the CPU time when it said each line."""
    began_s = time.perf_counter()
    from livecc_hf.production.build import build
    from livecc_hf.production.options import load_options

    said: dict[str, tuple[float, float]] = {}
    chosen = load_options(RECIPE, only_stages=STAGES, input=str(manifest), out=str(out), **options)
    result = build(
        chosen, lambda line: said.update({line: (time.perf_counter() - began_s, time.process_time())}), make_engine
    )
    if {_ASSEMBLY, _REPORT} - set(said):
        raise RuntimeError(f"the build did not say {_ASSEMBLY!r} and {_REPORT!r}: name what it says here")
    return {"clips": result.n_clips, "units_s": said[_ASSEMBLY][0], "cpu_s": {line: s for line, (_, s) in said.items()}}


def profiled_build(manifest: Path, out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Run the pipeline with its units in this process, one after the other, and find where the CPU time goes.

    Returns:
        `cpu_s`; `stages`, the share of each stage, of reading, of the dataset's files, the report and the rest.
    """
    parts: Counter[str] = Counter()
    said_s = timed_build(manifest, out, options, lambda plan: UnitsHere(plan, parts))["cpu_s"]
    total_s = time.process_time()
    parts["writing the dataset"] = said_s[_REPORT] - said_s[_ASSEMBLY]
    parts["report"] = total_s - said_s[_REPORT]
    parts["start and the rest"] = max(total_s - parts.total(), 0)
    return {"cpu_s": total_s, "stages": {name: seconds / total_s for name, seconds in parts.most_common()}}


class UnitsHere:
    """An engine that runs the units in its own process, and adds up the CPU seconds of each part of the work."""

    def __init__(self, plan: Any, parts: Counter[str]):
        import pyarrow

        self.plan, self.parts = plan, parts
        pyarrow.set_cpu_count(1)  # as in the local engine's processes

    def run(self, units: Iterator[Any], on_unit: Callable[[Sequence[Any]], None]) -> None:
        """Run units; stages say what they took by the clock, of which the process worked a share."""
        from livecc_hf.production.execution.pipeline import run_group

        cut_s = time.process_time()
        for unit in units:
            began_s, worked_s = time.perf_counter(), time.process_time()
            self.parts["cutting into units"] += worked_s - cut_s
            _, stats = run_group(self.plan, 0, unit)
            left_s = time.process_time() - worked_s
            share = left_s / (time.perf_counter() - began_s)
            for stage in stats:
                name = "reading the manifest" if stage.name == "input" else f"stage {stage.name}"
                self.parts[name] += stage.seconds * share
                left_s -= stage.seconds * share
            self.parts["writing units"] += left_s
            on_unit(stats)
            cut_s = time.process_time()


def pipeline_figures(run: BuildRun, counts: ManifestCounts) -> dict[str, Any]:
    """Return the figures of the whole pipeline on the local engine with as many processes as there are cores."""
    shown = ("name", "items_in", "items_out", "hours_in", "hours_out", "dropped")
    return {
        "stages": STAGES.split(","),
        "clips": run.clips,
        "clips_per_s_per_core": run.clips / run.cpu_s,
        "videos_per_s_per_core": counts.videos / run.cpu_s,
        "lines_per_s_per_core": counts.caption_lines / run.cpu_s,
        "lines_per_s": counts.caption_lines / run.wall_s,
        "wall_s": run.wall_s,
        "units_s": run.units_s,
        "cpu_s": run.cpu_s,
        "peak_mb": run.peak_mb,
        "peak_limit_mb": PEAK_LIMIT_MB,
        "dataset_mb": run.out_mb,
        "funnel": [{key: stage[key] for key in shown} for stage in run.stages],
    }


def measure_engines(folder: Path, n_lines: int, repeats: int) -> dict[str, Any]:
    """Measure both engines with 1 and 2 workers, on one manifest and on a single unit of it.

    What a run takes on a single unit is its overhead; the rate is that of what the whole manifest takes longer.
    """
    large, small = folder / "engines.jsonl", folder / "unit.jsonl"
    counts = write_manifest(large, n_lines, seed=1)
    n_videos = counts.videos - write_manifest(small, min(20_000, n_lines // 2), seed=1).videos
    found: dict[str, Any] = {"videos": counts.videos, "caption_lines": counts.caption_lines}
    for engine in ("local", "ray"):
        for workers in WORKERS:
            whole, least = (
                best([run_build(file, folder / "out", engine=engine, workers=workers) for _ in range(repeats)])
                for file in (large, small)
            )
            found[f"{engine}, {workers}"] = {
                "engine": engine,
                "workers": workers,
                **{name: getattr(whole, name) for name in ("wall_s", "units_s", "cpu_s", "peak_mb")},
                "overhead_s": least.units_s,
                "videos_per_s": n_videos / max(whole.units_s - least.units_s, 1e-3),
                "cpu_ms_per_video": 1000 * (whole.cpu_s - least.cpu_s) / n_videos,
            }
        one, two = (found[f"{engine}, {workers}"]["videos_per_s"] for workers in WORKERS)
        found[f"{engine}_scaling"] = two / one
    ray, local = (found[f"{engine}, {WORKERS[-1]}"] for engine in ("ray", "local"))
    found["ray_rate_to_local"] = ray["videos_per_s"] / local["videos_per_s"]
    found["ray_overhead_s"] = ray["overhead_s"] - local["overhead_s"]
    return found


def table_of(
    profiles: tuple[dict[str, Any], ...], run: BuildRun, counts: ManifestCounts, unit: ManifestCounts
) -> dict[str, Any]:
    """Compute what 10 million videos like those of the manifest take, from the measured rates.

    Units are independent of each other; the dataset's files and the report are written by one process at the end.

    Args:
        profiles: of the manifest, and of a small one: what that takes is taken off, with its videos, since a run's
            start and the drawing of its report do not grow with the input.
        run: of the manifest.
        counts, unit: what the two manifests hold.
    """
    times = TABLE_VIDEOS / counts.videos
    whole, least = ({k: v * profile["cpu_s"] for k, v in profile["stages"].items()} for profile in profiles)
    items = {f"stage {stage['name']}": stage["items_in"] for stage in run.stages}
    rows = []
    for name, seconds in whole.items():
        per_video_s = max(seconds - least.get(name, 0.0), 0.0) / (counts.videos - unit.videos)
        rows.append(
            {
                "what": name,
                "measured": True,
                "items": round(items.get(name, counts.videos) * times),
                "core_hours": round(per_video_s * TABLE_VIDEOS / 3600, 2),
                "in_one_process": name in SERIAL,
            }
        )
    parallel_h, serial_h = (sum(r["core_hours"] for r in rows if r["in_one_process"] == kind) for kind in (False, True))
    return {
        "videos": TABLE_VIDEOS,
        "hours_of_video": round(counts.hours * times),
        "clips": round(run.clips * times),
        "dataset_gb": round(run.out_mb * times / 1000),
        "rows": rows,
        "core_hours": parallel_h + serial_h,
        "wall_hours": {str(cores): round(parallel_h / cores + serial_h, 2) for cores in TABLE_CORES},
    }


@benchmark(
    "data.json", "livecc-hf", "pyarrow", "numpy", "ray", "cld3-py",
    small={"lines": 3000, "engine_lines": 6000, "repeats": 1},
)  # fmt: skip
def main(
    _: Run,
    lines: Annotated[int, "of captions, for the pipeline and its profile"] = 1_000_000,
    engine_lines: Annotated[int, "for the engines; those of one unit are taken off, so more is exacter"] = 3_000_000,
    repeats: Annotated[int, "of each run"] = 3,
    work: Annotated[Path | None, "folder for what is made meanwhile, some GB; default: a temporary one"] = None,
) -> Measured:
    """Run everything."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if (load := os.getloadavg()[0]) > QUIET_LOAD:
        print(f"the load is {load:.1f}: wait until the machine is quiet for a fair comparison", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        manifest, small, out = folder / "videos.jsonl", folder / "few.jsonl", folder / "out"
        counts, few = write_manifest(manifest, lines), write_manifest(small, lines // 50)
        run = best([run_build(manifest, out) for _ in range(repeats)])
        profile, least = (
            min((run_profile(file, out) for _ in range(repeats)), key=lambda found: found["cpu_s"])
            for file in (manifest, small)
        )
        report = {
            "manifest": asdict(counts),
            "pipeline": pipeline_figures(run, counts),
            "profile": profile,
            "engines": measure_engines(folder, engine_lines, repeats),
            "ten_million_videos": table_of((profile, least), run, counts, few),
            "repeats": repeats,
            "is_quiet": load <= QUIET_LOAD,  # else the engines' rates and scaling, in wall time, say little
        }
    return report, [at_most("pipeline: MB of memory", run.peak_mb, PEAK_LIMIT_MB)]


if __name__ == "__main__":
    sys.exit(main())
