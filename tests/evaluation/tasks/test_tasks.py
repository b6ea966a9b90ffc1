"""The prompts of each protocol, character for character."""

# ruff: noqa: E501 (prompts are easier to compare where their lines are long)

import json

import pytest

from livecc_hf.evaluation.prompt_files import load_prompts
from livecc_hf.evaluation.tasks import livesports_qa, mvbench, ovobench, videomme
from livecc_hf.evaluation.tasks.annotations import (
    FILE_COLUMN,
    Annotations,
)
from livecc_hf.evaluation.tasks.livesports_cc import query_of, read_events
from livecc_hf.evaluation.tasks.questions import as_published
from livecc_hf.evaluation.tasks.subtitle_lines import read_subtitle_lines

OPTIONS = ["A. Red. ", "B. Blue.", "C. Green.", "D. None."]


def rows(*values):
    return Annotations(list(values), "made-up", "1")


def videomme_row(**others):
    return {
        "video_id": "001",
        "duration": "long",
        "domain": "Knowledge",
        "sub_category": "Law",
        "videoID": "abc",
        "question_id": "001-1",
        "task_type": "OCR Problems",
        "question": "What {colour}?",
        "options": OPTIONS,
        "answer": "C",
    } | others


class TestVideoMme:
    def test_livecc(self):
        (question,) = videomme.read_questions(rows(videomme_row()), "livecc", False)
        # Spaces in the published options are kept.
        assert question.text([]) == (
            "What {colour}?\nA. Red. \nB. Blue.\nC. Green.\nD. None.\nPlease select the correct answer."
        )
        assert (question.answer_prefix, question.candidate_lead) == ("Answer:", ": ")
        assert question.candidates == ("A", "B", "C", "D")
        assert question.row.options == ["Red.", "Blue.", "Green.", "None."]
        assert (question.media, question.row.video, question.row.key) == (("abc.mp4",), "001", "001-1")

    def test_official(self):
        (question,) = videomme.read_questions(rows(videomme_row()), "official", False)
        assert question.text([]) == (
            "Select the best answer to the following multiple-choice question based on the video. Respond with only the "
            "letter (A, B, C, or D) of the correct option.\nWhat {colour}?\nA. Red. \nB. Blue.\nC. Green.\nD. None.\n"
            "The best answer is:"
        )
        assert question.candidates == ()

    def test_subtitles_all_lines_or_those_of_the_frames(self, tmp_path):
        (tmp_path / "abc.srt").write_text(
            '\ufeff1\r\n00:00:01,000 --> 00:00:02,000\r\n<font color="white">One</font>\r\ntwo\r\n\r\n'
            "2\r\n00:00:05,000 --> 00:00:06,000\r\n{\\an8}three\r\n\r\n3\r\n00:00:07,000 --> 00:00:08,000\r\n \r\n"
        )
        for protocol, said in (("livecc", "One two three"), ("livecc-fixed", "three"), ("official", "three")):
            questions = videomme.read_questions(
                rows(videomme_row(), videomme_row(videoID="x")), protocol, True, tmp_path
            )
            text = questions[0].text([0.5, 5.5])
            assert text.startswith(f"This video's subtitles are listed below:\n{said}\n")
            # For a video without subtitles, the sentence is kept without lines.
            assert questions[1].text([0.5]).startswith("This video's subtitles are listed below:\n\n")
        assert "three\nSelect the best answer" in text
        (first, _) = videomme.read_questions(rows(videomme_row(), videomme_row()), "livecc", True, tmp_path)
        assert "three\nAccording to the video and subtitles, What {colour}?\nA. Red." in first.text([])

    def test_lines_have_times(self, tmp_path):
        (tmp_path / "a.srt").write_text("1\n01:00:01.5 --> 01:00:02,250\nyes\n")
        assert read_subtitle_lines(tmp_path / "a.srt") == ((3601.5, 3602.25, "yes"),)


def ovo_row(task, **others):
    return {"id": 5, "task": task, "video": "src/v.mp4", "question": "Who?", "answer": "x"} | others


