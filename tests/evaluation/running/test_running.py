"""Benchmarks on a tiny model: commentary, questions, and resumed runs."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from asked_alone import separately
from layouts import write_json, write_lines
from media import write_video

from livecc_hf.cli.main import main
from livecc_hf.evaluation import RunOptions, run, score
from livecc_hf.evaluation.predictions import CommentaryRow, read_rows
from livecc_hf.evaluation.running.commentary import Commentator, join_as_published, resizer
from livecc_hf.evaluation.running.frames import sample_clip
from livecc_hf.evaluation.running.shared_vision import CandidateError, candidate_ids
from livecc_hf.evaluation.tasks.livesports_cc import SportsEvent
from livecc_hf.evaluation.tasks.questions import FrameRule


def test_a_commentary_as_the_reference_makes_it(reference, reference_dir, make_model, processor):
    recorded = reference["once"]
    event = SportsEvent(CommentaryRow("k", "v", 2.0, 9.0, None), "clip.mp4", "", "", "")
    commentator = Commentator(make_model("reference"), processor, options={"query": recorded["args"]["query"]})
    row = commentator.comment(event, reference_dir / "clip.mp4", FrameRule())
    assert [(turn.start_s, turn.end_s, turn.text) for turn in row.turns] == [
        (start, end, text.strip()) for start, end, text in recorded["segments"]
    ]
    assert row.pred == " ".join(text.strip() for _, _, text in recorded["segments"]).strip() + "..."
    assert len(row.latencies_s) == 5
    assert row.work_s > sum(row.latencies_s)
    live = Commentator(commentator.model, processor, "live", options=commentator.options)
    row = live.comment(event, reference_dir / "clip.mp4", FrameRule())
    assert [turn.start_s for turn in row.turns] == [2, 5, 6, 7, 8]
    assert not row.pred.endswith("...")
    base = Commentator(commentator.model, processor, query_form="base")  # the event has no title: an empty query
    assert base.comment(event, reference_dir / "clip.mp4", FrameRule()).pred.endswith("...")


def test_an_empty_commentary_is_three_dots():
    class Silent:
        text = ""

    assert join_as_published([Silent(), Silent()]) == "..."


def quietly(_):
    pass


def test_both_modes_of_video_mme_share_a_run(benchmark, published_checkpoint, tmp_path, make_model, processor):
    annotations, videos, subtitles = benchmark
    options = RunOptions(annotations=annotations, subtitles=subtitles)
    names = ["videomme", "videomme-subtitles"]
    result = run(names, published_checkpoint, videos, tmp_path / "out", options, quietly)
    assert (result.n_rows, result.n_done, result.failures) == (12, 12, {})
    without, with_them = (read_rows(path) for path in result.files)
    assert [row.key for row in without.rows] == ["001-0", "001-1", "001-2", "002-0", "002-1", "002-2"]
    header = without.header
    assert (header.suite, header.protocol, header.dataset, header.n_rows) == ("videomme", "livecc", "videomme.json", 6)
    assert header.generation["answer"] == "option logits"
    assert len(header.prompt_hash) == len(header.model_revision) == 16
    row = without.rows[4]
    clip = sample_clip(videos / "data/clip2.mp4", None, None, FrameRule(), resizer(processor))
    text = "What is 1?\nA. Red.\nB. Blue.\nC. Green.\nD. None.\nPlease select the correct answer."
    _, logits = separately(make_model("mrope"), processor, clip.frames, text, "Answer:")
    expected = torch.softmax(logits[candidate_ids(processor.tokenizer, "ABCD", ": ")].double(), 0).tolist()
    assert list(row.probabilities.values()) == pytest.approx(expected, abs=1e-4)
    text = f"This video's subtitles are listed below:\nOne two three\nAccording to the video and subtitles, {text}"
    clip = sample_clip(videos / "data/clip1.mp4", None, None, FrameRule(), resizer(processor))
    _, logits = separately(make_model("mrope"), processor, clip.frames, text, "Answer:")
    expected = torch.softmax(logits[candidate_ids(processor.tokenizer, "ABCD", ": ")].double(), 0).tolist()
    assert list(with_them.rows[1].probabilities.values()) == pytest.approx(expected, abs=1e-4)
    assert not (tmp_path / "out/parts").exists() or not list((tmp_path / "out/parts").iterdir())
    scored = score(tmp_path / "out")
    assert [item.figures[0].name for item in scored] == ["overall", "overall"]
    assert scored[0].series["calibration"]["n"] == 6


def test_the_published_answers_of_the_official_protocol(benchmark, published_checkpoint, tmp_path):
    annotations, videos, subtitles = benchmark
    options = RunOptions("official", 4, annotations, subtitles=subtitles)
    result = run("videomme-subtitles", published_checkpoint, videos, tmp_path / "out", options, quietly)
    rows = read_rows(result.files[0])
    assert len(rows.rows) == 4
    assert all(isinstance(row.response, str) and row.probabilities is None for row in rows.rows)
    assert score(result.files[0])[0].figures[0].n == 4


def test_missing_and_broken_videos_are_listed_and_asked_again(benchmark, published_checkpoint, tmp_path, capsys):
    annotations, videos, _ = benchmark
    out, lines = tmp_path / "out", []
    (videos / "data/clip1.mp4").rename(tmp_path / "away.mp4")
    whole = (videos / "data/clip2.mp4").read_bytes()
    (videos / "data/clip2.mp4").write_bytes(b"broken")
    options = RunOptions(annotations=annotations)
    result = run("videomme", published_checkpoint, videos, out, options, lines.append)
    assert result.n_done == 0
    assert result.failures["videomme", "001-0"] == "video clip1.mp4 is missing"
    assert "clip2.mp4" in result.failures["videomme", "002-2"]
    assert sum(line.startswith("no answer: ") for line in lines) == 6
    (scored,) = score(out)
    assert (scored.figures[0].value, scored.figures[0].n_missing) == (None, 6)
    (videos / "data/clip2.mp4").write_bytes(whole)
    result = run("videomme", published_checkpoint, videos, out, options, quietly)
    assert (result.n_done, len(result.failures)) == (3, 3)
    (scored,) = score(out, incomplete=True)
    assert scored.figures[0].name == "overall (N = 3 of 6)"


@pytest.mark.parametrize(
    ("suite", "options", "error", "message"),
    [
        ("nothing", {}, ValueError, "there is no benchmark 'nothing'"),
        ("videomme,mvbench", {}, ValueError, "are not about the same videos"),
        ("videomme", {"protocol": "x"}, ValueError, "has no protocol 'x': expected livecc, official, livecc-fixed"),
        ("videomme-subtitles", {}, ValueError, "needs --subtitles DIR"),
        ("videomme-subtitles", {"subtitles": "none"}, FileNotFoundError, "--subtitles none is not a folder"),
        ("videomme", {"annotations": "none.json"}, FileNotFoundError, "none.json do not exist"),
        ("livesports3k-cc", {}, ValueError, "row 0 of the annotations has no column event_id"),
        ("ovobench", {}, ValueError, "has no column task"),
        ("videomme", {"subtitles": "srt"}, ValueError, "--subtitles srt: not with videomme, which does not use it"),
        ("videomme", {"query_form": "base"}, ValueError, "--query-form base: not with videomme, which asks questions"),
        ("videomme", {"dataset_revision": "v1"}, ValueError, "--dataset-revision v1: not with --annotations "),
    ],
)
def test_errors_before_any_work(suite, options, error, message, benchmark, tmp_path):
    options = {"annotations": benchmark[0]} | options
    with pytest.raises(error, match=message):
        run(suite, "no-model", benchmark[1], tmp_path / "out", RunOptions(**options), quietly)


def test_wrong_folders_are_named_before_questions_are_fetched_or_weights_read(benchmark, tmp_path):
    annotations, videos, subtitles = benchmark
    from_hub, local = RunOptions(), RunOptions(annotations=annotations)
    with pytest.raises(FileNotFoundError, match="^--videos nowhere is not a folder"):
        run("videomme", "no-model", "nowhere", tmp_path / "out", from_hub, quietly)
    with pytest.raises(ValueError, match="videomme.json cannot be made a folder .it is a file.: choose another"):
        run("videomme", "no-model", videos, annotations, from_hub, quietly)
    with pytest.raises(FileNotFoundError, match="has none of the 2 videos of videomme, such as clip1.mp4: give the"):
        run("videomme", "no-model", subtitles, tmp_path / "out", local, quietly)
    (videos / "data/clip2.mp4").unlink()
    lines = []
    with pytest.raises(ValueError, match="no-model does not exist"):
        run("videomme", "no-model", videos, tmp_path / "out", local, lines.append)
    assert lines == [f"1 of 2 videos are missing in {videos}, such as clip2.mp4"]


def event_row(number, begin, end, video="a.mp4", **others):
    people = [[begin + 1, begin + 3, "He runs."], [begin + 3, end, "He falls."]]
    return {
        "video_id": video.split(".")[0],
        "event_id": number,
        "begin": begin,
        "end": end,
        "video": video,
        "class": "run",
        "event_title": "A run",
        "event_asr": json.dumps(people),
        "event_asr_text": "He runs. He falls.",
        "preasr": "[]",
        "preasr_text": "",
    } | others


@pytest.mark.parametrize("protocol", ["livecc", "live"])
def test_commentary_from_run_to_score(protocol, published_checkpoint, tmp_path):
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos/a.mkv", n_frames=100, fps=10, size_px=(112, 84))
    rows = [event_row(1, 0.0, 5.0), event_row(2, 4.0, 9.5), event_row(3, 0.0, 5.0, "gone.mp4")]
    annotations = write_lines(tmp_path / "cc.jsonl", rows)
    options = RunOptions(protocol, annotations=annotations)
    result = run("livesports3k-cc", published_checkpoint, tmp_path / "videos", tmp_path / "out", options, quietly)
    assert (result.n_done, list(result.failures)) == (2, [("livesports3k-cc", "gone_3")])
    there = read_rows(result.files[0])
    first = there.rows[0]
    assert first.reference[0].text == "He runs."
    assert [(turn.start_s, turn.end_s) for turn in first.turns] == [(0, 3), (3, 4), (4, 5)]
    assert first.groups == {"class": "run"}
    assert there.header.generation["query_form"] == "instruct"
    (scored,) = score(tmp_path / "out", incomplete=True)
    assert scored.figures[0].name == "speak F1 (N = 2 of 3)"
    names = {item.name for item in scored.figures}
    assert {"onset error", "latency (median)", "real-time factor", "LiveStar TimDiff"} <= names


def ovo_records():
    return [
        {"id": 0, "task": "EPM", "video": "src/a.mp4", "realtime": 2.0, "question": "Who?",
         "options": ["x", "y"], "gt": 1},
        {"id": 7, "task": "REC", "video": "src/a.mp4", "activity": "jump", "test_info": [{"realtime": 1, "count": 0},
         {"realtime": 2.5, "count": 10}]},
        {"id": 8, "task": "CRR", "video": "src/a.mp4", "question": "Why?", "ask_time": 1, "clue_time": 2,
         "test_info": [{"realtime": 2, "type": 0}, {"realtime": 3, "type": 1}]},
        {"id": 9, "task": "SSR", "video": "src/b.mp4", "tutorial": "T", "test_info": [{"realtime": 2, "type": 1,
         "step": "open it"}]},
    ]  # fmt: skip


def test_ovo_bench_in_all_protocols(talkative, tmp_path):
    (tmp_path / "videos/src").mkdir(parents=True)
    write_video(tmp_path / "videos/src/a.mp4", n_frames=40, fps=10, size_px=(112, 84))
    write_video(tmp_path / "videos/9_0.mp4", n_frames=40, fps=10, size_px=(112, 84))  # a chunk, as published
    annotations = write_json(tmp_path / "ovo.json", ovo_records())
    candidates = {}
    for protocol in ("livecc", "livecc-fixed", "official"):
        out = tmp_path / protocol
        options = RunOptions(protocol, annotations=annotations)
        result = run("ovobench", talkative, tmp_path / "videos", out, options, quietly)
        assert result.failures == {}
        rows = read_rows(result.files[0]).rows
        assert [row.key for row in rows] == ["0", "7_0", "7_1", "8_0", "8_1", "9_0"]
        candidates[protocol] = [len(row.probabilities or {}) for row in rows]
        names = {item.name for item in score(out)[0].figures}
        assert {"group=forward", "task=CRR"} <= names
    assert candidates["livecc"] == [17] * 6
    assert candidates["livecc-fixed"] == [2, 10, 10, 2, 2, 2]
    assert candidates["official"] == [0] * 6


def test_candidates_are_checked_before_any_video_is_read(published_checkpoint, tmp_path):
    annotations = write_json(tmp_path / "ovo.json", records := ovo_records())
    for record in records:
        (tmp_path / "videos" / record["video"]).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "videos" / record["video"]).write_text("not read")
    with pytest.raises(CandidateError, match="cannot be read from one position"):
        run(
            "ovobench", published_checkpoint, tmp_path / "videos", tmp_path / "out", RunOptions(None, None, annotations)
        )


def test_the_command(benchmark, published_checkpoint, tmp_path, capsys):
    annotations, videos, _ = benchmark
    arguments = ["evaluate", "run", "videomme", "--model", str(published_checkpoint), "--videos", str(videos)]
    arguments += ["--annotations", str(annotations), "--out", str(tmp_path / "out"), "--limit", "2", "--device", "cpu"]
    assert main(arguments) == 0
    err = capsys.readouterr().err
    assert "2 of 2 rows answered; wrote" in err
    for wrong, message in (
        ([*arguments, "--min-pixels", "100"], "unrecognized arguments: --min-pixels 100"),
        (["evaluate", "run", "videomme", "--videos", str(videos), "--out", "x"], "are required: --model"),
    ):
        with pytest.raises(SystemExit):
            main(wrong)
        assert message in capsys.readouterr().err


def command(benchmark, model, out):
    annotations, videos, _ = benchmark
    arguments = ["evaluate", "run", "videomme", "--model", str(model), "--videos", str(videos), "--device", "cpu"]
    return ["-m", "livecc_hf.cli.main", *arguments, "--annotations", str(annotations), "--out", str(out)]


@pytest.mark.slow
def test_killed_and_started_again(benchmark, published_checkpoint, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert subprocess.run([sys.executable, *command(benchmark, published_checkpoint, whole)]).returncode == 0
    process = subprocess.Popen([sys.executable, *command(benchmark, published_checkpoint, killed)])
    part, deadline = killed / "parts/videomme.0.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and not (part.is_file() and part.read_bytes().count(b"\n") > 2):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    known = [row.key for row in read_rows(part).rows] if part.is_file() else []
    assert subprocess.run([sys.executable, *command(benchmark, published_checkpoint, killed)]).returncode == 0
    assert known
    assert (killed / "videomme.jsonl").read_text() == (whole / "videomme.jsonl").read_text()


@pytest.mark.slow
def test_two_processes_write_what_one_does(benchmark, published_checkpoint, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert subprocess.run([sys.executable, *command(benchmark, published_checkpoint, one)]).returncode == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    assert subprocess.run([*launch, *command(benchmark, published_checkpoint, two)], env=environment).returncode == 0
    assert (one / "videomme.jsonl").read_text() == (two / "videomme.jsonl").read_text()
