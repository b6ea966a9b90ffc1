"""The captions stage gives each video its words, or drops it with a reason."""

import pyarrow as pa
import pytest
from caption_samples import LINES_SAID, json3, srt, vtt, write, youtube_srt, youtube_vtt

from livecc_hf.captions.arrow import LINES
from livecc_hf.captions.cleaning import count_distinct
from livecc_hf.captions.files import file_words, read_captions
from livecc_hf.production.schemas import VIDEO_SCHEMA, words_array
from livecc_hf.production.stages.captions import Captions


def videos(n_rows, **columns) -> pa.Table:
    columns = {"id": [f"v{i}" for i in range(n_rows)], "video": ["v.mp4"] * n_rows} | columns
    return pa.table({name: columns.get(name, pa.nulls(n_rows)) for name in VIDEO_SCHEMA.names}).cast(VIDEO_SCHEMA)


def test_captions_without_a_word(tmp_path):
    for text in ("WEBVTT\n\n00:01.000 --> 00:02.000\n<00:00:01.500>\n", vtt([(1, 2, "[Music]"), (2, 3, "\u266a")])):
        assert file_words(read_captions(write(tmp_path, "a.vtt", text))) == []
        assert Captions()(videos(1, captions=[str(tmp_path / "a.vtt")])).dropped["reason"].to_pylist() == ["few_words"]


def test_the_stage_fills_words_and_drops_each_bad_file_with_its_reason(tmp_path):
    lines = [[(i * 2 + j / 4, f"word{i}x{j},") for j in range(4)] for i in range(8)]
    good = [str(write(tmp_path, f"g{i}", form(lines))) for i, form in enumerate((json3, youtube_vtt, youtube_srt))]
    bad = {
        "few_words": srt([(0, 9, "Red red, RED! ball " * 20)]),
        "empty_captions": "",
        "corrupt_captions": "hello",
        "caption_encoding": b"\xff\xff\xff",
    }
    paths = [*good[:1], *(str(write(tmp_path, name, text)) for name, text in bad.items()), *good[1:], None, "gone.srt"]
    given_words = [None] * len(paths)
    given_words[-1] = [(i, i + 1, f"given{i}") for i in range(30)]
    batch = videos(len(paths), captions=paths, words=words_array(given_words), duration_s=[36.0] * len(paths))
    result = Captions()(batch)
    assert result.kept.schema == VIDEO_SCHEMA
    assert result.kept["id"].to_pylist() == ["v0", "v5", "v6", "v8"]
    said = [f"word{i}x{j}," for i in range(8) for j in range(4)]
    for row in result.kept["words"].to_pylist()[:3]:
        assert [word["word"] for word in row] == said
    assert [w["word"] for w in result.kept["words"][3].as_py()][:2] == ["given0", "given1"]
    dropped = result.dropped.to_pylist()
    assert [row["reason"] for row in dropped] == [*bad, "no_captions"]
    assert (
        dropped[0]["value"] == 2 and dropped[0]["text"].startswith("Red red, RED! ball") and dropped[0]["hours"] == 0.01
    )
    assert all(row["detail"] for row in dropped)
    open_result = Captions(required=False)(batch)
    assert open_result.kept["words"].is_null().to_pylist() == [False, *[True] * 4, False, False, True, False]


def test_what_captions_lost_is_said_also_where_they_are_optional(tmp_path):
    """A video that is kept with fewer words, or without, has a row for that, and its hours count as kept."""
    lines = [(i, i + 1, f"word{i}") for i in range(40)]
    partly = srt(lines).replace("00:00:05,000 -->", "00:00:07,000 -->")
    files = {"partly.srt": partly, "bad.srt": "hello", "few.vtt": vtt([(1, 2, "two words")]), "good.srt": srt(lines)}
    paths = [*(str(write(tmp_path, name, text)) for name, text in files.items()), str(tmp_path / "gone.srt"), None]
    batch = videos(6, captions=paths, duration_s=[36.0] * 6)
    kept_of = {True: ["v0", "v3"], False: [f"v{i}" for i in range(6)]}
    for required, kept in kept_of.items():
        result = Captions(required=required)(batch)
        assert result.kept["id"].to_pylist() == kept
        [lost] = [row for row in result.dropped.to_pylist() if row["reason"] == "lost_captions"]
        assert (lost["id"], lost["value"], lost["hours"]) == ("v0", 1, None)
        assert lost["detail"].startswith("1 of 40 lost: ") and "partly.srt: caption 5 runs from" in lost["detail"]
        others = {row["id"]: row["reason"] for row in result.dropped.to_pylist() if row is not lost and row != lost}
        expected = {"v1": "corrupt_captions", "v2": "few_words", "v4": "no_captions"}
        assert others == expected | ({"v5": "no_captions"} if required else {})  # without captions nothing is lost
        if not required:
            details = [row["detail"] for row in result.dropped.to_pylist() if row["id"] in expected]
            assert all(detail.startswith("kept without words: ") for detail in details)
            assert result.kept["words"].is_null().to_pylist() == [False, True, True, False, True, True]


