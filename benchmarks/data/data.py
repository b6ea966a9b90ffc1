"""Data production without models, from a manifest to a dataset: speed, memory, and scaling with workers.

    python benchmarks/data/data.py [--small] [--lines 1000000] [--engine-lines 3000000] [--repeats 3] [--output FILE]

About 15 minutes on 2 cores that do nothing else: otherwise the engines' wall times mean little. Builds
`recipes/data/pretrain.yaml` without its two model stages from a million caption lines; then, from three million, with
1 and 2 workers of the engines local and ray. Every build is a process of its own and is repeated. The same builds on a
single unit are the overhead, which is subtracted to get a rate for each part of the work; 10 million videos are
computed from these rates.

The videos are made up, and only their captions exist: lines of `tests/data/reference_clips/captions.jsonl.gz` from any
one on, a few seconds each, with some silences. Some videos are of the kinds that the stages drop.
"""

import contextlib
import gzip
import json
import os
import shutil
import sys
import tempfile
import time
from concurrent.futures import Future, wait
from itertools import count
from pathlib import Path
from random import Random
from typing import Annotated, Any

sys.path.insert(1, f"{sys.path[0]}/..")
from harness import ROOT, Measured, Run, at_most, benchmark, in_child

STAGES = "metadata,captions,language,pretrain_clips"  # those of the recipe without a model
# What one process does at the end of a run; all other parts are shared by the workers.
DATASET, REPORT = "writing the dataset", "report"
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_USAGE_STATS_ENABLED": "0"}
PEAK_LIMIT_MB = 2000.0
UNIT_LINES = 20_000  # at most a unit's
TABLE_VIDEOS = 10_000_000
BAD_SHARE = 0.03  # of made-up videos, for each kind that is dropped
CAPTIONS = ROOT / "tests/data/reference_clips/captions.jsonl.gz"
GERMAN = ["und dann sehen wir noch einmal wie der Spieler", "den Ball in der letzten Minute über die Linie bringt"]


def made_up_video(random: Random, number: int, english: list[str]) -> dict[str, Any]:
    """Return a video of a manifest; its caption lines are neighbours, so that the words make sentences."""
    kind = random.random() // BAD_SHARE
    is_long, has_no_title, is_small, is_german = (kind == each for each in range(4))
    duration_s = round(random.uniform(30, 600) + 600 * is_long, 1)
    texts = GERMAN if is_german else english
    at_s, words_per_s, lines = random.uniform(0, 2), random.uniform(1.5, 3.2), []
    for index in count(random.randrange(len(texts))):
        text = "[Music]" if random.random() < 0.01 else texts[index % len(texts)]
        end_s = at_s + (text.count(" ") + 1) / words_per_s
        if end_s >= duration_s:
            break
        lines.append((round(at_s, 2), round(end_s, 2), text))
        at_s = end_s + (random.uniform(3.5, 12) if random.random() < 0.02 else random.uniform(0, 0.4))
    return {
        "id": f"video{number:08d}",
        "video": f"{number // 1000:05d}/video{number:08d}.mp4",
        "title": "" if has_no_title else f"What happened in video {number}",
        "category": random.choice(("Sports", "Education", "Gaming")),
        "language": "en",
        "duration_s": duration_s,
        "width_px": 426 if is_small else 1280,
        "height_px": 240 if is_small else 720,
        "subtitles": lines,
    }


def write_manifest(path: Path, n_lines: int, seed: int = 0) -> dict[str, Any]:
    """Write videos with `n_lines` caption lines in all, and return the sizes; the same seed gives the same bytes."""
    with gzip.open(CAPTIONS, "rt", encoding="utf-8") as file:
        english = [text for line in file for _, _, text in json.loads(line)["subtitles"]]
    random = Random(seed)
    sizes: dict[str, Any] = {"videos": 0, "caption_lines": 0, "hours": 0.0}
    with path.open("w", encoding="utf-8") as file:
        while (n_left := n_lines - sizes["caption_lines"]) > 0:
            video = made_up_video(random, sizes["videos"], english)
            video["subtitles"] = video["subtitles"][:n_left]
            file.write(json.dumps(video, ensure_ascii=False) + "\n")
            sizes["videos"] += 1
            sizes["caption_lines"] += len(video["subtitles"])
            sizes["hours"] += video["duration_s"] / 3600
    return sizes


