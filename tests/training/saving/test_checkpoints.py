"""Whole and half-written checkpoints."""

import pytest

from livecc_hf.training.saving.checkpoints import (
    RunState,
    check_same_run,
    last_whole_checkpoint,
    list_checkpoints,
    read_run_state,
    remove_partial,
    write_run_state,
)
from livecc_hf.training.saving.run_identity import RunIdentity


@pytest.fixture()
def run(tmp_path):
    """A run with checkpoints 5 and 10 whole and 15 half written."""
    for step in (5, 10, 15):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-notes").mkdir()
    for step in (5, 10):
        write_run_state(
            tmp_path / f"checkpoint-{step}", RunState(step, "abc", 8, 100, True, {"n_samples": 1, "n_skipped": 0})
        )
    return tmp_path


def test_the_newest_whole_one_is_found_and_the_rest_removed(run):
    assert last_whole_checkpoint(run).name == "checkpoint-10"
    remove_partial(run)
    assert [path.name for path in list_checkpoints(run)] == ["checkpoint-5", "checkpoint-10"]
    assert (run / "checkpoint-notes").exists()
    assert read_run_state(run / "checkpoint-5").skipped == {"n_samples": 1, "n_skipped": 0}


def test_a_folder_without_checkpoints(tmp_path):
    assert last_whole_checkpoint(tmp_path / "nowhere") is None


def test_another_run_is_refused():
    state = RunState(5, "abc", 8)
    check_same_run("checkpoint-5", state, RunIdentity("abc"), 8)
    with pytest.raises(ValueError, match="other data.*abc.*xyz"):
        check_same_run("checkpoint-5", state, RunIdentity("xyz"), 8)
    with pytest.raises(ValueError, match="8 rows a step, this run has 4"):
        check_same_run("checkpoint-5", state, RunIdentity("abc"), 4)


def test_what_has_changed_is_named():
    before = RunIdentity("abc", {"seed": 1, "data[0].path": "a"}, {"max_steps": 4})
    state = RunState.of(before, 5, 8, 100, True, {})
    now = RunIdentity("xyz", {"seed": 2, "data[0].path": "a", "data[1].path": "b"}, {"max_steps": 4})
    with pytest.raises(ValueError, match=r'options: seed 1 -> 2; data\[1\].path not given -> "b"\. Restore'):
        check_same_run("checkpoint-5", state, now, 8)


def test_what_may_change_is_said(caplog):
    state = RunState.of(RunIdentity("abc", {"seed": 1}, {"max_steps": 4}), 5, 8, 100, True, {})
    check_same_run("run/checkpoint-5", state, RunIdentity("abc", {"seed": 1}, {"max_steps": 9}), 8)
    assert "changed since checkpoint-5, applied from now on: max_steps 4 -> 9" in caplog.text
