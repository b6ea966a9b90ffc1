"""The clip stages: the content of clips, limits, and a comparison with word-by-word rules."""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1]))
from clip_rules import Rules, talk, videos

from livecc_hf.production.schemas import CLIP_SCHEMA, DROPPED_SCHEMA, VIDEO_SCHEMA
from livecc_hf.production.stages.clips import PretrainClips, SftClips
from livecc_hf.utils.text import counted


def test_what_a_clip_holds():
    words = [*talk(10), *talk(80, 20.0, text="later"), *talk(150, 70.0, 0.4, text="last")]
    table = videos({"a/b.mp4": words}, category=["Sports"], duration_s=[200.0])
    result = PretrainClips()(table)
    assert result.kept.schema == CLIP_SCHEMA and result.dropped.schema == DROPPED_SCHEMA
    first, second = result.kept.to_pylist()
    assert (first["id"], second["id"]) == ("a/b.mp4#1", "a/b.mp4#2")
    assert (first["video"], first["title"], first["category"]) == ("a/b.mp4", "Title of a/b.mp4", "Sports")
    assert (first["start_s"], first["end_s"]) == (20.0, 60.0)
    assert first["previous"] == " ".join(word[2] for word in words[:10])
    assert second["previous"] == " ".join(word[2] for word in words[:90])
    assert first["words"][0] == {"start_s": 20.0, "end_s": 20.5, "word": "later0"}
    assert [first[name] for name in ("language_score", "text_loss", "p_talking_head", "query")] == [None] * 4
    (dropped,) = result.dropped.to_pylist()
    assert (dropped["id"], dropped["reason"], dropped["value"]) == ("a/b.mp4#0", "short", 5.0)
    assert (dropped["detail"], dropped["hours"]) == ("10 words", 5 / 3600)
    assert dropped["text"] == " ".join(word[2] for word in words[:10])


def test_previous_words_can_be_limited():
    words = [*talk(10), *talk(80, 20.0)]
    kept = PretrainClips(max_previous_words=3)(videos({"a": words})).kept
    assert kept["previous"].to_pylist() == ["word7 word8 word9"]
    assert PretrainClips(max_previous_words=0)(videos({"a": words})).kept["previous"].to_pylist() == [""]


def test_speed_and_length_are_compared_with_their_limits():
    cases = {"slow": talk(40, step_s=1.25), "fast": talk(200, step_s=0.2), "short": talk(20), "right": talk(60)}
    result = PretrainClips()(videos(cases))
    assert result.kept["video"].to_pylist() == ["right"]
    pieces = [(row["reason"], round(row["value"], 6)) for row in result.dropped.to_pylist() if row["value"]]
    assert pieces == [("too_slow", 0.8), ("too_fast", 5.0), ("short", 10.0)]
    wide = PretrainClips(min_s=10, min_words_per_s=0.5, max_words_per_s=6)
    assert len(wide(videos(cases)).kept) == 4


def test_a_long_talk_is_cut_at_the_limit():
    result = PretrainClips()(videos({"a": talk(1000)}))  # 500 s
    spans = list(zip(result.kept["start_s"].to_pylist(), result.kept["end_s"].to_pylist()))
    assert spans == [(0.0, 239.5), (239.5, 479.0)]
    assert result.dropped["reason"].to_pylist() == ["short"]


@pytest.mark.parametrize(("start_s", "max_s"), [(16.1, 240.0), (2.0, 9.7)])
def test_rounding_of_the_limit_does_not_move_a_word(start_s, max_s):
    """The difference of times is compared, as in the rules: a sum may round to the other side."""
    end_s = next(
        round(start_s + i / 10 + max_s, 1)
        for i in range(4000)
        if (round(start_s + i / 10 + max_s, 1) - round(start_s + i / 10, 1) <= max_s)
        != (round(start_s + i / 10 + max_s, 1) <= round(start_s + i / 10, 1) + max_s)
    )
    first_s = round(end_s - max_s, 1)
    n_words = round(max_s * 10)
    words = [(round(first_s + i / 10, 1), round(first_s + (i + 1) / 10, 1), "w") for i in range(n_words + 50)]
    words[n_words - 1] = (words[n_words - 1][0], end_s, "w")
    stage = PretrainClips(min_s=0, max_s=max_s, max_words_per_s=100)
    clips = [len(clip) for clip in stage(videos({"a": words})).kept["words"].to_pylist()]
    assert clips == [stop - first for first, stop, _ in Rules(False, min_s=0, max_s=max_s).pieces(words)]


