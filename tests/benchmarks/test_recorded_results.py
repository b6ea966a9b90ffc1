"""The recorded results of benchmarks meet their targets."""

import json
from datetime import date
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parents[2] / "benchmarks/results").glob("*.json"))
NAMES = [path.stem for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_no_recorded_result_misses_its_target(path):
    result = json.loads(path.read_text())
    assert result["hardware"] and result["versions"] and date.fromisoformat(result["measured_on"])
    targets = result.get("targets", [])
    assert [target for target in targets if not target["met"]] == []
    assert result.get("targets_met", True)
    assert targets or path.stem == "interleaving"  # which compares and asks for nothing


def test_a_missed_target_is_said_and_is_the_exit_code(load, tmp_path, capsys):
    harness = load("harness")
    given = harness.parser("x").parse_args(["--output", str(tmp_path / "x.json")])
    asked = [harness.at_most("a", 1.23456, 1), harness.at_least("b", 2, 1), harness.holds("c", True)]
    assert harness.finish(given, {"figure": [1.23456]}, asked) == 1
    written = json.loads((tmp_path / "x.json").read_text())
    assert date.fromisoformat(written["measured_on"])
    assert written["figure"] == [1.235] and not written["targets_met"]
    assert [target["met"] for target in written["targets"]] == [False, True, True]
    assert "MISSED a: 1.235 (limit 1)" in capsys.readouterr().out
    given.small = True  # too little work to say anything about time
    assert harness.finish(given, {}, asked) == 0
    assert harness.finish(given, {}, [harness.holds("c", False)]) == 1
