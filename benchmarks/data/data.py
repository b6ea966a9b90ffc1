"""Data production without models, from a manifest to a dataset: speed, memory, where the time goes, and scaling.

    python benchmarks/data/data.py [--small] [--lines 1000000] [--engine-lines 3000000] [--repeats 3] [--output FILE]

About 15 minutes on 2 quiet cores. Writes benchmarks/results/data.json: the whole of `recipes/data/pretrain.yaml` but
its two model stages on a million caption lines, a profile of it, the engines local and ray with 1 and 2 workers, and
from the measured rates what 10 million videos take.
Every run is a process of its own, with all that it starts; each is repeated and the fastest counts. Rates a core are
those of CPU time, which other work on the machine disturbs least; --small is for trying the script.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from data_manifest import ManifestCounts, write_manifest
from data_runs import STAGES, Run, best, run_build, run_profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import at_most, finish, machine, parser

PEAK_LIMIT_MB = 2000.0
WORKERS = (1, 2)
QUIET_LOAD = 0.5
TABLE_VIDEOS = 10_000_000
TABLE_CORES = (16, 64, 256)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How much is run.

    Attributes:
        lines: of captions, for the pipeline and its profile.
        engine_lines: for the engines; those of one unit are taken off, so more makes them exacter.
        repeats: of each run.
    """

    lines: int = 1_000_000
    engine_lines: int = 3_000_000
    repeats: int = 3


SMALL = Sizes(3000, 6000, 1)


def measure_pipeline(manifest: Path, counts: ManifestCounts, folder: Path, repeats: int) -> tuple[dict[str, Any], Run]:
    """Measure the whole pipeline on the local engine with as many processes as there are cores."""
    run = best([run_build(manifest, folder / "out") for _ in range(repeats)])
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
        "funnel": [{key: stage[key] for key in ("name", *_FUNNEL)} for stage in run.stages],
    }, run


_FUNNEL = ("items_in", "items_out", "hours_in", "hours_out", "dropped")


def measure_engines(folder: Path, sizes: Sizes) -> dict[str, Any]:
    """Measure both engines with 1 and 2 workers, on one manifest and on a single unit of it.

    What a run takes on a single unit is its overhead; the rate is that of what the whole manifest takes longer.
    """
    large, small = folder / "engines.jsonl", folder / "unit.jsonl"
    counts = write_manifest(large, sizes.engine_lines, seed=1)
    unit = write_manifest(small, min(20_000, sizes.engine_lines // 2), seed=1)
    n_videos = counts.videos - unit.videos
    found: dict[str, Any] = {"videos": counts.videos, "caption_lines": counts.caption_lines}
    for engine in ("local", "ray"):
        for workers in WORKERS:
            whole, least = [
                best([run_build(file, folder / "out", engine=engine, workers=workers) for _ in range(sizes.repeats)])
                for file in (large, small)
            ]
            units_s = max(whole.units_s - least.units_s, 1e-3)
            found[f"{engine}, {workers}"] = {
                "engine": engine,
                "workers": workers,
                "wall_s": whole.wall_s,
                "units_s": whole.units_s,
                "cpu_s": whole.cpu_s,
                "peak_mb": whole.peak_mb,
                "overhead_s": least.units_s,
                "videos_per_s": n_videos / units_s,
                "cpu_ms_per_video": 1000 * (whole.cpu_s - least.cpu_s) / n_videos,
            }
    for engine in ("local", "ray"):
        one, two = (found[f"{engine}, {workers}"]["videos_per_s"] for workers in WORKERS)
        found[f"{engine}_scaling"] = two / one
    ray, local = (found[f"{engine}, {WORKERS[-1]}"] for engine in ("ray", "local"))
    found["ray_rate_to_local"] = ray["videos_per_s"] / local["videos_per_s"]
    found["ray_overhead_s"] = ray["overhead_s"] - local["overhead_s"]
    return found


def table_of(
    profiles: tuple[dict[str, Any], ...], run: Run, counts: ManifestCounts, unit: ManifestCounts
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
    rows, parallel_h, serial_h = [], 0.0, 0.0
    for name, seconds in whole.items():
        per_video_s = max(seconds - least.get(name, 0.0), 0.0) / (counts.videos - unit.videos)
        hours = per_video_s * TABLE_VIDEOS / 3600
        is_serial = name in _SERIAL
        serial_h, parallel_h = serial_h + hours * is_serial, parallel_h + hours * (not is_serial)
        rows.append(
            {
                "what": name,
                "measured": True,
                "items": round(items.get(name, counts.videos) * times),
                "core_hours": round(hours, 2),
                "in_one_process": is_serial,
            }
        )
    rows += [
        {"what": f"stage {name}", "measured": False, "items_at_most": round(run.clips * times), "core_hours": None}
        for name in ("text_loss", "talking_head")
    ]
    return {
        "videos": TABLE_VIDEOS,
        "hours_of_video": round(counts.hours * times),
        "clips": round(run.clips * times),
        "dataset_gb": round(run.out_mb * times / 1000),
        "rows": rows,
        "core_hours": round(parallel_h + serial_h, 1),
        "wall_hours": {str(cores): round(parallel_h / cores + serial_h, 2) for cores in TABLE_CORES},
    }


_SERIAL = ("writing the dataset", "report", "start and the rest", "cutting into units")


def measure(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """Run everything and return the results."""
    manifest, small = folder / "videos.jsonl", folder / "few.jsonl"
    load_before = os.getloadavg()[0]
    counts, few = write_manifest(manifest, sizes.lines), write_manifest(small, sizes.lines // 50)
    pipeline, run = measure_pipeline(manifest, counts, folder, sizes.repeats)
    profile, least = (
        min((run_profile(file, folder / "out") for _ in range(sizes.repeats)), key=lambda found: found["cpu_s"])
        for file in (manifest, small)
    )
    return {
        "manifest": dataclasses.asdict(counts),
        "pipeline": pipeline,
        "profile": profile,
        "engines": measure_engines(folder, sizes),
        "ten_million_videos": table_of((profile, least), run, counts, few),
        "repeats": sizes.repeats,
        "load_average_before": load_before,
        "is_quiet": load_before <= QUIET_LOAD,  # else the engines' rates and scaling, in wall time, say little
    }


def targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what must hold and whether it does."""
    return [at_most("pipeline: MB of memory", found["pipeline"]["peak_mb"], PEAK_LIMIT_MB)]


def main() -> int:
    """Measure and write."""
    made = parser(__doc__)
    for name in ("lines", "engine_lines", "repeats"):
        made.add_argument(f"--{name.replace('_', '-')}", type=int)
    made.add_argument("--work", type=Path, help="folder for what is made meanwhile, some GB; default: a temporary one")
    arguments = made.parse_args()
    given = {name: getattr(arguments, name) for name in ("lines", "engine_lines", "repeats")}
    sizes = dataclasses.replace(SMALL if arguments.small else Sizes(), **{k: v for k, v in given.items() if v})
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if (load := os.getloadavg()[0]) > QUIET_LOAD:
        print(f"the load is {load:.1f}: wait until the machine is quiet for a fair comparison", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        found = measure(sizes, Path(folder))
    packages = ("livecc-hf", "pyarrow", "numpy", "ray", "cld3-py")
    return finish(arguments, found | machine(*packages), targets(found), "data.json")


if __name__ == "__main__":
    sys.exit(main())