def test_limits_themselves_are_kept():
    cases = {"slowest": talk(30, step_s=1.0), "fastest": talk(120, step_s=0.25), "gap": talk(64)}
    cases["gap"][32:] = [(start + 2.5, end + 2.5, word) for start, end, word in cases["gap"][32:]]  # ends 3 s apart
    assert PretrainClips()(videos(cases)).kept["video"].to_pylist() == list(cases)


def test_sentences_may_open_with_a_quotation_mark_or_a_number():
    words = [*talk(4), (2.0, 2.4, "end."), (2.5, 2.9, '"Now'), *talk(70, 3.0)]
    words = [(0.0, 0.1, "so"), *[(start + 10, end + 10, word) for start, end, word in words]]
    clip = SftClips()(videos({"a": words})).kept["words"][0].as_py()
    assert clip[0]["word"] == '"Now'


def test_videos_without_clips_and_broken_ones_are_told_apart():
    table = videos(
        {
            "null": None,
            "empty": [],
            "blank": [(0.0, 1.0, "  ")],
            "backwards": [(5.0, 1.0, "no"), (6.0, 7.0, "yes")],
            "infinite": [(0.0, float("inf"), "no")],
            "wordless": [(0.0, 1.0, None)],
            "good": talk(100),
        },
        duration_s=[360.0, None, 36.0, 36.0, 36.0, 36.0, 50.0],
    )
    result = PretrainClips()(table)
    assert result.kept["video"].to_pylist() == ["good"]
    rows = {row["id"]: row for row in result.dropped.to_pylist()}
    assert {name: row["reason"] for name, row in rows.items()} == {
        "null": "no_clip",
        "empty": "no_clip",
        "blank": "no_clip",
        "backwards": "error",
        "infinite": "error",
        "wordless": "error",
    }
    assert rows["null"]["hours"] == 0.1 and rows["empty"]["hours"] == 0 and rows["null"]["detail"] == "0 words"
    assert "word 0 ('no') runs from 5.0 to 1.0 s" in rows["backwards"]["detail"]


def test_words_after_the_end_of_the_video_are_no_clip():
    """As with captions of another version of the video: training would have no frames for them."""
    cases = {
        "other": talk(120, 100.0),
        "longer": talk(140),
        "right": talk(123),
        "unknown": talk(140),
        "early": talk(110),
    }
    table = videos(cases, duration_s=[60.0, 60.0, 60.0, None, 60.0])
    for stage in (PretrainClips(), SftClips()):
        result = stage(table)
        assert result.kept["video"].to_pylist() == ["right", "unknown", "early"]  # captions may stay for a moment
        pieces = [(row["id"], row["reason"], row["value"]) for row in result.dropped.to_pylist() if row["value"]]
        assert pieces == [("other#0", "past_end", 160.0), ("longer#0", "past_end", 70.0)]


@pytest.mark.parametrize("stage", [PretrainClips(), SftClips()])
def test_no_clip_begins_before_the_video(stage):
    words = {"early": talk(80, -3.0), "before": talk(80, -50.0), "late": talk(80, 3.0)}
    result = stage(videos(words))
    assert [(row["id"], row["start_s"], row["end_s"]) for row in result.kept.to_pylist()] == [
        ("early#0", 0.0, 37.0),
        ("late#0", 3.0, 43.0),
    ]
    (short,) = [row for row in result.dropped.to_pylist() if row["id"] == "before#0"]
    assert (short["reason"], short["start_s"], short["hours"]) == ("short", 0.0, 0.0)


def test_hours_of_a_dropped_video_are_counted_once():
    result = PretrainClips()(videos({"a": talk(20)}, duration_s=[100.0]))
    assert result.dropped["reason"].to_pylist() == ["short", "no_clip"]
    assert pc.sum(result.dropped["hours"]).as_py() == pytest.approx(100 / 3600)


