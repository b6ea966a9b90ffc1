"""`livecc evaluate list`, `score` and `compare`, and the files they write."""

import json
import subprocess
import sys

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from layouts import commentaries, ovo, ovo_question, verdicts, videomme, write_json, write_lines

from livecc_hf.cli.main import main
from livecc_hf.evaluation.predictions import ChoiceRow, Header
from livecc_hf.evaluation.predictions.file import write_rows
from livecc_hf.evaluation.reporting.score_files import markdown, read_scores


def test_list(capsys):
    assert main(["evaluate", "list"]) == 0
    out = capsys.readouterr().out
    assert "livesports3k-cc" in out
    assert "livecc, official, livecc-fixed" in out


def test_score_prints_and_writes(tmp_path, capsys):
    path = write_json(tmp_path / "r.json", videomme([("A", "A"), ("A", "C"), ("B", None), ("B", "B")]))
    assert main(["evaluate", "score", str(path), "--incomplete", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "| overall (N = 4 of 2700) | 50.00 % | 0.00 | 4 (2) | 1 |  | 50.00 % (A) |" in out
    assert (tmp_path / "out/scores.md").read_text() == out
    (result,) = read_scores(tmp_path / "out/scores.json")
    assert (result.suite, result.protocol, result.figures[0].value) == ("videomme", "official", 50)
    assert result.figures[0].n_invalid == 1
    assert markdown([result]) == out


def test_a_withheld_headline(tmp_path, capsys):
    path = write_json(tmp_path / "r.json", videomme([("A", "A"), ("A", "C")]))
    assert main(["evaluate", "score", str(path), "--headline"]) == 0
    out = capsys.readouterr().out
    assert "withheld: incomplete" in out
    assert "- " + str(path) in out  # and why
    assert "50.00 % |" not in out.split("constant answer")[1].split("\n")[2].split("|")[5]


def test_verdicts_find_their_texts(tmp_path, capsys):
    rows = commentaries(["...", "one two three..."] * 10)
    paths = [
        write_lines(tmp_path / "Base_Mine.jsonl", verdicts(rows, [("Mine", "Base")] * 20)),
        write_lines(tmp_path / "Mine.jsonl", rows),
        write_lines(tmp_path / "Base.jsonl", rows),
    ]
    assert main(["evaluate", "score", *map(str, paths), "--incomplete"]) == 0
    out = capsys.readouterr().out
    assert out.count("## LiveSports-3K CC") == 1
    assert "| empty commentaries | 50.00 %" in out
    assert "- suspect: 10 commentaries in" in out


def test_a_file_for_the_hub(tmp_path, capsys):
    path = write_json(tmp_path / "r.json", videomme([("A", "A"), ("A", "C")]))
    hub = ["--eval-results", str(tmp_path / "model"), "lmms-lab/Video-MME", "default"]
    assert main(["evaluate", "score", str(path), *hub]) == 2
    assert "is withheld because rows are missing" in capsys.readouterr().err
    assert main(["evaluate", "score", str(path), "--incomplete", *hub]) == 0
    file = tmp_path / "model/.eval_results/videomme_official.yaml"
    (entry,) = parse_eval_result_entries(yaml.safe_load(file.read_text()))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("lmms-lab/Video-MME", "default", 50.0)
    assert entry.notes == "livecc-hf, protocol official; N = 2; a constant answer gets 100.00"
    assert main(["evaluate", "score", str(path), "--incomplete", "--eval-results", str(tmp_path), "x", "y"]) == 2
    assert "dataset 'x' is not a Hub id" in capsys.readouterr().err


def test_compare(tmp_path, capsys):
    a = write_json(tmp_path / "a.json", videomme([("A", "A"), ("B", "A"), ("A", "B"), ("A", "A")]))
    b = write_json(tmp_path / "b.json", videomme([("A", "A"), ("B", "B"), ("A", "A"), ("A", "B"), ("A", "A")]))
    assert main(["evaluate", "compare", str(a), str(b)]) == 0
    out = capsys.readouterr().out
    assert "| overall | 50.00 | 75.00 | +25.00 |" in out
    assert "| 4 | 1 | 2 |" in out
    assert "1 rows of" in out


def test_a_comparison_says_how_many_answers_are_missing(tmp_path, capsys):
    header, rows = Header("choice", suite="livesports3k-qa", protocol="livecc", n_rows=2), []
    for number, error in ((1, None), (2, "v2.mp4 is missing")):
        said = None if error else "A"
        groups = {"q_type": "Who", "ocr": "0"}
        rows.append(ChoiceRow(str(number), f"v{number}", "A", said, groups=groups, error=error))
    write_rows(tmp_path / "a.jsonl", header, rows)
    assert main(["evaluate", "compare", *[str(tmp_path / "a.jsonl")] * 2]) == 0
    out = capsys.readouterr().out
    assert "| overall | 50.00 | 50.00 |" in out
    assert f"- 1 rows of {tmp_path / 'a.jsonl'} have no answer, such as for a missing video, and count as wrong" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["score", "none.json"], "none.json does not exist"),
        (["score"], "the following arguments are required: DIR_OR_FILE"),
        (["compare", "a", "a"], "a does not exist"),
        (["score", "a", "--out", "file"], "file cannot be made a folder (it is a file)"),
        (["report", "a", "--out", "."], "--out . cannot be written (it is a folder)"),
        (["export", "a", "--format", "proact-vl", "--out", "file/x"], "file cannot be made a folder (it is a file)"),
        (["judge", "a", "b", "--judge", "m", "--out", "."], "--out . cannot be written (it is a folder)"),
        (["export", "choices.json", "--format", "proact-vl", "--out", "x"], "choices.json holds no commentaries"),
        (["nothing"], "invalid choice: 'nothing'"),
    ],
)
def test_errors_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    write_json(tmp_path / "choices.json", videomme([("A", "A")]))
    try:
        assert main(["evaluate", *arguments]) == 2
    except SystemExit as error:
        assert error.code == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_protocol_that_a_benchmark_does_not_have(tmp_path, capsys):
    path = write_json(tmp_path / "r.json", ovo(backward=[ovo_question(1, "EPM", "A", "A")]))
    assert main(["evaluate", "score", str(path), "--protocol", "lmms"]) == 2
    assert (
        "ovobench is not scored by protocol 'lmms': expected livecc, official, livecc-fixed" in capsys.readouterr().err
    )


