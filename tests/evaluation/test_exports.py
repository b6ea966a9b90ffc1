"""Exports of commentaries to other evaluators' formats, and StreamingVLM's windows and judge."""

import json
import re
from dataclasses import replace

import pytest
from chat_server import Reply, serve_chat

from livecc_hf.cli.main import main
from livecc_hf.evaluation import JudgeOptions, export, judge, report, score
from livecc_hf.evaluation.judging.prompt import judge_protocol
from livecc_hf.evaluation.predictions import CommentaryRow, Header, SpokenSpan, read_rows
from livecc_hf.evaluation.predictions.file import RowSet, write_rows
from livecc_hf.evaluation.predictions.inf_streams import cut_into_windows, in_window, read_references, windows_named
from livecc_hf.evaluation.predictions.proact_vl import record_of, seconds_of

PEOPLE = [SpokenSpan(second, second + 1, "one two three") for second in range(230)]


def commentary(words, n_seconds=230, key="game"):
    turns = [SpokenSpan(second, second + 1, f"{words} {second}") for second in range(n_seconds)]
    return CommentaryRow(key, f"{key}.mp4", 0, 230, " ".join(turn.text for turn in turns), turns, PEOPLE)


def write(path, *rows):
    write_rows(path, Header("commentary", suite="livesports3k-cc", protocol="live", model=path.stem), rows)
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


class TestSeconds:
    def test_a_turn_belongs_to_the_second_in_which_it_starts(self):
        turns = [
            SpokenSpan(10, 13, "Off they go"),
            SpokenSpan(13, 14, ""),
            SpokenSpan(14.5, 15.5, "A goal "),
            SpokenSpan(14.9, 16, "again"),
        ]
        assert seconds_of(CommentaryRow("k", "v", 10, 20, "", turns)) == {"10": "Off they go", "14": "A goal again"}

    def test_rounding_does_not_move_a_turn_to_the_previous_second(self):
        assert seconds_of(CommentaryRow("k", "v", 0, 9, "", [SpokenSpan(0.1 + 0.2 + 2.7 - 1e-9, 4, "x")])) == {"3": "x"}

    def test_seconds_lie_within_the_rounded_bounds_of_the_clip(self):
        found = record_of(
            CommentaryRow("k", "v", 9.6, 20.2, "", [SpokenSpan(9.6, 12, "a"), SpokenSpan(20, 20.2, "b")]), 0, "", ""
        )
        assert (found["begin"], found["end"], found["pred"]) == (9, 21, {"9": "a", "20": "b"})

    def test_the_file(self, tmp_path):
        path = write(tmp_path / "mine.jsonl", commentary("said", 2))
        assert export(path, "proact-vl", tmp_path / "deep" / "out.jsonl") == 1
        assert lines(tmp_path / "deep" / "out.jsonl") == [
            {
                "video_id": "game.mp4",
                "begin": 0,
                "end": 230,
                "pred": {"0": "said 0", "1": "said 1"},
                "dataset_name": "livesports3k-cc",
                "tag": "mine",
                "idx": 0,
            }
        ]


