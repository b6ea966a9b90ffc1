"""Progress lines of a run, and the time limit of stages that hang."""

import json
import re
import sys
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from manifests import video_row
from simple_stages import Score, Titles

from livecc_hf.production import watchdog
from livecc_hf.production.execution.local import LocalEngine
from livecc_hf.production.execution.pipeline import RunPlan, group_stages, run_group
from livecc_hf.production.execution.unit_folder import UnitFolder
from livecc_hf.production.execution.units import StageStats
from livecc_hf.production.inputs.videos import open_input
from livecc_hf.production.progress import Progress, funnel_table
from livecc_hf.production.schemas import VIDEO_SCHEMA
from livecc_hf.production.stages.clips import PretrainClips
from livecc_hf.production.watchdog import UnitProgress, UnitWatch, items_done, read_progress, time_limit_s


def test_progress_says_every_stages_rate_and_what_is_left():
    now, lines = [0.0], []
    progress = Progress(lines.append, every_s=10, clock=lambda: now[0])
    progress.total = 4
    for seconds in (4, 8, 12):
        now[0] = seconds
        progress.add([StageStats("input", 100, 98, seconds=1.0), StageStats("captions", 98, 60, seconds=2.0)])
    assert lines == ["3/4 units in 0:00:12 · input 300 → 294 (25/s) · captions 294 → 180 (24/s) · 0:00:04 left"]
    table = funnel_table(progress.stats).splitlines()
    assert table[0].split() == ["stage", "in", "kept", "hours", "in", "hours", "kept", "dropped", "errors", "items/s"]
    assert table[2].split()[:3] == ["captions", "294", "180"]
    hours = funnel_table([StageStats("probe", 3, 2, 0.0, 12.3), StageStats("asr", 2, 0, 0.5, 0.0)]).splitlines()
    assert [line.split()[3:5] for line in hours[1:]] == [["-", "12.3"], ["0.50", "0.00"]]  # -: unknown


def test_a_unit_that_does_not_move_is_named():
    now, lines = [0.0], []
    stages = [{"name": "input", "items_in": 4, "items_out": 4}, {"name": "asr", "items_in": 1, "items_out": 0}]
    moving = [UnitProgress(7, stages, rows=4)]
    progress = Progress(lines.append, clock=lambda: now[0], in_flight=lambda: moving)
    progress.total = 3
    for seconds in (10, 30, 400, 410):
        now[0] = seconds
        if seconds == 410:
            moving[0] = UnitProgress(7, [stages[0], stages[1] | {"items_in": 2}], rows=4)
        progress.say_if_due()
    assert lines[1] == "0/3 units in 0:00:30 · input 4 → 4 (0.13/s) · asr 1 → 0 (0.033/s)"
    assert lines[2].endswith(" · unit 7 has made no progress for 0:06:30: asr (1 of 4)")
    assert "asr 2 → 0" in lines[3] and "no progress" not in lines[3]


def make_work(tmp_path, titles, stages, seconds=60, **options) -> RunPlan:
    """Make a plan with units of four videos of unknown length."""
    rows = [video_row(number, title, seconds) | {"duration_s": None} for number, title in enumerate(titles)]
    manifest = tmp_path / "m.jsonl"
    manifest.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "units").mkdir()
    return RunPlan(open_input(manifest, unit_videos=4), group_stages(stages), UnitFolder(tmp_path / "units"), **options)


@pytest.mark.parametrize("counts", [True, False])
def test_progress_moves_within_a_unit(tmp_path, counts, monkeypatch):
    """Progress shows a stage that calls `items_done` within its batch, and other stages at the end of a batch."""
    monkeypatch.setattr(watchdog, "_WRITE_EVERY_S", 0.0)
    work = make_work(tmp_path, ["a"] * 4, [PretrainClips(min_s=20.0), Score(200.0, delay_s=0.1, counts=counts)])
    seen, over = [], threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            seen.extend(read_progress(work.folder.folder))

    looking = threading.Thread(target=look)
    looking.start()
    payload = next(work.source.units())
    for index in range(2):
        payload = run_group(work, index, payload)
    over.set()
    looking.join()
    scored = [unit.stages[-1]["items_in"] for unit in seen if unit.stages[-1]["name"] == "score"]
    assert scored == sorted(scored)
    assert set(range(1, 6)) <= set(scored) if counts else not set(range(1, 6)) & set(scored)
    assert all(
        [stage["name"] for stage in unit.stages[:2]] == ["input", "pretrain_clips"][: len(unit.stages)] for unit in seen
    )
    assert read_progress(work.folder.folder) == []  # what is finished is counted elsewhere


