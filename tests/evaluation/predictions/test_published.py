"""Published files are recognised and read."""

import pytest
from layouts import commentaries, ovo, ovo_count, ovo_question, ovo_yes_no, verdicts, videomme, write_json, write_lines

from livecc_hf.evaluation.predictions import DuplicateRowError, read_predictions


def read(path, model=None):
    (found,) = read_predictions(path, model)
    return found


def test_video_mme(tmp_path):
    found = read(write_json(tmp_path / "r.json", videomme([("A", "A. Red."), ("B", "C")])))
    assert (found.header.suite, found.header.protocol) == ("videomme", "official")
    first, second = found.rows
    assert (first.key, first.video, first.answer, first.response) == ("000-1", "000", "A", "A. Red.")
    assert first.options == ["Red.", "Blue.", "Green.", "None of the above."]
    assert second.groups == {
        "duration": "short",
        "domain": "Knowledge",
        "sub_category": "Law",
        "task_type": "Counting Problem",
    }


def test_livesports_questions_and_mvbench(tmp_path):
    question = {"question": "Who?", "options": ["A: one", "B:  two "], "answer": "B", "response": "B: two"}
    qa = [{"video_id": "v", "questions": [question | {"question_id": 7, "q_type": "Who", "OCR": 1}]}]
    found = read(write_json(tmp_path / "qa.json", qa))
    assert found.header.suite == "livesports3k-qa"
    assert (found.rows[0].key, found.rows[0].groups) == ("7", {"q_type": "Who", "ocr": "1"})
    assert found.rows[0].options == ["one", "two"]
    mv = [{"video": "a.mp4", "questions": [question | {"task_type": "Moving Count"}]}]
    found = read(write_json(tmp_path / "mv.json", mv))
    assert (found.header.suite, found.rows[0].groups) == ("mvbench", {"task_type": "Moving Count"})


def test_ovo_bench_in_parts(tmp_path):
    write_json(tmp_path / "m/one.json", ovo(backward=[ovo_question(3, "EPM", "C", "C")]))
    write_json(tmp_path / "m/two.json", ovo(forward=[ovo_count(9, [(2.0, ["2"]), (0, None)])]))
    write_json(tmp_path / "m/three.json", ovo(forward=[ovo_yes_no(8, "CRR", [(0, "No"), (1, "Y")])]))
    found = read(tmp_path / "m")
    by_key = {row.key: row for row in found.rows}
    assert set(by_key) == {"3", "9_0", "9_1", "8_0", "8_1"}
    assert by_key["3"].groups == {"group": "backward", "task": "EPM"}
    assert (by_key["9_0"].answer, by_key["9_0"].response, by_key["9_0"].kind) == ("2", "2", "count")
    assert by_key["9_1"].response is None
    assert (by_key["8_1"].answer, by_key["8_1"].kind) == ("Yes", "yes_no")
    assert "1 responses are lists of one text" in found.notes[0]


def test_the_answers_of_livecc_to_ovo_bench(tmp_path):
    records = [
        {"id": 1, "task": "EPM", "question": "q", "answer": "B", "response": "B"},
        {"id": 5, "task": "REC", "question": "q", "answer": "10", "response": "1"},
        {"id": 5, "task": "REC", "question": "q", "answer": "2", "response": "2"},
    ]
    found = read(write_json(tmp_path / "a.json", records))
    assert [row.key for row in found.rows] == ["1", "5_0", "5_1"]
    assert found.header.protocol == "livecc"


def test_commentaries_and_verdicts(tmp_path):
    rows = commentaries(["Goal!...", "..."])
    found = read(write_lines(tmp_path / "Mine.jsonl", rows))
    assert (found.header.model, found.rows[1].key, found.rows[1].pred) == ("Mine", "vid_1_1", "...")
    path = write_lines(tmp_path / "Base_Mine.jsonl", verdicts(rows, [("Mine", "Base"), ("tie", "Mine")]))
    found = read(path)
    assert (found.header.model, found.header.opponent) == ("Mine", "Base")
    assert [(row.key, row.video, row.order, row.winner, row.is_valid) for row in found.rows] == [
        ("vid_0_0", "vid_0", "ab", "model", True),
        ("vid_0_0", "vid_0", "ba", "opponent", True),
        ("vid_1_1", "vid_1", "ab", "tie", False),
        ("vid_1_1", "vid_1", "ba", "model", True),
    ]


def test_the_evaluated_model_of_verdicts_must_be_clear(tmp_path):
    rows = commentaries(["a", "b"])
    path = write_lines(tmp_path / "verdicts.jsonl", verdicts(rows, [("X", "Y"), ("X", "X")]))
    with pytest.raises(ValueError, match=r"the winners are X, Y, and it is unclear which is the evaluated model"):
        read(path)
    assert read(path, model="Y").rows[1].winner == "model"
    with pytest.raises(ValueError, match="it is unclear"):
        read(path, model="Z")


def test_a_folder_of_several_files(tmp_path):
    write_json(tmp_path / "a.json", videomme([("A", "A"), ("A", "A")]))
    write_lines(tmp_path / "b.jsonl", commentaries(["x"]))
    assert [item.header.suite for item in read_predictions(tmp_path)] == ["videomme", "livesports3k-cc"]


