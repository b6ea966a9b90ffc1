"""The recorded results of benchmarks meet their targets."""

import json
from datetime import date
from pathlib import Path
from typing import Annotated

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
    asked = [harness.at_most("a", 1.23456, 1), harness.at_least("b", 2, 1), harness.holds("c", True)]
    run = harness.Run(output=tmp_path / "x.json")
    assert run.finish({"figure": [1.23456]}, asked) == 1
    written = json.loads((tmp_path / "x.json").read_text())
    assert date.fromisoformat(written["measured_on"])
    assert written["figure"] == [1.235] and not written["targets_met"]
    assert [target["met"] for target in written["targets"]] == [False, True, True]
    assert "MISSED a: 1.235 (limit 1)" in capsys.readouterr().out
    run.is_small = True  # too little work to say anything about time
    assert run.finish({}, asked) == 0
    assert run.finish({}, [harness.holds("c", False)]) == 1


def test_parameters_are_options(load, tmp_path, capsys, monkeypatch):
    harness = load("harness")
    monkeypatch.setattr(harness, "RESULTS", tmp_path)

    @harness.benchmark("x.json", "pytest", small={"rounds": 1})
    def main(
        run: harness.Run,
        rounds: Annotated[int, "of both sides"] = 3,
        only: Annotated[list[str], "which", ("one", "two")] = ("one", "two"),
        folder: Annotated[Path | None, "where"] = None,
    ):
        if rounds < 1:
            raise harness.CannotMeasureError(f"--rounds {rounds}: expected 1 or more")
        return {"rounds": rounds, "only": only, "folder": str(folder)}, [harness.at_most("rounds", rounds, 2)]

    assert main(["--only", "two", "--folder", "here"]) == 1
    written = json.loads((tmp_path / "x.json").read_text())
    assert [written[name] for name in ("rounds", "only", "folder")] == [3, ["two"], "here"]
    assert written["hardware"] and written["versions"]["pytest"] and len(written["load_average"]) == 2
    (tmp_path / "x.json").unlink()
    assert main(["--small"]) == 0  # which writes no file unless told to
    assert not list(tmp_path.iterdir())
    assert '"rounds": 1' in capsys.readouterr().out
    assert main(["--small", "--rounds", "2", "--output", str(tmp_path / "y.json")]) == 0
    assert json.loads((tmp_path / "y.json").read_text())["rounds"] == 2
    for wrong, said in ((["--only", "three"], "invalid choice"), (["--rounds", "0"], "expected 1 or more")):
        with pytest.raises(SystemExit, match="2"):
            main(wrong)
        assert said in capsys.readouterr().err


def test_results_of_a_gpu_have_its_name_in_theirs(load, tmp_path, monkeypatch):
    harness = load("harness")
    monkeypatch.setattr(harness, "RESULTS", tmp_path)
    for device in ("cpu", "NVIDIA H200"):
        harness.Run(file="pool.json").finish({"device": device}, [])
    assert {path.name for path in tmp_path.iterdir()} == {"pool.json", "pool-nvidia-h200.json"}
