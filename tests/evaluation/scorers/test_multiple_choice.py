"""Accuracy as each benchmark's own code counts it, with floors and standard errors computed by hand."""

import math

import pytest
from layouts import ovo, ovo_count, ovo_question, ovo_yes_no, videomme, write_json

from livecc_hf.evaluation.predictions import ChoiceRow, Header, read_predictions
from livecc_hf.evaluation.predictions.file import RowSet
from livecc_hf.evaluation.scorers.answers import grader
from livecc_hf.evaluation.scorers.multiple_choice import score_choices


def grade(suite, protocol, answer, response, kind="letter", n_options=4):
    row = ChoiceRow("1", "v", answer, response, kind, options=["x"] * n_options)
    return tuple(grader(suite, protocol)(row))


RIGHT, WRONG, INVALID = (True, True), (False, True), (False, False)


@pytest.mark.parametrize(
    ("answer", "response", "expected"),
    [
        ("B", "B", RIGHT),
        ("B", "B. Blue.", RIGHT),
        ("B", "The answer is B", RIGHT),
        ("B", "Best answer: B", RIGHT),
        ("B", "The best answer is B.", RIGHT),
        # The phrases that a missing comma joined are not removed, and their letters come first.
        ("B", "The correct option: B", RIGHT),
        ("A", "Answer: B", WRONG),
        ("B", "Because it is blue", RIGHT),  # the B of "Because"
        ("B", "blue", INVALID),
        ("B", "", INVALID),
        ("B", None, INVALID),
        ("B", "it is hard to tell from what the video shows in these frames", INVALID),
    ],
)
def test_video_mme_reads_the_first_letter(answer, response, expected):
    assert grade("videomme", "official", answer, response) == expected


@pytest.mark.parametrize(
    ("kind", "answer", "response", "expected"),
    [
        ("letter", "A", "Answer", RIGHT),  # "Answer" contains "A"
        ("letter", "C", "B. C", RIGHT),
        ("letter", "C", "B", WRONG),
        ("letter", "C", "none of them", INVALID),
        ("letter", "C", None, INVALID),
        ("letter", "C", ["C", "D"], RIGHT),
        ("letter", "C", ["C.", "D."], WRONG),
        ("count", "12", "1 and 2", RIGHT),  # all digits joined
        ("count", "3", "about 3 times", RIGHT),
        ("count", "3", "3 or 4", WRONG),
        ("count", "0", "never", INVALID),
        ("count", "2", ["2"], RIGHT),
        ("count", "2", 2, RIGHT),
        ("letter", "C", 2, INVALID),
        ("yes_no", "No", 0, INVALID),
        ("yes_no", "Yes", "Yes.", RIGHT),
        ("yes_no", "Yes", "Y", RIGHT),
        ("yes_no", "No", "N", RIGHT),
        ("yes_no", "No", "Not yet", RIGHT),  # "Not" contains "No"
        ("yes_no", "No", "Yes", WRONG),
        ("yes_no", "No", "no", INVALID),
        ("yes_no", "No", None, INVALID),
    ],
)
def test_ovo_bench_looks_for_the_answer_in_the_response(kind, answer, response, expected):
    assert grade("ovobench", "official", answer, response, kind) == expected


def test_livecc_compares_the_start_of_the_response():
    assert grade("ovobench", "livecc", "10", "1", "count") == WRONG  # 10 is not a single token
    assert grade("ovobench", "livecc", "1", "1", "count") == RIGHT
    assert grade("ovobench", "livecc", "Yes", "Yes", "yes_no") == RIGHT
    assert grade("ovobench", "livecc", "Yes", "A", "yes_no") == INVALID
    assert grade("ovobench", "livecc", "A", "No") == INVALID
    assert grade("livesports3k-qa", "livecc", "A", "A. One") == RIGHT
    assert grade("livesports3k-qa", "livecc", "A", "") == INVALID
    assert grade("mvbench", "livecc", "C", "E", n_options=3) == INVALID  # there is no E


def test_the_fixed_protocol_compares_candidates():
    assert grade("ovobench", "livecc-fixed", "1", "10", "count") == WRONG
    assert grade("ovobench", "livecc-fixed", "10", "10", "count") == RIGHT
    assert grade("mvbench", "livecc-fixed", "A", "A") == RIGHT
    assert grade("mvbench", "livecc-fixed", "A", "Answer") == (False, True)


@pytest.mark.parametrize(
    ("answer", "response", "expected"),
    [
        ("B", "(B) the second", RIGHT),
        ("B", "B.", RIGHT),
        ("B", "b", RIGHT),
        ("B", "(A) the first", WRONG),
        ("B", " (B) the second", RIGHT),
        ("B", " (A) the first", WRONG),
        # "(b)" contains each of these words, and so does every other option.
        ("B", "", INVALID),
        ("B", "(", INVALID),
        ("B", "( the first", INVALID),
        ("B", ")", INVALID),
        ("B", ".", INVALID),
    ],
)
def test_mvbench_reads_the_option(answer, response, expected):
    assert grade("mvbench", "official", answer, response) == expected


def test_a_benchmark_is_not_scored_by_anothers_protocol():
    with pytest.raises(
        ValueError, match=r"livesports3k-qa is not scored by protocol 'official': expected livecc, live"
    ):
        grader("livesports3k-qa", "official")


def score(path, **options):
    (found,) = read_predictions(path)
    return score_choices(found, **options)


