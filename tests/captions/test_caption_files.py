"""Caption files as found in practice: each format has its own rules, and an invalid item is skipped alone."""

import json

import numpy as np
import pyarrow as pa
import pytest
import srt as srt_library
import webvtt

from livecc_hf.captions import segmentation
from livecc_hf.captions.cleaning import count_distinct
from livecc_hf.captions.files import CaptionError, file_words, read_captions, read_words
from livecc_hf.captions.spoken import clean_text
from livecc_hf.captions.turns import join_words
from livecc_hf.captions.words import filled_times
from livecc_hf.production.schemas import words_array


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def said(path):
    return [word for *_, word in file_words(read_captions(path))]


def srt(*texts):
    return "\n".join(f"{i}\n00:00:{i:02},000 --> 00:00:{i + 1:02},000\n{text}\n" for i, text in enumerate(texts, 1))


def vtt(*blocks):
    return "\n\n".join(("WEBVTT", *blocks)) + "\n"


class TestSubRip:
    def test_text_extends_to_the_next_timing_line(self, tmp_path):
        words = file_words(read_captions(write(tmp_path, "a.srt", srt("Hello big\n\nworld of sport", "Bye now"))))
        assert " ".join(word for *_, word in words) == "Hello big world of sport Bye now"
        assert words[4][:2] == pytest.approx((1.8, 2.0))

    def test_numbers_in_the_text_are_words(self, tmp_path):
        assert said(write(tmp_path, "a.srt", srt("12", "3\n4"))) == ["12", "3", "4"]

    def test_an_arrow_in_the_text_is_text(self, tmp_path):
        assert said(write(tmp_path, "a.srt", srt("from A --> B", "then"))) == ["from", "A", "-->", "B", "then"]

    def test_without_numbers_empty_lines_and_milliseconds(self, tmp_path):
        text = "00:00:01 --> 00:00:02\none\n00:00:02,5 --> 00:00:03\ntwo\n"
        assert file_words(read_captions(write(tmp_path, "a.srt", text))) == [(1.0, 2.0, "one"), (2.5, 3.0, "two")]

    def test_times_of_a_hundred_hours_and_of_microseconds(self, tmp_path):
        text = "1\n100:00:01.500000 --> 100:00:02.250000\none\n"
        first = 360_001.5
        assert file_words(read_captions(write(tmp_path, "a.srt", text))) == [(first, first + 0.75, "one")]
        timed = "100:00:01.500000 --> 100:00:02.250000\none<100:00:02.000000><c> two</c>"
        words = file_words(read_captions(write(tmp_path, "a.vtt", vtt(timed))))
        assert words == [(first, first + 0.5, "one"), (first + 0.5, first + 0.75, "two")]

    def test_line_ends_that_were_converted_twice(self, tmp_path):
        path = tmp_path / "a.srt"
        path.write_bytes(srt("one", "two").replace("\n", "\r\r\n").encode())
        assert said(path) == ["one", "two"]

    @pytest.mark.parametrize(
        "wrong",
        [
            "00:00:02,000 --> soon",
            "00:00:09,000 --> 00:00:02,000",
            "0:0:0:2,0 --> 0:0:0:3,0",
            "-00:00:02,000 --> 00:00:03,000",
            "00:00:02,000 --> -00:00:03,000",
        ],
    )
    def test_a_cue_with_invalid_times_is_skipped_and_reported(self, tmp_path, wrong):
        text = srt("one", "two", "three").replace("00:00:02,000 --> 00:00:03,000", wrong)
        captions = read_captions(write(tmp_path, "a.srt", text))
        assert [word for *_, word in file_words(captions)] == ["one", "three"]
        assert captions.lost[:2] == (1, 3)
        assert "a.srt: " in captions.lost.example

    def test_plain_files_read_as_the_srt_library_reads_them(self, tmp_path):
        text = srt("one two", "<i>three</i>\nfour", "five")
        cues = srt_library.parse(text)
        theirs = [word for cue in cues for word in cue.content.replace("<i>", "").replace("</i>", "").split()]
        assert said(write(tmp_path, "a.srt", text)) == theirs


