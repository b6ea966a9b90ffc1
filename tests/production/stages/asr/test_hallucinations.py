"""Rules against hallucinated words, on made-up words."""

import math

import pytest

from livecc_hf.production.stages.asr.hallucinations import HallucinationRules, HeardWord, Stretch

SENTENCE = "the red car overtakes the blue car on the last corner"
LENGTH_S = 60.0


def spoken(text: str, start_s: float = 0.0, word_s: float = 0.3, probability: float = 0.9) -> list[HeardWord]:
    """Return words one after the other."""
    words = text.split()
    return [
        HeardWord(start_s + i * word_s, start_s + (i + 1) * word_s, word, probability) for i, word in enumerate(words)
    ]


def stretch(words: list[HeardWord], ratio: float = 1.5, logprob: float = -0.2, no_speech: float = 0.1) -> Stretch:
    return Stretch(words, ratio, logprob, no_speech)


def passed(*stretches: Stretch, length_s: float = LENGTH_S, **limits) -> tuple[str, dict[str, tuple[int, float]]]:
    """Return the text that passes, and by reason the number of dropped words and the number that was compared."""
    words, lost = HallucinationRules(**limits).apply(stretches, length_s)
    assert all(item.detail.startswith(f"{item.n_lost} of {item.of} words; at ") and item.text for item in lost)
    return " ".join(word.text for word in words), {item.reason: (item.n_lost, item.value) for item in lost}


def test_plain_speech_passes():
    assert passed(stretch(spoken(SENTENCE)), stretch(spoken("she waits", 20))) == (f"{SENTENCE} she waits", {})
    assert passed() == passed(stretch([])) == ("", {})


@pytest.mark.parametrize(("ratio", "goes"), [(2.4, False), (2.41, True)])
def test_a_stretch_that_compresses_well_repeats_itself(ratio, goes):
    text, lost = passed(stretch(spoken(SENTENCE)), stretch(spoken("she waits", 20), ratio=ratio))
    assert lost == ({"repetitive": (2, ratio)} if goes else {})
    assert text == (SENTENCE if goes else f"{SENTENCE} she waits")
    assert passed(stretch(spoken("she waits"), ratio=9.0), compression_ratio_threshold=None) == ("she waits", {})


@pytest.mark.parametrize(
    ("no_speech", "logprob", "goes"), [(0.7, -1.1, True), (0.7, -0.9, False), (0.6, -1.1, False), (0.5, -3.0, False)]
)
def test_a_stretch_without_a_voice_is_silent_where_its_tokens_are_improbable_too(no_speech, logprob, goes):
    """Both conditions must hold, as in Whisper: each alone is common in speech."""
    of_noise = stretch(spoken("thank you", 20), logprob=logprob, no_speech=no_speech)
    assert passed(stretch(spoken(SENTENCE)), of_noise)[1] == ({"silent_stretch": (2, no_speech)} if goes else {})
    assert passed(of_noise, no_speech_threshold=None) == ("thank you", {})


def test_log_prob_threshold_can_be_left_out():
    quiet = stretch(spoken("thank you"), no_speech=0.7)
    assert passed(quiet, log_prob_threshold=None) == ("", {"silent_stretch": (2, 0.7)})


def test_words_after_the_end_of_the_sound_go():
    text, lost = passed(stretch(spoken(SENTENCE)), length_s=2.9)
    assert text == "the red car overtakes the blue car on the last"
    assert lost == {"words_past_end": (1, pytest.approx(0.1))}
    assert passed(stretch(spoken(SENTENCE)), length_s=2.9, max_past_end_s=None) == (SENTENCE, {})


@pytest.mark.parametrize(
    ("phrase", "times", "left"),
    [("go", 4, 4), ("go", 5, 1), ("I'm here.", 4, 4), ("Thank you very much!", 9, 1), ("no no yes", 5, 1)],
)
def test_what_is_said_too_often_in_a_row_is_kept_once(phrase, times, left):
    loop = " ".join([phrase] * times)
    text, lost = passed(stretch(spoken(f"and now {loop} then it ends")))
    n_gone = (times - left) * len(phrase.split())
    assert text == f"and now {' '.join([phrase] * left)} then it ends"
    assert lost == ({"looped_words": (n_gone, times)} if n_gone else {})
    assert passed(stretch(spoken(loop)), max_repeats=None)[1] == {}


def test_loops_are_found_over_stretches_without_case_and_punctuation():
    """A stretch with a single phrase does not compress."""
    stretches = [
        stretch(spoken(text, 10.0 * i)) for i, text in enumerate(("Thank you.", "thank you", "Thank you!") * 2)
    ]
    text, lost = passed(*stretches)
    assert (text, lost) == ("Thank you.", {"looped_words": (10, 6)})


