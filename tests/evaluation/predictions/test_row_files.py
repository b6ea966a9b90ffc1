"""Row files survive killed processes, and rows of different runs are not mixed."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from livecc_hf.evaluation.predictions import ChoiceRow, CommentaryRow, DuplicateRowError, Header, RowFile, read_rows
from livecc_hf.evaluation.predictions.file import write_rows

HEADER = Header("choice", suite="ovobench", protocol="livecc", model="me/model", n_rows=3)


def row(number: int, response: str = "A") -> ChoiceRow:
    return ChoiceRow(f"{number}", "v", "A", response, groups={"task": "EPM"}, probabilities={"A": 0.75, "B": 0.25})


def test_written_rows_are_read_back(tmp_path):
    rows = [row(0), row(1, "naïve\u2028 \ud800 …"), ChoiceRow("2", "v", "A", None, error="no such video")]
    with RowFile(tmp_path / "a/b.jsonl", HEADER) as file:
        for item in rows:
            file.append(item)
    there = read_rows(tmp_path / "a/b.jsonl")
    assert (there.header, there.rows, there.notes) == (HEADER, rows, [])
    write_rows(tmp_path / "again.jsonl", HEADER, rows)
    assert read_rows(tmp_path / "again.jsonl").rows == rows


def test_a_commentary_keeps_its_times(tmp_path):
    item = CommentaryRow(
        "v_1", "v", 3, 9.5, "One two...", turns=[(3, 6, "One"), (6, 7, "")], reference=[(3.5, 5, "Uno.")]
    )
    with RowFile(tmp_path / "c.jsonl", Header("commentary")) as file:
        file.append(item)
    there = read_rows(tmp_path / "c.jsonl").rows[0]
    assert there == item
    assert there.turns[0].text == "One"
    assert there.reference[0].end_s == 5


@pytest.mark.parametrize("n_bytes", [0, 1])
def test_a_file_without_rows_takes_those_of_another_run(tmp_path, n_bytes):
    path = tmp_path / "a.jsonl"
    RowFile(path, HEADER).close()
    with path.open("ab") as file:
        file.write(b"{"[:n_bytes])
    other = replace(HEADER, model="me/other")
    with RowFile(path, other) as file:
        file.append(row(0))
    there = read_rows(path)
    assert (there.header, there.rows) == (other, [row(0)])


@pytest.mark.parametrize("n_bytes", [1, 30, 60])
def test_an_incomplete_line_is_removed(tmp_path, n_bytes):
    path = tmp_path / "a.jsonl"
    with RowFile(path, HEADER) as file:
        file.append(row(0))
        whole = path.read_bytes()
        file.append(row(1))
    path.write_bytes(path.read_bytes()[: len(whole) + n_bytes])
    there = read_rows(path)
    assert [item.key for item in there.rows] == ["0"]
    assert "incomplete" in there.notes[0]
    with RowFile(path, HEADER) as file:
        assert "0" in file
        assert "1" not in file
        file.append(row(1))
    assert read_rows(path).rows == [row(0), row(1)]
    assert read_rows(path).notes == []


def test_a_last_line_without_newline_is_complete(tmp_path):
    path = tmp_path / "a.jsonl"
    with RowFile(path, HEADER) as file:
        file.append(row(0))
    path.write_bytes(path.read_bytes()[:-1])
    with RowFile(path, HEADER) as file:
        assert "0" in file
        file.append(row(1))
    assert read_rows(path).rows == [row(0), row(1)]


def test_zero_bytes_after_a_crash_are_removed(tmp_path):
    path = tmp_path / "a.jsonl"
    with RowFile(path, HEADER) as file:
        file.append(row(0))
    path.write_bytes(path.read_bytes() + b"\0" * 100)
    with RowFile(path, HEADER) as file:
        file.append(row(1))
    assert read_rows(path).rows == [row(0), row(1)]


def test_an_incomplete_header_is_written_again(tmp_path):
    path = tmp_path / "a.jsonl"
    RowFile(path, HEADER).close()
    path.write_bytes(path.read_bytes()[:25])
    with RowFile(path, HEADER) as file:
        file.append(row(0))
    assert read_rows(path).rows == [row(0)]


def test_another_file_is_not_overwritten(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("remember")
    with pytest.raises(ValueError, match=r"is not a file of predictions"):
        RowFile(path, HEADER)
    assert path.read_text() == "remember"


def test_a_file_of_another_run_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    with RowFile(path, HEADER) as file:
        file.append(row(0))
    other = Header("choice", suite="ovobench", protocol="official", model="me/other", n_rows=3)
    with pytest.raises(ValueError, match=r"protocol: 'livecc' there, 'official' now; model: 'me/model' there"):
        RowFile(path, other)
    # Another device or number of rows may continue the file.
    RowFile(path, Header("choice", suite="ovobench", protocol="livecc", model="me/model", n_rows=5, device="x")).close()


def test_a_duplicate_key_is_an_error(tmp_path):
    path = tmp_path / "a.jsonl"
    with RowFile(path, HEADER) as file:
        file.append(row(0))
        with pytest.raises(DuplicateRowError, match=r"already has a row '0'"):
            file.append(row(0, "B"))
    path.write_text(path.read_text() + json.dumps({"key": "0", "video": "v", "answer": "A", "response": "B"}) + "\n")
    with pytest.raises(DuplicateRowError, match=r"rows 1 and 2 have the same key '0'"):
        read_rows(path)


COMMENTARY = {"key": "1", "video": "v", "begin_s": 0, "end_s": 9, "pred": "Goal."}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred": 5}, "line 2 of .*: pred is 5: expected str"),
        ({"begin_s": float("nan")}, "line 2 of .*: begin_s is nan: expected seconds"),
        ({"end_s": "9"}, "line 2 of .*: end_s is '9': expected seconds"),
        ({"turns": [[0, 1, "a"], [1, float("inf"), "b"]]}, r"turns hold \(1, inf, 'b'\): expected \[start_s"),
        ({"reference": [["0", 1, "a"]]}, r"reference hold \('0', 1, 'a'\): expected"),
        ({"turns": [[0, 1]]}, "a column has a wrong type"),
        ({"latencies_s": ["0.1"]}, r"latencies_s is \['0.1'\]: expected list\[float\]"),
        ({"groups": 5}, r"groups is 5: expected dict\[str, str\]"),
        ({"work_s": "1"}, r"work_s is '1': expected float \| None"),
    ],
)
def test_a_commentary_that_is_malformed_is_named_by_its_line(tmp_path, change, message):
    path = tmp_path / "a.jsonl"
    lines = [replace(HEADER, layout="commentary").to_json(), COMMENTARY | change]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=message):
        read_rows(path)


@pytest.mark.parametrize(("name", "value"), [("n_rows", "many"), ("suite", ["x"]), ("frames", 2), ("model", 5)])
def test_a_header_with_a_value_of_a_wrong_type_is_refused(tmp_path, name, value):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(HEADER.to_json() | {name: value}) + "\n")
    with pytest.raises(ValueError, match=f"the header cannot be used: {name} is .*: expected"):
        read_rows(path)


def test_a_line_that_is_nested_too_deeply_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(HEADER.to_json()) + "\n" + "[" * 200_000 + "\n{}\n")
    with pytest.raises(ValueError, match="line 2 of .* is not JSON: maximum recursion depth"):
        read_rows(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"key": "1", "video": "v", "answer": "A"}', "line 2 of .*: no column response"),
        ('{"key": "1", "video": "v", "answer": "A", "response": "B", "x": 1}', "unknown column x"),
        ('{"key": 1, "video": "v", "answer": "A", "response": "B"}', "key is 1: expected a string"),
        ('{"key": "1", "video": "v", "answer": 3, "response": "B"}', "answer is 3: expected str"),
        ('{"key": "1", "video": "v", "answer": "A", "response": {"a": 1}}', "response is {'a': 1}: expected a string"),
        ('{"key": "1", "video": "v", "answer": "A", "response": "B", "options": 5}', "options is 5: expected list"),
        ('{"key": "1", "video": "v", "answer": "A", "response": "B", "probabilities": {"A": "x"}}', "probabilities is"),
        ('{"key": "1", "video": "v", "answer": "A", "response": "B", "kind": "x"}', "kind is 'x'"),
        ("[1]", r"expected a JSON object, got '\[1\]'"),
        ("{not json}\n{}", "line 2 of .* is not JSON"),
    ],
)
def test_a_choice_that_is_malformed_is_named_by_its_line(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(HEADER.to_json()) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_rows(path)


_WRITER = """
import sys
from livecc_hf.evaluation.predictions import ChoiceRow, Header, RowFile
file = RowFile(sys.argv[1], Header("choice", n_rows=10**6))
number = len(file.rows)
while True:
    file.append(ChoiceRow(str(number), "v", "A", "B" * 3000))
    number += 1
    if number % 5 == 0:
        print(number, flush=True)
"""


def test_no_row_is_lost_or_written_twice_by_repeated_kills(tmp_path):
    path, n_known = tmp_path / "a.jsonl", 0
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        n_known = int(writer.stdout.readline())
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        keys = [item.key for item in read_rows(path).rows]
        assert len(keys) >= n_known
        assert keys == [str(number) for number in range(len(keys))]
