"""When and what the narrator speaks."""

from livecc_hf.tiny.narration import narrate, sentence
from livecc_hf.tiny.scene import Event


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
