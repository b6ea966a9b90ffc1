"""Words become turns: each is spoken once, in the turn in which it ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livecc_hf.captions import turns
from livecc_hf.modeling.grammar import STREAMINGVLM


def test_turns_cover_the_stream_without_gaps():
    spans = turns.split_turns(12)
    assert [(s.first_frame, s.n_frames, s.start_s, s.end_s) for s in spans] == [
        (0, 6, 0.0, 3.0), (6, 2, 3.0, 4.0), (8, 2, 4.0, 5.0), (10, 2, 5.0, 6.0)
    ]  # fmt: skip
    assert [(s.n_frames, s.end_s) for s in turns.split_turns(4)] == [(4, 3.0)]


@pytest.mark.parametrize("n_frames", [0, -2, 7])
def test_an_invalid_number_of_frames_is_refused(n_frames):
    with pytest.raises(ValueError, match=f"got {n_frames} frames"):
        turns.split_turns(n_frames)


@given(st.data())
def test_every_word_is_spoken_once_or_counted_as_cut(data):
    n_words = data.draw(st.integers(0, 30))
    gaps = data.draw(st.lists(st.floats(0.01, 3), min_size=n_words, max_size=n_words))
    ends, now = [], 0.0
    for gap in gaps:
        now += gap
        ends.append(now)
    words = [(end - 0.01, end, f"w{i}") for i, end in enumerate(ends)]
    n_turns = data.draw(st.integers(1, 30))
    last_s = sorted(data.draw(st.lists(st.floats(0, 60), min_size=n_turns, max_size=n_turns)))
    by_turn, n_cut = turns.assign_words(words, last_s)
    spoken = [word for turn in by_turn for word in turn]
    assert spoken == [word for _, end, word in words if end <= last_s[-1]]
    assert len(spoken) + n_cut == n_words
    for turn, limit_s, before_s in zip(by_turn, last_s, [float("-inf"), *last_s], strict=False):
        for word in turn:
            assert before_s < ends[int(word[1:])] <= limit_s


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["The", "ball", "rolls."], "The ball rolls."),
        (["今天", "的", "比赛", "精彩。", "主队", "好！"], "今天的比赛精彩。主队好！"),
        (["การ", "แข่งขัน", "ดี"], "การแข่งขันดี"),
        (["우리", "팀이", "이겼다"], "우리 팀이 이겼다"),
        (["OK", "今天", "的", "VAR", "说"], "OK 今天的 VAR 说"),
        (["Über", "größer"], "Über größer"),
        ([], ""),
    ],
)
def test_words_are_joined_as_they_are_written(words, text):
    assert turns.join_words(words) == text
    assert turns.spoken_text(words) == text + " ..."


def test_turns_of_streamingvlm_last_one_second():
    spans = turns.split_turns(6, STREAMINGVLM)
    assert [(s.first_frame, s.n_frames, s.start_s, s.end_s) for s in spans] == [
        (0, 2, 0.0, 1.0), (2, 2, 1.0, 2.0), (4, 2, 2.0, 3.0)
    ]  # fmt: skip
    words = [(0.0, 0.9, "a"), (0.9, 1.0, "b"), (1.0, 1.1, "c")]
    assert turns.assign_words(words, [0.5, 1.5, 2.5], STREAMINGVLM) == ([["a", "b"], ["c"], []], 0)
    assert turns.assign_words(words, [0.5, 1.5, 2.5]) == ([[], ["a", "b", "c"], []], 0)