class TestWebVtt:
    def test_an_empty_line_ends_the_text(self, tmp_path):
        text = vtt("00:01.000 --> 00:02.000\none", "not shown", "NOTE nor\nthis", "00:02.000 --> 00:03.000\ntwo")
        path = write(tmp_path, "a.vtt", text)
        assert said(path) == ["one", "two"]
        assert [cue.text for cue in webvtt.read(path)] == ["one", "two"]

    def test_the_identifier_of_the_next_cue_is_not_the_text_of_an_empty_one(self, tmp_path):
        empty = vtt("first\n00:01.000 --> 00:02.000\n", "second\n00:02.000 --> 00:03.000\ntwo")
        assert said(write(tmp_path, "a.vtt", empty)) == ["two"]

    def test_exact_repeats_count_once(self, tmp_path):
        cue = "00:04.000 --> 00:06.000\nthe ball is in"
        others = [f"00:{i:02}.000 --> 00:{i + 1:02}.000\nso{i}" for i in range(10, 20)]
        text = vtt("00:01.000 --> 00:03.000\nHello", cue, cue, "00:07.000 --> 00:08.000\nthe ball is in", cue, *others)
        words = file_words(read_captions(write(tmp_path, "a.vtt", text)))
        assert " ".join(word for *_, word in words[:10]) == "Hello the ball is in the ball is in so10"
        assert words[1][:2] == (4.0, 4.5) and words[4][1] == 6.0

    @pytest.mark.parametrize(("second", "start_s"), [(900_000, 1.0), (1_800_000, 11.0)])
    def test_joined_segments_keep_their_clocks(self, tmp_path, second, start_s):
        """Segments need no blank line between them, and their offsets are relative to the first one."""
        head = "WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:900000,LOCAL:00:00:00.000\n\n00:00.000 --> 00:01.000\none\n"
        more = f"\ufeffWEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:{second}\n\n00:01.000 --> 00:02.000\ntwo\n"
        words = file_words(read_captions(write(tmp_path, "a.vtt", head + more)))
        assert words == [(0.0, 1.0, "one"), (start_s, start_s + 1, "two")]

    def test_the_clock_of_a_stream_wraps(self, tmp_path):
        text = "\n".join(
            f"WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:{ticks},LOCAL:00:00:00.000\n\n00:00.000 --> 00:01.000\n{word}\n"
            for word, ticks in (("one", 2**33 - 90_000), ("two", 90_000))
        )
        assert file_words(read_captions(write(tmp_path, "a.vtt", text))) == [(0.0, 1.0, "one"), (2.0, 3.0, "two")]

    def test_an_invalid_time_tag_is_ignored(self, tmp_path):
        text = vtt("00:01.000 --> 00:02.000\nhi<1:2:3:4.5> you<00:01.500> there")
        assert file_words(read_captions(write(tmp_path, "a.vtt", text))) == [
            (1.0, 1.25, "hi"), (1.25, 1.5, "you"), (1.5, 2.0, "there")
        ]  # fmt: skip

    def test_repeated_cues_with_word_times_are_read_once(self, tmp_path):
        cue = "00:01.000 --> 00:02.000\nhi<00:01.500> there"
        other = "00:05.000 --> 00:06.000\nso<00:05.500> far"
        assert said(write(tmp_path, "a.vtt", vtt(cue, other, cue, other))) == ["hi", "there", "so", "far"]

    def test_a_cue_with_invalid_times_is_skipped_and_reported(self, tmp_path):
        text = vtt("00:01.000 --> 00:02.000\none", "00:02.000 --> never\ntwo", "00:03.000 --> 00:04.000\nthree")
        captions = read_captions(write(tmp_path, "a.vtt", text))
        assert [word for *_, word in file_words(captions)] == ["one", "three"]
        assert str(captions.lost).startswith("1 of 3 lost: ") and "'00:02.000 --> never'" in str(captions.lost)


class TestJson3:
    def event(self, start_ms, *words, length_ms=1000):
        segments = [{"utf8": word, "tOffsetMs": 100 * i} for i, word in enumerate(words)]
        return {"tStartMs": start_ms, "dDurationMs": length_ms, "segs": segments}

    @pytest.mark.parametrize(
        "wrong",
        [7, {"tStartMs": "x", "segs": [{"utf8": "a"}]}, {"segs": [{"utf8": "a"}]}, {"tStartMs": 1, "segs": [5]}],
    )
    def test_an_invalid_event_is_skipped_alone(self, tmp_path, wrong):
        events = [self.event(0, "hello", " you"), wrong, self.event(2000, "bye")]
        captions = read_captions(write(tmp_path, "a.json3", json.dumps({"events": events})))
        assert [word for *_, word in file_words(captions)] == ["hello", "you", "bye"]
        assert captions.lost[:2] == (1, 3)

    def test_repeated_events_count_once(self, tmp_path):
        events = [self.event(0, "hello", " you"), self.event(0, "hello", " you"), self.event(1000, "hello", " you")]
        words = file_words(read_captions(write(tmp_path, "a.json3", json.dumps({"events": events}))))
        assert [(start_s, word) for start_s, _, word in words] == [
            (0.0, "hello"), (0.1, "you"), (1.0, "hello"), (1.1, "you")
        ]  # fmt: skip


