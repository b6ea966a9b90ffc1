"""Win rates, and their dependence on order, length and text."""

import json
from dataclasses import replace

import pytest
from layouts import commentaries, verdicts, write_lines

from livecc_hf.evaluation import compare, score
from livecc_hf.evaluation.predictions import CommentaryRow, Header, VerdictRow, read_predictions, text_hash
from livecc_hf.evaluation.predictions.file import RowSet, write_rows
from livecc_hf.evaluation.scorers.win_rate import VerdictTextError, score_verdicts

M, B = "Mine", "Base"


def files(folder, winners, texts=None, opponent_texts=None, name=M):
    """Write a file of verdicts and files of both sides' texts."""
    texts = texts or [f"{'word ' * (i + 1)}" for i in range(len(winners))]
    rows = commentaries(texts)
    return [
        write_lines(folder / f"{B}_{name}.jsonl", verdicts(rows, winners)),
        write_lines(folder / f"{name}.jsonl", rows),
        write_lines(folder / f"{B}.jsonl", commentaries(opponent_texts or ["one two three"] * len(winners))),
    ]


def test_both_orders_count_and_a_tie_is_a_win_for_neither(tmp_path):
    winners = [(M, M), (M, B), (B, B), ("tie", B)]
    result = score(files(tmp_path, winners)[:1], incomplete=True)[0]
    value = {item.name: item.value for item in result.figures}
    assert result.figures[0].name == "win rate (N = 4 of 1702)"
    assert result.figures[0].value == pytest.approx(100 * 3 / 8)
    assert (result.figures[0].n_correct, result.figures[0].n_invalid) == (3, 1)
    assert value["win rate shown first"] == 50
    assert value["win rate shown second"] == 25
    assert value["position bias (first minus second)"] == 25
    assert value["opponent's win rate"] == pytest.approx(100 * 4 / 8)
    assert value["ties"] == pytest.approx(100 / 8)
    assert value["same winner in both orders"] == 50
    assert value["win rate where both orders agree"] == 50
    assert "has no hashes" in result.notes[1]


def test_the_error_is_clustered_by_video(tmp_path):
    # Ten rows of one video with the same result are one observation.
    rows = commentaries([f"w{i}" for i in range(20)], n_videos=2)
    winners = [(M, M) if i % 2 == 0 else (B, B) for i in range(20)]
    path = write_lines(tmp_path / f"{B}_{M}.jsonl", verdicts(rows, winners))
    assert score(path, incomplete=True)[0].figures[0].se == pytest.approx(50)


def test_length_emptiness_and_repetition(tmp_path):
    texts = ["..."] * 4 + ["a b c d e f " * 3 + "..."] * 4 + ["one two three..."] * 12
    winners = [(B, B)] * 8 + [(M, M)] * 12
    result = score(files(tmp_path, winners, texts), incomplete=True)[0]
    value = {item.name: item.value for item in result.figures}
    assert value["empty commentaries"] == 20
    assert value["repeating commentaries"] == 20
    assert value["win rate of empty commentaries"] == 0
    assert value["win rate, 1 to 1 words"] == 0
    assert value["win rate at equal length (within 1.25 times)"] == 100
    assert value["words a second"] == pytest.approx((4 * 19 + 12 * 3) / (20 * 20))
    assert value["opponent's words a second"] == pytest.approx(60 / 400)
    names = [item["name"] for item in result.series["win_rate_by_length"]]
    assert names == ["1 to 1 words", "3 to 3 words", "3 to 3 words", "3 to 3 words", "19 to 19 words"]


def test_winning_with_empty_texts_is_suspect(tmp_path):
    texts = ["..."] * 10 + [f"something {i} is said..." for i in range(20)]
    half = [(M, B)] * 30
    (result,) = score(files(tmp_path, half, texts), incomplete=True)
    assert any(note.startswith("suspect: 10 commentaries in") and "win 50.0 %" in note for note in result.notes)
    fair = [(B, B)] * 10 + [(M, B)] * 20
    (result,) = score(files(tmp_path, fair, texts), incomplete=True)
    assert not any(note.startswith("suspect") for note in result.notes)


