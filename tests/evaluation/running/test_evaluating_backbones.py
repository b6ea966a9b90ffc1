"""`livecc evaluate run` on every backbone."""

import json

import pytest
from backbones import BACKBONES, write_published
from layouts import write_json
from media import write_video

from livecc_hf.checkpoints.convert import convert_checkpoint
from livecc_hf.cli.main import main
from livecc_hf.evaluation.predictions import read_rows

CHOICE = {"question": "What is it?", "options": ["A. Red.", "B. Blue.", "C. Green.", "D. None."], "answer": "B"}


def write_benchmarks(folder):
    """Write a video, and one row of each benchmark about it."""
    write_video(folder / "videos/a.mp4", n_frames=50, fps=10, size_px=(128, 96))
    spoken = json.dumps([[0.0, 1.5, "He runs."], [1.5, 5.0, "He falls."]])
    event = {"video_id": "a", "event_id": 1, "begin": 0.0, "end": 5.0, "video": "a.mp4", "event_title": "A run"}
    event |= {"event_asr": spoken, "event_asr_text": "He runs. He falls.", "preasr": "[]", "preasr_text": ""}
    watched = {"video_id": "001", "duration": "short", "domain": "Knowledge", "sub_category": "Law", "videoID": "a"}
    watched |= {"question_id": "001-1", "task_type": "Counting Problem"} | CHOICE
    asked = {"question_id": 1, "video": "a.mp4", "video_start": 1.0, "video_end": 4.0, "q_type": "Who"}
    asked |= {"OCR": 0} | CHOICE
    return {
        "livesports3k-cc": write_json(folder / "LiveSports-3K-CC.json", [event]),
        "videomme": write_json(folder / "videomme.json", [watched]),
        "livesports3k-qa": write_json(folder / "LiveSports-3K-QA.json", [asked]),
    }


@pytest.mark.parametrize("name", BACKBONES)
def test_benchmarks_run_on_every_backbone(name, tmp_path):
    (tmp_path / "videos").mkdir()
    model = convert_checkpoint(write_published(name, tmp_path / name), tmp_path / "model", position_scheme="mrope")
    runs = [(suite, path, None) for suite, path in write_benchmarks(tmp_path).items()]
    runs.append((*runs[0][:2], "live"))
    for suite, path, protocol in runs:
        out = tmp_path / f"{suite}-{protocol}"
        arguments = ["evaluate", "run", suite, "--model", str(model), "--device", "cpu", "--out", str(out)]
        arguments += ["--videos", str(tmp_path / "videos"), "--annotations", str(path)]
        assert main(arguments + (["--protocol", protocol] if protocol else [])) == 0
        [row] = read_rows(out / f"{suite}.jsonl").rows
        if suite == "livesports3k-cc":
            assert [(turn.start_s, turn.end_s) for turn in row.turns] == [(0, 3), (3, 4), (4, 5)]
        else:
            assert sum(row.probabilities.values()) == pytest.approx(1, abs=1e-4) and len(row.probabilities) == 4
        assert main(["evaluate", "score", str(out)]) == 0
