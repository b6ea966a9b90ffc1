"""The folder of a run: which run owns it, the order of stages, and damaged files."""

import errno
import json
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from manifests import write_manifest
from runs import dataset_rows, options_for, quiet_build

from livecc_hf.production.build import build
from livecc_hf.production.execution.unit_folder import UnitFolder
from livecc_hf.production.stages.active_speaker.stage import ActiveSpeaker
from livecc_hf.production.stages.registry import make_stage, stage_values

CLIPS = {"pretrain_clips": {"min_s": 20.0}}


def test_settings_with_which_nothing_was_made_bind_nobody(tmp_path):
    with pytest.raises(ValueError, match="model /no/such/folder does not exist"):
        quiet_build(options_for(tmp_path, ["a"] * 3, stages={**CLIPS, "simple_stages:NoModel": {}}))
    assert (tmp_path / "out" / "build.json").is_file()
    assert quiet_build(options_for(tmp_path, [], stages=CLIPS)).n_clips == 4
    with pytest.raises(ValueError, match="holds a run with other settings"):
        quiet_build(options_for(tmp_path, []))


def test_other_settings_do_not_replace_a_dataset_whose_units_were_removed(tmp_path):
    quiet_build(options_for(tmp_path, ["a"] * 3, stages=CLIPS))
    shutil.rmtree(tmp_path / "out" / "units")
    with pytest.raises(ValueError, match="holds a run with other settings"):
        quiet_build(options_for(tmp_path, []))


def test_a_run_from_before_an_option_goes_on_with_its_default(tmp_path):
    quiet_build(options_for(tmp_path, ["a"] * 3, stages=CLIPS))
    file = tmp_path / "out" / "build.json"
    there = json.loads(file.read_text())
    del there["settings"]["pretrain_clips.max_chars_per_s"]
    file.write_text(json.dumps(there))
    assert quiet_build(options_for(tmp_path, [], stages=CLIPS)).n_clips == 4
    with pytest.raises(ValueError, match=r"max_chars_per_s: 8\.0 there, 9\.0 now"):
        quiet_build(options_for(tmp_path, [], stages={"pretrain_clips": {"min_s": 20.0, "max_chars_per_s": 9.0}}))


def test_recorded_options_that_do_not_decide_the_result_are_ignored(tmp_path):
    quiet_build(options_for(tmp_path, ["a"] * 3, stages=CLIPS))
    file = tmp_path / "out" / "build.json"
    there = json.loads(file.read_text())
    there["settings"] |= {"active_speaker.batch": 16}  # as earlier versions recorded it
    file.write_text(json.dumps(there))
    assert quiet_build(options_for(tmp_path, [], stages=CLIPS)).n_clips == 4


def test_batch_sizes_are_not_settings_of_a_run():
    stages = [
        ActiveSpeaker(model="m", detector="d"),
        *(make_stage(name) for name in ("asr", "text_loss", "talking_head")),
    ]
    assert all("batch" not in key for stage in stages for key in stage_values(stage))


def test_damaged_settings_name_the_way_out(tmp_path):
    quiet_build(options_for(tmp_path, ["a"] * 3, stages=CLIPS))
    for text in ("{", "[]", "{}", '{"settings": 3}', ""):
        (tmp_path / "out" / "build.json").write_text(text)
        with pytest.raises(ValueError, match=r"build\.json is damaged .* choose another out, or --restart"):
            quiet_build(options_for(tmp_path, [], stages=CLIPS))
    assert quiet_build(options_for(tmp_path, [], stages=CLIPS, restart=True)).n_clips == 4


def test_a_damaged_unit_names_the_way_out(tmp_path):
    options = options_for(tmp_path, ["a"] * 6, stages=CLIPS, unit_videos=3)
    rows = quiet_build(options) and dataset_rows(tmp_path / "out")
    unit = tmp_path / "out" / "units" / "000001"
    (tmp_path / "out" / "dropped.parquet").unlink()
    for name in ("clips.parquet", "dropped.parquet", "stats.json"):
        whole = (unit / name).read_bytes()
        (unit / name).write_bytes(b"cut off")
        damaged = r"units/000001 is damaged .*: remove this folder and run the same command"
        with pytest.raises(ValueError, match=damaged):
            quiet_build(options)
        (unit / name).write_bytes(whole)
    shutil.rmtree(unit)
    quiet_build(options)
    assert dataset_rows(tmp_path / "out") == rows


