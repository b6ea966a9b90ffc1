"""Scores of published files, reproduced exactly.

Runs where LIVECC_PUBLISHED_RESULTS names a folder with clones of showlab/livecc and JoeLeelyf/OVO-Bench.
"""

import os
import re
from pathlib import Path

import pytest

from livecc_hf.evaluation import score
from livecc_hf.evaluation.predictions import Header, VerdictRow, read_predictions, text_hash
from livecc_hf.evaluation.predictions.file import RowSet, write_rows
from livecc_hf.evaluation.scorers.multiple_choice import score_choices
from livecc_hf.evaluation.scorers.win_rate import VerdictTextError

FOLDER = os.environ.get("LIVECC_PUBLISHED_RESULTS")
pytestmark = pytest.mark.skipif(not FOLDER, reason="LIVECC_PUBLISHED_RESULTS names no folder of published results")


def find(name: str, *under: str) -> Path:
    found = [path for path in Path(FOLDER).rglob(name) if all(part in path.parts for part in under)]
    if not found:
        pytest.skip(f"{FOLDER} holds no {name}")
    return found[0]


def log_lines(text: str) -> dict[str, float]:
    """Return the figures in a printed log of Video-MME, by the names in this package."""
    groups = {"Video Categories": "domain", "Video Domains": "domain", "Video Sub Categories": "sub_category",
              "Task Categories": "task_type", "Overall Performance": ""}  # fmt: skip
    duration, group, found = "", "", {}
    for line in text.splitlines():
        if match := re.match(r"Evaluation on video Type: (\w+)", line):
            duration = f"duration={match[1]}"
        elif line.startswith("Evaluation on the entire"):
            duration = ""
        elif line in groups:
            group = groups[line]
        elif match := re.match(r"(.+):\s+([\d.]+)%", line):
            part = f"{group}={match[1]}" if group else ""
            found[", ".join(filter(None, (duration, part))) or "overall"] = float(match[2])
    return found


@pytest.mark.parametrize(("mode", "n_correct", "value"), [("no", 1731, 64.11), ("with", 1899, 70.33)])
def test_video_mme_with_every_line_of_its_log(mode, n_correct, value):
    path = find(f"LiveCC-7B-Instruct_{mode}_subtitles.json")
    (result,) = score(path)
    assert (result.figures[0].n_correct, result.figures[0].n) == (n_correct, 2700)
    assert round(result.figures[0].value, 2) == value
    assert round(result.figures[0].floor, 1) == 27.2
    figures = {item.name: item for item in result.figures}
    logged = log_lines(path.with_suffix(".txt").read_text())
    assert len(logged) == 4 + 4 * (6 + 30 + 12)
    for name, printed in logged.items():
        assert f"{figures[name].value:.1f}" == f"{printed:.1f}", name


def test_the_win_rate_of_livesports_3k():
    verdicts = find("GPT-4o_LiveCC-7B-Instruct.jsonl", "judges")
    texts = [find("LiveCC-7B-Instruct.jsonl", "livecc"), find("GPT-4o.jsonl", "captions")]
    (result,) = score([verdicts, *texts])
    rates = {item.name: item for item in result.figures}
    assert (rates["win rate shown first"].n_correct, rates["win rate shown second"].n_correct) == (1112, 496)
    assert round(rates["win rate"].value, 2) == 47.24
    assert round(rates["win rate"].se, 2) == 1.12
    assert rates["ties"].value == 0
    assert round(rates["words a second"].value, 2) == 3.19
    assert rates["repeating commentaries"].n_correct == 91
    assert round(rates["win rate where both orders agree"].value, 1) == 45.6


def test_the_verdicts_filed_under_base_are_suspect_without_hashes_and_refused_with(tmp_path):
    paths = [find(f"GPT-4o_LiveCC-7B-{name}.jsonl", "judges") for name in ("Base", "Instruct")]
    texts = [find(f"LiveCC-7B-{name}.jsonl", "livecc") for name in ("Base", "Instruct")]
    base, _ = score([*paths, *texts])
    assert round(base.figures[0].value, 2) == 47.21
    notes = " ".join(base.notes)
    assert "166 of" in notes
    assert "46.7 %" in notes
    assert "93.1 %" in notes
    # If the judge had stored hashes of the texts, which seem to be Instruct's:
    (verdicts,), (read,), (opponent,) = map(read_predictions, (paths[0], texts[1], find("GPT-4o.jsonl", "captions")))
    mine = {row.key: text_hash(row.pred) for row in read.rows}
    theirs = {row.key: text_hash(row.pred) for row in opponent.rows}
    hashed = [
        VerdictRow(**vars(row) | {"model_hash": mine[row.key], "opponent_hash": theirs[row.key]})
        for row in verdicts.rows
    ]
    write_rows(tmp_path / "v.jsonl", Header("verdict", model="LiveCC-7B-Base", opponent="GPT-4o"), hashed)
    with pytest.raises(VerdictTextError, match="not a judgement of .*LiveCC-7B-Base.jsonl: 3,404 of 3,404"):
        score([tmp_path / "v.jsonl", texts[0]])


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("QWen2VL_7B", (46.46, 55.98, 48.74, 50.39)),
        ("QWen2VL_7B_", (46.46, 55.98, 48.74, 50.39)),
        ("LLaVA_Video", (40.40, 63.52, 54.82, 52.91)),
    ],
)
def test_ovo_bench(model, expected):
    (result,) = score(find(model, "results"))
    names = ("group=backward", "group=realtime", "group=forward", "overall")
    assert tuple(round(result.figure(name).value, 2) for name in names) == expected
    assert result.is_complete
    assert [round(result.figure(name).floor, 2) for name in names[:3]] == [34.86, 27.63, 49.25]
    floors = {"SSR": 67.25, "CRR": 60.00, "REC": 20.49, "EPM": 40.07, "HLD": 38.17}
    for task, floor in floors.items():
        assert round(result.figure(f"task={task}").floor, 2) == floor


def test_a_constant_letter_on_ovo_bench():
    (rows,) = read_predictions(find("LLaVA_Video", "results"))
    always = [type(row)(**vars(row) | {"response": "A"}) for row in rows.rows if row.kind == "letter"]
    result = score_choices(RowSet(rows.header, always, "always A"), incomplete=True)
    expected = {"EPM": 40.07, "HLD": 38.17, "ASI": 26.35, "OCR": 22.82, "ACR": 29.36, "ATR": 27.59, "STU": 23.03,
                "FPD": 33.66, "OJR": 29.35}  # fmt: skip
    assert {task: round(result.figure(f"task={task}").value, 2) for task in expected} == expected


def test_questions_that_were_answered_twice_count_once():
    (result,) = score(find("GPT", "results"), incomplete=True)
    assert any("6 rows answer a question again; the first answer counts" in note for note in result.notes)
    assert result.figure("task=HLD").n == 184  # of 187, three of them again


def test_the_protocol_of_video_mme_is_found_from_the_answers():
    (rows,) = read_predictions(find("LiveCC-7B-Instruct_no_subtitles.json", "videomme"))
    assert rows.header.protocol == "livecc"
