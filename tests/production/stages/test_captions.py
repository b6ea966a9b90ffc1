"""Caption files as YouTube and yt-dlp write them become timed words, each once and in order."""

import json
import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from caption_samples import clock, json3, line_end_s, lines_to_words, srt, vtt, youtube_srt, youtube_vtt
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_hf.captions.arrow import LINES
from livecc_hf.captions.cleaning import count_distinct
from livecc_hf.captions.files import CaptionError, file_words, read_captions, read_words
from livecc_hf.production.schemas import VIDEO_SCHEMA, words_array
from livecc_hf.production.stages.captions import Captions

LINES_SAID = [
    [(0.5, "hello"), (1.0, "everyone"), (1.4, "and")],
    [(2.6, "welcome"), (3.0, "to"), (3.2, "the"), (3.5, "match")],
    [(9.0, "goal!")],
    [(11.0, "what"), (11.25, "a"), (11.3, "goal!")],
]
SAID = [word for line in LINES_SAID for _, word in line]


def write(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def words_of(path, round_s=0.1):
    return file_words(read_captions(path), round_s)


def videos(n_rows, **columns) -> pa.Table:
    columns = {"id": [f"v{i}" for i in range(n_rows)], "video": ["v.mp4"] * n_rows} | columns
    return pa.table({name: columns.get(name, pa.nulls(n_rows)) for name in VIDEO_SCHEMA.names}).cast(VIDEO_SCHEMA)


@pytest.mark.parametrize(("name", "form"), [("a.json3", json3), ("a.en.json", json3), ("a.en.vtt", youtube_vtt)])
def test_word_times_of_automatic_captions_are_kept(name, form, tmp_path):
    words = words_of(write(tmp_path, name, form(LINES_SAID)))
    assert [word for _, _, word in words] == SAID
    assert [start for start, _, _ in words] == pytest.approx([start for line in LINES_SAID for start, _ in line])
    ends = dict(zip(SAID, [end for _, end, _ in words]))
    assert ends["hello"] == pytest.approx(1.0)  # the next word's start
    assert ends["match"] == pytest.approx(4.5)  # nothing follows: a second
    assert all(a[1] <= b[0] for a, b in pairwise(words))


def test_rolling_lines_without_word_times_are_read_once_and_split_evenly(tmp_path):
    for flat in (False, True):
        words = words_of(write(tmp_path, "a.srt", youtube_srt(LINES_SAID, flat)), 0)
        assert [word for _, _, word in words] == SAID, flat
        if not flat:
            step_s = (line_end_s(LINES_SAID, 1) - 2.6) / 4
            assert words[4][:2] == pytest.approx((2.6 + step_s, 2.6 + 2 * step_s))


def test_growing_captions_say_each_word_once(tmp_path):
    cues = [(0, 1, "the red"), (1, 2, "the red ball"), (2, 3, "the red ball stops"), (3, 4, "ball stops here")]
    assert " ".join(word for _, _, word in words_of(write(tmp_path, "a.srt", srt(cues)))) == "the red ball stops here"


def test_what_is_said_twice_stays_where_captions_do_not_roll(tmp_path):
    cues = [(0, 1, "Goal!"), (1, 2, "Goal!"), (2, 3, "he did it"), (3, 4, "it is over"), (5, 6, "wow"), (6, 7, "look")]
    words = [word for _, _, word in words_of(write(tmp_path, "a.vtt", vtt(cues)))]
    assert words == ["Goal!", "Goal!", "he", "did", "it", "it", "is", "over", "wow", "look"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_markup_sounds_and_speaker_marks_are_removed(mark, tmp_path):
    text = """WEBVTT - title\r
X-TIMESTAMP-MAP=LOCAL:00:00:00.000\r
\r
STYLE\r
::cue { color: red }\r
\r
NOTE nobody says this\r
\r
first\r
00:01.000 --> 00:02.000 align:start\r
<v Ann>- It&#39;s <i>red</i>,&nbsp;&amp;\u00a0<c.blue>big</c></v>\r
-5 &lt;3\r
\r
00:02.000 --> 00:03.000\r
[Music]\r
(crowd cheers)\r
\r
00:03.000 --> 00:04.000\r
&gt;&gt; JOHN:\u200b yes \u266a la \u266b well-known\r
\r
00:05.000 --> 00:06.000\r
so [laughter] no\r
\r
00:06.000 --> 00:07.000\r
{\\an8}a \u2013 b\r
"""
    words = words_of(write(tmp_path, "a.vtt", mark + text.encode()))
    assert [w for *_, w in words] == [
        "It's",
        "red,",
        "&",
        "big",
        "-5",
        "<3",
        "JOHN:",
        "yes",
        "la",
        "well-known",
        "a",
        "–",
        "b",
    ]
    assert words[0] == (1.0, 1.2, "It's") and words[6][:2] == (3.0, 3.2)


def test_manual_json3_is_lines(tmp_path):
    events = [
        {"tStartMs": 1000, "dDurationMs": 2000, "segs": [{"utf8": "Hello big\nworld,"}, {"utf8": " again"}]},
        {"tStartMs": 2500, "segs": [{"utf8": "then two"}]},
    ]
    words = words_of(write(tmp_path, "a.json3", json.dumps({"events": events})))
    assert [w for *_, w in words] == ["Hello", "big", "world,", "again", "then", "two"]
    assert words[3][1] == 2.5 and words[5][:2] == (3.5, 4.5)  # up to the next line's start; a second a word


def test_a_bracket_in_one_timed_word_drops_only_it(tmp_path):
    lines = [[(0.0, "[Music]")], [(5.0, "what"), (5.2, "[\u00a0__\u00a0]"), (5.4, "now")]]
    for name, form in (("a.json3", json3), ("a.vtt", youtube_vtt)):
        words = words_of(write(tmp_path, name, form(lines)))
        assert words == [(5.0, pytest.approx(5.2), "what"), (5.4, pytest.approx(6.4), "now")]


def test_lines_that_start_together_share_their_time_and_overlaps_end():
    words = lines_to_words([[[0, 4, "a b"], [0, 2, "c d"], [3, 9, "e"]]]).to_pylist()[0]
    assert [tuple(w.values()) for w in words] == [
        (0.0, 0.8, "a"),
        (0.8, 1.5, "b"),
        (1.5, 2.2, "c"),
        (2.2, 3.0, "d"),
        (3.0, 9.0, "e"),
    ]


def test_times_are_rounded_as_the_reference_rounds():
    rng = random.Random(0)
    lines = []
    for i in range(3000):
        start_s = round(i * 3 + rng.random() * 0.9, 2)
        words = [f"{i}.{j}" for j in range(rng.randint(1, 9))]
        lines.append([start_s, round(start_s + rng.random() * 2, 2), " ".join(words)])
    got = [tuple(w.values()) for w in lines_to_words([lines]).to_pylist()[0]]
    for start_s, end_s, text in lines:
        words = text.split()
        step_s = (end_s - start_s) / len(words)
        for i, word in enumerate(words):
            assert got.pop(0)[::2] == (round(start_s + i * step_s, 1), word)


def test_words_said_twice_in_a_line_are_dropped_as_in_the_reference():
    (words,) = lines_to_words([[[0, 3, "the the red Red ball"], [3, 4, "ball rolls"]]]).to_pylist()
    assert [w["word"] for w in words] == ["the", "red", "Red", "ball", "ball", "rolls"]


def test_inline_lines_of_many_videos_at_once():
    rows = [[[0, 1, "a b"]], None, [], [[5, 6, "[Music]"], [1, 2, "<i>c</i>"]]]
    expected = [["a", "b"], [], [], ["c"]]
    for given_rows in (
        rows,
        pa.array([r and [dict(zip(("start_s", "end_s", "text"), x)) for x in r] for r in rows], LINES),
    ):
        words = lines_to_words(given_rows)
        assert [[w["word"] for w in row] for row in words.to_pylist()] == expected
    assert lines_to_words([]).to_pylist() == []
    with pytest.raises(ValueError, match=r"row 1: .*word 0 is \[1, 'x'\]: expected \[start, end, word\]"):
        lines_to_words([[], [[1, "x"]]])
    with pytest.raises(ValueError, match="row 0: .*half of a character"):
        lines_to_words([[[1, 2, "\ud800"]]])
    with pytest.raises(ValueError, match="row 0: .*from 2.0 to 1.0 s"):
        lines_to_words([[[2, 1, "x"]]])


@pytest.mark.parametrize(
    ("name", "content", "reason", "message"),
    [
        ("a.vtt", b"", "empty_captions", "is empty"),
        ("a.vtt", b"WEBVTT\nKind: captions\n", "empty_captions", "no caption"),
        ("a.json3", b'{"events": [{"tStartMs": 0}]}', "empty_captions", "no caption"),
        ("a.srt", "1\n00:00:01,000 --> 00:00:02,000\nnaïve\n".encode("cp1252"), "caption_encoding", "byte 34"),
        ("a.vtt", "WEBVTT\n\n00:01.000 --> 00:02.000\nhi\n".encode("utf-16-le"), "caption_encoding", "NUL"),
        ("a.srt", b"1\n00:00:01,000 -> 00:00:02,000\nhi\n", "corrupt_captions", "is not a valid SRT file"),
        ("a.srt", b"1\n00:00:01,000 --> soon\nhi\n", "corrupt_captions", "--> soon"),
        ("a.srt", b"1\n00:00:03,000 --> 00:00:02,000\nhi\n", "corrupt_captions", "expected an end after its start"),
        ("a.srt", b"1\n0:0:0:1,0 --> 0:0:0:2,0\nhi\n", "corrupt_captions", "is not a time"),
        ("a.json", b'[[1, 2, "\\ud800"]]', "corrupt_captions", "half of a character"),
        ("a.json3", b'{"events": [', "corrupt_captions", "is not JSON"),
        ("a.json3", b'{"events": [{"tStartMs": "x", "segs": [{"utf8": "a"}]}]}', "corrupt_captions", "json3"),
        ("a.json3", b'{"events": [{"tStartMs": 1, "segs": [7]}]}', "corrupt_captions", "json3"),
        ("a.json3", b'{"events": [{"segs": [{"utf8": "a"}]}]}', "corrupt_captions", "has no start"),
        ("a.json3", b'{"events": null}', "corrupt_captions", "json3"),
        ("a.json3", b'{"events": []}', "empty_captions", "no caption"),
        ("a.mp4", b"\x00\x00\x00\x20ftypisom\xff\xfe", "caption_encoding", "UTF-8"),
        ("none.vtt", None, "no_captions", "does not exist"),
    ],
)
def test_unusable_files_have_a_reason(name, content, reason, message, tmp_path):
    if content is not None:
        write(tmp_path, name, content)
    with pytest.raises(CaptionError, match=message) as caught:
        read_captions(tmp_path / name)
    assert caught.value.reason == reason


def test_captions_without_a_word(tmp_path):
    for text in ("WEBVTT\n\n00:01.000 --> 00:02.000\n<00:00:01.500>\n", vtt([(1, 2, "[Music]"), (2, 3, "\u266a")])):
        assert words_of(write(tmp_path, "a.vtt", text)) == []
        assert Captions()(videos(1, captions=[str(tmp_path / "a.vtt")])).dropped["reason"].to_pylist() == ["few_words"]


def test_utf16_with_its_mark_and_old_line_ends_are_read(tmp_path):
    text = srt([(1, 2, "red ball"), (3, 4, "12")]).replace("\n", "\r")
    for encoding in ("utf-16", "utf-8-sig"):
        words = words_of(write(tmp_path, "a.srt", text.encode(encoding)))
        assert [w for *_, w in words] == ["red", "ball", "12"]


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


def test_training_reads_captions_the_same_way(tmp_path):
    for name, form in (("a.json3", json3), ("a.vtt", youtube_vtt), ("a.srt", youtube_srt)):
        words = read_words(write(tmp_path, name, form(LINES_SAID)))
        assert [word.text for word in words] == SAID
    assert read_words(write(tmp_path, "b.vtt", "WEBVTT\n")) == []


_WORD = st.sampled_from(["a", "the", "goal", "no", "yes", "ball,", "red", "it's", "1-0", "“he", "über"])


@st.composite
def said_lines(draw):
    """Lines of words with their starts, times to the millisecond."""
    lines, time_ms = [], draw(st.integers(0, 100_000))
    for words in draw(st.lists(st.lists(_WORD, min_size=1, max_size=6), min_size=1, max_size=8)):
        line = []
        for word in words:
            line.append((time_ms / 1000, word))
            time_ms += draw(st.integers(20, 3000))
        lines.append(line)
        time_ms += draw(st.integers(0, 8000))
    return lines


@given(said_lines())
@settings(max_examples=60, deadline=None)
def test_each_spoken_word_comes_once_in_order_and_on_time(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("captions")
    said = [(start_s, word) for line in lines for start_s, word in line]
    for name, form in (("a.json3", json3), ("a.vtt", youtube_vtt)):
        words = words_of(write(folder, name, form(lines)))
        if name == "a.vtt" and max(map(len, lines)) == 1:
            continue  # no time in the file says that it rolls
        assert [word for *_, word in words] == [word for _, word in said]
        assert [start_s for start_s, *_ in words] == pytest.approx([start_s for start_s, _ in said])
        assert all(start_s <= end_s <= start_s + 1.0 + 1e-9 for start_s, end_s, _ in words)
        assert all(a[1] <= b[0] + 1e-9 for a, b in pairwise(words))


@given(said_lines())
@settings(max_examples=60, deadline=None)
def test_rolling_lines_give_each_word_once_in_order(tmp_path_factory, lines):
    words = words_of(write(tmp_path_factory.mktemp("captions"), "a.srt", youtube_srt(lines)))
    # In a line, a word equal to the one before it is dropped.
    said = [word for line in lines for i, (_, word) in enumerate(line) if not i or line[i - 1][1] != word]
    assert [word for *_, word in words] == said
    times = np.array([word[:2] for word in words])
    assert (np.diff(times[:, 0]) >= 0).all() and (times[:, 1] >= times[:, 0]).all()


@given(st.sampled_from([json3, youtube_vtt, youtube_srt]), st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_files_never_fail_otherwise(tmp_path_factory, form, data):
    content = form(LINES_SAID)
    at = data.draw(st.integers(0, len(content)))
    junk = data.draw(st.text('<>&[]{}0:.,->\n\\"é', max_size=4))
    content = content[:at] + junk + content[at + data.draw(st.integers(0, 20)) :]
    path = write(tmp_path_factory.mktemp("captions"), f"a.{form.__name__.removeprefix('youtube_')}", content)
    try:
        words = words_of(path)
    except CaptionError:
        return
    assert all(0 <= start_s <= end_s and word for start_s, end_s, word in words)


def test_times_past_an_hour_and_without_hours(tmp_path):
    assert clock(3661.25) == "01:01:01.250"
    text = "WEBVTT\n\n59:59.500 --> 1:00:00.500\na b\n\n100:00:00.000 --> 100:00:01.000\nc\n"
    assert words_of(write(tmp_path, "a.vtt", text)) == [
        (3599.5, 3600.0, "a"),
        (3600.0, 3600.5, "b"),
        (360000.0, 360001.0, "c"),
    ]