def test_a_loop_that_breaks_off_in_its_midst_goes_to_its_end():
    text, _ = passed(stretch(spoken("one two three " * 6 + "one two now")))
    assert text == "one two three now"


def test_words_at_one_moment_go_but_not_two():
    """Short words of real speech sometimes have no duration, even two in a row."""
    instant = [HeardWord(3.3, 3.3, word, 0.9) for word in ("in", "a")]
    assert passed(stretch(spoken(SENTENCE) + instant)) == (f"{SENTENCE} in a", {})
    more = [*instant, HeardWord(3.3, 3.305, "big", 0.9)]
    assert passed(stretch(spoken(SENTENCE) + more)) == (SENTENCE, {"words_at_once": (3, 3)})
    assert passed(stretch(spoken(SENTENCE) + more), max_words_at_once=None)[1] == {}


@pytest.mark.parametrize(("word_s", "goes"), [(2.9, False), (3.1, True)])
def test_a_word_of_absurd_length_goes(word_s, goes):
    words = [*spoken(SENTENCE), HeardWord(3.3, 3.3 + word_s, "and", 0.9)]
    assert passed(stretch(words))[1] == ({"long_word": (1, pytest.approx(word_s))} if goes else {})
    assert passed(stretch(words), max_word_s=None)[1] == {}


@pytest.mark.parametrize(
    ("words", "score"),
    [
        (spoken("you", 20, probability=0.1), 1.0),
        (spoken("you", 20, word_s=0.02), 0.113 * 15),
        (spoken("thank you for watching and see you soon", 20, word_s=0.07), 8 * 0.063 * 15),
        (spoken("so", 20, word_s=3.0), 1.0),
        (spoken(".", 20), 0.0),  # says nothing
    ],
)
def test_odd_words_alone_between_silences_go(words, score):
    around = (stretch(spoken(SENTENCE)), stretch(spoken(SENTENCE, 40)))
    text, lost = passed(around[0], stretch(words), around[1])
    assert text == f"{SENTENCE} {SENTENCE}"
    assert lost == {"improbable_words": (len(words), pytest.approx(score))}
    assert passed(around[0], stretch(words), around[1], hallucination_silence_threshold=None)[1] == {}


@pytest.mark.parametrize(
    "words",
    [
        spoken("you", 20),  # likely
        spoken("you", 5.2, probability=0.1),  # 1.9 s after the sentence
        [*spoken("you", 20, probability=0.1), *spoken("turn left here", 20.3)],  # among likely ones
    ],
)
def test_likely_words_and_those_beside_others_stay(words):
    assert passed(stretch(spoken(SENTENCE)), stretch(words))[1] == {}


def test_rules_see_what_those_before_them_left():
    """A removed loop does not count as a neighbour: words that are isolated without it are judged as isolated."""
    odd = spoken("uh", 33.0, probability=0.1)
    loop = spoken("go " * 40, 20.0)
    assert set(passed(stretch(spoken(SENTENCE)), stretch(loop + odd))[1]) == {"looped_words", "improbable_words"}
    assert passed(stretch(spoken(SENTENCE)), stretch(loop + odd), max_repeats=None)[1] == {}


def test_the_worst_place_is_told():
    rules = HallucinationRules()
    calm, wild = stretch(spoken("a b c", 1.0), ratio=3.0), stretch(spoken("d e", 30.0), ratio=8.25)
    _, [lost] = rules.apply([calm, wild], LENGTH_S)
    worst = "the worst of 2 places: the text of the stretch compresses by a factor of 8.2"
    assert lost.detail == f"5 of 5 words; at 30.0 s, {worst}"
    assert (lost.value, lost.text) == (8.25, "d e")


def test_places_are_times_of_the_player():
    past_end = [HeardWord(70.0, 70.5, "thanks", 0.9)]
    _, [lost] = HallucinationRules().apply([stretch(past_end)], LENGTH_S, lambda time_s: time_s + 100)
    assert lost.detail == "1 of 1 word; at 170.0 s: the sound ends at 160.0 s"
    assert lost.value == 10.0  # seconds between the two


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("compression_ratio_threshold", 0.5, "0.5: expected a ratio above 1"),
        ("no_speech_threshold", 60, "60: expected a probability from 0 to 1"),
        ("log_prob_threshold", 1.0, "1.0: expected a log probability"),
        ("hallucination_silence_threshold", 0, "0: expected seconds above 0"),
        ("max_past_end_s", -0.5, "-0.5: expected seconds, 0 or more"),
        ("max_repeats", 0, "0: expected at least 1"),
        ("max_words_at_once", -1, "-1: expected at least 1"),
        ("max_word_s", math.nan, "nan: expected seconds above 0"),
    ],
)
def test_limits_are_checked(name, value, message):
    with pytest.raises(ValueError, match=f"{name} is {message}.*, or null to switch the rule off"):
        HallucinationRules(**{name: value}).check()
