"""Data production without models, from a manifest to a dataset: speed, memory, profile, and scaling.

    python benchmarks/data/data.py [--small] [--lines 1000000] [--engine-lines 3000000] [--repeats 3] [--output FILE]

About 15 minutes on 2 idle cores. Writes benchmarks/results/data.json: `recipes/data/pretrain.yaml` without its two
model stages on a million caption lines, a profile of it, the engines local and ray with 1 and 2 workers, and the time
for 10 million videos, computed from the measured rates. Every run is a process of its own; each is repeated and the
fastest counts. Rates per core are of CPU time, which other work on the machine affects least.
"""

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
from harness import ROOT, Measured, Run, at_most, benchmark, in_child, times_of

RECIPE = ROOT / "recipes/data/pretrain.yaml"
STAGES = "metadata,captions,language,pretrain_clips"  # those of the recipe without a model
SERIAL = ("writing the dataset", "report", "start and the rest", "cutting into units")  # done by one process
_SAMPLE_S = 0.1  # between two looks at the processes
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
_ASSEMBLY, _REPORT = "writing the dataset", "writing the report"  # lines that a build prints after its last unit
PEAK_LIMIT_MB = 2000.0
WORKERS = (1, 2)
QUIET_LOAD = 0.5
TABLE_VIDEOS = 10_000_000
TABLE_CORES = (16, 64, 256)


@dataclass(frozen=True)
class BuildRun:
    """One run of `livecc_hf.production.build.build` in its own process."""

    wall_s: float  # from start to end, with imports
    units_s: float  # up to the end of the last unit
    cpu_s: float  # of all its processes
    peak_mb: float  # resident memory of all its processes; shared memory counts in each
    clips: int
    stages: list[dict[str, Any]]  # as in funnel.json
    out_mb: float  # of the dataset folder


def run_build(manifest: Path, out: Path, **options: Any) -> BuildRun:
    """Run the pipeline and measure its processes from outside; `options` are those of `BuildOptions`."""
    if options.get("engine") == "ray":
        options["ray_address"] = "local"  # never a running cluster
    watch = _TreeWatch()
    wall_s, _, done = times_of(_in_child, timed_build, manifest, out, options, watch)
    stages = json.loads((out / "funnel.json").read_text())["stages"]
    out_mb = sum(file.stat().st_size for file in (out / "dataset").rglob("*") if file.is_file()) / 1e6
    cpu_s = sum(watch.cpu_of.values())
    return BuildRun(wall_s, done["units_s"], cpu_s, watch.peak_bytes / 1e6, done["clips"], stages, out_mb)


def run_profile(manifest: Path, out: Path) -> dict[str, Any]:
    """Run the pipeline in one process and return its profile; see `profiled_build`."""
    return _in_child(profiled_build, manifest, out, {})


def best(runs: Sequence[BuildRun]) -> BuildRun:
    """Return the fastest of repeated runs: the least of each time, and the largest memory."""
    least = {key: min(getattr(run, key) for run in runs) for key in ("wall_s", "units_s", "cpu_s")}
    fastest = min(runs, key=lambda run: run.cpu_s)
    return replace(fastest, peak_mb=max(run.peak_mb for run in runs), **least)


def _in_child(function: Callable, manifest: Path, out: Path, options: dict, watch: Callable = lambda *_: None) -> Any:
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="ray") as ray_folder:  # so that no other ray finds it
        environment = _ENVIRONMENT | {"RAY_TMPDIR": ray_folder}
        return in_child(function, manifest, out, options, environment=environment, watch=watch)


class _TreeWatch:
    """Samples CPU time and resident memory of a process and all its descendants."""

    def __init__(self) -> None:
        self.cpu_of: dict[Any, float] = {}  # seconds, when last seen
        self.peak_bytes = 0

    def __call__(self, process_id: int, future: Future) -> None:
        import psutil

        root = psutil.Process(process_id)
        while not wait([future], _SAMPLE_S).done:
            resident = 0
            for process in [root, *root.children(recursive=True)]:
                with contextlib.suppress(psutil.Error), process.oneshot():
                    times = process.cpu_times()
                    resident += process.memory_info().rss
                    self.cpu_of[process] = times.user + times.system
            self.peak_bytes = max(self.peak_bytes, resident)


def timed_build(manifest: Path, out: Path, options: dict[str, Any], make_engine: Callable | None = None) -> dict:
    """Run the pipeline in this process; return `clips`, `units_s`, and the CPU time at each line that it prints."""
    began_s = time.perf_counter()
    from livecc_hf.production.build import build
    from livecc_hf.production.options import load_options

    said: dict[str, tuple[float, float]] = {}
    chosen = load_options(RECIPE, only_stages=STAGES, input=str(manifest), out=str(out), **options)
    result = build(
        chosen, lambda line: said.update({line: (time.perf_counter() - began_s, time.process_time())}), make_engine
    )
    if {_ASSEMBLY, _REPORT} - set(said):
        raise RuntimeError(f"the build did not print {_ASSEMBLY!r} and {_REPORT!r}: update these lines here")
    return {"clips": result.n_clips, "units_s": said[_ASSEMBLY][0], "cpu_s": {line: s for line, (_, s) in said.items()}}


