"""Units through stages: batches, failures, processes that die, and writing of units."""

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from manifests import write_manifest
from simple_stages import Killer, NoModel, Score, Titles

from livecc_hf.production.errors import DeviceError, StageBrokenError
from livecc_hf.production.execution import pipeline
from livecc_hf.production.execution.local import LocalEngine
from livecc_hf.production.execution.pipeline import RunPlan, group_stages, run_group
from livecc_hf.production.execution.stage_runs import run_stage
from livecc_hf.production.execution.unit_folder import UnitFolder
from livecc_hf.production.execution.units import UnitState
from livecc_hf.production.execution.workers import Worker, WorkerDiedError, WorkerHangsError
from livecc_hf.production.inputs.videos import open_input
from livecc_hf.production.schemas import CLIP_SCHEMA
from livecc_hf.production.stages.base import Stage, split
from livecc_hf.production.stages.clips import PretrainClips
from livecc_hf.production.stages.registry import STAGES, find_stage, make_stage
from livecc_hf.production.stages.text_loss import TextLoss

CLIPS = PretrainClips(min_s=20.0)


def make_work(tmp_path, titles, stages, unit_videos=8, **options) -> RunPlan:
    source = open_input(write_manifest(tmp_path / "m.jsonl", titles), unit_videos=unit_videos)
    return RunPlan(source, group_stages(stages), UnitFolder(tmp_path / "units"), **options)


def run_here(work: RunPlan) -> None:
    """Run all units in sequence in this process."""
    for unit in work.source.units():
        payload = unit
        for index in range(len(work.groups)):
            payload = run_group(work, index, payload)


def results(work: RunPlan) -> tuple[list[dict], list[dict]]:
    return [row for table in work.folder.rows() for row in table.to_pylist()], [
        row for table in work.folder.dropped() for row in table.to_pylist()
    ]


def test_every_stage_is_listed_under_its_name():
    import importlib
    import pkgutil

    from livecc_hf.production import stages

    found = set()
    for info in pkgutil.walk_packages(stages.__path__, "livecc_hf.production.stages."):
        for value in vars(importlib.import_module(info.name)).values():
            if isinstance(value, type) and issubclass(value, Stage) and value.__module__ == info.name:
                found |= {value.name} if "name" in vars(value) else set()
    assert found == set(STAGES)
    assert all(find_stage(name).name == name for name in STAGES)


def test_stages_are_made_from_what_a_recipe_says():
    assert make_stage("pretrain_clips", {"min_s": 20, "max_previous_words": None}).min_s == 20
    assert make_stage("category", {"keep": ["Sports"]}).keep == ("Sports",)
    assert make_stage("simple_stages:Score", {"max_loss": "1e-3"}).max_loss == 0.001
    for name, thresholds, message in (
        ("pretrain_clip", {}, "stage 'pretrain_clip' is unknown: did you mean pretrain_clips?"),
        ("xyz", {}, "expected one of probe, metadata"),
        ("no_module:Stage", {}, "cannot be imported: No module named 'no_module'"),
        ("json:loads", {}, "is not a subclass"),
        ("pretrain_clips", {"min": 3}, "stage pretrain_clips has no threshold 'min': did you mean min_s?"),
        ("pretrain_clips", {"min_s": "long"}, "pretrain_clips.min_s is 'long': expected a number"),
        ("pretrain_clips", {"min_s": True}, "pretrain_clips.min_s is True: expected a number"),
        ("captions", {"min_distinct_words": 2.5}, "min_distinct_words is 2.5: expected a whole number"),
        ("pretrain_clips", {"min_s": -1}, "pretrain_clips: min_s=-1"),
    ):
        with pytest.raises(ValueError, match=message):
            make_stage(name, thresholds)


def test_stages_share_processes_but_for_models():
    stages = [Titles(), CLIPS, Score(), Score(max_loss=1.0), Titles()]
    assert [group.name for group in group_stages(stages)] == ["titles+pretrain_clips", "score", "score", "titles"]


