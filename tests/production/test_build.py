"""Whole runs: inputs, outputs and errors."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from manifests import write_manifest
from media import write_video
from runs import dataset_rows, options_for, quiet_build, table_of

from livecc_hf.production.build import _describe_engine, build
from livecc_hf.production.options import BuildOptions, load_options
from livecc_hf.production.run_folder import DROPPED

ROOT = Path(__file__).parents[2]

NARRATION = [
    "The players walk out of the tunnel",
    "and the crowd is on its feet",
    "for the last match of this season.",
    "The home side plays in white tonight,",
    "and they will kick off from the left.",
    "Here comes the first attack already,",
    "a long ball over the top of everyone,",
    "and the keeper has to come out early.",
    "He clears it straight into the stands.",
    "A quick throw from the young defender",
    "finds his captain in front of the goal,",
    "who turns and shoots with his left foot,",
    "and it hits the post and goes wide.",
]


def test_a_run_writes_a_dataset_what_it_dropped_and_a_report(tmp_path):
    titles = ["a"] * 10
    titles[1], titles[2], titles[6] = "drop", "bad line", "raise"
    lines = []
    result = build(options_for(tmp_path, titles, dataset={"name": "Test <set>", "license": "cc-by-4.0"}), lines.append)
    assert result.n_clips == len(dataset_rows(result.out)) == 10
    dropped = table_of(result.out, "dropped.parquet").to_pylist()
    assert [(row["id"], row["reason"]) for row in dropped] == [
        *(("line 3 of m.jsonl", "not_json"), ("v1", "unwanted"), ("v6", "error")),
    ]
    assert [stats.name for stats in result.stats] == ["input", "titles", "pretrain_clips", "score"]
    assert "titles" in lines[-1] and "items/s" in lines[-1]
    page = (result.out / "report.html").read_text()
    for text in ("<svg", "Dropped by titles: unwanted", "Dropped by input: not_json", "max_loss", "w0x0 w0x1", "v6"):
        assert text in page
    assert page.count("<img") == page.count("<link") == page.count("<script") == 0  # one file that needs no other
    assert (result.out / "report.png").read_bytes()[:4] == b"\x89PNG"
    card = (result.out / "dataset" / "README.md").read_text()
    assert "license: cc-by-4.0" in card and "pretrain_clips" in card
    last = (result.out / "dataset" / "conversations.jsonl").read_text().splitlines()[-1]
    assert len(json.loads(last)) == 10


def test_nothing_kept_is_an_error_with_a_report(tmp_path):
    with pytest.raises(ValueError, match=r"none of 3 videos was kept: .*report.html shows why"):
        quiet_build(options_for(tmp_path, ["drop"] * 3))
    assert "unwanted" in (tmp_path / "out" / "report.html").read_text()
    assert len(table_of(tmp_path / "out", "dropped.parquet")) == 3


def test_what_was_removed_is_made_again(tmp_path):
    stages = {"pretrain_clips": {"min_s": 20.0}}
    out = quiet_build(options_for(tmp_path, ["a"] * 3, stages=stages)).out
    files = {path.relative_to(out) for path in out.rglob("*.*")}
    rows = dataset_rows(out)
    for gone in ("dataset", "dataset/data/train-00000.parquet", "dataset/README.md", "dropped.parquet", "report.html"):
        shutil.rmtree(out / gone) if (out / gone).is_dir() else (out / gone).unlink()
        quiet_build(options_for(tmp_path, [], stages=stages))
        assert {path.relative_to(out) for path in out.rglob("*.*")} == files, gone
        assert dataset_rows(out) == rows, gone


def test_videos_that_are_all_missing_are_in_the_report(tmp_path):
    stages = {"pretrain_clips": {"min_s": 20.0}}
    options = options_for(tmp_path, ["a"] * 3, stages=stages, dataset={"videos": "link"})
    with pytest.raises(ValueError, match="none of 3 videos was kept"):
        quiet_build(options)
    out = tmp_path / "out"
    assert table_of(out, "dropped.parquet")["reason"].to_pylist() == ["missing_video"] * 4
    assert "Dropped by dataset: missing_video" in (out / "report.html").read_text()
    assert [path.name for path in out.iterdir() if "dataset" in path.name] == []
    for number in range(3):  # found again
        write_video(tmp_path / f"v{number}.mp4", n_frames=2)
    assert quiet_build(options).n_clips == len(dataset_rows(out)) == 4


def test_a_run_without_clips_gives_a_manifest_for_the_next(tmp_path):
    first = quiet_build(options_for(tmp_path, ["a", "drop", "a"], stages={"simple_stages:Titles": {}}))
    assert first.dataset is None
    clips = {"pretrain_clips": {"min_s": 20}}
    second = quiet_build(options_for(tmp_path, [], "next", input=str(first.out / "videos.parquet"), stages=clips))
    assert [row["id"] for row in dataset_rows(second.out)] == ["v0#0", "v0#1", "v2#0"]
    score = {"simple_stages:Score": {}}
    third = quiet_build(options_for(tmp_path, [], "last", input=str(second.dataset / "data"), stages=score))
    assert [row["text_loss"] for row in dataset_rows(third.out)] == [60.0, 60.0]
    assert [row["words"] for row in dataset_rows(third.out)] == [row["words"] for row in dataset_rows(second.out)][:2]


@pytest.mark.parametrize("first", [False, True])
def test_a_stage_of_ones_own_may_append_a_column(tmp_path, first):
    stages = {"pretrain_clips": {"min_s": 20.0}, "simple_stages:MyScore": {"first": first}}
    lines = []
    result = build(options_for(tmp_path, ["a"] * 3, stages=stages), lines.append)
    assert result.dataset is not None
    assert [row["id"] for row in dataset_rows(result.out)] == ["v0#0", "v0#1", "v1#0", "v2#0"]
    assert all(row["video_start"] < row["video_end"] and row["words"] for row in dataset_rows(result.out))
    assert any("a dataset does not have these columns" in line and line.endswith("my_score") for line in lines)
    assert pq.read_table(result.out / "units" / "000000" / "clips.parquet")["my_score"].to_pylist() == [0.5] * 4


def test_the_dataset_is_written_anew_when_it_is_to_be_another(tmp_path):
    stages = {"pretrain_clips": {"min_s": 20.0}}
    out = quiet_build(options_for(tmp_path, ["a"] * 3, stages=stages, dataset={"license": "mit"})).out
    units = {path: path.stat().st_mtime_ns for path in (out / "units").rglob("*")}
    changed = {"license": "cc-by-4.0", "clips_per_shard": 2, "jsonl": False}
    quiet_build(options_for(tmp_path, [], stages=stages, dataset=changed))
    assert "license: cc-by-4.0" in (out / "dataset" / "README.md").read_text()
    assert len(list((out / "dataset" / "data").iterdir())) == 2
    assert not (out / "dataset" / "conversations.jsonl").exists()
    assert {path: path.stat().st_mtime_ns for path in (out / "units").rglob("*")} == units


@pytest.mark.parametrize("out", ["videos/out", "videos", "videos/deep/er/out", "link/out"])
def test_an_output_inside_the_input_is_refused(tmp_path, out):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").touch()
    (tmp_path / "link").symlink_to(tmp_path / "videos")
    with pytest.raises(ValueError, match=r"out .* is inside the input .*videos-dataset"):
        quiet_build(options_for(tmp_path, ["a"], out, input=str(tmp_path / "videos")))
    assert [path.name for path in (tmp_path / "videos").iterdir()] == ["a.mp4"]


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("place", ["videos.parquet", "units"])
def test_a_result_of_the_run_is_no_input_of_it(tmp_path, place, restart):
    """With `restart`, it would be deleted before it is read."""
    titles = {"simple_stages:Titles": {}}
    out = quiet_build(options_for(tmp_path, ["a"] * 3, stages=titles)).out
    before = (out / "videos.parquet").read_bytes()
    with pytest.raises(ValueError, match=rf"the input .*{place} is a result of the run in .*: choose another out"):
        quiet_build(options_for(tmp_path, [], input=str(out / place), stages=titles, restart=restart))
    assert (out / "videos.parquet").read_bytes() == before


def test_an_input_next_to_the_results_may_be_read(tmp_path):
    (tmp_path / "out").mkdir()
    manifest = write_manifest(tmp_path / "out" / "m.jsonl", ["a"] * 3)
    stages = {"pretrain_clips": {"min_s": 20.0}}
    for restart in (False, True):
        assert quiet_build(options_for(tmp_path, [], input=str(manifest), stages=stages, restart=restart)).n_clips == 4


@pytest.mark.parametrize("name", ["m.jsonl", "m.jsonl/out"])
def test_an_out_that_cannot_be_a_folder_names_the_way_out(tmp_path, name):
    with pytest.raises(ValueError, match=rf"{name} cannot be made a folder \(.+\): choose another place"):
        quiet_build(options_for(tmp_path, ["a"], name))


@pytest.mark.parametrize("name", ["m.jsonl", "m.parquet"])
def test_an_input_without_a_video_is_one_clear_error(tmp_path, name):
    if name == "m.jsonl":
        (tmp_path / name).write_text("\n\n")
    else:
        pq.write_table(pa.table({"video": pa.array([], pa.string())}), tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} holds no video: expected a manifest"):
        quiet_build(options_for(tmp_path, ["a"], input=str(tmp_path / name)))
    assert not (tmp_path / "out").exists()


def test_rows_that_name_an_id_again_are_in_the_report(tmp_path):
    """Their ids are the same, so only their positions tell them apart."""
    rows = [{"id": "v", "video": f"{i}.mp4", "duration_s": 60.0} for i in range(60)]
    file = write_manifest(tmp_path / "m.jsonl", ["a"])
    file.write_text(file.read_text() + "\n".join(map(json.dumps, rows)))
    quiet_build(options_for(tmp_path, [], unit_videos=100, stages={"pretrain_clips": {"min_s": 20.0}}))
    assert "Dropped by input: repeated" in (tmp_path / "out" / "report.html").read_text()


def test_a_video_named_in_two_units_counts_once(tmp_path):
    file = write_manifest(tmp_path / "m.jsonl", ["a"] * 6)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[1]]))
    result = quiet_build(options_for(tmp_path, [], stages={"pretrain_clips": {"min_s": 20.0}}))
    out, last = result.out, result.stats[-1]
    assert (last.name, last.items_in, last.items_out, last.dropped) == ("dataset", 9, 8, 1)
    assert last.hours_out == pytest.approx(
        sum(row["video_end"] - row["video_start"] - 0.5 for row in dataset_rows(out)) / 3600
    )
    card = (out / "dataset" / "README.md").read_text()
    assert "8 narrated clips" in card and "| dataset | 9 | 8 | 88.9 % |" in card
    ids = [row["id"] for row in dataset_rows(out)]
    assert len(ids) == len(set(ids)) == 8
    assert table_of(out, "dropped.parquet")["reason"].to_pylist() == ["repeated"]


def test_the_recipe_for_own_videos_reads_a_folder(tmp_path):
    sys.path.insert(0, str(ROOT / "tests"))
    from media import write_video

    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("match", "short", "silent"):
        write_video(folder / f"{name}.mp4", n_frames=130 if name != "short" else 10, fps=5)
    (folder / "broken.mp4").write_bytes(b"no video")
    cues = [f"00:00:{2 * i:02}.000 --> 00:00:{2 * i + 2:02}.000\n{line}" for i, line in enumerate(NARRATION)]
    captions = "WEBVTT\n\n" + "\n\n".join(cues) + "\n"
    for name in ("match", "short", "broken"):
        (folder / f"{name}.en.vtt").write_text(captions)
    (folder / "match.info.json").write_text(json.dumps({"title": "A match", "categories": ["Sports"]}))
    overrides = ["metadata.min_side_px=32", "metadata.min_duration_s=5", "captions.required=true", "workers=1"]
    options = load_options(
        ROOT / "recipes/data/my_videos.yaml",
        [*overrides, "dataset.videos=copy"],
        "probe,metadata,captions,language,sft_clips",
        input=str(folder),
        out=str(tmp_path / "out"),
    )
    result = quiet_build(options)
    [row] = dataset_rows(result.out)
    assert (row["id"].split("#")[0], row["title"], row["category"]) == ("match.mp4", "A match", "Sports")
    assert (result.dataset / row["video"]).is_file()
    dropped = {item["id"]: (item["stage"], item["reason"]) for item in table_of(result.out, DROPPED).to_pylist()}
    assert {key: dropped[key] for key in ("broken.mp4", "short.mp4", "silent.mp4")} == {
        "broken.mp4": ("probe", "error"),
        "short.mp4": ("metadata", "too_short"),
        "silent.mp4": ("captions", "no_captions"),
    }


def test_videos_whose_file_is_gone_are_in_the_funnel(tmp_path):
    write_video(tmp_path / "v0.mp4", n_frames=2)
    stages = {"pretrain_clips": {"min_s": 20.0}}
    result = quiet_build(options_for(tmp_path, ["a"] * 3, stages=stages, dataset={"videos": "copy"}))
    assert [(item.name, item.items_out) for item in result.stats][-2:] == [("pretrain_clips", 4), ("dataset", 2)]
    assert table_of(result.out, "dropped.parquet")["reason"].to_pylist() == ["missing_video"] * 2
    assert "Dropped by dataset: missing_video" in (result.out / "report.html").read_text()


@pytest.mark.parametrize("address", ["10.0.0.1:6379", None])
def test_a_cluster_that_the_local_engine_does_not_use_is_mentioned(monkeypatch, address):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if address is not None:
        monkeypatch.setenv("RAY_ADDRESS", address)
    local = BuildOptions(input="a", out="b", stages={"metadata": {}})
    said = [*_describe_engine(local, [])]
    assert [address in line and "engine=ray" in line for line in said] == ([True] if address else [])
    assert not [*_describe_engine(dataclasses.replace(local, engine="ray"), [])]


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (["metadata"], ["gpus=2 has no effect: no stage of this run has a model"]),
        (["text_loss"], ["workers=3 has no effect: each stage of this run has a model; gpus=N sets its processes"]),
        (["metadata", "text_loss"], []),
    ],
)
def test_numbers_of_processes_without_effect_are_mentioned(monkeypatch, stages, said):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    options = BuildOptions(input="a", out="b", stages={name: {} for name in stages}, gpus=2, workers=3)
    assert [*_describe_engine(options, options.make_stages())] == said