def test_a_question_that_was_answered_again_counts_once(tmp_path):
    answers = [ovo_question(3, "HLD", "C", "C"), ovo_question(4, "HLD", "C", "C"), ovo_question(3, "HLD", "A", "B")]
    rows = read(write_json(tmp_path / "a.json", ovo(backward=answers)))
    assert [(row.key, row.response) for row in rows.rows] == [("3", "C"), ("4", "C")]
    assert rows.notes == [f"{tmp_path / 'a.json'}: 1 rows answer a question again; the first answer counts"]


@pytest.mark.parametrize(
    ("responses", "protocol"), [(["A. x", "B. y"], "livecc"), (["A. x", "B"], "official"), (["A", "B."], "official")]
)
def test_answers_chosen_by_logits_are_recognised(responses, protocol, tmp_path):
    videos = videomme([("A", response) for response in responses])
    for question in (question for video in videos for question in video["questions"]):
        question["options"] = ["A. x", "B. y", "C. z", "D. w"]
    assert read(write_json(tmp_path / "a.json", videos)).header.protocol == protocol


def test_a_duplicate_key_is_an_error(tmp_path):
    rows = commentaries(["a"]) * 2
    with pytest.raises(DuplicateRowError, match=r"'vid_0_0'"):
        read(write_lines(tmp_path / "a.jsonl", rows))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"x": 1}, "is not in a known format"),
        ([], "is not in a known format"),
        ([{"questions": 5}], "is not in a known format"),
        ([*videomme([("A", "A")]), {"video_id": "1"}], "entry 1 has no list of questions"),
        ([{"questions": []}, "text"], "entry 1 has no list of questions"),
        ([{"duration": "short", "questions": ["text"]}], "entry 0, question 0 cannot be used: it is 'text'"),
        ([{"duration": "short", "questions": [5]}], "entry 0, question 0 cannot be used: it is 5, expected an object"),
        ({"backward": 5}, "backward is 5: expected a list"),
        (ovo(backward=[{"id": 1, "task": "EPM"}]), "backward 0 has no column 'video'"),
        (ovo(backward=[ovo_question(1, "XYZ", "A", "A")]), "task 'XYZ' is unknown: expected one of OVO-Bench's"),
        (ovo(forward=[ovo_yes_no(1, "SSR", [(2, "No")])]), "forward 0 cannot be used"),
    ],
)
def test_a_bad_json_file_is_named(tmp_path, value, message):
    with pytest.raises(ValueError, match=message):
        read(write_json(tmp_path / "a.json", value))


def test_a_value_of_a_wrong_type_is_named(tmp_path):
    videos = videomme([("A", "A")])
    for key, value, message in (
        ("options", [], r"options are \[\]: expected a non-empty list"),
        ("options", [5], r"options are \[5\]: expected a non-empty list of strings"),
        ("question_id", ["a"], r"key is \['a'\]: expected str"),
        ("task_type", None, r"groups is .*: expected dict\[str, str\]"),
        ("response", {"a": 1}, "response is {'a': 1}: expected a string"),
    ):
        before = videos[0]["questions"][0].copy()
        videos[0]["questions"][0][key] = value
        with pytest.raises(ValueError, match=f"entry 0, question 0 cannot be used: {message}"):
            read(write_json(tmp_path / "a.json", videos))
        videos[0]["questions"][0] = before
    videos[0]["questions"][0] |= {"question_id": 7, "response": 3}  # numbers are read as text
    assert read(write_json(tmp_path / "a.json", videos)).rows[0].key == "7"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"video_id": "v", "event_id": 1, "begin": 0, "end": 1}, "no column 'pred'"),
        ({"video_id": "v", "event_id": 1, "begin": "0", "end": 1, "pred": "x"}, "begin_s is '0': expected seconds"),
        (
            {"video_id": "v", "event_id": 1, "begin": 8, "end": 3, "pred": "x"},
            "line 1 of .*: the clip runs from 8 to 3 s",
        ),
        ({"video_id": 7, "event_id": 1, "begin": 0, "end": 1, "pred": "x"}, "line 1 of .*: video is 7: expected str"),
        ({"video_id": "v", "event_id": 1, "begin": 0, "end": 1, "pred": ["x"]}, r"pred is \['x'\]: expected str"),
        ({"ab_winner": "x", "video_event_id": "v_1"}, "no column ba_winner"),
        (
            {"ab_winner": "x", "ba_winner": "x", "video_event_id": 1},
            "line 1 of .*: video_event_id is 1: expected a str",
        ),
        ({"ab_winner": ["x"], "ba_winner": "x", "video_event_id": "v_1"}, r"ab_winner is \['x'\]: expected a string"),
        ({"text": "x"}, r"not in a known format \(columns text\)"),
        ([1], "not in a known format"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        read(write_lines(tmp_path / "a_b.jsonl", [line]))


def test_files_that_are_not_there_or_not_json(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_predictions(tmp_path / "none")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        read_predictions(tmp_path / "a.json")
    with pytest.raises(ValueError, match="holds no predictions"):
        (tmp_path / "empty").mkdir()
        read_predictions(tmp_path / "empty")