def test_a_failing_item_is_dropped_and_its_batch_goes_on(tmp_path):
    work = make_work(tmp_path, ["a", "drop", "raise", "a", "bad line", "a", "raise"], [Titles(), CLIPS])
    run_here(work)
    rows, dropped = results(work)
    assert [row["id"] for row in rows] == ["v0#0", "v0#1", "v3#0", "v3#1", "v5#0"]
    assert [(row["id"], row["stage"], row["reason"]) for row in dropped] == [
        ("line 5 of m.jsonl", "input", "not_json"),
        *(("v1", "titles", "unwanted"), ("v2", "titles", "error"), ("v6", "titles", "error")),
    ]
    assert "KeyError: 'a title that cannot be processed'" in dropped[2]["detail"]
    given, titles, clips = work.folder.stats(0)
    assert (given.items_in, given.items_out, titles.items_in, titles.items_out, titles.errors) == (7, 6, 6, 3, 2)
    assert (clips.items_in, clips.items_out) == (3, 5)
    assert titles.hours_out == pytest.approx(200 / 3600)  # two of them have a pause of 10 s


def test_a_unit_travels_as_bytes(tmp_path):
    work = make_work(tmp_path, ["a", "bad line", *["a"] * 9], [Titles()], unit_videos=11)
    unit = run_stage(Titles(), work.start(next(work.source.units())))
    again = UnitState.from_bytes(unit.to_bytes())
    assert again.number == unit.number
    assert again.rows.equals(unit.rows)
    assert again.dropped.equals(unit.dropped)
    assert again.stats == unit.stats
    head = UnitState(0, unit.rows.slice(0, 1), unit.dropped, ())
    assert len(head.to_bytes()) < 0.3 * len(unit.to_bytes())  # a slice leaves the rest behind


def test_a_stage_that_fails_on_everything_stops_the_run(tmp_path):
    work = make_work(tmp_path, ["a"] * 12, [CLIPS, Score(broken=True)])
    with pytest.raises(StageBrokenError, match="stage score failed on all .* the endpoint http://localhost:1 is down"):
        run_here(work)
    assert work.folder.numbers() == []
    run_here(make_work(tmp_path, ["a"] * 12, [CLIPS, Score(broken=True)], keep_going=True))
    assert results(work)[0] == []


def test_one_broken_video_of_many_clips_does_not_stop_the_run(tmp_path):
    """If a unit has one video left, all clips may fail although the stage works."""
    work = make_work(tmp_path, ["a"], [Score(broken=True)])
    clips = CLIPS(work.start(next(work.source.units())).rows).kept.slice(0, 1)
    for n_videos in (1, 7, 8):
        names = [f"{i % n_videos}.mp4" for i in range(24)]
        rows = pa.concat_tables([clips] * 24).set_column(1, "video", pa.array(names))
        unit = UnitState(0, rows, work.start(next(work.source.units())).dropped, ())
        if n_videos == 8:
            with pytest.raises(StageBrokenError, match="failed on all 24 items"):
                run_stage(Score(broken=True), unit)
        else:
            assert run_stage(Score(broken=True), unit).stats[0].errors == 24


@dataclass(frozen=True)
class FailingClips(PretrainClips):
    """Fails on every video."""

    name: ClassVar[str] = "failing_clips"

    def __call__(self, batch: pa.Table):
        if len(batch):
            raise OSError("no answer")
        return super().__call__(batch)


@dataclass(frozen=True)
class FailingDevice(Stage):
    """Its accelerator fails from the third batch on, and stays unusable for the process."""

    name: ClassVar[str] = "failing_device"
    batch_rows: ClassVar[int] = 4
    error: type[Exception] = RuntimeError
    message: str = "CUDA error: an illegal memory access was encountered"
    calls: tuple[list[int], ...] = ([],)

    def __call__(self, batch: pa.Table):
        self.calls[0].append(len(batch))
        if len(self.calls[0]) > 2:
            raise self.error(self.message)
        return split(self.name, batch, np.full(len(batch), None, object))