class TestRecognisers:
    def words(self, tmp_path, value):
        return [tuple(word) for word in read_words(write(tmp_path, "a.json", json.dumps(value)))]

    def test_a_word_without_times_lies_between_its_neighbours(self, tmp_path):
        words = [
            {"word": "in", "start": 9.5, "end": 9.9},
            {"word": "2014."},
            {"word": "he", "start": 10.5, "end": 10.9},
        ]
        value = {"segments": [{"start": 9.0, "end": 11.0, "text": "in 2014. he", "words": words}]}
        assert self.words(tmp_path, value) == [(9.5, 9.9, "in"), (9.9, 10.5, "2014."), (10.5, 10.9, "he")]

    @pytest.mark.parametrize("words", [[], None, [{"word": "one"}, {"word": "two"}]])
    def test_a_segment_without_timed_words_is_a_line(self, tmp_path, words):
        value = {"words": [], "segments": [{"start": 1, "end": 2, "text": "one two", "words": words}]}
        value["segments"].append({"start": 2, "end": 3, "text": "three", "words": [[2, 2.5, "three"]]})
        assert self.words(tmp_path, value) == [(1.0, 1.5, "one"), (1.5, 2.0, "two"), (2.0, 2.5, "three")]

    def test_segments_are_bounds(self, tmp_path):
        words = [{"word": "20"}, {"word": "goals", "start": 5.0, "end": 5.5}, {"word": "30"}]
        segments = [{"start": 4.6, "end": 5.7, "words": words}, {"start": 9, "end": 9.5, "words": [[9, 9.5, "so"]]}]
        assert self.words(tmp_path, {"segments": segments}) == [
            (4.6, 5.0, "20"), (5.0, 5.5, "goals"), (5.5, 5.7, "30"), (9.0, 9.5, "so")
        ]  # fmt: skip

    def test_chunks_of_a_pipeline(self, tmp_path):
        chunks = [{"text": " red ball", "timestamp": [0.0, 1.0]}, {"text": " stops", "timestamp": [1.0, None]}]
        assert self.words(tmp_path, {"text": "red ball stops", "chunks": chunks}) == [
            (0.0, 0.5, "red"), (0.5, 1.0, "ball"), (1.0, 2.0, "stops")
        ]  # fmt: skip

    def test_given_words_are_not_changed(self, tmp_path):
        """Overlaps, repeats, times to the millisecond and hyphens."""
        words = [[0.123, 1.5, "-10"], [1.0, 1.2, "-ish"], [1.2, 1.2, "no"], [1.2, 1.2, "no"], [1.3, 4.0, "(ha"]]
        assert sorted(self.words(tmp_path, {"words": words})) == sorted(map(tuple, words))

    def test_an_invalid_item_is_skipped_alone(self, tmp_path):
        words = [
            [0, 1, "one"],
            7,
            {"start": 2, "end": 1, "word": "x"},
            [1, 2, "\ud800"],
            [2, 3, "two"],
            [0, 1e999, "y"],
        ]
        captions = read_captions(write(tmp_path, "a.json", json.dumps({"words": words})))
        assert captions.text.to_pylist() == ["one", "two"]
        assert captions.lost[:2] == (4, 6) and "word 1 is 7: expected [start, end, word]" in captions.lost.example

    def test_malformed_segments_are_read_as_far_as_possible(self, tmp_path):
        segments = [
            {"start": 0, "end": 1, "text": "one", "words": 7},
            {"start": 10**400, "end": 2, "words": [{"word": "two", "start": 1.0, "end": 1.5}]},
        ]
        assert self.words(tmp_path, {"segments": segments}) == [(0.0, 1.0, "one"), (1.0, 1.5, "two")]

    @pytest.mark.parametrize("text", ["[" * 100_000, "[[1" + "0" * 5000 + ', 2, "x"]]'])
    def test_json_that_python_cannot_read_is_one_clear_error(self, tmp_path, text):
        for name in ("a.json", "a.json3"):
            with pytest.raises(CaptionError, match=f"{name} is not JSON"):
                read_captions(write(tmp_path, name, text))

    def test_words_without_any_time_are_an_error(self, tmp_path):
        with pytest.raises(CaptionError, match="word 0 "):
            read_captions(write(tmp_path, "a.json", json.dumps({"words": [{"word": "one"}, {"word": "two"}]})))


