"""Whole runs: recipes and options, going on after a kill, a full disk, what is written, the command line."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from manifests import write_manifest

from livecc_hf.cli.main import main
from livecc_hf.production.build import DROPPED, DiskFullError, build
from livecc_hf.production.build_options import BuildOptions, load_options
from livecc_hf.production.progress import Progress, funnel_table
from livecc_hf.production.units import StageStats

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes" / "data").glob("*.yaml"))
STAGES = {"simple_stages:Titles": {}, "pretrain_clips": {"min_s": 20.0}, "simple_stages:Score": {"max_loss": 200.0}}

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


def options_for(tmp_path, titles, out="out", **options) -> BuildOptions:
    manifest = tmp_path / "m.jsonl"
    if not manifest.exists():
        write_manifest(manifest, titles)
    given = {"input": str(manifest), "out": str(tmp_path / out), "unit_videos": 4, "workers": 1, "stages": STAGES}
    return BuildOptions(**(given | options))


def quiet_build(options):
    return build(options, say=lambda line: None)


def table_of(out, name):
    return pq.read_table(Path(out) / name)


def dataset_rows(out) -> list[dict]:
    return [row for file in sorted(Path(out).glob("dataset/data/*.parquet")) for row in pq.read_table(file).to_pylist()]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_parse_and_say_how_they_are_run(path):
    options = load_options(path)
    stages = options.make_stages()
    assert len(stages) >= 6
    assert options.folder_options().overwrite
    assert options.about(stages, {}).name
    assert f"livecc data build --config recipes/data/{path.name}" in path.read_text()


def test_recipes_have_the_papers_thresholds():
    pretrain = {stage.name: stage for stage in load_options(ROOT / "recipes/data/pretrain.yaml").make_stages()}
    sft = {stage.name: stage for stage in load_options(ROOT / "recipes/data/sft.yaml").make_stages()}
    assert (pretrain["text_loss"].min_loss, pretrain["text_loss"].max_loss, sft["text_loss"].max_loss) == (1.5, 6.5, 5)
    assert pretrain["talking_head"].max_probability == sft["talking_head"].max_probability == 0.3
    assert len(sft["category"].keep) == 7


def test_the_command_line_goes_over_the_recipe(tmp_path):
    recipe = ROOT / "recipes/data/pretrain.yaml"
    options = load_options(
        recipe,
        ["text_loss.max_loss=5", "limit=10", "dataset.license=cc-by-4.0", "keep_going=true"],
        "metadata,text_loss",
        out=str(tmp_path),
        engine=None,
    )
    metadata, text_loss = options.make_stages()
    assert (metadata.name, text_loss.max_loss, text_loss.min_loss) == ("metadata", 5, 1.5)
    assert (options.limit, options.keep_going, options.out, options.engine) == (10, True, str(tmp_path), "local")
    assert options.about([], {}).license == "cc-by-4.0"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["limt=3"], "unknown option 'limt': did you mean limit?"),
        (["text_loss.max=5"], "stage text_loss has no threshold 'max': it has: model, min_loss"),
        (["asr.model=tiny"], "there is no stage 'asr' in this run; it has metadata, captions"),
        (["dataset.licence=mit"], "unknown dataset key 'licence': did you mean license?"),
        (["limit"], "'limit' is no option: expected key=value"),
        (["limit=many"], "limit is 'many': expected a whole number or null"),
        (["language.language=no"], "language.language is False: expected text; put it into quotes"),
        (["keep_going=1"], "keep_going is 1: expected true or false"),
        (["limit=0"], "limit is 0; expected 1 or more"),
        (["engine=spark"], "engine is 'spark'; expected one of: local, ray"),
        (["stages=a"], "stages are chosen with --stages"),
        (["text_loss.max_loss=[1"], "is not YAML"),
    ],
)
def test_unknown_and_wrong_options_are_refused(overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_options(ROOT / "recipes/data/pretrain.yaml", overrides).make_stages()


def test_wrong_recipes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no recipe"):
        load_options(tmp_path / "none.yaml")
    for text, message in (
        ("[1]", "holds list"),
        ("a: [", "is not YAML"),
        ("stages: 3", "stages is 3: expected a mapping"),
        ("stages: {captions: 3}", "stage captions has 3: expected a mapping"),
        ("input: a\nout: b", "there are no stages"),
        ("stages: [captions]\nout: b", "input is not given"),
    ):
        (tmp_path / "r.yaml").write_text(text)
        with pytest.raises(ValueError, match=re.escape(message)):
            load_options(tmp_path / "r.yaml")
    with pytest.raises(ValueError, match="--stages names 'asr', which is not in this run"):
        load_options(ROOT / "recipes/data/pretrain.yaml", (), "asr")


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


def test_what_would_fail_at_the_end_fails_at_the_start(tmp_path):
    for dataset, message in (({"videos": "move"}, "videos='move'"), ({"sources": "mine"}, "expected a list of texts")):
        with pytest.raises(ValueError, match=message):
            quiet_build(options_for(tmp_path, ["a"], dataset=dataset))
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "out" / "dataset").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds files that no run wrote down"):
        quiet_build(options_for(tmp_path, ["a"], restart=True))
    assert (tmp_path / "out" / "dataset").is_dir()


def test_nothing_kept_is_an_error_with_a_report(tmp_path):
    with pytest.raises(ValueError, match=r"nothing was kept of 3 videos: .*report.html says why"):
        quiet_build(options_for(tmp_path, ["drop"] * 3))
    assert "unwanted" in (tmp_path / "out" / "report.html").read_text()
    assert len(table_of(tmp_path / "out", "dropped.parquet")) == 3


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
    assert any("no place for" in line and line.endswith("my_score") for line in lines)
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


@pytest.mark.parametrize("name", ["m.jsonl", "m.parquet"])
def test_an_input_without_a_video_is_one_clear_error(tmp_path, name):
    if name == "m.jsonl":
        (tmp_path / name).write_text("\n\n")
    else:
        pq.write_table(pa.table({"video": pa.array([], pa.string())}), tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} holds no video: expected a line or row"):
        quiet_build(options_for(tmp_path, ["a"], input=str(tmp_path / name)))
    assert not (tmp_path / "out").exists()


def test_rows_that_name_an_id_again_are_in_the_report(tmp_path):
    """Their ids are the same, so nothing but their place tells them apart."""
    rows = [{"id": "v", "video": f"{i}.mp4", "duration_s": 60.0} for i in range(60)]
    file = write_manifest(tmp_path / "m.jsonl", ["a"])
    file.write_text(file.read_text() + "\n".join(map(json.dumps, rows)))
    quiet_build(options_for(tmp_path, [], unit_videos=100, stages={"pretrain_clips": {"min_s": 20.0}}))
    assert "Dropped by input: repeated" in (tmp_path / "out" / "report.html").read_text()


def test_a_video_named_in_two_units_counts_once(tmp_path):
    file = write_manifest(tmp_path / "m.jsonl", ["a"] * 6)
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, lines[1]]))
    out = quiet_build(options_for(tmp_path, [], stages={"pretrain_clips": {"min_s": 20.0}})).out
    ids = [row["id"] for row in dataset_rows(out)]
    assert len(ids) == len(set(ids)) == 8
    assert table_of(out, "dropped.parquet")["reason"].to_pylist() == ["repeated"]


def start_cli(tmp_path, out, delay_s):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(json.dumps({"stages": STAGES | {"simple_stages:Score": {"max_loss": 200.0, "delay_s": delay_s}}}))
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
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
    assert "units are finished: going on with the others" in said
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
    with pytest.raises(ProcessLookupError):  # none of its group is left
        wait_for(lambda: os.killpg(run.pid, 0), 20)
    assert not list(units.glob(".*.partial"))


def test_two_runs_in_one_folder_are_refused(tmp_path):
    from filelock import FileLock

    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(ValueError, match="another run is working in"):
        quiet_build(options_for(tmp_path, ["a"]))


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


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 300 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("no small file system can be made here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def test_a_full_disk_is_one_clear_error_and_loses_nothing(tmp_path, small_disk):
    options = options_for(tmp_path, ["a"] * 160, out="disk/out", stages={"pretrain_clips": {"min_s": 20.0}})
    with pytest.raises(DiskFullError, match=r"the disk of .* is full: \d+ finished units are kept; free some space"):
        quiet_build(options)
    units = sorted((small_disk / "out" / "units").glob("0*"))
    assert 0 < len(units) < 40
    for unit in units:  # whole
        assert len(pq.read_table(unit / "clips.parquet"))
    assert not list((small_disk / "out" / "units").glob(".*.partial"))
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    result = quiet_build(options)
    assert result.n_clips == 160 + 54


def test_the_command_line_builds(tmp_path, capsys):
    write_manifest(tmp_path / "m.jsonl", ["a"] * 5)
    (tmp_path / "r.yaml").write_text("stages: {pretrain_clips: {min_s: 20}}")
    arguments = [
        "--config",
        str(tmp_path / "r.yaml"),
        "--input",
        str(tmp_path / "m.jsonl"),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(["data", "build", *arguments, "pretrain_clips.max_s=100", "--limit", "2", "workers=1"]) == 0
    said = capsys.readouterr().err
    assert "wrote 3 clips to" in said
    assert "report.html" in said
    assert main(["data", "build", *arguments, "pretrain_clips.maxs=100"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "stage pretrain_clips has no threshold 'maxs': did you mean max_s?" in said
    with pytest.raises(SystemExit) as stop:
        main(["data"])
    assert stop.value.code == 2


def test_fetch_and_push_on_the_command_line_name_what_is_wrong(tmp_path, capsys):
    assert main(["data", "fetch", str(tmp_path / "none.txt"), str(tmp_path)]) == 2
    assert "expected a text file with one address a line" in capsys.readouterr().err
    assert main(["data", "push", str(tmp_path), "user/name"]) == 2
    assert "is no dataset folder" in capsys.readouterr().err


def test_progress_says_every_stages_rate_and_what_is_left():
    now, lines = [0.0], []
    progress = Progress(lines.append, every_s=10, clock=lambda: now[0])
    progress.total = 4
    for seconds in (4, 8, 12):
        now[0] = seconds
        progress.add([StageStats("input", 100, 98, seconds=1.0), StageStats("captions", 98, 60, seconds=2.0)])
    assert lines == ["3/4 units in 0:00:12 · input 294 (25/s) · captions 180 (24/s) · 0:00:04 left"]
    table = funnel_table(progress.stats).splitlines()
    assert table[0].split() == ["stage", "in", "kept", "hours", "in", "hours", "kept", "dropped", "errors", "items/s"]
    assert table[2].split()[:3] == ["captions", "294", "180"]
