"""The benchmark of live decoding measures what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "decoding" / "decoding_live.py"


def run(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def test_both_ways_give_the_same_frames(tmp_path):
    output = tmp_path / "result.json"
    options = ("--height", "90", "--seconds", "2", "--rounds", "1", "--only", "h264_10_frame_gop", "mjpeg")
    finished = run(*options, "--output", str(output))
    assert finished.returncode == 0, finished.stderr
    result = json.loads(output.read_text())
    assert result["video"] == "160x90, 30 fps, 2 s, 2 frames a second kept"
    assert list(result["files"]) == ["h264_10_frame_gop", "mjpeg"]
    for file in result["files"].values():
        assert file["equal_frames"]
        assert file["n_frames_kept"] == 4
        for way in ("only_needed", "every_frame"):
            assert file[way]["times_real_time"] == pytest.approx(2 / file[way]["wall_s"], rel=0.2)


def test_a_length_that_cannot_be_made_is_refused(tmp_path):
    finished = run("--seconds", "15", "--output", str(tmp_path / "result.json"))
    assert finished.returncode == 2
    assert "--seconds 15: expected 1 to 10, or a multiple of 10" in finished.stderr
