"""When and what the narrator speaks."""

import pytest

from livecc_hf.tiny.narration import NARRATORS, narrate, sentence
from livecc_hf.tiny.scene import VERBS, Event


def test_sentences():
    assert sentence(Event(1.0, "bounces", "red", "ball")) == "Red ball bounces."
    assert sentence(Event(1.0, "hits", "red", "ball", "square")) == "Red ball hits square."


def test_words_come_after_the_event_on_the_beat_and_one_after_the_other():
    words = narrate([Event(1.55, "hits", "red", "ball", "square")], 20)
    assert words == [(2.5, 2.75, "Red"), (2.75, 3.0, "ball"), (3.0, 3.25, "hits"), (3.25, 3.5, "square.")]


def test_the_reaction_time_counts():
    assert narrate([Event(1.4, "stops", "red", "ball")], 20)[0][0] == 1.5
    assert narrate([Event(1.45, "stops", "red", "ball")], 20)[0][0] == 2.5


def test_an_event_waits_for_the_sentence_before_it():
    events = [Event(1.0, "moves", "red", "ball"), Event(1.3, "stops", "red", "ball")]
    starts_s = [start_s for start_s, _, word in narrate(events, 20) if word == "Red"]
    assert starts_s == [1.5, 2.5]


def test_words_past_the_end_are_not_spoken():
    words = narrate([Event(1.0, "moves", "red", "ball")], 2)
    assert [word for _, _, word in words] == ["Red", "ball"]


def test_the_other_narrator_says_it_differently_at_the_same_times():
    events = [Event(1.0, "moves", "red", "ball"), Event(4.0, "hits", "red", "ball", "square")]
    assert sentence(events[1], "other") == "Red ball strikes square."
    plain, other = narrate(events, 20), narrate(events, 20, "other")
    assert [word[:2] for word in plain] == [word[:2] for word in other]
    assert [(a, b) for (*_, a), (*_, b) in zip(plain, other, strict=True) if a != b] == [
        ("moves.", "glides."),
        ("hits", "strikes"),
    ]


@pytest.mark.parametrize("narrator", NARRATORS)
def test_a_narrator_has_a_verb_of_its_own_for_every_event(narrator):
    assert set(NARRATORS[narrator]) == set(VERBS)
    assert len(set(NARRATORS[narrator].values())) == len(VERBS)


def test_the_other_narrator_shares_no_verb_with_the_first():
    assert not set(NARRATORS["other"].values()) & set(VERBS)


def test_an_unknown_narrator_is_an_error():
    with pytest.raises(ValueError, match="'loud'.*plain, other"):
        narrate([Event(1.0, "moves", "red", "ball")], 20, "loud")