def test_video_mme_counts_floors_and_errors(tmp_path):
    # Two videos, with 2 of 2 and 0 of 2 correct.
    answers = [("A", "A"), ("A", "A. Red."), ("B", "C"), ("D", None)]
    result = score(write_json(tmp_path / "r.json", videomme(answers)), incomplete=True)
    overall = result.figures[0]
    assert overall.name == "overall (N = 4 of 2700)"
    assert (overall.value, overall.n, overall.n_correct, overall.n_invalid, overall.n_missing) == (50, 4, 2, 1, 0)
    assert overall.se == pytest.approx(100 * math.sqrt(2 * 2 * 0.25**2))  # 2 / (2 - 1) * (0.25^2 + 0.25^2)
    assert (overall.floor, overall.floor_answer) == (50, "A")
    assert result.figure("domain=Knowledge").value == 100
    assert result.figure("duration=short, domain=Life Record").value == 0
    only = result.figure("answered rows only (as the benchmark's code counts)")
    assert (only.value, only.n) == (pytest.approx(200 / 3), 3)


def test_the_headline_of_an_incomplete_set_is_withheld(tmp_path):
    path = write_json(tmp_path / "r.json", videomme([("A", "A"), ("A", "A")]))
    result = score(path)
    assert (result.is_complete, result.figures[0].value, result.figures[0].se) == (False, None, None)
    assert "2 rows of 2,700 have been tried" in result.notes[0]


def test_rows_without_an_answer_stay_in_the_denominator():
    rows = [ChoiceRow("1", "a", "A", "A"), ChoiceRow("2", "b", "A", None, error="b.mp4 is missing")]
    rows = [ChoiceRow(**vars(row) | {"groups": {"q_type": "Who", "ocr": "0"}}) for row in rows]
    header = Header("choice", suite="livesports3k-qa", protocol="livecc", n_rows=2)
    result = score_choices(RowSet(header, rows, "x"), incomplete=True)
    overall = result.figures[0]
    assert (overall.value, overall.n, overall.n_missing, overall.n_invalid) == (50, 2, 1, 0)
    assert overall.name == "overall (N = 1 of 2)"


def ovo_example():
    return ovo(
        backward=[
            ovo_question(0, "EPM", "A", "A", "x"),
            ovo_question(1, "EPM", "B", "A", "y"),
            ovo_question(2, "HLD", "B", "B", "y"),
        ],
        realtime=[ovo_question(3, "OCR", "C", None, "x")],
        forward=[
            ovo_count(4, [(1, "1"), (1, "2"), (2, "2"), (10, "10")]),
            ovo_yes_no(5, "CRR", [(0, "Yes"), (1, "Yes")]),
        ],
    )


def test_ovo_bench_is_a_mean_of_means(tmp_path):
    result = score(write_json(tmp_path / "r.json", ovo_example()), incomplete=True)
    value = {item.name: item.value for item in result.figures}
    assert value["task=EPM"] == 50
    assert value["task=HLD"] == 100
    assert value["group=backward"] == 75
    assert value["group=realtime"] == 0
    assert value["task=REC"] == 75
    assert value["group=forward"] == pytest.approx((75 + 50) / 2)
    assert result.figures[0].value == pytest.approx((75 + 0 + 62.5) / 3)
    assert value["overall (all rows alike)"] == pytest.approx(100 * 6 / 10)


def test_floors_of_means_of_means(tmp_path):
    result = score(write_json(tmp_path / "r.json", ovo_example()), incomplete=True)
    floor = {item.name: (round(item.floor, 6), item.floor_answer) for item in result.figures}
    assert floor["task=EPM"] == (50, "A")
    assert floor["task=HLD"] == (100, "B")
    assert floor["group=backward"] == (75, "B")  # one letter for the group: (50 + 100) / 2
    assert floor["task=REC"] == (50, "1")
    assert floor["group=forward"] == (50, "1 / No")


def test_a_constant_text_can_be_a_higher_floor_than_a_letter():
    options = [["no idea", "x", "y"], ["x", "No idea ", "y"], ["x", "y", "no idea"]]
    rows = [
        ChoiceRow(str(i), "v", "ABC"[i], "A", options=texts, groups={"task_type": "t"})
        for i, texts in enumerate(options)
    ]
    result = score_choices(RowSet(Header("choice", suite="mvbench", n_rows=3), rows, "x"), "livecc")
    assert (result.figures[0].floor, result.figures[0].floor_answer) == (pytest.approx(100), "the text 'no idea'")


def test_probabilities_make_a_calibration_curve():
    sure, unsure = {"A": 0.95, "B": 0.05}, {"A": 0.55, "B": 0.45}
    rows = [
        ChoiceRow(str(i), str(i), answer, "A", groups={"task_type": "t"}, probabilities=probabilities)
        for i, (answer, probabilities) in enumerate([("A", sure), ("A", sure), ("B", unsure), ("A", unsure)])
    ]
    result = score_choices(RowSet(Header("choice", suite="mvbench", n_rows=4), rows, "x"), "livecc")
    curve = result.series["calibration"]
    assert curve["bins"] == [
        {"confidence": pytest.approx(0.55), "accuracy": 0.5, "n": 2},
        {"confidence": pytest.approx(0.95), "accuracy": 1.0, "n": 2},
    ]
    assert curve["expected_calibration_error"] == pytest.approx(0.05)
    assert curve["mean_margin"] == pytest.approx(0.5)


def test_a_row_without_its_group_is_named():
    rows = RowSet(Header("choice", suite="mvbench"), [ChoiceRow("7", "v", "A", "A")], "x")
    with pytest.raises(ValueError, match="row '7' has no group 'task_type', which the score of MVBench needs"):
        score_choices(rows)