def test_unknown_times_are_filled_in():
    nan = np.nan
    start_s, end_s = np.array([nan, nan, 4.0, nan, 9.0]), np.array([nan, 3.0, nan, 6.0, nan])
    starts, ends = filled_times(start_s, end_s, np.full((5, 2), nan))
    assert list(zip(starts, ends)) == [(1.0, 2.0), (2.0, 3.0), (4.0, 5.0), (5.0, 6.0), (9.0, 10.0)]
    assert np.isnan(start_s).sum() == 3  # the arguments are not changed in place


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("(upbeat music\nplaying)", ""),
        ("[upbeat music\nand some more\nplaying]", ""),
        ("(sighs) I think so (door slams)", "I think so"),
        ("(laughs) Bye now", "Bye now"),
        ("ANN: (laughs) hi", "ANN: hi"),
        ("- (laughs) Bye\n(music) (more).", "Bye"),
        ("He said (and I\nagree) yes", "He said (and I agree) yes"),
        ("(2014) was good", "(2014) was good"),
        ("（笑）こんにちは\n【音楽】", "こんにちは"),
        ("- Hi.\n– Hello.\n—Yes.\n‐ No.\n―Oui.\n−Non.\n－ Ja", "Hi. Hello. Yes. No. Oui. Non. Ja"),
        ("- Hi. - Hello! -Yes", "Hi. Hello! Yes"),
        ("-5 and - 5\n−7", "-5 and - 5 −7"),
        ("a – b, well-known", "a – b, well-known"),
        ("---\n-", ""),
        ("Hello<br>there<BR />you<p>now</p>", "Hello there you now"),
        (r"{\an8}{\i1}Hello{\i0} there\Nfriend\hnow", "Hello there friend now"),
        ("<v Ann>Hi</v><v.loud Bob>you</v>", "Hi you"),
        ("<ruby>漢<rt>kan</rt></ruby>字", "漢字"),
        ("من می\u200cخواهم", "من می\u200cخواهم"),
        ("ශ්\u200dරී \U0001f468\u200d\U0001f469", "ශ්\u200dරී \U0001f468\u200d\U0001f469"),
        ("a\u200bb\u200e \ufeffc\u2066d\u2069", "ab cd"),
    ],
)
def test_spoken_text(text, spoken):
    [cleaned] = clean_text(pa.array([text])).to_pylist()
    assert " ".join(cleaned.split()) == spoken


class TestScriptsWithoutSpaces:
    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("今天的比赛非常精彩。主队进球了！", ["今天", "的", "比赛", "非常", "精彩。"]),
            ("今日の試合はとても「楽しい」です。", ["今日", "の", "試合", "は", "とても"]),
            ("การแข่งขันวันนี้สนุกมาก", ["การ", "แข่งขัน", "วัน", "นี้", "สนุก", "มาก"]),
            ("well-known中文OK了", ["well-known", "中文", "OK", "了"]),
        ],
    )
    def test_a_line_is_segmented_into_words(self, tmp_path, text, words):
        found = file_words(read_captions(write(tmp_path, "a.srt", srt(text))))
        spoken = [word for *_, word in found]
        assert "".join(spoken) == text and spoken[: len(words)] == words
        assert found[0][:2] == pytest.approx((1.0, 1.0 + 1 / len(found)))

    def test_given_words_are_not_segmented(self, tmp_path):
        words = [[0, 1, "今天的"], [1, 2, "比赛"]]
        assert said(write(tmp_path, "a.json", json.dumps(words))) == ["今天的", "比赛"]
        lines = [[0, 1, "今天的比赛非常精彩主队进球了"], [1, 2, "好"]]
        assert said(write(tmp_path, "b.json", json.dumps(lines)))[:3] == ["今天", "的", "比赛"]

    def test_without_the_extra_one_error_says_what_to_install(self, tmp_path, monkeypatch):
        def missing(*names):
            raise segmentation.MissingExtraError('needs icu4py: pip install ".[segment]"')

        monkeypatch.setattr(segmentation, "require_extra", missing)
        with pytest.raises(ImportError, match=r"needs icu4py: pip install"):
            read_words(write(tmp_path, "a.srt", srt("今天的比赛非常精彩。")))
        names = write(tmp_path, "b.srt", srt("the player 王 scores", "and again"))
        assert [word.text for word in read_words(names)] == ["the", "player", "王", "scores", "and", "again"]

    def test_distinct_words_are_counted(self):
        assert count_distinct(words_array([[(0, 1, "精彩。"), (1, 2, "精彩"), (2, 3, "。")]])).tolist() == [1]

    def test_joined_text_has_no_spaces_in_unspaced_scripts(self):
        """Arrow columns and the streaming grammar join words alike."""
        texts = ["今 天 的 比赛 精彩。 主队 好", "the ball 王 scores", "การ แข่งขัน ดี", "우리 팀이 이겼다", "a b", ""]
        joined = segmentation.without_needless_spaces(pa.array(texts)).to_pylist()
        assert joined == [join_words(text.split(" ")) for text in texts]
        assert joined[:3] == ["今天的比赛精彩。主队好", "the ball 王 scores", "การแข่งขันดี"]
        assert segmentation.word_pieces("so  far 王好 ok") == ["so", " far", " 王", "好", " ok"]
