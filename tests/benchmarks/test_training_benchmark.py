"""The training benchmarks measure what they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks/training"


def run(script: str, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_both_ways_do_the_same_work(tmp_path):
    output = tmp_path / "training.json"
    done = run("training.py", "--small", "--output", str(output))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    report = json.loads(output.read_text())
    result = report["models"]["small"]
    ours, other = result["ours"], result["straightforward"]
    assert ours["losses"] == pytest.approx(other["losses"], abs=1e-4)
    assert len(ours["losses"]) == 2
    assert ours["losses"][1] != ours["losses"][0]
    assert ours["rows_per_step"] == len(result["samples"]["packed_row_tokens"]) == 2
    assert other["rows_per_step"] == len(result["samples"]["sample_tokens"]) == 3
    assert sum(result["samples"]["packed_row_tokens"]) == sum(result["samples"]["sample_tokens"])
    assert min(ours["peak_above_loaded_mb"], other["peak_above_loaded_mb"]) > 0
    assert result["memory_ratio"] > 0
    assert report["hardware"]


def test_other_work_and_missed_targets_are_said(load):
    training = load("training")
    met = {"first_loss_difference": 1e-6, "memory_ratio": 0.3, "step_time_ratio": 0.6}
    assert [target["met"] for target in training.targets("mid-size", met)] == [True] * 3
    missed = {"first_loss_difference": float("nan"), "memory_ratio": 0.34, "step_time_ratio": 0.67}
    assert [target["met"] for target in training.targets("mid-size", missed)] == [False] * 3
    assert [target["met"] for target in training.targets("livecc-tiny", missed)] == [False]
