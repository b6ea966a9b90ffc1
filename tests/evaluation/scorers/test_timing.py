"""Timing measures, checked with numbers computed by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livecc_hf.evaluation import compare, score
from livecc_hf.evaluation.predictions import CommentaryRow, Header, SpokenSpan
from livecc_hf.evaluation.predictions.file import RowSet, write_rows
from livecc_hf.evaluation.scorers.commentary import score_commentaries
from livecc_hf.evaluation.scorers.livestar import livestar_timing, parse_time_s
from livecc_hf.evaluation.scorers.ovo_timing import match, ovo_timing, stream_span_s, true_times_s
from livecc_hf.evaluation.scorers.timing import (
    lags,
    onset_errors,
    repeated_turns,
    speaking_counts,
    speaking_seconds,
    utterances,
)


def spans(*items):
    return [SpokenSpan(*item) for item in items]


class TestSpeaking:
    def test_a_second_in_which_something_is_said(self):
        said = speaking_seconds(spans((10.0, 13.0, "a"), (14, 15, ""), (15.5, 16.2, "b")), 10, 18)
        assert said.tolist() == [True, True, True, False, False, True, True, False]

    def test_ends_do_not_reach_into_the_next_second(self):
        assert speaking_seconds(spans((2.0, 3.0, "a")), 0, 5).tolist() == [False, False, True, False, False]
        # 0.1 + 0.2 is slightly more than 0.3 in floating point, which must not add a second.
        assert speaking_seconds(spans((0, 0.1 + 0.2 + 0.7, "a")), 0, 2).tolist() == [True, False]

    def test_spans_outside_the_clip_do_not_count(self):
        assert speaking_seconds(spans((0, 4, "a"), (9, 20, "b")), 3, 6).tolist() == [True, False, False]

    def test_a_moment_without_length_is_in_its_second(self):
        assert speaking_seconds(spans((1.5, 1.5, "a")), 0, 3).tolist() == [False, True, False]

    def test_a_clip_that_ends_within_a_second_has_that_second(self):
        assert len(speaking_seconds([], 0, 2.5)) == 3

    def test_counts(self):
        row = CommentaryRow("k", "v", 0, 10, "", turns=[(0, 3, "a")], reference=[(2, 6, "b")])
        counts = speaking_counts(row)
        assert (counts.both, counts.model_only, counts.reference_only, counts.neither) == (1, 2, 3, 4)


def test_utterances_end_at_a_pause_or_a_sentence():
    turns = spans((0, 3, "He runs"), (3, 4, "on."), (4, 5, ""), (5, 6, "Goal"), (8, 9, "again"))
    assert utterances(turns) == spans((0, 6, "He runs on. Goal"), (8, 9, "again"))
    assert utterances(turns, at_sentences=True) == spans((0, 4, "He runs on."), (5, 6, "Goal"), (8, 9, "again"))


def test_onset_errors():
    reference = spans((0, 2, "a"), (5, 6, "b"), (30, 31, "c"))
    assert onset_errors(spans((1, 2, "x"), (7, 8, "y")), reference) == [1, 2, 10]
    assert onset_errors([], reference) == [10, 10, 10]


def test_lags():
    reference = spans(
        (2, 4, "He shoots and scores."), (10, 12, "The keeper is beaten."), (40, 42, "He shoots and scores.")
    )
    said = spans((3, 4, "He shoots and"), (4, 5, "scores."), (9.5, 10, "Keeper beaten, oh!"), (20, 21, "What a day."))
    assert lags(said, reference) == [1, pytest.approx(-0.5), None]
    assert lags(spans((3, 4, "Goal!")), reference) == []  # fewer than three words


def test_a_reference_of_single_words_is_measured_by_its_sentences():
    sentence = [(2.0, 5.0, "He shoots and scores."), (5.5, 7.0, "What a goal!")]
    words = [
        (start + i * (end - start) / len(text.split()), start + (i + 1) * (end - start) / len(text.split()), word)
        for start, end, text in sentence
        for i, word in enumerate(text.split())
    ]
    said = spans((4, 7, "He shoots and scores."), (7, 8, "What a goal!"))
    assert lags(said, spans(*words)) == lags(said, spans(*sentence)) == [2, 1.5]
    files = [
        RowSet(Header("commentary", suite="livesports3k-cc", n_rows=1), [commentary(said, reference)], "a file")
        for reference in (words, sentence)
    ]
    by_word, by_sentence = (
        [item for item in score_commentaries(file).figures if item.name.startswith("LiveStar")] for file in files
    )
    assert by_word == by_sentence


def test_repeated_turns():
    turns = spans((0, 1, "Goal!"), (1, 2, ""), (2, 3, "goal"), (3, 4, "a b c d e f g h"), (4, 5, "x a b c d e f g h"))
    assert repeated_turns(turns) == (1, 4)  # 3 of the last turn's 4 6-grams occurred before
    assert repeated_turns([*turns, SpokenSpan(5, 6, "b c d e f g h")]) == (2, 5)


def commentary(turns, reference, key="k", video="v", end_s=10.0, **others):
    text = " ".join(turn[2] for turn in turns)
    return CommentaryRow(key, video, 0.0, end_s, text, turns=turns, reference=reference, **others)


def test_a_score_of_commentaries():
    rows = [
        commentary(
            [(0, 3, "a b"), (3, 4, "")], [(2, 6, "one two three four.")], "1", "x", latencies_s=[0.5, 0.1], work_s=5.0
        ),
        commentary([(0, 3, ""), (3, 4, "")], [(2, 3, "five.")], "2", "y", latencies_s=[0.1, 0.1], work_s=3.0),
    ]
    header = Header("commentary", suite="livesports3k-cc", protocol="live", model="m", n_rows=2)
    result = score_commentaries(RowSet(header, rows, "x"))
    figure = {item.name: item for item in result.figures}
    f1 = result.figures[0]
    assert f1.name == "speak F1"
    assert f1.value == pytest.approx(100 * 2 * 1 / (2 * 1 + 2 + 4))
    assert f1.floor == pytest.approx(100 * 2 * 5 / (5 + 20))  # speaking in all of 20 seconds
    assert figure["speak precision"].value == pytest.approx(100 / 3)
    assert figure["speak precision"].floor == pytest.approx(25)
    assert figure["speak recall"].value == pytest.approx(20)
    assert figure["silence kept"].value == pytest.approx(100 * (15 - 2) / 15)
    assert figure["onset error"].value == pytest.approx((2 + 10) / 2)
    assert figure["onset error"].floor == pytest.approx(2)
    assert figure["words for each of the reference's"].value == pytest.approx(2 / 5)
    assert figure["reference's words a second"].value == pytest.approx(5 / 20)
    assert figure["empty commentaries"].value == 50
    assert figure["latency (median)"].value == pytest.approx(0.1)
    assert figure["real-time factor"].value == pytest.approx(0.4)
    # Captions at 6 and at 3: segments (6, 6) and (3, 3); the words of the first row are shown at 3.
    assert figure["LiveStar TimDiff"].value == 0
    assert figure["LiveStar TimRedun"].value == 1
    assert figure["LiveStar TimCover"].value == 0
    assert all(figure[f"LiveStar {name}"].se == 0 for name in ("TimDiff", "TimRedun", "TimCover"))  # two equal videos


def test_a_clip_that_failed_counts_as_silence():
    rows = [
        commentary([(0, 10, "a")], [(0, 10, "b")], "1", "x"),
        CommentaryRow("2", "y", 0, 10, None, reference=[(0, 10, "b")], error="y.mp4 is missing"),
    ]
    header = Header("commentary", suite="livesports3k-cc", n_rows=2)
    result = score_commentaries(RowSet(header, rows, "x"), incomplete=True)
    assert result.figures[0].name == "speak F1 (N = 1 of 2)"
    assert result.figures[0].value == pytest.approx(100 * 2 * 10 / (10 + 20))
    assert result.figures[0].n_missing == 1


class TestLiveStar:
    def test_segments_first_answers_and_counts(self):
        # Segments (4, 4), (5, 10), (11, 12), (13, 20).
        timing = livestar_timing([4, 10, 12, 20], [4, 7, 9, 12, 30])
        assert timing.tim_diff == pytest.approx((0 + 2 + 1 + 7) / 4)
        assert timing.tim_redun == pytest.approx((0 + 1 + 0 + 1) / 4)
        assert timing.tim_cover == pytest.approx(3 / 4)

    def test_order_does_not_matter(self):
        assert livestar_timing([20, 4], [9, 3]) == livestar_timing([4, 20], [3, 9])

    def test_two_captions_at_one_time(self):
        assert livestar_timing([5, 5], [5]).tim_diff == pytest.approx((0 - 1) / 2)

    @given(st.lists(st.integers(0, 30), min_size=1, max_size=6, unique=True), st.lists(st.integers(0, 40), max_size=12))
    def test_as_defined(self, captions, predictions):
        captions.sort()
        starts = [captions[0], *(time + 1 for time in captions[:-1])]
        inside = [[p for p in predictions if s <= p <= e] for s, e in zip(starts, captions)]
        firsts = [min(p) - s if p else e - s for s, e, p in zip(starts, captions, inside)]
        timing = livestar_timing(captions, predictions)
        assert timing.tim_diff == pytest.approx(np.mean(firsts))
        assert timing.tim_redun == pytest.approx(np.mean([abs(1 - len(p)) for p in inside]))
        assert timing.tim_cover == pytest.approx(np.mean([bool(p) for p in inside]))

    def test_means_have_a_standard_error_over_videos(self):
        clips = (("1", "a", 5), ("2", "a", 5.5), ("3", "b", 9))
        rows = [commentary([(0, end, "x")], [(0, 5, "y")], key, video) for key, video, end in clips]
        scored = score_commentaries(RowSet(Header("commentary", suite="livesports3k-cc", n_rows=3), rows, "a file"))
        figure = scored.figure("LiveStar TimCover")
        # Shares 1, 1, 0 of two videos: influences 2/9 and -2/9 in sum, so SE = sqrt(2 * 2 * (2/9)^2).
        assert (figure.value, figure.n, figure.se) == pytest.approx((2 / 3, 3, 4 / 9))

    def test_a_time_on_a_whole_second_is_in_that_second(self):
        # 2.3 - 0.3 is a little less than 2 in floating point: the caption's second, in which a turn is shown.
        row = CommentaryRow("k", "v", 0.3, 9.3, "x", turns=[(0.3, 2.3, "x")], reference=[(0.3, 2.4, "y")])
        scored = score_commentaries(RowSet(Header("commentary", suite="livesports3k-cc", n_rows=1), [row], "a file"))
        assert (scored.figure("LiveStar TimCover").value, scored.figure("LiveStar TimRedun").value) == (1, 0)

    def test_times(self):
        assert [parse_time_s(text) for text in ("7", "1:05", "1:00:01")] == [7, 65, 3601]
        with pytest.raises(ValueError, match=r"'1\.5' is not a time"):
            parse_time_s("1.5")
        with pytest.raises(ValueError, match="no captions"):
            livestar_timing([], [1])


CRR = {
    "id": 1,
    "task": "CRR",
    "ask_time": 100,
    "clue_time": 110,
    "test_info": [{"realtime": 100}, {"realtime": 130}],
}
REC = {"id": 2, "task": "REC", "start_times": [5, 20], "test_info": [{"realtime": 40}]}
SSR = {"id": 3, "task": "SSR", "start_time": [10], "test_info": [{"realtime": 30}]}


class TestOvoTiming:
    def test_true_times_and_spans(self):
        assert [true_times_s(record) for record in (CRR, REC, SSR)] == [[110], [7, 22], [12]]
        assert [stream_span_s(record) for record in (CRR, REC)] == [(100, 130), (0, 40)]
        with pytest.raises(ValueError, match="task 'EPM' has no true times"):
            true_times_s({"task": "EPM"})

    def test_each_answer_counts_once(self):
        assert match([10], [8, 12, 13]) == (1 / 3, 1)
        assert match([10, 11], [11]) == (1, 1 / 2)
        assert match([10], [7.9]) == (0, 0)
        assert match([10], []) == (0, 0)
        assert match([], [1]) == (0, 0)
        # Matching is greedy: the first due time takes the answer that the second one needs.
        assert match([10, 8.5], [9.5, 11.5]) == (0.5, 0.5)

    def test_f1_is_made_of_mean_precision_and_mean_recall(self):
        second = REC | {"id": 4, "start_times": [5]}
        score, tasks = ovo_timing(
            [CRR, REC, second, SSR, {"id": 9, "task": "EPM"}], {"1": [110], "2": [7], "4": [6, 30]}
        )
        assert tasks["CRR"] == (1, 1, 1)
        assert (tasks["REC"].precision, tasks["REC"].recall) == (0.75, 0.75)
        assert tasks["SSR"] == (0, 0, 0)
        assert score == pytest.approx((1 + 0.75 + 0) / 3)


class TestComparison:
    """Two commentaries on the same clips, row by row."""

    @staticmethod
    def file(path, turns, n_rows=4):
        rows = [
            CommentaryRow(f"k{n}", f"v{n}", 0, 10, "".join(t for _, _, t in said), said, spans((0, 5, "one two")))
            for n, said in enumerate(turns)
        ]
        write_rows(path, Header("commentary", suite="livesports3k-cc", protocol="live", model=path.stem), rows[:n_rows])
        return path

    def test_a_common_difficulty_cancels_out(self, tmp_path):
        ours = [spans((0, 4, "a b")), spans((0, 2, "a b")), spans((0, 1, "a b")), spans((0, 5, "a b"))]
        theirs = [spans((0, 5, "a b c"))] * 4
        found = compare(self.file(tmp_path / "a.jsonl", ours), self.file(tmp_path / "b.jsonl", theirs))
        figures = {item.name: item for item in found.figures}
        recall = figures["speak recall"]
        assert (recall.a, recall.b, recall.difference, recall.unit) == (60, 100, 40, "%")
        assert (recall.n, recall.n_only_a, recall.n_only_b) == (4, 0, 3)
        # Rows differ by 0.2, 0.6, 0.8 and 0, their mean by 0.4; G / (G - 1) * sum((d - 0.4)^2 / 16).
        assert recall.se == pytest.approx(100 * (4 / 3 * (0.04 + 0.04 + 0.16 + 0.16) / 16) ** 0.5)
        words = figures["words a commentary"]
        assert (words.a, words.b, words.difference, words.se, words.unit) == (2, 3, 1, 0, "")
        assert figures["words for each of the reference's"].difference == pytest.approx(0.5)

    def test_a_file_with_itself_does_not_differ(self, tmp_path):
        path = self.file(tmp_path / "a.jsonl", [spans((0, 4, "a b")), spans((1, 2, "a"))])
        assert {item.difference for item in compare(path, path).figures} == {0}

    def test_the_values_are_those_of_score(self, tmp_path):
        turns = [spans((0, 4, "a b. c d e f"), (6, 7, "one two x")), spans((1, 2, "a"), (3, 4, "a")), []]
        path = self.file(tmp_path / "a.jsonl", turns)
        figures = {item.name: item.value for item in score(path, incomplete=True)[0].figures}
        compared = {item.name: item.a for item in compare(path, path).figures}
        shared = set(figures) & set(compared)
        assert len(shared) >= 11
        # The last row has no turns, so timing covers the other two.
        assert {name: compared[name] for name in shared} == {name: pytest.approx(figures[name]) for name in shared}

    def test_rows_that_one_file_lacks_are_noted(self, tmp_path):
        turns = [spans((0, 4, "a b"))] * 4
        found = compare(self.file(tmp_path / "a.jsonl", turns), self.file(tmp_path / "b.jsonl", turns, 3))
        assert found.figures[0].n == 3
        assert "1 rows of" in found.notes[0]