def test_a_run_says_how_far_a_long_stage_is(tmp_path):
    stage = Score(200.0, delay_s=0.6, counts=True)
    work = make_work(tmp_path, ["a"] * 4, [PretrainClips(min_s=20.0), stage])
    lines, seen = [], []
    progress = Progress(lines.append, every_s=0.3, in_flight=lambda: read_progress(work.folder.folder))
    progress.total = 1
    with progress.running():
        LocalEngine(work, workers=1).run(work.source.units(), lambda stats: (seen.append(stats), progress.add(stats)))
    within = [line for line in lines if line.startswith("0/1 units") and "score" in line]
    assert any(re.search("score [1-5] → 0 ", line) for line in within)
    assert all("pretrain_clips 4 → 6" in line for line in within)


def test_the_time_limit_follows_the_videos_length():
    def videos(*seconds):
        return pa.Table.from_pylist([{"id": str(i), "duration_s": s} for i, s in enumerate(seconds)], VIDEO_SCHEMA)

    assert time_limit_s(videos(), 5) == time_limit_s(videos(None, None), 5) == 5
    assert time_limit_s(videos(600.0), 5) == 5 + 2400
    assert time_limit_s(videos(7200.0, 600.0), 5) == 5 + 4 * 7200
    assert time_limit_s(videos(*[600.0] * 100), 5) == 5 + 4 * 3600
    assert time_limit_s(videos(1e30), 5) < threading.TIMEOUT_MAX


def dropped_rows(work):
    return [row for table in work.folder.dropped() for row in table.to_pylist()]


def test_an_item_on_which_a_stage_hangs_is_dropped_alone(tmp_path):
    titles = ["a"] * 12
    titles[5], titles[6] = "hang", "drop"
    work = make_work(tmp_path, titles, [Titles(), PretrainClips(min_s=20.0)], item_timeout_s=2.5)
    began = time.monotonic()
    LocalEngine(work, workers=1).run(work.source.units(), lambda stats: None)
    assert time.monotonic() - began < 600  # the stage sleeps for days
    lost = [(row["id"], row["stage"], row["reason"], row["detail"]) for row in dropped_rows(work)]
    assert lost == [
        ("v5", "titles", "error", "timed out: not finished after 2 s"),
        ("v6", "titles", "unwanted", None),
    ]
    assert work.folder.numbers() == [0, 1, 2]
    assert sorted(path.name for path in work.folder.folder.glob(".*")) == [".progress"]


@pytest.mark.parametrize("counts", [True, False])
def test_a_stage_that_says_that_it_moves_gets_its_time_anew(tmp_path, counts):
    stage = Score(200.0, delay_s=0.7 if counts else 2.0, counts=counts)
    work = make_work(tmp_path, ["a"] * (4 if counts else 2), [stage], item_timeout_s=1.2, keep_going=True)
    LocalEngine(work, workers=1).run(work.source.units(), lambda stats: None)
    lost = [row["detail"] for row in dropped_rows(work)]
    assert lost == ([] if counts else ["timed out: not finished after 1 s"] * 2)


def test_a_killed_process_is_not_taken_for_one_that_hung(tmp_path):
    (tmp_path / ".000003.0.hung").touch()
    assert not watchdog.has_hung(tmp_path, 3, 0)
    with UnitWatch(tmp_path, 3, 0, item_timeout_s=60):
        assert not watchdog.has_hung(tmp_path, 3, 0)
    assert not (tmp_path / ".000003.0.hung").exists()
    items_done()  # outside of a run it does nothing
    (tmp_path / ".000003.0.hung").write_text("Timeout (0:01:00)!")
    assert watchdog.has_hung(tmp_path, 3, 0)
    watchdog.clear(tmp_path)
    assert not watchdog.has_hung(tmp_path, 3, 0)
