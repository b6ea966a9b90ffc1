"""Every benchmark in its published format: run, killed, resumed, judged, scored, and opened as a page in a browser."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chat_server import Reply, serve_chat
from layouts import write_json, write_lines
from media import write_video

from livecc_hf.cli.main import main
from livecc_hf.evaluation.predictions import read_rows
from livecc_hf.evaluation.suites import SUITES

PEOPLE = json.dumps([[0.0, 1.5, "He runs."], [1.5, 3.0, "He falls."]])
SUBTITLES = "1\n00:00:00,500 --> 00:00:01,000\nOne\n\n2\n00:00:02,000 --> 00:00:02,500\ntwo\n"
CHOICE = {"question": "What is it?", "options": ["A. Red.", "B. Blue.", "C. Green.", "D. None."], "answer": "B"}


def write_annotations(folder):
    """Write rows of each benchmark in its published format, about two videos; return their files and folders."""
    names = ("a", "b")
    events = [
        {"video_id": name, "event_id": 1, "begin": 0.0, "end": 3.0, "video": f"{name}.mp4", "event_title": "A run",
         "event_asr": PEOPLE, "event_asr_text": "He runs. He falls.", "preasr": "[]", "preasr_text": ""}
        for name in names
    ]  # fmt: skip
    asked = [
        {"question_id": number, "video": f"{name}.mp4", "video_start": 0.0, "video_end": 3.0, "q_type": "Who", "OCR": 0}
        | CHOICE
        for number, name in enumerate(names)
    ]
    watched = [
        {"video_id": f"00{number}", "duration": "short", "domain": "Knowledge", "sub_category": "Law", "videoID": name,
         "question_id": f"00{number}-1", "task_type": "Counting Problem"} | CHOICE
        for number, name in enumerate(names)
    ]  # fmt: skip
    streamed = [
        {"id": 0, "task": "EPM", "video": "a.mp4", "realtime": 2.0, "question": "Who?", "options": ["x", "y"], "gt": 1},
        {"id": 7, "task": "REC", "video": "b.mp4", "activity": "jump",
         "test_info": [{"realtime": 1, "count": 0}, {"realtime": 2.5, "count": 1}]},
    ]  # fmt: skip
    moving = [
        {"video": f"{name}.mp4", "question": "Where to?", "candidates": ["Up", "Down"], "answer": "Up"}
        for name in names
    ]
    (folder / "json").mkdir()
    for task in ("moving_direction", "action_count"):
        write_json(folder / f"json/{task}.json", moving)
    videomme = write_json(folder / "videomme.json", watched)
    return {
        "livesports3k-cc": write_json(folder / "LiveSports-3K-CC.json", events),
        "livesports3k-qa": write_json(folder / "LiveSports-3K-QA.json", asked),
        "videomme": videomme,
        "videomme-subtitles": videomme,
        "ovobench": write_json(folder / "ovo_bench_new.json", streamed),
        "mvbench": folder / "json",
    }


def command(suite, annotations, folder, model):
    arguments = ["evaluate", "run", suite, "--model", str(model), "--device", "cpu", "--videos", str(folder / "videos")]
    arguments += ["--annotations", str(annotations), "--out", str(folder / suite)]
    return arguments + (["--subtitles", str(folder / "subtitles")] if suite == "videomme-subtitles" else [])


def kill_in_the_middle(arguments, out):
    """Start a run, and kill it as soon as a row is written."""
    process = subprocess.Popen([sys.executable, "-m", "livecc_hf.cli.main", *arguments])
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        if any(part.read_bytes().count(b"\n") > 1 for part in (out / "parts").glob("*.jsonl")):
            break
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def prefers_words(_, body):
    text = body["messages"][0]["content"].split("---Commentary A---\n")[1]
    return Reply(f"Commentary {'B' if text.startswith('Nothing.') else 'A'} is better")


@pytest.mark.slow
def test_every_benchmark_from_run_to_page(talkative, tmp_path, capsys):
    for name in ("videos", "subtitles"):
        (tmp_path / name).mkdir()
    for name in ("a", "b"):
        write_video(tmp_path / f"videos/{name}.mp4", n_frames=30, fps=10, size_px=(112, 84))
        (tmp_path / f"subtitles/{name}.srt").write_text(SUBTITLES)
    annotations = write_annotations(tmp_path)
    assert set(annotations) == {name for name, suite in SUITES.items() if suite.protocols}
    for suite, path in annotations.items():
        arguments = command(suite, path, tmp_path, talkative)
        if suite == "livesports3k-qa":
            kill_in_the_middle(arguments, tmp_path / suite)
        assert main(arguments) == 0
        keys = [row.key for row in read_rows(tmp_path / suite / f"{suite}.jsonl").rows]
        assert len(keys) == len(set(keys)) == {"mvbench": 4, "ovobench": 3}.get(suite, 2)
    mine = tmp_path / "livesports3k-cc/livesports3k-cc.jsonl"
    theirs = [{"video_id": name, "event_id": 1, "begin": 0.0, "end": 3.0, "pred": "Nothing."} for name in ("a", "b")]
    opponent, verdicts = write_lines(tmp_path / "Other.jsonl", theirs), tmp_path / "verdicts.jsonl"
    with serve_chat(prefers_words) as server:
        judge = ["--judge", "local", "--base-url", server.url, "--out", str(verdicts)]
        assert main(["evaluate", "judge", str(mine), str(opponent), *judge]) == 0
    files = [str(tmp_path / suite / f"{suite}.jsonl") for suite in annotations] + [str(verdicts), str(opponent)]
    capsys.readouterr()
    assert main(["evaluate", "score", *files, "--out", str(tmp_path / "scores")]) == 0
    scores = json.loads((tmp_path / "scores/scores.json").read_text())
    scores = scores if isinstance(scores, list) else scores["scores"]
    # LiveSports-3K CC has a win rate and timing.
    assert sorted(item["suite"] for item in scores) == sorted([*annotations, "livesports3k-cc"])
    assert all(item["is_complete"] for item in scores)
    page = tmp_path / "report.html"
    assert main(["evaluate", "report", *files, "--out", str(page), "--videos", str(tmp_path / "videos")]) == 0
    look_at(page, [SUITES[suite].title for suite in annotations])


def look_at(page, titles):
    """Open a page in a browser; check its titles and pictures, and that there are no script errors."""
    sync_playwright = pytest.importorskip("playwright.sync_api").sync_playwright
    if not Path("/usr/bin/chromium").exists():
        pytest.skip("there is no Chromium")
    wrong = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        shown = browser.new_page()
        shown.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        shown.on("pageerror", lambda error: wrong.append(str(error)))
        shown.goto(page.as_uri())
        text = shown.inner_text("body")
        broken = shown.evaluate("[...document.images].filter(image => !image.naturalWidth).length")
        browser.close()
    assert not wrong
    assert not broken
    assert [title for title in titles if title not in text] == []