class TestOvoBench:
    def test_livecc(self):
        choice = ovo_row("ASI", realtime=20, options=["x", "y", "z"], gt=2)
        crr = ovo_row("CRR", ask_time=7, clue_time=9, test_info=[{"realtime": 8, "type": 0}])
        rec = ovo_row("REC", activity="jump", test_info=[{"realtime": 8, "count": 3}])
        ssr = ovo_row("SSR", tutorial="T", test_info=[{"realtime": 8, "type": 1, "step": "open it"}])
        questions = ovobench.read_questions(rows(choice, crr, rec, ssr), "livecc")
        texts = [question.text([]) for question in questions]
        assert texts[0] == "Who?\nA. x\nB. y\nC. z\nPlease select the correct answer."
        assert texts[1] == (
            "You're responsible of answering questions based on the video content. The following question are relevant to "
            "the latest frames, i.e. the end of the video.\n\nWho?\n\nDecide whether existing visual content, especially "
            "latest frames, i.e frames that near the end of the video, provide enough information for answering the "
            'question.\nReturn "Yes" if existing visual content has provided enough information;\nReturn "No" otherwise.'
        )
        assert texts[2] == (
            "You're watching a video in which people may perform a certaintype of action repetitively. The person "
            "performing are referred to as 'they' in the following statement. You're task is to count how many times did "
            "different people in the video perform this kind of action in total.\nNow, answer the following question:\n\n"
            "How many times did they jump?\n\nYour response type should be INT, for example, 0/1/2/3.."
        )
        assert texts[3] == (
            "You're watching a tutorial video which contain a sequential of steps. The following is one step from the "
            "whole procedures:\n\nopen it\n\nYour task is to decide: Is the man/woman in the video currently carrying out "
            'this step?\nReturn "Yes" if the man/woman in the video is currently performing this step;\nReturn "No" if '
            "not."
        )
        assert {question.answer_prefix for question in questions} == {"The answer is:\n"}
        assert all(len(question.candidates) == 17 for question in questions)
        assert [question.start_s for question in questions] == [0, 7, 0, 0]  # CRR starts when the question is asked
        assert [question.row.answer for question in questions] == ["C", "No", "3", "Yes"]
        assert questions[0].media == ("src/v.mp4", "5.mp4")
        assert questions[2].media == ("src/v.mp4", "5_0.mp4")

    def test_fixed(self):
        choice = ovo_row("ASI", realtime=20, options=["x", "y", "z"], gt=2)
        crr = ovo_row("CRR", ask_time=7, clue_time=9, test_info=[{"realtime": 8, "type": 0}])
        questions = ovobench.read_questions(rows(choice, crr), "livecc-fixed")
        assert [question.candidates for question in questions] == [("A", "B", "C"), ("No", "Yes")]
        assert questions[1].start_s == 0

    def test_official(self):
        choice = ovo_row("ASI", realtime=20, options=["x", "y"], gt=0)
        rec = ovo_row("REC", activity="jump", test_info=[{"realtime": 8, "count": 3}])
        questions = ovobench.read_questions(rows(choice, rec), "official")
        assert questions[0].text([]) == (
            "\nQuestion: Who?\nOptions:\nA. x; B. y;\n\nRespond only with the letter corresponding to your chosen option "
            "(e.g., A, B, C). \nDo not include any additional text or explanation in your response.\n"
        )
        assert "perform a certain type of action repetively. \nThe person" in questions[1].text([])
        assert "(e.g., 0, 1, 2, 3…)" in questions[1].text([])
        assert (questions[0].frames.n_frames, questions[0].frames.max_pixels) == (64, 151_200)
        assert (questions[0].answer_prefix, questions[0].candidates) == ("", ())
        assert load_prompts("tasks", "official_ovobench")["SSR"].count("“Yes” or “No”") == 1

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (ovo_row("XYZ"), "task 'XYZ' is unknown: expected one of OVO-Bench's"),
            (ovo_row("EPM", realtime=1, options=[], gt=0), r"row 0 of the annotations: options are \'\[\]\'"),
            (ovo_row("EPM", realtime=1, options=["x"], gt=1), "gt is 1: expected the index of one of the 1 options"),
            (ovo_row("EPM", realtime=1, options=["x"], gt="A"), "gt is 'A': expected the index"),
            (ovo_row("EPM", realtime="late", options=["x"], gt=0), "realtime is 'late': expected seconds"),
            (ovo_row("EPM", options=["x"], gt=0), "has no column realtime"),
            (ovo_row("REC", activity="a", test_info=[{"realtime": 1}]), "test_info 0 cannot be used"),
        ],
    )
    def test_bad_rows(self, row, message):
        with pytest.raises(ValueError, match=message):
            ovobench.read_questions(rows(row), "livecc")