def build_here(manifest: Path, out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Run the pipeline in this process and its workers.

    Returns:
        `clips`; seconds of CPU (`cpu_s`), up to the end of the last unit (`units_s`), and of each part of the work
        (`parts_s`, which make the whole if there is one worker); and `items`, the number that each stage got.
    """
    began_s = time.perf_counter()
    from livecc_hf.production.build import build
    from livecc_hf.production.options import load_options

    said: dict[str, float] = {}
    recipe = ROOT / "recipes/data/pretrain.yaml"
    chosen = load_options(recipe, only_stages=STAGES, input=str(manifest), out=str(out), **options)
    result = build(chosen, lambda line: said.update({line: time.perf_counter() - began_s}))
    end_s = time.perf_counter() - began_s
    names = {"input": "reading the manifest"} | {name: f"stage {name}" for name in STAGES.split(",")}
    parts_s = {names[stage.name]: stage.seconds for stage in result.stats}
    units_s, report_s = said["writing the dataset"], said["writing the report"]  # when a build says that it begins
    parts_s["starting, cutting and writing units"] = units_s - sum(parts_s.values())
    parts_s |= {DATASET: report_s - units_s, REPORT: end_s - report_s}
    items = {names[stage.name]: stage.items_in for stage in result.stats}
    found = {"clips": result.n_clips, "cpu_s": sum(os.times()[:4]), "units_s": units_s}
    return found | {"parts_s": parts_s, "items": items}


def run_build(manifest: Path, out: Path, repeats: int = 1, **options: Any) -> dict[str, Any]:
    """Run the pipeline several times; return :func:`build_here` of the fastest, with the peak memory of all processes.

    Memory is resident memory; what processes share counts in each. `options` are those of `BuildOptions`.
    """
    import psutil

    peaks = [0]

    def watch(process_id: int, future: Future) -> None:
        root = psutil.Process(process_id)
        while not wait([future], 0.1).done:
            with contextlib.suppress(psutil.Error):  # a process has ended meanwhile
                peaks.append(sum(each.memory_info().rss for each in (root, *root.children(recursive=True))))

    runs = []
    for _ in range(repeats):
        shutil.rmtree(out, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix="ray") as ray_folder:  # so that no other ray finds it
            environment = _ENVIRONMENT | {"RAY_TMPDIR": ray_folder}
            runs.append(in_child(build_here, manifest, out, options, environment=environment, watch=watch))
    return min(runs, key=lambda run: run["units_s"]) | {
        "cpu_s": min(run["cpu_s"] for run in runs),
        "peak_mb": max(peaks) / 1e6,
        "dataset_mb": sum(file.stat().st_size for file in (out / "dataset").rglob("*") if file.is_file()) / 1e6,
    }


def measure_engines(folder: Path, n_lines: int, repeats: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Measure both engines with 1 and 2 workers; return their figures, and the time of 10 million videos."""
    large, small = folder / "engines.jsonl", folder / "unit.jsonl"
    counts, unit = write_manifest(large, n_lines, seed=1), write_manifest(small, min(UNIT_LINES, n_lines // 2), seed=1)
    found: dict[str, Any] = {name: counts[name] for name in ("videos", "caption_lines")}
    table: dict[str, Any] = {}
    for engine in ("local", "ray"):
        address = {"ray_address": "local"} if engine == "ray" else {}  # never a running cluster
        for workers in (1, 2):
            whole, least = (
                run_build(file, folder / "out", repeats, engine=engine, workers=workers, **address)
                for file in (large, small)
            )
            rate = (counts["videos"] - unit["videos"]) / max(whole["units_s"] - least["units_s"], 1e-3)
            found[f"{engine}, {workers}"] = {"overhead_s": least["units_s"], "videos_per_s": rate}
            table = table or table_of(whole, least, counts, unit)  # of the first: one local worker
        one, two = (found[f"{engine}, {workers}"]["videos_per_s"] for workers in (1, 2))
        found[f"{engine}_scaling"] = two / one
    found["ray_overhead_s"] = found["ray, 2"]["overhead_s"] - found["local, 2"]["overhead_s"]
    return found, table


def table_of(
    whole: dict[str, Any], least: dict[str, Any], counts: dict[str, Any], unit: dict[str, Any]
) -> dict[str, Any]:
    """Compute the time for 10 million videos from builds by one worker of a whole manifest and of a single unit."""
    times, rows = TABLE_VIDEOS / counts["videos"], []
    for part, seconds in whole["parts_s"].items():
        per_video_s = max(seconds - least["parts_s"][part], 0.0) / (counts["videos"] - unit["videos"])
        row = {"what": part, "items": round(whole["items"].get(part, counts["videos"]) * times)}
        row |= {"core_hours": per_video_s * TABLE_VIDEOS / 3600, "in_one_process": part in (DATASET, REPORT)}
        rows.append(row)
    return {
        "videos": TABLE_VIDEOS,
        "hours_of_video": round(counts["hours"] * times),
        "clips": round(whole["clips"] * times),
        "dataset_gb": round(whole["dataset_mb"] * times / 1000),
        "rows": rows,
        "core_hours": sum(row["core_hours"] for row in rows),
        "core_hours_in_one_process": sum(row["core_hours"] for row in rows if row["in_one_process"]),
    }


@benchmark(
    "data.json", "livecc-hf", "pyarrow", "numpy", "ray", "cld3-py",
    small={"lines": 3000, "engine_lines": 6000, "repeats": 1},
)  # fmt: skip
def main(
    _: Run,
    lines: Annotated[int, "caption lines for the pipeline"] = 1_000_000,
    engine_lines: Annotated[int, "caption lines for the engines; a unit's are subtracted"] = 3_000_000,
    repeats: Annotated[int, "of each run"] = 3,
) -> Measured:
    """Measure pipeline and engines."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = write_manifest(folder / "videos.jsonl", lines)
        built = run_build(folder / "videos.jsonl", folder / "out", repeats)
        pipeline = {name: built[name] for name in ("clips", "units_s", "cpu_s", "peak_mb", "dataset_mb")}
        pipeline["clips_per_s_per_core"] = built["clips"] / built["cpu_s"]
        pipeline["lines_per_s_per_core"] = counts["caption_lines"] / built["cpu_s"]
        report = {"manifest": counts, "pipeline": pipeline, "repeats": repeats}
        report["engines"], report["ten_million_videos"] = measure_engines(folder, engine_lines, repeats)
    return report, [at_most("pipeline: MB of memory", built["peak_mb"], PEAK_LIMIT_MB)]
