"""Caption files as YouTube and yt-dlp write them become timed words, each once and in order."""

import json
import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from caption_samples import (
    LINES_SAID,
    SAID,
    clock,
    json3,
    line_end_s,
    lines_to_words,
    srt,
    vtt,
    write,
    youtube_srt,
    youtube_vtt,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from livecc_hf.captions.arrow import LINES
from livecc_hf.captions.files import CaptionError, file_words, read_captions, read_words


def words_of(path, round_s=0.1):
    return file_words(read_captions(path), round_s)


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


def test_utf16_with_its_mark_and_old_line_ends_are_read(tmp_path):
    text = srt([(1, 2, "red ball"), (3, 4, "12")]).replace("\n", "\r")
    for encoding in ("utf-16", "utf-8-sig"):
        words = words_of(write(tmp_path, "a.srt", text.encode(encoding)))
        assert [w for *_, w in words] == ["red", "ball", "12"]


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