class TestMvBench:
    ROW = {  # noqa: RUF012
        "video": "v.mp4",
        "question": "Who?",
        "candidates": ["one", "two", "three"],
        "answer": "two",
        "start": 1.5,
        "end": 4,
        FILE_COLUMN: "action_sequence",
    }

    def test_official(self):
        (question,) = mvbench.read_questions(rows(self.ROW), "official")
        assert question.text([]) == "Question: Who?\nOptions:\n(A) one\n(B) two\n(C) three\nOnly give the best option."
        assert question.system.startswith(
            "Carefully watch the video and pay attention to the cause and sequence of events"
        )
        assert question.system.endswith("accurately addresses the question.\n")
        assert (question.answer_prefix, question.response_prefix) == ("Best option:(", "(")
        assert (question.start_s, question.end_s, question.frames.n_frames) == (1.5, 4, 16)
        assert question.media == ("star/Charades_v1_480/v.mp4", "v.mp4")
        assert (question.row.key, question.row.answer) == ("Action Sequence/0", "B")
        assert question.row.groups == {"task_type": "Action Sequence"}

    def test_livecc_takes_five_letters_and_no_bounds(self):
        (question,) = mvbench.read_questions(rows(self.ROW), "livecc")
        assert question.candidates == ("A", "B", "C", "D", "E")
        assert (question.start_s, question.end_s) == (None, None)
        assert question.text([]) == "Who?\nA. one\nB. two\nC. three\nPlease select the correct answer."
        (question,) = mvbench.read_questions(rows(self.ROW), "livecc-fixed")
        assert question.candidates == ("A", "B", "C")
        assert question.start_s == 1.5

    def test_liveccs_own_file(self):
        row = {
            "video": "v.mp4",
            "question": "Who?",
            "options": ["A. x", "B. y"],
            "answer": "A",
            "task_type": "State Change",
        }
        questions = mvbench.read_questions(rows(row, row), "livecc")
        assert [question.row.key for question in questions] == ["State Change/0", "State Change/1"]

    def test_an_answer_that_is_not_a_candidate(self):
        with pytest.raises(ValueError, match=r"the answer 'four' is not one of \['one', 'two', 'three'\]"):
            mvbench.read_questions(rows(self.ROW | {"answer": "four"}), "livecc")

    def test_a_row_that_belongs_to_no_task(self):
        row = {name: value for name, value in self.ROW.items() if name != FILE_COLUMN}
        with pytest.raises(ValueError, match="row 0 of the annotations has no column task_type: it has video"):
            mvbench.read_questions(rows(row), "livecc")


def test_livesports_questions_in_both_layouts():
    ours = {
        "video_id": "v",
        "question_id": 3,
        "q_type": "Who",
        "OCR": 1,
        "question": "Who?",
        "options": ["A. x", "B. y", "C. z", "D. w"],
        "answer": "A",
        "video": "v.mp4",
        "video_start": 1.0,
        "video_end": 9.5,
    }
    converted = {
        "problem": "Who?",
        "options": ["A: x", "B:  y", "C: z", "D: w"],
        "path": "v_1.0_9.5.mp4",
        "problem_id": "v_e1_q3",
        "solution": "<answer>A</answer>",
        "q_type_livesports": "Who",
        "ocr_livesports": 0,
    }
    first, second, third = livesports_qa.read_questions(rows(ours, converted, converted), "livecc")
    assert first.text([]) == second.text([]) == "Who?\nA. x\nB. y\nC. z\nD. w\nPlease select the correct answer."
    assert (first.start_s, first.end_s, second.start_s) == (1.0, 9.5, None)
    assert first.row.groups == {"q_type": "Who", "ocr": "1"}
    assert (second.row.video, second.row.answer) == ("v", "A")
    assert second.row.key != third.row.key  # the id occurs twice
    cc_names = {"begin": 1.0, "end": 9.5, "ocr": 1, "options": json.dumps(ours["options"])}
    left_out = ("video_start", "video_end", "OCR", "video", "options")
    kept = {name: value for name, value in ours.items() if name not in left_out}
    assert livesports_qa.read_questions(rows(kept | cc_names), "livecc") == [first]


