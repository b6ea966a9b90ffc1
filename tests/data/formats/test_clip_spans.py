"""Long narrated videos are split into clips: each word in exactly one, none too long, and without long silences."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livecc_hf.captions.words import Word, checked_words
from livecc_hf.data.formats.clip_spans import PREVIOUS_WORDS, split_into_clips
from livecc_hf.data.formats.folder import open_folder
from livecc_hf.data.unusable import UnusableSample


def said(*times):
    return [Word(start, end, f"w{i}") for i, (start, end) in enumerate(times)]


@st.composite
def narration(draw):
    """Words that may overlap, as in captions, sorted by their ends."""
    at, items = 0.0, []
    for index in range(draw(st.integers(0, 40))):
        at += draw(st.sampled_from([-2, 0, 0.3, 1, 5, 20, 31, 400]))
        length = draw(st.sampled_from([0, 0.2, 1, 9, 300]))
        items.append((max(at, 0), max(at, 0) + length, f"w{index}"))
    return checked_words(items, "test")


@given(
    words=narration(),
    max_s=st.sampled_from([4, 30, 240]),
    min_s=st.sampled_from([0, 2, 4]),
    max_gap_s=st.sampled_from([1, 10, 30]),
)
def test_every_word_is_in_one_clip_and_can_be_spoken_there(words, max_s, min_s, max_gap_s):
    clips = split_into_clips(words, max_s=max_s, min_s=min_s, max_gap_s=max_gap_s)
    assert [word for clip in clips for word in clip.words] == words
    for index, clip in enumerate(clips):
        assert clip.words
        assert 0 <= clip.start_s < clip.end_s <= clip.start_s + max_s + 1e-9
        assert clip.end_s == clip.words[-1].end_s + 0.5
        # No word of the clip counts as spoken before it.
        assert all(word.end_s > clip.start_s or word.start_s >= clip.start_s for word in clip.words)
        free_s = clips[index - 1].end_s if index else 0.0
        assert clip.end_s - clip.start_s >= min(min_s, clip.end_s - free_s) - 1e-9
        before = [word.text for earlier in clips[:index] for word in earlier.words]
        assert clip.previous == (" ".join(before[-PREVIOUS_WORDS:]) or None)
        gaps = [b.start_s - a.end_s for a, b in zip(clip.words, clip.words[1:], strict=False)]
        assert all(gap <= max_gap_s for gap in gaps)


def test_a_clip_is_as_long_as_it_may_be():
    words = said(*((k, k + 1.0) for k in range(600)))
    clips = split_into_clips(words)
    assert [(clip.start_s, clip.end_s) for clip in clips] == [(0, 239.5), (239, 478.5), (478, 600.5)]


def test_silence_is_in_no_clip_and_short_clips_begin_in_it():
    clips = split_into_clips(said((5, 6), (7200, 7201), (7202, 7203)), min_s=10)
    assert [(clip.start_s, clip.end_s) for clip in clips] == [(0, 6.5), (7193.5, 7203.5)]
    assert clips[1].previous == "w0"


def test_the_shortest_clip_follows_the_longest():
    assert [(c.start_s, c.end_s) for c in split_into_clips(said((8, 9)), max_s=5)] == [(4.5, 9.5)]


def test_previous_text_is_limited():
    words = said(*((k, k + 1.0) for k in range(800)))
    assert split_into_clips(words)[-1].previous.split() == [f"w{k}" for k in range(717 - 512, 717)]


@pytest.mark.parametrize("limits", [{"max_s": 3}, {"min_s": 300}, {"max_gap_s": 0}, {"min_s": -1}])
def test_invalid_limits_are_refused(limits, tmp_path):
    for cut in (lambda: split_into_clips([], **limits), lambda: open_folder(tmp_path, **limits)):
        with pytest.raises(ValueError, match="expected 0 <= min_s <= max_s"):
            cut()


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path):
        long = "".join(f"{k // 60:02}:{k % 60:02}.000 --> {k // 60:02}:{k % 60:02}.900\nw{k}\n\n" for k in range(500))
        captions = {"a.vtt": f"WEBVTT\n\n{long}", "b.json": '[[1, 2, "x"]]', "c.json": "[]", "d.json": "{oops"}
        for name, text in captions.items():
            (tmp_path / name).write_text(text)
            (tmp_path / name).with_suffix(".mp4").write_text("")
        (tmp_path / "e.mp4").write_text("")
        return tmp_path

    def test_clips_are_reached_by_number(self, folder):
        clips = open_folder(folder, max_s=200)
        assert clips.rows.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [2, 0], [3, 0]]
        assert clips.rows.dtype == np.int32
        assert [path.name for path in clips.bare] == ["e.mp4"]
        loaded = [clips.load(row, query="Go.") for row in range(4)]
        assert [word.text for clip in loaded[:3] for word in clip.words] == [f"w{k}" for k in range(500)]
        assert loaded[0].previous is None
        assert loaded[1].previous.endswith(f"w{len(loaded[0].words) - 1}")
        assert {clip.video for clip in loaded} == {str(folder / "a.mp4"), str(folder / "b.mp4")}
        assert (loaded[3].start_s, loaded[3].end_s, loaded[3].query) == (0, 2.5, "Go.")

    def test_captions_without_words_keep_a_row(self, folder):
        clips = open_folder(folder)
        reasons = []
        for row in (-2, -1):
            with pytest.raises(UnusableSample) as error:
                clips.load(len(clips) + row)
            reasons.append(error.value.reason)
        assert reasons == ["no_words", "malformed"]
        with pytest.raises(IndexError, match=f"clip {len(clips)} of "):
            clips.load(len(clips))

    def test_captions_that_change_are_noticed(self, folder):
        clips = open_folder(folder)
        (folder / "a.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\nnew\n")
        assert clips.load(0).words[0].text == "new"
        with pytest.raises(UnusableSample, match="has changed"):
            clips.load(1)
        (folder / "a.vtt").unlink()
        with pytest.raises(UnusableSample, match="do not exist") as error:
            clips.load(0)
        assert error.value.reason == "missing_file"
