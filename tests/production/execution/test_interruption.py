"""Runs that are killed, stopped, out of disk, or started again with other settings."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from manifests import video_row, write_manifest
from runs import STAGES, dataset_rows, options_for, quiet_build, table_of

from livecc_hf.production.execution.unit_folder import UnitFolder


def test_a_finished_run_is_not_done_again(tmp_path):
    options = options_for(tmp_path, ["a"] * 3, stages={"pretrain_clips": {"min_s": 20.0}})
    out = quiet_build(options).out

    def times():
        return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.name != ".lock"}

    before = times()
    quiet_build(options)
    assert times() == before


def test_other_settings_on_the_same_folder_are_refused(tmp_path):
    quiet_build(options_for(tmp_path, ["a"] * 3, stages={"pretrain_clips": {"min_s": 20.0}}))
    changed = {"stages": {"pretrain_clips": {"min_s": 25.0}}}
    with pytest.raises(ValueError, match=r"pretrain_clips.min_s: 20.0 there, 25.0 now\): choose another out, or"):
        quiet_build(options_for(tmp_path, [], **changed))
    result = quiet_build(options_for(tmp_path, [], **changed, restart=True))
    assert result.n_clips == 4
    write_manifest(tmp_path / "m.jsonl", ["a"] * 5)
    with pytest.raises(ValueError, match=r"other settings \(input: "):
        quiet_build(options_for(tmp_path, [], **changed))
    assert (tmp_path / "out" / "units").is_dir()


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "out" / "dataset").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds files but no build.json"):
        quiet_build(options_for(tmp_path, ["a"], restart=True))
    assert (tmp_path / "out" / "dataset").is_dir()


def start_cli(tmp_path, out, delay_s):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(json.dumps({"stages": STAGES | {"simple_stages:Score": {"max_loss": 200.0, "delay_s": delay_s}}}))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "livecc_hf.cli.main", "data", "build", "--config", recipe, "--out", out]
    command += ["--input", tmp_path / "m.jsonl", "unit_videos=2", "workers=1"]
    return subprocess.Popen(
        list(map(str, command)), env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for(condition, seconds=60):
    for _ in range(seconds * 20):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def test_a_run_that_is_killed_goes_on(tmp_path):
    write_manifest(tmp_path / "m.jsonl", ["a"] * 6)
    units = tmp_path / "out" / "units"
    run = start_cli(tmp_path, tmp_path / "out", 0.5)
    wait_for(lambda: units.is_dir() and list(units.glob("0*")))
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    finished = {path: path.stat().st_mtime_ns for path in units.glob("0*/*")}
    assert 0 < len(list(units.glob("0*"))) < 3
    run = start_cli(tmp_path, tmp_path / "out", 0.5)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 0, said
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    ids = [row["id"] for row in dataset_rows(tmp_path / "out")]
    assert ids == ["v0#0", "v0#1", "v1#0", "v2#0", "v3#0", "v3#1", "v4#0", "v5#0"]


@pytest.mark.slow
def test_a_killed_run_goes_on_and_loses_nothing(tmp_path):
    titles = ["a"] * 24
    titles[5], titles[11] = "drop", "raise"
    write_manifest(tmp_path / "m.jsonl", titles)
    units = tmp_path / "out" / "units"
    for wanted in (1, 4, 7):  # killed at three places
        run = start_cli(tmp_path, tmp_path / "out", 0.3)
        wait_for(lambda wanted=wanted: units.is_dir() and len(list(units.glob("0*"))) >= wanted)
        os.kill(run.pid, signal.SIGKILL)
        run.communicate()
    finished = {path: path.stat().st_mtime_ns for path in units.glob("0*/*")}
    (units / ".000011.1.partial").mkdir()
    run = start_cli(tmp_path, tmp_path / "out", 0.3)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 0, said
    assert "continuing after" in said
    assert {path: path.stat().st_mtime_ns for path in finished} == finished  # finished units are not redone
    whole = start_cli(tmp_path, tmp_path / "whole", 0.3)
    assert whole.wait(120) == 0
    assert dataset_rows(tmp_path / "out") == dataset_rows(tmp_path / "whole")
    names = ("dropped.parquet",)
    assert all(table_of(tmp_path / "out", name).equals(table_of(tmp_path / "whole", name)) for name in names)
    assert not list((tmp_path / "out").rglob("*.partial"))


@pytest.mark.slow
def test_ctrl_c_ends_every_process_and_can_go_on(tmp_path):
    write_manifest(tmp_path / "m.jsonl", ["a"] * 24)
    run = start_cli(tmp_path, tmp_path / "out", 0.5)
    units = tmp_path / "out" / "units"
    wait_for(lambda: units.is_dir() and list(units.glob("0*")))
    os.kill(run.pid, signal.SIGINT)
    _, said = run.communicate(timeout=60)
    assert (run.returncode, said.splitlines()[-1]) == (130, "interrupted")
    assert said.splitlines()[-2] == "finished units are kept: run the same command again to continue"
    with pytest.raises(ProcessLookupError):  # none of its group is left
        wait_for(lambda: os.killpg(run.pid, 0), 20)
    assert not list(units.glob(".*.partial"))


def test_two_runs_in_one_folder_are_refused(tmp_path):
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(ValueError, match="another run is working in"):
        quiet_build(options_for(tmp_path, ["a"]))


_LIMITED = """
import resource, sys
sys.path.insert(0, {folder!r})
from livecc_hf.production.build import build
from runs import options_for
from pathlib import Path

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))  # the workers inherit it
    stages = {{"pretrain_clips": {{"min_s": 20.0}}}}
    try:
        build(options_for(Path(sys.argv[1]), [], stages=stages, unit_videos=1), say=lambda line: None)
    except OSError as error:
        print(type(error).__name__, error)