def test_an_empty_batch_gives_empty_tables():
    for stage in (PretrainClips(), SftClips()):
        result = stage(VIDEO_SCHEMA.empty_table())
        assert (len(result.kept), len(result.dropped)) == (0, 0)
        assert result.kept.schema == CLIP_SCHEMA and result.dropped.schema == DROPPED_SCHEMA


def test_limits_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="min_s=30.0, max_s=20"):
        PretrainClips(max_s=20)
    with pytest.raises(ValueError, match="min_words_per_s=5"):
        PretrainClips(min_words_per_s=5)
    with pytest.raises(ValueError, match="max_previous_words=-1"):
        SftClips(max_previous_words=-1)


TEXTS = st.sampled_from(["the", "The", "end.", "End?", "A", "so", "42", '"Oh', "", " two ", "wow!", "é", "Ärger"])
STEPS = st.one_of(st.floats(0.05, 1.5), st.floats(2.5, 8.0), st.just(3.0), st.floats(-1.0, 0.0))


@st.composite
def spoken_words(draw):
    """Words with silences and overlaps, some not in order, some blank, some long."""
    items = draw(st.lists(st.tuples(STEPS, st.sampled_from([0.0, 0.1, 0.4, 2.0, 30.0]), TEXTS), max_size=60))
    words, at = [], 1.0
    for step_s, length_s, text in items:
        at = max(round(at + step_s, 2), 0.0)
        words.append((at, round(at + length_s, 2), text))
    return words


SMALL = {"min_s": 2.0, "max_s": 10.0}


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.none(), spoken_words()), max_size=5), st.booleans())
def test_stages_cut_any_words_as_the_rules_do(words_of, is_sft):
    stage = SftClips(**SMALL) if is_sft else PretrainClips(**SMALL)
    table = videos({f"v{i}": words for i, words in enumerate(words_of)})
    result = stage(table)
    clips, pieces = result.kept.to_pylist(), result.dropped.to_pylist()
    for row, words in enumerate(words_of):
        used = sorted(((a, b, text.strip()) for a, b, text in words or [] if text.strip()), key=lambda word: word[1])
        expected = Rules(is_sft, **SMALL).pieces(used)
        got = {clip["id"]: (clip, None) for clip in clips if clip["video"] == f"v{row}"}
        got |= {piece["id"]: (piece, piece["reason"]) for piece in pieces if piece["id"].startswith(f"v{row}#")}
        assert sorted(got, key=lambda name: int(name.split("#")[1])) == [f"v{row}#{i}" for i in range(len(expected))]
        for number, (first, stop, reason) in enumerate(expected):  # every word in one piece, in order
            item, got_reason = got[f"v{row}#{number}"]
            assert got_reason == reason
            if reason is None:
                found = [(word["start_s"], word["end_s"], word["word"]) for word in item["words"]]
                assert found == used[first:stop]
                assert item["previous"] == " ".join(word[2] for word in used[:first])
                assert item["end_s"] - item["start_s"] <= SMALL["max_s"]
                assert item["end_s"] - item["start_s"] >= SMALL["min_s"]
            else:
                assert item["detail"] == counted(stop - first, "word")
        without = [piece["reason"] for piece in pieces if piece["id"] == f"v{row}"]
        assert without == ([] if any(reason is None for _, _, reason in expected) else ["no_clip"])


@settings(max_examples=60, deadline=None)
@given(st.lists(spoken_words(), min_size=1, max_size=6), st.data(), st.booleans())
def test_the_split_into_batches_does_not_matter(words_of, data, is_sft):
    stage = SftClips(**SMALL) if is_sft else PretrainClips(**SMALL)
    table = videos({f"v{i}": words for i, words in enumerate(words_of)})
    whole = stage(table)
    at = data.draw(st.integers(0, len(words_of)))
    parts = [stage(table.slice(0, at)), stage(table.slice(at))]
    assert pa.concat_tables([part.kept for part in parts]).equals(whole.kept)
    assert pa.concat_tables([part.dropped for part in parts]).equals(whole.dropped)
    chunked = pa.concat_tables([table.slice(i, 1) for i in range(len(table))])
    assert stage(chunked).kept.equals(whole.kept)