class TestWindows:
    def test_a_span_belongs_to_the_window_in_which_it_ends(self):
        spans = [
            SpokenSpan(98, 100.9, "a"),
            SpokenSpan(99, 101, "b"),
            SpokenSpan(199, 200.5, "c"),
            SpokenSpan(200, 201, "d"),
        ]
        assert [span.text for span in in_window(spans, 100, 200)] == ["b", "c"]
        assert [span.text for span in in_window(spans, 0, 100)] == ["a"]

    def test_windows_need_200_reference_words_and_a_commentary_that_covers_them(self):
        # The last 30 seconds are too short for a window.
        found = cut_into_windows(RowSet(Header("commentary"), [commentary("said")], "f"))
        assert [(row.key, row.begin_s, row.end_s) for row in found.rows] == [
            ("game 0-100", 0, 100),
            ("game 100-200", 100, 200),
        ]
        assert found.rows[0].pred == " ".join(f"said {second}" for second in range(100))
        few = replace(commentary("said"), reference=[SpokenSpan(*span[:2], "one") for span in PEOPLE])
        assert cut_into_windows(RowSet(Header("commentary"), [few], "f")).rows == []
        # A window in which the model is silent still counts.
        silent = cut_into_windows(RowSet(Header("commentary"), [commentary("said", 50)], "f"))
        assert [(row.key, row.pred != "") for row in silent.rows] == [("game 0-100", True), ("game 100-200", False)]

    def test_the_file(self, tmp_path):
        turns = [
            SpokenSpan(1000, 1003, "Off they go"),
            SpokenSpan(1003, 1004, ""),
            SpokenSpan(1100.2, 1101.2, "A goal "),
        ]
        path = write(tmp_path / "mine.jsonl", CommentaryRow("game", "NBA/game.mp4", 1000, 1130, "", turns))
        out = tmp_path / "parts.jsonl"
        assert main(["evaluate", "export", str(path), "--format", "inf-streams", "--out", str(out)]) == 0
        said = {"response": "Off they go", "start_time": 1000, "end_time": 1003}
        assert lines(out) == [
            {
                "video": "game.mp4",
                "chunk_start": 1000,
                "chunk_end": 1100,
                "items": [said, {"response": "", "start_time": 1003, "end_time": 1004}],
            },
            {
                "video": "game.mp4",
                "chunk_start": 1100,
                "chunk_end": 1130,
                "items": [{"response": "A goal", "start_time": 1100, "end_time": 1101}],
            },
        ]

    def people(self, tmp_path, *contents):
        rows = [{"video": "NBA/game.mp4", "title": "A game", "content": content} for content in contents]
        (tmp_path / "people.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return read_references(tmp_path / "people.jsonl")

    def test_a_reference_whose_times_are_not_finite_is_named(self, tmp_path):
        content = [[0, 1, "a"], [1, float("nan"), "b"], [2, 3, "c"]]
        with pytest.raises(ValueError, match="line 1 of .*: expected video and content"):
            self.people(tmp_path, content)

    @pytest.mark.parametrize("video", ["game.mp4", "game", "elsewhere/game.mkv"])
    def test_windows_of_the_benchmark_are_used_unchanged(self, video, tmp_path):
        # Two commentaries on parts of one game, as when a model is restarted.
        turns = [SpokenSpan(second, second + 1, f"said {second}") for second in range(200)]
        parts = [
            CommentaryRow(str(begin), video, begin, begin + 100, "", turns[begin : begin + 100]) for begin in (0, 100)
        ]
        rows = RowSet(Header("commentary"), parts, "f")
        given = self.people(tmp_path, [[40.5, 44, "He runs"], [44, 140.9, "He scores"]], [[150, 201, "Not shown"]])
        (window,) = cut_into_windows(rows, given).rows
        assert (window.key, window.begin_s, window.end_s) == ("game.mp4 40-140", 40, 140)
        assert window.pred == " ".join(f"said {second}" for second in range(40, 140))
        (again,) = windows_named(rows, [window.key, window.key, "other.mp4 0-100", "nonsense"]).rows
        assert (again.key, again.pred) == (window.key, window.pred)

    def test_the_reference_of_a_whole_game_is_cut_into_windows(self, tmp_path):
        given = self.people(tmp_path, [[0, 90, "word " * 200], [90, 300, "word"]])
        (window,) = cut_into_windows(RowSet(Header("commentary"), [commentary("said")], "f"), given).rows
        assert window.key == "game 0-100"

    def test_a_reference_is_required(self):
        rows = RowSet(Header("commentary"), [replace(commentary("said"), reference=[])], "f")
        with pytest.raises(ValueError, match="no commentary has a reference with times"):
            cut_into_windows(rows)

    @pytest.mark.parametrize("content", [[[0, 1]], [[0, "x", "y"]], [[0, float("nan"), "y"]], 3, None])
    def test_references_in_another_form_are_refused(self, content, tmp_path):
        with pytest.raises(ValueError, match="line 2 of .*: expected video and content"):
            self.people(tmp_path, [[0, 1, "said"]], content)


@pytest.mark.parametrize(
    ("order", "reply", "expected"),
    [
        ("ab", "A", ("model", True)),
        ("ba", " a.", ("opponent", True)),
        ("ab", "B", ("opponent", True)),
        ("ba", "Both are fine", ("model", True)),
        ("ab", "I cannot say", ("opponent", False)),
        ("ab", "", ("opponent", False)),
    ],
)
def test_replies_of_streaming_vlms_judge(order, reply, expected):
    assert judge_protocol("inf-streams").read(order, reply) == expected


def test_the_question_of_streaming_vlms_judge():
    system, user = judge_protocol("inf-streams").messages("ba", " mine ", "theirs", "x" * 9000)
    assert system["content"].startswith("\n    You are a strict A/B evaluator for sports video commentary.\n")
    assert "exactly one uppercase letter: \u201cA\u201d or \u201cB\u201d." in system["content"]
    assert user["content"] == (
        "Reference transcript (Provide a reference for the tone and on-screen information):\n"
        + "x" * 8000
        + "\n\nCandidate A:\ntheirs\n\nCandidate B:\nmine\n\n"
    )


def test_verdicts_by_another_reference_are_not_continued(tmp_path):
    mine, theirs = (write(tmp_path / f"{name}.jsonl", commentary(name)) for name in ("mine", "theirs"))
    said, out = tmp_path / "said.jsonl", tmp_path / "verdicts.jsonl"
    with serve_chat(lambda *_: Reply("A")) as server:
        options = JudgeOptions("judge-1", server.url, protocol="inf-streams", concurrency=1)
        for text in ("It rains.", "It rains.", "The sun shines."):
            said.write_text(json.dumps({"video": "game.mp4", "content": [[0, 100, text]]}) + "\n")
            if text == "It rains.":
                judge(mine, theirs, out, options, said, say=lambda line: None)
        with pytest.raises(ValueError, match="holds the results of a different run .dataset_revision: "):
            judge(mine, theirs, out, options, said, say=lambda line: None)
    assert len(server.requests) == 2


def test_windows_are_judged_and_scored(tmp_path):
    mine = write(tmp_path / "mine.jsonl", commentary("mine"), commentary("also mine", 100, "other"))
    theirs = write(tmp_path / "theirs.jsonl", commentary("theirs"), commentary("also theirs", 230, "other"))
    asked = []

    def first_wins_but_for_the_second_window(_, body):
        asked.append(body["messages"][1]["content"])
        first = asked[-1].split("Candidate A:\n")[1].split("Candidate B:")[0]
        return Reply("A" if "mine" in first or "theirs 150" in first else "B")

    out = tmp_path / "verdicts.jsonl"
    with serve_chat(first_wins_but_for_the_second_window) as server:
        options = JudgeOptions("judge-1", server.url, protocol="inf-streams", concurrency=1)
        result = judge(mine, theirs, out, options, say=lambda line: None)
    # The second window of the other game, in which "mine" is silent, is judged and lost.
    assert (result.n_rows, result.n_asked) == (4, 8)
    assert "on-screen information):\none two three\none two three\n" in asked[0]
    assert any("Candidate A:\n\n\nCandidate B:\nalso theirs 100 " in text for text in asked)
    verdicts = read_rows(out)
    assert (verdicts.header.suite, verdicts.header.protocol) == ("inf-streams", "inf-streams")
    scored = next(item for item in score([out, mine, theirs]) if item.suite == "inf-streams")
    assert scored.is_complete
    pytest.importorskip("matplotlib")
    report([out, mine, theirs], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    [shown] = json.loads(re.search(r'id="verdict-data">(.*?)</script>', page, re.DOTALL)[1])
    assert [row["key"] for row in shown["rows"]] == ["game 0-100", "game 100-200", "other 0-100", "other 100-200"]
    assert shown["rows"][0]["model"].startswith("mine 0 mine 1 ") and shown["rows"][3]["opponent"].endswith(" 199")
    assert shown["rows"][0]["reference"].split() == ["one", "two", "three"] * 100
    # Shown first, "mine" wins unless it is silent. Shown second, it loses only to the window with "theirs 150".
    assert (scored.figure("win rate shown first").value, scored.figure("win rate").n_correct) == (75, 5)
    write(theirs, commentary("changed"), commentary("also theirs", 230, "other"))
    with pytest.raises(ValueError, match="have the hash of another text"):
        score([out, mine, theirs])


def test_commentaries_without_turns_cannot_be_exported(tmp_path):
    path = write(tmp_path / "mine.jsonl", CommentaryRow("k", "v", 0, 10, "said"))
    for name in ("proact-vl", "inf-streams"):
        with pytest.raises(ValueError, match="no commentary has turns with times"):
            export(path, name, tmp_path / "out.jsonl")
    with pytest.raises(ValueError, match="format is 'x': expected proact-vl or inf-streams"):
        export(path, "x", tmp_path / "out.jsonl")


@pytest.mark.parametrize("folder", [False, True])
def test_a_result_does_not_replace_the_commentaries(folder, tmp_path):
    pytest.importorskip("matplotlib")
    path = write(tmp_path / "mine.jsonl", commentary("mine"))
    before, given = path.read_bytes(), tmp_path if folder else path
    for make in (lambda: export(given, "proact-vl", path), lambda: report(given, path)):
        with pytest.raises(ValueError, match=r"mine.jsonl is one of the files that are read: choose another place"):
            make()
    assert path.read_bytes() == before


def test_windows_are_not_run(tmp_path):
    from livecc_hf.evaluation.running.plan import RunOptions, make_plans

    with pytest.raises(ValueError, match="cannot be run, only judged and scored"):
        make_plans("inf-streams", RunOptions())