class AcceleratorError(RuntimeError):
    """Has the name of torch's error."""


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"error": AcceleratorError, "message": "device-side assert"},
        {"error": DeviceError, "message": "cuBLAS is gone"},
    ],
    ids=["cuda", "accelerator", "stage"],
)
def test_a_device_that_fails_is_no_fault_of_the_items(tmp_path, options):
    stage = FailingDevice(**options, calls=([],))
    work = make_work(tmp_path, ["a"] * 20, [stage], unit_videos=20, keep_going=True)
    with pytest.raises(DeviceError, match=options.get("message", "accelerator failed in stage failing_device: CUDA")):
        run_here(work)
    assert stage.calls[0] == [4, 4, 4]  # nothing is tried again where it cannot work
    assert work.folder.numbers() == []  # so it is done anew


def test_memory_that_runs_out_for_one_item_drops_it(tmp_path):
    stage = FailingDevice(message="CUDA out of memory. Tried to allocate 20 GiB", calls=([],))
    work = make_work(tmp_path, ["a"] * 20, [stage], unit_videos=20, keep_going=True)
    run_here(work)
    assert (len(results(work)[0]), len(results(work)[1])) == (8, 12)


def test_units_are_written_once_and_whole(tmp_path):
    work = make_work(tmp_path, ["a"] * 3, [CLIPS])
    run_here(work)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "units").rglob("*")}
    run_here(work)  # as a worker that outlived its run would
    assert {
        path: path.stat().st_mtime_ns for path in (tmp_path / "units" / "000000").rglob("*")
    }.items() <= before.items()
    assert {path.name for path in (tmp_path / "units").iterdir()} - {".progress"} == {"000000"}
    (tmp_path / "units" / ".000001.77.partial").mkdir()
    assert work.folder.numbers() == [0]
    work.folder.remove_partial()
    assert {path.name for path in (tmp_path / "units").iterdir()} - {".progress"} == {"000000"}


def run_local(work, **options):
    seen = []
    engine = LocalEngine(work, **options)
    engine.run(work.source.units(), seen.append)
    return seen


def test_the_local_engine_makes_what_one_process_makes(tmp_path):
    titles = ["a"] * 20
    titles[3], titles[9] = "drop", "raise"
    (tmp_path / "pids").mkdir()
    stages = [Titles(), CLIPS, Score(max_loss=110.0, pids=str(tmp_path / "pids"))]
    work = make_work(tmp_path, titles, stages, unit_videos=4)
    seen = run_local(work, workers=2)
    assert len(seen) == 5
    assert len(list((tmp_path / "pids").iterdir())) == 1  # the model was loaded once
    (tmp_path / "one").mkdir()
    one = make_work(tmp_path / "one", titles, stages, unit_videos=4)
    run_here(one)
    pipeline._OPENED.clear()

    def named(rows):
        return [{**row, "video": Path(row["video"]).name} for row in rows]

    for ours, expected in zip(results(work), results(one), strict=True):
        assert named(ours) == named(expected)


def test_an_item_that_kills_its_process_is_dropped_alone(tmp_path):
    titles = ["a"] * 6
    titles[2] = "kill"
    work = make_work(tmp_path, titles, [Titles()], unit_videos=3, max_retries=0)
    run_local(work, workers=1)
    rows, dropped = results(work)
    assert [row["id"] for row in rows] == ["v0", "v1", "v3", "v4", "v5"]
    [lost] = dropped
    assert (lost["id"], lost["stage"], lost["reason"]) == ("v2", "titles", "error")
    assert "worker process died" in lost["detail"]


def test_a_process_that_dies_once_costs_nothing(tmp_path):
    (tmp_path / "pids").mkdir()
    stage = Score(200.0, die_once=str(tmp_path / "died"), pids=str(tmp_path / "pids"))
    work = make_work(tmp_path, ["a"] * 6, [CLIPS, stage], unit_videos=3)
    run_local(work, workers=1)
    assert (tmp_path / "died").exists()
    assert len(list((tmp_path / "pids").iterdir())) == 2
    rows, dropped = results(work)
    assert len(rows) == 8
    assert dropped == []


@pytest.mark.parametrize(("device", "environments"), [("cuda:1", [{}]), (None, [{"CUDA_VISIBLE_DEVICES": "5"}] * 2)])
def test_a_stage_that_names_its_device_sees_them_all(tmp_path, monkeypatch, device, environments):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,6" if device else "5")
    work = make_work(tmp_path, ["a"], [CLIPS, TextLoss(device=device)])
    engine = LocalEngine(work, workers=1, gpus=None if device else 2)
    assert [worker.environment for worker in engine._pools[1].workers] == environments