"""


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path):
    """A limit on the size of files stands for the end of the disk: the first units fit, a long video does not."""
    rows = [video_row(number, seconds=60) for number in range(6)] + [video_row(6, seconds=20_000)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "limited.py").write_text(_LIMITED.format(folder=str(Path(__file__).parents[1])))
    run = subprocess.run(
        [sys.executable, tmp_path / "limited.py", tmp_path], capture_output=True, text=True, timeout=60
    )
    assert re.search(
        r"^DiskFullError the disk of .* is full: \d+ finished units? kept; free some space and run", run.stdout
    ), run.stderr
    units = tmp_path / "out" / "units"
    finished = {path: path.stat().st_mtime_ns for path in units.glob("0*/*")}
    assert 0 < len(list(units.glob("0*"))) < 7
    assert all(len(pq.read_table(unit / "clips.parquet")) for unit in units.glob("0*"))  # whole
    assert not list(units.glob(".*.partial"))
    stages = {"pretrain_clips": {"min_s": 20.0}}
    result = quiet_build(options_for(tmp_path, [], stages=stages, unit_videos=1))
    assert result.stats[0].items_out == 7
    assert {path: path.stat().st_mtime_ns for path in finished} == finished


CLIPS = {"pretrain_clips": {"min_s": 20.0}}


def units_of(out) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (Path(out) / "units").glob("0*")}


@pytest.mark.parametrize(("first", "n_kept"), [(8, 2), pytest.param(10, 2, marks=pytest.mark.slow), (99, 4)])
def test_a_trial_becomes_the_whole(tmp_path, first, n_kept):
    """Whole units stay; the unit that the limit cut short is made again."""
    trial = quiet_build(options_for(tmp_path, ["a"] * 14, stages=CLIPS, limit=first))
    assert trial.stats[0].items_in == min(first, 14)
    before = units_of(trial.out)
    whole = quiet_build(options_for(tmp_path, [], stages=CLIPS))
    after = units_of(whole.out)
    assert (whole.stats[0].items_in, len(after)) == (14, 4)
    assert [after[name] == before.get(name) for name in sorted(after)] == [True] * n_kept + [False] * (4 - n_kept)
    other = quiet_build(options_for(tmp_path, [], "other", stages=CLIPS))
    assert dataset_rows(whole.out) == dataset_rows(other.out)
    assert table_of(whole.out, "dropped.parquet").equals(table_of(other.out, "dropped.parquet"))


@pytest.mark.parametrize("more", [7, None])
def test_a_higher_limit_within_the_last_unit_is_in_the_dataset(tmp_path, more):
    """The unit that is made again has the number of the old one."""
    quiet_build(options_for(tmp_path, ["a"] * 8, stages=CLIPS, limit=5))
    whole = quiet_build(options_for(tmp_path, [], stages=CLIPS, limit=more))
    other = quiet_build(options_for(tmp_path, [], "other", stages=CLIPS, limit=more))
    assert dataset_rows(whole.out) == dataset_rows(other.out)
    assert whole.stats[0].items_in == (more or 8)


def test_a_unit_that_was_removed_is_in_the_dataset_again(tmp_path):
    out = quiet_build(options_for(tmp_path, ["a"] * 8, stages=CLIPS)).out
    before = (out / "funnel.json").stat().st_mtime_ns
    assert quiet_build(options_for(tmp_path, [], stages=CLIPS)) and (out / "funnel.json").stat().st_mtime_ns == before
    shutil.rmtree(out / "units" / "000001")
    assert quiet_build(options_for(tmp_path, [], stages=CLIPS)) and (out / "funnel.json").stat().st_mtime_ns > before


def test_a_limit_does_not_shrink(tmp_path):
    quiet_build(options_for(tmp_path, ["a"] * 6, stages=CLIPS, limit=5))
    for limit in (None, 3):
        quiet_build(options_for(tmp_path, [], stages=CLIPS)) if limit is None else None
        now = 4 if limit is None else 3
        with pytest.raises(
            ValueError, match=rf"limit none, and limit is {now} now: it can only be raised or removed; .*--restart"
        ):
            quiet_build(options_for(tmp_path, [], stages=CLIPS, limit=now))
    assert quiet_build(options_for(tmp_path, [], stages=CLIPS, limit=3, restart=True)).stats[0].items_in == 3


def test_a_dataset_of_fewer_units_is_written_anew(tmp_path):
    """As after a kill between the last unit and the dataset, with the dataset of a trial in place."""
    quiet_build(options_for(tmp_path, ["a"] * 8, stages=CLIPS, limit=4))
    old = (tmp_path / "out" / "funnel.json").read_bytes()
    quiet_build(options_for(tmp_path, [], stages=CLIPS))
    (tmp_path / "out" / "funnel.json").write_bytes(old)
    assert quiet_build(options_for(tmp_path, [], stages=CLIPS)).n_clips == 8 + 3


def test_where_the_work_is_done_may_change(tmp_path):
    prompt = {"base_url": "http://127.0.0.1:1/v1", "model": "m", "max_attempts": 1, "give_up_after": 1}
    for url in ("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"):
        stages = CLIPS | {"prompt": prompt | {"base_url": url}}
        with pytest.raises(Exception, match=f"{url[:18]}"):  # it is asked, and not refused before
            quiet_build(options_for(tmp_path, ["bad line"] * 4 + ["a"] * 2, stages=stages, max_retries=0))
    assert UnitFolder(tmp_path / "out" / "units").numbers() == [0]  # of which no clip is asked about
    with pytest.raises(ValueError, match=r"other settings \(prompt.model: 'm' there, 'n' now"):
        quiet_build(options_for(tmp_path, [], stages=CLIPS | {"prompt": prompt | {"model": "n"}}))