def test_the_same_verdicts_on_other_texts_are_suspect(tmp_path):
    winners = [(M, B) if i % 3 else (B, B) for i in range(60)]
    other = [tuple("Other" if name == M else name for name in pair) for pair in winners]
    paths = files(tmp_path, winners)
    paths += files(tmp_path, other, [f"other words {i}" for i in range(60)], name="Other")[:2]
    results = score(paths, incomplete=True)
    assert len(results) == 2
    assert all(any("100.0 % of" in note for note in result.notes) for result in results)
    # The same texts judged twice should agree.
    paths[4] = write_lines(tmp_path / "Other.jsonl", commentaries([f"{'word ' * (i + 1)}" for i in range(60)]))
    assert not any("100.0 % of" in note for result in score(paths, incomplete=True) for note in result.notes)


def test_word_counts_within_a_factor_of_a_quarter_are_equal(tmp_path):
    # 4 and 5 words are, in either order; 3 and 4 are not.
    lengths = [(4, 5), (5, 4), (3, 4), (4, 3)]
    ours, theirs = ([" ".join("w" * n) for n in side] for side in zip(*lengths))
    result = score(files(tmp_path, [(M, M), (M, M), (B, B), (B, B)], ours, theirs), incomplete=True)[0]
    figure = result.figure("win rate at equal length (within 1.25 times)")
    assert (figure.value, figure.n) == (100, 2)


def judged(rows, texts, opponent="one"):
    """Return verdicts with hashes, as this package writes them."""
    return [
        VerdictRow(row.key, row.video, order, "model", model_hash=text_hash(text), opponent_hash=text_hash(opponent))
        for row, text in zip(rows, texts)
        for order in ("ab", "ba")
    ]


def test_verdicts_of_other_texts_are_refused(tmp_path):
    (mine,) = read_predictions(write_lines(tmp_path / "Mine.jsonl", commentaries(["a", "b", "c"])))
    (base,) = read_predictions(write_lines(tmp_path / "Base.jsonl", commentaries(["one"] * 3)))
    header = Header("verdict", suite="livesports3k-cc", model=M, opponent=B, n_rows=3)
    right = RowSet(header, judged(mine.rows, ["a", "b", "c"]), "v.jsonl")
    assert score_verdicts(right, mine, base).figures[0].value == 100
    assert not any("hashes" in note for note in score_verdicts(right, mine, base).notes)
    wrong = RowSet(header, judged(mine.rows, ["a", "b", "changed"]), "v.jsonl")
    with pytest.raises(
        VerdictTextError, match=r"v.jsonl is not a judgement of .*Mine.jsonl: 2 of 6 verdicts have the hash"
    ):
        score_verdicts(wrong, mine, base)
    with pytest.raises(VerdictTextError, match=r"not a judgement of .*Base.jsonl"):
        score_verdicts(RowSet(header, judged(mine.rows, ["a", "b", "c"], "two"), "v.jsonl"), mine, base)
    with pytest.raises(VerdictTextError, match=r"judges 2 rows that .* does not have, such as 'vid_1_1'"):
        score_verdicts(right, RowSet(mine.header, mine.rows[:1], "part"), base)


def test_what_was_judged_in_one_order_only_is_left_out(tmp_path):
    (mine,) = read_predictions(write_lines(tmp_path / "Mine.jsonl", commentaries(["a", "b"])))
    header = Header("verdict", suite="livesports3k-cc", model=M, opponent=B, n_rows=2)
    result = score_verdicts(RowSet(header, judged(mine.rows, ["a", "b"])[:3], "v"), incomplete=True)
    assert result.figures[0].name == "win rate (N = 1 of 2)"
    assert "1 rows were judged in one order only" in result.notes[0]
    with pytest.raises(ValueError, match="no row was judged in both orders"):
        score_verdicts(RowSet(header, judged(mine.rows, ["a", "b"])[:1], "v"))


def test_a_judge_that_is_asked_again(tmp_path):
    rows = [VerdictRow(f"v_{i}", f"{i % 5}", order, "model", repeat) for i in range(10) for order in ("ab", "ba")
            for repeat in (0, 1)]  # fmt: skip
    rows = [VerdictRow(**vars(row) | {"winner": "opponent"}) if row.id == "v_3 ab 1" else row for row in rows]
    header = Header("verdict", suite="livesports3k-cc", model=M, opponent=B, n_rows=10)
    result = score_verdicts(RowSet(header, rows, "v"))
    again = result.figure("same verdict when asked again")
    assert (again.value, again.n, again.n_correct) == (pytest.approx(95), 20, 19)
    assert result.figures[0].value == 100  # the first answers count


