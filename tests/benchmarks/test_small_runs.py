"""Each benchmark runs in small; those that have tests of their own are tested there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from real_weights import needs_whisper

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run_small(script, output):
    command = [sys.executable, str(BENCHMARKS / script), "--small", "--output", str(output)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return json.loads(output.read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "figures"),
    [
        pytest.param("data/model_stages.py", {"targets_met": True}, marks=needs_whisper),
        ("decoding/decoding.py", {"targets_met": True, "rounds": 1}),
        ("quality/backbone_recall.py", {"clips": 2, "first_clip": 10_000}),
        ("quality/tiny_commentary.py", {"clips": 1, "dtype": "float32"}),
        ("streaming/pool.py", {"model": "livecc-tiny", "new_tokens": 3}),
    ],
)
def test_a_small_run_works(script, figures, tmp_path):
    result = run_small(script, tmp_path / "result.json")
    assert {name: result[name] for name in figures} == figures


@pytest.mark.slow
def test_the_parts_of_a_pages_overhead_make_it(tmp_path):
    pytest.importorskip("playwright")
    if not (shutil.which("chromium") or shutil.which("chromium-browser")):
        pytest.skip("needs chromium")
    result = run_small("serving/page.py", tmp_path / "result.json")
    [found] = result["results"]
    assert found["pages"] == 1 and found["turns"] > 15
    parts = [found[f"{name}_ms"]["median"] for name in ("grab", "network", "decode", "paint")]
    assert min(parts) > 0
    assert 0.5 * found["overhead_ms"]["median"] < sum(parts) < 2 * found["overhead_ms"]["median"]  # medians


def test_every_benchmark_is_in_the_list_and_says_how_to_run_it():
    listed = (BENCHMARKS / "README.md").read_text()
    runs = re.compile(r"^@benchmark\(|__main__", re.MULTILINE)
    scripts = [path for path in BENCHMARKS.glob("*/*.py") if runs.search(path.read_text())]
    assert len(scripts) > 12
    for path in scripts:
        name = f"{path.parent.name}/{path.name}"
        assert f"`{name}`" in listed or f"`{path.parent.name}/*.py`" in listed
        assert f"python benchmarks/{name}" in path.read_text().split('"""')[1]