def test_a_file_that_holds_no_scores(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"x": 1}))
    with pytest.raises(ValueError, match="holds no scores"):
        read_scores(tmp_path / "a.json")
    (tmp_path / "b.json").write_text(json.dumps({"livecc_hf_scores": 1, "scores": [{"suite": "videomme"}]}))
    with pytest.raises(ValueError, match=r"b\.json holds scores that cannot be read \('figures'\): expected a scores"):
        read_scores(tmp_path / "b.json")


def test_scoring_imports_neither_torch_nor_packages_of_extras(tmp_path):
    path = write_json(tmp_path / "r.json", videomme([("A", "A"), ("A", "C")]))
    code = (
        "import sys; from livecc_hf.cli.main import main; main(['evaluate', 'score', sys.argv[1]]); "
        "bad = {'torch', 'transformers', 'av', 'pyarrow', 'httpx2', 'matplotlib', 'datasets'} & set(sys.modules); "
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_benchmarks_own_rows_show_what_is_missing_and_constant_texts(tmp_path, capsys):
    records = [
        {"id": i, "task": "HLD", "video": "v", "realtime": 1, "question": "q", "options": options, "gt": gt}
        for i, (options, gt) in enumerate([(["x", "no idea"], 1), (["no idea", "x"], 0), (["y", "no idea"], 1)])
    ]
    annotations = str(write_json(tmp_path / "ovo.json", records))
    answers = [ovo_question(0, "HLD", "B", "B"), ovo_question(1, "HLD", "A", "B")]
    path = write_json(tmp_path / "r.json", ovo(backward=answers))
    assert main(["evaluate", "score", str(path), "--annotations", annotations, "--incomplete"]) == 0
    out = capsys.readouterr().out
    assert "| task=HLD | 33.33 % | " in out
    assert "| 3 (1) |  | 1 | 100.00 % (the text 'no idea') |" in out
    assert "1 of the benchmark's rows have no prediction" in out
    other = write_json(tmp_path / "o.json", ovo(backward=[*answers, ovo_question(9, "HLD", "A", "B")]))
    assert main(["evaluate", "score", str(other), "--annotations", annotations]) == 2
    assert "has 1 rows that" in capsys.readouterr().err
    wrong = write_json(tmp_path / "w.json", ovo(backward=[ovo_question(0, "HLD", "A", "B")]))
    assert main(["evaluate", "score", str(wrong), "--annotations", annotations]) == 2
    assert "row '0': the correct answer is A in" in capsys.readouterr().err