def sentences(n_sentences, words, step_s=0.5):
    """Return a sentence repeated without silence."""
    spoken = words * n_sentences
    return [(i * step_s, (i + 1) * step_s, word) for i, word in enumerate(spoken)]


def test_where_sentences_start_is_an_option():
    words = [*talk(2), *sentences(20, ["The", "ball", "rolls."]), *sentences(10, ["UNLV", "scores.", "I'm", "sure."])]
    words = [(i * 1.0, i * 1.0 + 1.0, word[2]) for i, word in enumerate(words)]
    words[1] = (1.0, 2.0, "ended.")
    stages = {how: SftClips(min_s=3, max_s=10.5, sentence_start=how) for how in ("capital", "all_capitals")}
    kept = {how: stage(videos({"a": words})).kept["words"].to_pylist() for how, stage in stages.items()}
    assert {clip[0]["word"] for clip in kept["capital"]} == {"word0", "The", "UNLV", "I'm"}
    assert {clip[0]["word"] for clip in kept["all_capitals"]} == {"word0", "UNLV"}  # the reference's isupper
    assert stages["capital"] == SftClips(min_s=3, max_s=10.5)
    with pytest.raises(ValueError, match="sentence_start is 'upper': expected capital or all_capitals"):
        SftClips(sentence_start="upper")


@pytest.mark.parametrize(
    ("sentence", "starts"),
    [
        (["今天", "的", "比赛", "精彩。"], {"今天"}),
        (["今日", "は", "「楽しい。」"], {"今日"}),
        (["การ", "แข่งขัน", "สนุก"], {"การ", "แข่งขัน", "สนุก"}),  # Thai marks no sentences
        (["آج", "اچھا", "ہے۔"], {"آج"}),
    ],
)
def test_sentences_start_in_scripts_without_capitals(sentence, starts):
    kept = SftClips(min_s=2, max_s=5)(videos({"a": sentences(30, sentence)})).kept
    assert len(kept) > 4
    assert {words[0]["word"] for words in kept["words"].to_pylist()} <= starts


def test_previous_words_are_joined_as_they_are_written():
    words = [(i * 0.2, (i + 1) * 0.2, "好") for i in range(400)]
    kept = PretrainClips(max_s=40, max_previous_words=5)(videos({"a": words})).kept
    assert kept["previous"].to_pylist()[:2] == ["", "好好好好好"]


def test_speed_is_in_characters_where_words_mean_nothing():
    """In Chinese, "words" may be single characters or whole lines; in Thai, three characters count as one."""
    chinese = [(i * 0.2, (i + 1) * 0.2, "好") for i in range(200)]  # 5 characters a second
    lines = [(i * 10.0, i * 10.0 + 8.0, "今天的比赛非常精彩主队进球了今天的比赛非常精彩主队进球了") for i in range(4)]
    thai = [(i * 0.4, (i + 1) * 0.4, "สนุกมาก") for i in range(100)]  # 17.5 characters a second
    cases = {"characters": chinese, "lines": lines, "thai": thai}
    cases["fast"] = [(i * 0.2, (i + 1) * 0.2, "好好") for i in range(200)]
    cases["slow"] = [(i * 1.0, (i + 1) * 1.0, "好") for i in range(40)]
    cases["english"] = [*talk(60), (30.0, 30.5, "好")]
    result = PretrainClips(max_gap_s=11)(videos(cases))
    assert result.kept["video"].to_pylist() == ["characters", "lines", "thai", "english"]
    rows = [row for row in result.dropped.to_pylist() if row["value"]]
    dropped = {row["video"]: (row["reason"], round(row["value"], 3)) for row in rows}
    assert dropped == {"fast": ("too_fast_characters", 10.0), "slow": ("too_slow_characters", 1.0)}
    with pytest.raises(ValueError, match="max_chars_per_s=1"):
        PretrainClips(max_chars_per_s=1)