def test_two_models_against_one_opponent_are_compared_row_by_row(tmp_path):
    ours = files(tmp_path, [(M, M), (M, B), (B, B), (B, B)])[0]
    theirs = files(tmp_path, [("O", "O"), ("O", "O"), (B, B), ("O", B)], name="O")[0]
    found = compare(ours, theirs).figures[0]
    assert (found.a, found.b, found.difference, found.n) == (37.5, 62.5, 25, 4)
    assert (found.n_only_a, found.n_only_b) == (0, 2)
    assert found.se == pytest.approx(100 * (4 / 3 * 4 * (0.25 / 4) ** 2) ** 0.5)
    assert found.low < 25 < found.high


def test_files_that_cannot_be_compared(tmp_path):
    from livecc_hf.evaluation.predictions import ChoiceRow

    def choices(name, protocol="livecc", suite="mvbench", answer="A", key="1"):
        row = ChoiceRow(key, "v", answer, "A", groups={"task_type": "t"})
        write_rows(tmp_path / name, Header("choice", suite=suite, protocol=protocol), [row])
        return tmp_path / name

    a = choices("a.jsonl")
    with pytest.raises(ValueError, match=r"protocol livecc, .* by official: the difference would include"):
        compare(a, choices("b.jsonl", "official"))
    assert compare(a, choices("b.jsonl", "official"), across_protocols=True).figures[0].difference == 0
    with pytest.raises(ValueError, match="only files of one benchmark"):
        compare(a, choices("c.jsonl", suite="ovobench"))
    with pytest.raises(ValueError, match="the correct answer is A in .* and B in"):
        compare(a, choices("d.jsonl", answer="B"))
    with pytest.raises(ValueError, match="share no row"):
        compare(a, choices("e.jsonl", key="2"))


def test_rows_hold_what_json_can(tmp_path):
    header = Header("verdict", suite="livesports3k-cc")
    write_rows(tmp_path / "v.jsonl", header, [VerdictRow("a_1", "a", "ab", "tie", is_valid=False, reply="Both.")])
    lines = [json.loads(line) for line in (tmp_path / "v.jsonl").read_text().splitlines()]
    assert lines[0]["livecc_hf_evaluation"] == 1
    expected = {"key": "a_1", "video": "a", "order": "ab", "winner": "tie", "is_valid": False, "reply": "Both."}
    assert lines[1] == expected


def test_a_comparison_against_other_opponents_or_by_another_judge_says_so(tmp_path):
    def file(name, **changed):
        header = Header("verdict", suite="livesports3k-cc", protocol="livecc", opponent=B, judge="judge-1")
        rows = [VerdictRow("1", "v", order, "model") for order in ("ab", "ba")]
        write_rows(tmp_path / name, replace(header, **changed), rows)
        return tmp_path / name

    ours = file("ours.jsonl")
    assert compare(ours, file("theirs.jsonl", model="Other")).notes == []
    for what, name in (("opponent", "Elsewhere"), ("judge", "judge-2")):
        (note,) = compare(ours, other := file(f"{what}.jsonl", **{what: name})).notes
        known = {"opponent": B, "judge": "judge-1"}[what]
        expected = f"the difference of the win rates includes that of the {what}s: {known} in {ours}, {name} in {other}"
        assert note == expected


def test_two_models_of_one_name_are_told_apart_by_their_texts(tmp_path):
    def file(side, n_rows=3):
        rows = [CommentaryRow(str(i), "v", 0, 5, f"{side} {i}") for i in range(n_rows)]
        header = Header("commentary", suite="livesports3k-cc", protocol="live", model="lora", n_rows=n_rows)
        write_rows(tmp_path / f"{side}.jsonl", header, rows)
        return RowSet(header, rows, str(tmp_path / f"{side}.jsonl"))

    mine, theirs = file("mine"), file("theirs-longer")
    header = Header("verdict", suite="livesports3k-cc", protocol="livecc", model="lora", opponent="lora", n_rows=3)
    rows = [
        VerdictRow(row.key, "v", order, "model", model_hash=text_hash(row.pred), opponent_hash=text_hash(other.pred))
        for row, other in zip(mine.rows, theirs.rows)
        for order in ("ab", "ba")
    ]
    write_rows(tmp_path / "v.jsonl", header, rows)
    for given in ([mine, theirs], [theirs, mine]):
        (scored,) = score([tmp_path / "v.jsonl", *(item.source for item in given)])
        assert scored.figures[0].value == 100
        assert {item.name for item in scored.figures} > {"words a commentary", "opponent's words a commentary"}
    (scored,) = score([tmp_path / "v.jsonl", mine.source])
    assert "words a commentary" in {item.name for item in scored.figures}
