"""The scorer of the synthetic world, on cases made by hand."""

import pytest

from livecc_hf.evaluation.tiny.commentary import Evaluation
from livecc_hf.evaluation.tiny.scoring import NarrationScore, SpokenTurn, score_clip, spoken_phrases
from livecc_hf.tiny.narration import NARRATORS, narrate
from livecc_hf.tiny.scene import Event
from livecc_hf.tiny.world import simulate

MOVES = Event(4.0, "moves", "red", "ball")


def score(said: dict[float, str], events: list[Event], until_s: int = 20) -> NarrationScore:
    return score_clip([SpokenTurn(k + 0.5, said.get(k + 0.5, "")) for k in range(2, until_s)], events)


def test_told_in_time():
    result = score({5.5: "Red ball moves."}, [MOVES])
    assert (result.recall, result.precision) == (1.0, 1.0)


@pytest.mark.parametrize(
    "said",
    [
        {7.5: "Red ball moves."},  # 3.5 s late
        {3.5: "Red ball moves."},  # before it happened
        {5.5: "Blue ball moves."},
        {5.5: "Red square moves."},
        {5.5: "Red ball stops."},
        {5.5: "Red ball."},
    ],
)
def test_wrong_or_late_does_not_count(said):
    result = score(said, [MOVES])
    assert result.recall == 0.0
    assert result.precision == (1.0 if said == {5.5: "Red ball."} else 0.0)


def test_an_event_is_used_once():
    result = score({5.5: "Red ball moves.", 6.5: "Red ball moves."}, [MOVES])
    assert (result.recall, result.precision) == (1.0, 0.5)


def test_two_events_need_two_phrases():
    events = [MOVES, Event(5.0, "moves", "red", "ball")]
    assert score({5.5: "Red ball moves."}, events).recall == 0.5
    assert score({5.5: "Red ball moves. Red ball moves."}, events).recall == 1.0


def test_a_phrase_may_run_over_a_turn_and_counts_where_it_ends():
    turns = [SpokenTurn(5.5, "Red ball"), SpokenTurn(6.5, ""), SpokenTurn(7.5, "moves. Blue")]
    assert spoken_phrases(turns) == [(7.5, "red", "ball", "moves")]


def test_silence_counts_turns_without_an_event_in_the_last_five_seconds():
    result = score({}, [MOVES], until_s=12)  # turns at 2.5 ... 11.5; 4.5 to 8.5 are not quiet
    assert (result.quiet_turns, result.silence) == (5, 1.0)
    result = score({10.5: "Hm."}, [MOVES], until_s=12)
    assert result.silence == pytest.approx(0.8)


def test_scores_add_up():
    total = score({5.5: "Red ball moves."}, [MOVES])
    total.add(score({}, [MOVES]))
    assert total.recall == 0.5
    assert total.by_verb()["moves"] == {"events": 2, "recall": 0.5, "phrases": 1, "precision": 1.0}


@pytest.mark.parametrize(("text", "narrator", "recall"), [
    ("Red ball glides.", "other", 1.0),
    ("Red ball moves.", "other", 0.0),
    ("Red ball glides.", "plain", 0.0),
])  # fmt: skip
def test_only_the_narrators_own_verbs_count(text, narrator, recall):
    result = score_clip([SpokenTurn(5.5, text)], [MOVES], narrator)
    assert result.recall == recall
    assert result.told.total() == result.told["moves"]


def test_without_a_time_limit_late_phrases_count_and_their_delay_is_kept():
    turns = [SpokenTurn(3.5, "Red ball moves."), SpokenTurn(19.5, "Red ball moves.")]
    assert score_clip(turns, [MOVES]).delays_s == []
    result = score_clip(turns, [MOVES], window_s=float("inf"))
    assert (result.recall, result.precision, result.delays_s) == (1.0, 0.5, [15.5])
    result.add(result)
    assert result.delays_s == [15.5, 15.5]


@pytest.mark.parametrize("narrator", NARRATORS)
def test_the_narrator_itself_is_perfect(narrator):
    total = NarrationScore()
    for seed in range(30):
        scene = simulate(seed, 20)
        words = narrate(scene.events, 20, narrator)
        turns, before_s = [], -1.0
        for k in range(2, 20):
            spoken = [word for _, end_s, word in words if before_s < end_s <= k + 0.5]
            turns.append(SpokenTurn(k + 0.5, " ".join(spoken)))
            before_s = k + 0.5
        total.add(score_clip(turns, scene.events, narrator))
    assert (total.recall, total.precision, total.silence) == (1.0, 1.0, 1.0)
    assert total.quiet_turns > 0


def test_the_standard_error_is_clustered_by_clip():
    clips = [
        score({5.5: "Red ball moves."}, [MOVES]),
        score({}, [MOVES, Event(9.0, "stops", "red", "ball")]),
        score({5.5: "Red ball moves.", 8.5: "Red ball hits square."}, [MOVES]),
    ]
    seen = Evaluation()
    for clip in clips:
        seen.add(clip)
    assert seen.score.recall == seen.figures()["event recall"].value == 0.5
    # told - 0.5 * events: 0.5, -1, 0.5 of 4 events, and 3 / 2 for three clips
    figures = seen.figures()
    assert figures["event recall"].se == pytest.approx((1.5 * (0.25 + 1 + 0.25)) ** 0.5 / 4)
    # right - 2/3 * phrases: 1/3, 0, -1/3 of 3 phrases
    assert figures["event precision"].se == pytest.approx((1.5 * (1 / 9 + 1 / 9)) ** 0.5 / 3)
    rates = seen.rates()
    assert list(rates) == ["recall", "recall_se", "precision", "precision_se", "silence", "silence_se"]
    assert (rates["recall"], rates["recall_se"]) == (0.5, figures["event recall"].se)
    assert (rates["precision"], rates["precision_se"]) == (seen.score.precision, figures["event precision"].se)
    assert Evaluation(by_clip=clips[:1]).figures()["event recall"].se is None
