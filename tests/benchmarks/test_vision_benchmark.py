"""The benchmark of shared vision runs, and its two sides agree."""

import json

import pytest


@pytest.mark.slow
def test_shared_vision_against_one_pass_a_question(load, tmp_path):
    output = tmp_path / "evaluation.json"
    assert load("shared_vision").main(["--small", "--output", str(output)]) == 0
    result = json.loads(output.read_text())
    assert result["rows"] == 6
    assert result["same_answers"]
    assert result["largest_difference_of_a_probability"] < 1e-6
    assert 0 < result["time_ratio"] < 1