def test_given_words_that_are_too_few_are_not_lost_in_silence():
    batch = videos(2, words=words_array([[(0, 1, "Few"), (1, 2, "words")], None]), duration_s=[36.0] * 2)
    result = Captions(required=False)(batch)
    assert result.kept["words"].is_null().to_pylist() == [True, True]
    [lost] = result.dropped.to_pylist()
    assert (lost["id"], lost["reason"], lost["value"], lost["hours"]) == ("v0", "few_words", 2, None)
    assert lost["detail"] == "kept without words: 2 different words: expected at least 30"


def test_captions_whose_words_cannot_be_told_apart_cost_their_video(tmp_path, monkeypatch):
    from livecc_hf.captions import segmentation
    from livecc_hf.utils.extras import MissingExtraError

    lines = [(i, i + 1, "今天的比赛非常精彩主队进球了") for i in range(40)]
    paths = [str(write(tmp_path, "zh.srt", srt(lines))), str(write(tmp_path, "en.srt", srt([(1, 2, "so far 王")])))]
    batch, stage = videos(2, captions=paths), Captions(min_distinct_words=3)
    kept = stage(batch).kept["words"].to_pylist()
    assert [word["word"] for word in kept[0]][:4] == ["今天", "的", "比赛", "非常"]
    assert kept[0][0]["start_s"] == 0.0 and kept[0][0]["end_s"] == pytest.approx(0.1)

    def missing(*names):
        raise MissingExtraError('needs icu4py: pip install ".[segment]"')

    monkeypatch.setattr(segmentation, "require_extra", missing)
    result = stage(batch)
    assert [word["word"] for word in result.kept["words"][0].as_py()] == ["so", "far", "王"]
    [row] = result.dropped.to_pylist()
    assert (row["id"], row["reason"]) == ("v0", "no_segmenter") and "pip install" in row["detail"]


def test_the_stage_uses_lines_given_inline(tmp_path):
    path = str(write(tmp_path, "a.srt", srt([(1, 2, "from a file")])))
    lines = [[(0, 1, "a b"), (4, 3, "y")], None, [(2, 1, "x")]]
    lines = pa.array([r and [dict(zip(("start_s", "end_s", "text"), x)) for x in r] for r in lines], LINES)
    batch = videos(3, captions=[None, path, None]).append_column("subtitles", lines)
    result = Captions(min_distinct_words=0)(batch)
    assert result.kept.schema == VIDEO_SCHEMA
    assert [[w["word"] for w in row] for row in result.kept["words"].to_pylist()] == [["a", "b"], ["from", "a", "file"]]
    assert result.dropped["reason"].to_pylist() == ["corrupt_captions", "lost_captions"]
    assert result.dropped["detail"].to_pylist()[1].startswith("1 of 2 lost: a line runs from 4.0 to 3.0 s")
    empty = Captions()(batch.slice(0, 0))
    assert len(empty.kept) == len(empty.dropped) == 0


def test_the_result_does_not_depend_on_the_batch(tmp_path):
    forms = (json3, youtube_vtt, youtube_srt, lambda lines: srt([(1, 2, "goal goal"), (2, 3, "goal")]))
    paths = [str(write(tmp_path, f"{i}.x", forms[i % 4](LINES_SAID))) for i in range(9)]
    batch, stage = videos(9, captions=paths), Captions(min_distinct_words=0)
    alone = pa.concat_tables([stage(batch.slice(i, 1)).kept for i in range(9)])
    assert stage(batch).kept.combine_chunks() == alone.combine_chunks()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_distinct_words": -1}, "min_distinct_words is -1"),
        ({"max_word_s": 0}, "max_word_s is 0"),
        ({"round_s": 2}, "round_s is 2"),
    ],
)
def test_thresholds_that_make_no_sense(options, message):
    with pytest.raises(ValueError, match=message):
        Captions(**options)


def test_distinct_words_are_counted_without_case_and_punctuation():
    rows = [[(0, 1, "Ball."), (1, 2, "ball"), (2, 3, "–"), (3, 4, "red")], None, [], [(0, 1, "ball")]]
    assert count_distinct(words_array(rows)).tolist() == [2, 0, 0, 1]
    assert count_distinct(words_array([])).tolist() == []