def test_a_small_unit_on_which_clips_fail_goes_on_without_rows(tmp_path):
    """The empty rest has the columns of clips, which the next stage reads."""
    work = make_work(tmp_path, ["a"] * 3, [FailingClips(min_s=20.0), Score()], unit_videos=3)
    run_here(work)
    rows, dropped = results(work)
    assert rows == []
    assert [(row["stage"], row["reason"]) for row in dropped] == [("failing_clips", "error")] * 3
    assert [table.column_names for table in work.folder.rows()] == [CLIP_SCHEMA.names]


def test_a_model_that_is_missing_is_one_clear_error(tmp_path):
    work = make_work(tmp_path, ["a"] * 6, [CLIPS, NoModel()], unit_videos=3)
    with pytest.raises(ValueError, match="model /no/such/folder does not exist"):
        run_local(work, workers=1)
    assert work.folder.numbers() == []


@dataclass(frozen=True)
class Shrinks(Stage):
    """Returns other columns for some batches."""

    name: ClassVar[str] = "shrinks"
    batch_rows: ClassVar[int] = 1

    def __call__(self, batch):
        from livecc_hf.production.schemas import DROPPED_SCHEMA
        from livecc_hf.production.stages.base import StageResult

        odd = batch["id"][0].as_py() == "v1"
        return StageResult(batch.append_column("odd", batch["id"]) if odd else batch, DROPPED_SCHEMA.empty_table())


def test_a_stage_whose_columns_change_is_named(tmp_path):
    work = make_work(tmp_path, ["a"] * 3, [Shrinks()])
    with pytest.raises(ValueError, match="stage shrinks returns different columns"):
        run_here(work)


def test_a_worker_that_is_killed_leaves_no_semaphore(tmp_path):
    """Models are loaded with a progress bar, which has an inter-process lock."""
    import subprocess

    code = """
import os
from livecc_hf.production.execution.workers import Worker
def load():
    from tqdm.auto import tqdm
    list(tqdm(range(3), file=open(os.devnull, "w")))
if __name__ == "__main__":
    worker = Worker()
    worker.run(load)
    worker.close()
"""
    (tmp_path / "parent.py").write_text(code)
    ended = subprocess.run([sys.executable, tmp_path / "parent.py"], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_statistics_are_json(tmp_path):
    work = make_work(tmp_path, ["a"], [Titles()])
    run_here(work)
    [given, titles] = json.loads((tmp_path / "units" / "000000" / "stats.json").read_text())
    assert set(given) == {"name", "items_in", "items_out", "hours_in", "hours_out", "dropped", "errors", "seconds"}
    assert (given["name"], titles["name"]) == ("input", "titles")
    assert isinstance(pa.parquet.read_table(tmp_path / "units" / "000000" / "clips.parquet"), pa.Table)


def test_a_unit_whose_processes_all_die_names_the_way_out(tmp_path):
    work = make_work(tmp_path, ["a"], [Killer()], max_retries=0)
    with pytest.raises(StageBrokenError, match="each process that worked on unit 0 died .*run the same command again"):
        run_local(work, workers=1)


def test_a_closed_worker_starts_no_process():
    """A thread that submits a task while the run stops must not start a process that nobody ends."""
    for close in (Worker.close, Worker.finish):
        worker = Worker()
        assert worker.run(os.getpid) == worker.pid
        pid = worker.pid
        close(worker)
        with pytest.raises(WorkerDiedError, match="the run has stopped"):
            worker.run(os.getpid)
        assert worker.pid is None
        for _ in range(100):
            if not Path(f"/proc/{pid}").exists():
                break
            time.sleep(0.05)
        else:
            raise AssertionError("its process lives on")


def test_a_worker_ends_what_takes_too_long():
    with Worker() as worker:
        worker.run(os.getpid)
        first = worker.pid
        with pytest.raises(WorkerHangsError, match="timed out: not finished after 0 s"):
            worker.run(time.sleep, 600, limit_s=0.2)
        assert worker.run(os.getpid) != first  # the next task gets a new process