def test_a_damaged_funnel_is_counted_anew(tmp_path):
    options = options_for(tmp_path, ["a"] * 3, stages=CLIPS)
    quiet_build(options)
    (tmp_path / "out" / "funnel.json").write_text("{")
    assert quiet_build(options).n_clips == json.loads((tmp_path / "out" / "funnel.json").read_text())["clips"] == 4


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({**CLIPS, "captions": {}}, r"captions takes videos, but stage pretrain_clips gives it clips: put it before"),
        ({**CLIPS, "metadata": {}}, "metadata takes videos, but stage pretrain_clips"),
        ({**CLIPS, "sft_clips": {}}, "sft_clips takes videos, but stage pretrain_clips"),
        ({"talking_head": {}, **CLIPS}, r"talking_head takes clips, but the input .* gives it videos: put it after"),
        ({"text_loss": {}}, "text_loss takes clips, but the input"),
        ({"prompt": {"model": "m"}, **CLIPS}, "prompt takes clips, but the input"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_stage_gets_what_it_takes(tmp_path, stages, message):
    with pytest.raises(ValueError, match=message):
        quiet_build(options_for(tmp_path, ["a"], stages=stages))
    assert not (tmp_path / "out").exists()


def test_clips_do_not_go_where_videos_are_taken(tmp_path):
    first = quiet_build(options_for(tmp_path, ["a"] * 3, stages=CLIPS))
    clips = str(first.dataset / "data")
    with pytest.raises(ValueError, match=r"metadata takes videos, but the input .*/data gives it clips: .*--stages"):
        quiet_build(options_for(tmp_path, [], "next", input=clips, stages={"metadata": {}}))
    both = {"language": {"min_score": 0.0}, "simple_stages:Score": {"max_loss": 200.0}}
    assert quiet_build(options_for(tmp_path, [], "last", input=clips, stages=both)).n_clips == 4


def test_numbers_that_make_no_sense_do_not_end_a_run(tmp_path):
    """Otherwise they would fail when the card is written, after all the work."""
    file = write_manifest(tmp_path / "m.jsonl", ["a"] * 4)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1]["duration_s"], rows[2]["duration_s"] = float("nan"), float("inf")
    words = [[dict(zip(("start_s", "end_s", "word"), word)) for word in row["words"]] for row in rows]
    pq.write_table(
        pa.table({name: [row[name] for row in rows] for name in ("id", "video", "duration_s")} | {"words": words}),
        tmp_path / "m.parquet",
    )
    result = quiet_build(options_for(tmp_path, [], input=str(tmp_path / "m.parquet"), stages=CLIPS))
    assert {row["id"].split("#")[0] for row in dataset_rows(result.out)} == {"v0", "v3"}
    assert (result.dataset / "README.md").is_file()


def test_what_of_a_folder_is_left_out_is_said_once(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a.mp4", "._a.mp4", "b.f137.mp4", "lost.en.vtt"):
        (folder / name).touch()
    lines = []
    with pytest.raises(ValueError, match="none of 1 video was kept"):
        build(options_for(tmp_path, [], input=str(folder), stages={"captions": {}}), lines.append)
    [said] = [line for line in lines if "left out" in line]
    assert "hidden videos (1, such as ._a.mp4), parts of downloads (1, such as b.f137.mp4)" in said
    assert "captions without a video (1, such as lost.en.vtt)" in said


def test_a_unit_that_cannot_be_read_is_not_called_damaged(tmp_path):
    """Errors of the file system other than a missing file, given here as Python raises them: root may read anything."""
    folder = UnitFolder(tmp_path)
    for error in (PermissionError(errno.EACCES, "Permission denied"), OSError(errno.EMFILE, "Too many open files")):
        with pytest.raises(type(error)) as raised, folder._readable(3):
            raise error
        assert raised.value is error
    with pytest.raises(ValueError, match="000003 is damaged .*remove this folder"):
        folder.stats(3)
    folder.path(3).mkdir()
    (folder.path(3) / "stats.json").write_text("[]")
    for data in (b"", b"PAR1", b"PAR1" + b"x" * 100):
        (folder.path(3) / "clips.parquet").write_bytes(data)
        with pytest.raises(ValueError, match="000003 is damaged .*remove this folder"):
            list(folder.rows())