@pytest.mark.parametrize("options", [[], "A. x, B. y", "", 4])
def test_options_that_are_not_a_list(options):
    with pytest.raises(ValueError, match=r"row 0 of the annotations: options are .*: expected a list of strings"):
        videomme.read_questions(rows(videomme_row(options=options)), "livecc")


def test_queries_of_commentary():
    row = {"video_id": "v", "event_id": 3, "begin": 1, "end": 5, "event_title": "Final", "preasr_text": "He ran."}
    with_both, with_title, bare = read_events(
        rows(
            row, row | {"event_id": 4, "preasr_text": ""}, row | {"event_id": 5, "preasr_text": None, "event_title": ""}
        )
    )
    opening = "You are an expert video commentator providing real-time, insightful, and engaging commentary on visual content.\n"
    titled = f'{opening}This is a video titled "Final".\n'
    assert query_of(with_both) == (
        f"{titled}Here is previous commentary of the video:\n\nHe ran.\n\nPlease continue to comment the video."
    )
    assert query_of(with_title) == titled
    assert query_of(bare) == opening
    assert (query_of(with_both, "base"), query_of(with_title, "base")) == ("He ran.", "Final")
    assert (with_both.row.key, with_both.media) == ("v_3", "v.mp4")
    with pytest.raises(ValueError, match="query form 'x' is unknown"):
        query_of(bare, "x")


def test_references_are_a_list_or_a_json_string():
    row = {"video_id": "v", "event_id": 3, "begin": 1, "end": 5}
    spans = [[1.0, 2.0, "One."], [2.0, 3.0, "Two."]]
    for value in (spans, json.dumps(spans)):
        (event,) = read_events(rows(row | {"event_asr": value}))
        assert event.row.reference == [(1.0, 2.0, "One."), (2.0, 3.0, "Two.")]
        assert event.reference == "One. Two."
    with pytest.raises(ValueError, match=r"event_asr of v_3 is '\[\[1\]\]'"):
        read_events(rows(row | {"event_asr": "[[1]]"}))


def test_options_keep_their_letters_or_get_some():
    assert as_published(["A. x ", "B. y"]) == ["A. x ", "B. y"]
    assert as_published(["A: x", "B:  y"]) == ["A. x", "B. y"]
    assert as_published(["x", "y"]) == ["A. x", "B. y"]


@pytest.mark.parametrize(
    ("read", "row", "message"),
    [
        (videomme.read_questions, videomme_row(answer=3), "answer is 3: expected str"),
        (ovobench.read_questions, {"task": ["EPM"]}, "unhashable type: 'list'"),
        (ovobench.read_questions, {"task": "XYZ"}, "task 'XYZ' is unknown"),
        (ovobench.read_questions, {"task": "REC", "test_info": True}, "'bool' object is not iterable"),
    ],
)
def test_a_row_with_a_value_of_a_wrong_type_is_named(read, row, message):
    is_videomme = read is videomme.read_questions
    good = videomme_row() if is_videomme else ovo_row("ASI", realtime=20, options=["x", "y"], gt=1)
    with pytest.raises(ValueError, match=f"^row 1 of the annotations cannot be used: {message}"):
        read(rows(good, row), "livecc")


@pytest.mark.parametrize("name", ["livecc_choice", "livecc_ovobench", "official_ovobench", "official_videomme",
                                  "official_mvbench", "livesports3k_cc"])  # fmt: skip
def test_prompts_name_their_source(name):
    prompts = load_prompts("tasks", name)
    assert "/" in prompts.source
    assert len(prompts.hash) == 16
    assert all(isinstance(text, str) for text in prompts.texts.values())
