"""The benchmark of data production measures what it says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from livecc_hf.production.inputs.videos import open_input

BENCHMARKS = Path(__file__).parents[2] / "benchmarks/data"


def test_a_manifest_has_as_many_lines_as_asked_for_and_the_same_each_time(load, tmp_path):
    write_manifest = load("data").write_manifest
    paths = [tmp_path / f"{i}.jsonl" for i in range(3)]
    counts = [write_manifest(path, 2000, seed=seed) for path, seed in zip(paths, (0, 0, 1))]
    assert counts[0]["caption_lines"] == 2000
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()
    source = open_input(paths[0])
    rows = [row for unit in source.units() for row in source.read(unit)[0].to_pylist()]
    assert len(rows) == counts[0]["videos"]
    assert sum(len(row["subtitles"]) for row in rows) == 2000


def test_a_run_is_measured_with_its_processes(load, tmp_path):
    """Reads, cuts and writes for real; the workers' time and memory count."""
    data = load("data")
    counts = data.write_manifest(tmp_path / "m.jsonl", 3000)
    run = data.run_build(tmp_path / "m.jsonl", tmp_path / "out", workers=1)
    shards = list((tmp_path / "out/dataset/data").glob("*.parquet"))
    assert run["clips"] == sum(pq.read_metadata(shard).num_rows for shard in shards) > 0
    assert run["items"]["reading the manifest"] == counts["videos"] > run["items"]["stage language"] > 0
    assert {"stage language", "stage captions", "writing the dataset", "report"} <= set(run["parts_s"])
    assert 0 < run["units_s"] < sum(run["parts_s"].values())
    assert min(run["parts_s"].values()) > 0  # one worker: the parts make the whole
    assert run["cpu_s"] > 0.3 and 50 < run["peak_mb"] < 2000 and run["dataset_mb"] > 0


def test_a_run_that_fails_says_why(load, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load("data").run_build(tmp_path / "gone.jsonl", tmp_path / "out")


def test_the_table_takes_off_what_does_not_grow_with_the_input(load):
    data = load("data")
    counts, unit = {"videos": 1000, "hours": 50.0}, {"videos": 100, "hours": 5.0}
    least = {"parts_s": {"stage captions": 1.0, "report": 9.0}}
    whole = {"parts_s": {"stage captions": 10.0, "report": 10.0}, "items": {"stage captions": 900}}
    table = data.table_of(whole | {"clips": 2000, "dataset_mb": 10.0}, least, counts, unit)
    captions, report = table["rows"]
    assert captions["core_hours"] == pytest.approx(27.78, abs=0.01)  # 9 s for 900 videos: 0.01 s each
    assert captions["items"] == 9_000_000 and not captions["in_one_process"]
    assert report["core_hours"] == pytest.approx(1 / 900 * 1e7 / 3600) and report["in_one_process"]
    assert table["clips"] == 20_000_000 and table["dataset_gb"] == 100
    assert table["core_hours"] == pytest.approx(27.78 + 3.09, abs=0.01)
    assert table["core_hours_in_one_process"] == report["core_hours"]


def test_the_recorded_results_meet_the_targets():
    result = json.loads((BENCHMARKS.parent / "results/data.json").read_text())
    assert result["manifest"]["caption_lines"] == 1_000_000
    pipeline = result["pipeline"]
    assert [target["met"] for target in result["targets"]] == [True]
    assert pipeline["clips_per_s_per_core"] == pytest.approx(pipeline["clips"] / pipeline["cpu_s"], rel=0.01)
    table = result["ten_million_videos"]
    assert sum(row["core_hours"] for row in table["rows"]) == pytest.approx(table["core_hours"], abs=0.01)


def test_the_page_says_what_ten_million_videos_take():
    page = (BENCHMARKS.parents[1] / "docs/data-production.md").read_text()
    table = json.loads((BENCHMARKS.parent / "results/data.json").read_text())["ten_million_videos"]
    for row in table["rows"]:
        by = "one process" if row["in_one_process"] else "all processes"
        assert f"| {row['what']} | {row['items'] / 1e6:.1f} M | {row['core_hours']:.2f} | {by} |" in page
    assert f"would take {table['core_hours']:.1f} core hours" in page
    assert f"run in one process take {table['core_hours_in_one_process']:.2f} hours" in page


def test_the_recorded_results_are_of_a_quiet_machine():
    """Wall times of a loaded machine, or of single runs, say little."""
    result = json.loads((BENCHMARKS.parent / "results/data.json").read_text())
    assert result["load_average"][0] <= 0.5 and result["repeats"] >= 3


@pytest.mark.slow
def test_the_whole_script_in_small(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(BENCHMARKS / "data.py"), "--small", "--output", str(tmp_path / "data.json")]
    subprocess.run(command, env=environment, capture_output=True, check=True, timeout=600)
    result = json.loads((tmp_path / "data.json").read_text())
    assert result["pipeline"]["peak_mb"] > 50 and result["pipeline"]["clips"] > 0
    assert {"local, 1", "local, 2", "ray, 1", "ray, 2"} <= set(result["engines"])
    assert result["ten_million_videos"]["core_hours"] > 0


def test_the_page_says_what_the_stages_with_models_took():
    page = (BENCHMARKS.parents[1] / "docs/data-production.md").read_text()
    stages = json.loads((BENCHMARKS.parent / "results/data_models.json").read_text())["stages"]
    hours = {"asr": 925_191, "active_speaker": 690_000}
    for name, found in stages.items():
        [row] = [line for line in page.splitlines() if line.startswith(f"| `{name}` |") and "core hours" in line]
        rate = found["hours_of_video_per_core_hour"]
        assert f"| {found['clips_per_s_per_core']:.2f} | {rate:.1f} |" in row
        assert f"({hours[name]:,} h of" in row
        said = int(re.search(r"([\d,]+) core hours", row)[1].replace(",", ""))
        assert said == pytest.approx(hours[name] / rate, rel=0.005)