def profiled_build(manifest: Path, out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Run the pipeline's units one after the other in this process, and return where its CPU time goes.

    Returns:
        `cpu_s`; `stages`, the share of each stage, of reading, of the dataset's files, the report and the rest.
    """
    parts: Any = Counter()  # seconds
    said_s = timed_build(manifest, out, options, lambda plan: _ProfilingEngine(plan, parts))["cpu_s"]
    total_s = time.process_time()
    parts["writing the dataset"] = said_s[_REPORT] - said_s[_ASSEMBLY]
    parts["report"] = total_s - said_s[_REPORT]
    parts["start and the rest"] = max(total_s - parts.total(), 0)
    return {"cpu_s": total_s, "stages": {name: seconds / total_s for name, seconds in parts.most_common()}}


class _ProfilingEngine:
    """Runs the units in this process and adds up the CPU seconds of each part of the work."""

    def __init__(self, plan: Any, parts: Any):
        import pyarrow

        self.plan, self.parts = plan, parts
        pyarrow.set_cpu_count(1)  # as in the local engine's processes

    def run(self, units: Iterator[Any], on_unit: Callable[[Sequence[Any]], None]) -> None:
        """Run units; a stage reports wall time, which is scaled to CPU time."""
        from livecc_hf.production.execution.pipeline import run_group

        cut_s = time.process_time()
        for unit in units:
            self.parts["cutting into units"] += time.process_time() - cut_s
            wall_s, left_s, (_, stats) = times_of(run_group, self.plan, 0, unit)
            share = left_s / wall_s
            for stage in stats:
                name = "reading the manifest" if stage.name == "input" else f"stage {stage.name}"
                self.parts[name] += stage.seconds * share
                left_s -= stage.seconds * share
            self.parts["writing units"] += left_s
            on_unit(stats)
            cut_s = time.process_time()


def pipeline_figures(run: BuildRun, counts: ManifestCounts) -> dict[str, Any]:
    """Return the figures of the whole pipeline on the local engine with a process on each core."""
    shown = ("name", "items_in", "items_out", "hours_in", "hours_out", "dropped")
    done = {"clips": run.clips, "videos": counts.videos, "lines": counts.caption_lines}
    return {name: getattr(run, name) for name in ("clips", "wall_s", "units_s", "cpu_s", "peak_mb")} | {
        **{f"{name}_per_s_per_core": n / run.cpu_s for name, n in done.items()},
        "lines_per_s": counts.caption_lines / run.wall_s,
        "stages": STAGES.split(","),
        "peak_limit_mb": PEAK_LIMIT_MB,
        "dataset_mb": run.out_mb,
        "funnel": [{key: stage[key] for key in shown} for stage in run.stages],
    }


def measure_engines(folder: Path, n_lines: int, repeats: int) -> dict[str, Any]:
    """Measure both engines with 1 and 2 workers, on a manifest and on a single unit of it.

    The time on a single unit is the overhead; the rate is of the additional time on the whole manifest.
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
            found[f"{engine}, {workers}"] = {"engine": engine, "workers": workers} | {
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
    """Compute the time for 10 million videos like the manifest's, from the measured rates.

    Units are independent; the dataset's files and the report are written by one process at the end. The profile and
    the counts of a small manifest are subtracted, since a run's start and its report's charts do not grow with it.
    """
    times = TABLE_VIDEOS / counts.videos
    whole, least = ({k: v * profile["cpu_s"] for k, v in profile["stages"].items()} for profile in profiles)
    items = {f"stage {stage['name']}": stage["items_in"] for stage in run.stages}
    rows = []
    for name, seconds in whole.items():
        n_items = round(items.get(name, counts.videos) * times)
        per_video_s = max(seconds - least.get(name, 0.0), 0.0) / (counts.videos - unit.videos)
        row = {"what": name, "measured": True, "items": n_items, "in_one_process": name in SERIAL}
        rows.append(row | {"core_hours": round(per_video_s * TABLE_VIDEOS / 3600, 2)})
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
    run: Run,
    lines: Annotated[int, "caption lines for the pipeline and its profile"] = 1_000_000,
    engine_lines: Annotated[int, "caption lines for the engines; a unit's are subtracted"] = 3_000_000,
    repeats: Annotated[int, "of each run"] = 3,
    work: Annotated[Path | None, "folder for some GB of temporary files; default: the system's"] = None,
) -> Measured:
    """Measure pipeline, profile and engines."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if (load := os.getloadavg()[0]) > QUIET_LOAD:
        run.tell(f"the load is {load:.1f}: wait until the machine is idle for a fair comparison")
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = Path(name)
        manifest, small, out = folder / "videos.jsonl", folder / "few.jsonl", folder / "out"
        counts, few = write_manifest(manifest, lines), write_manifest(small, lines // 50)
        fastest = best([run_build(manifest, out) for _ in range(repeats)])
        profile, least = (
            min((run_profile(file, out) for _ in range(repeats)), key=lambda found: found["cpu_s"])
            for file in (manifest, small)
        )
        report = {
            "manifest": asdict(counts),
            "pipeline": pipeline_figures(fastest, counts),
            "profile": profile,
            "engines": measure_engines(folder, engine_lines, repeats),
            "ten_million_videos": table_of((profile, least), fastest, counts, few),
            "repeats": repeats,
            "is_quiet": load <= QUIET_LOAD,  # otherwise the engines' rates and scaling, in wall time, mean little
        }
    return report, [at_most("pipeline: MB of memory", fastest.peak_mb, PEAK_LIMIT_MB)]
