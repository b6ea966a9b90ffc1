"""The small world: deterministic, physically plausible, and narratable."""

import math
from itertools import pairwise

import pytest

from livecc_hf.tiny.narration import narrate
from livecc_hf.tiny.scene import RADIUS, VERBS
from livecc_hf.tiny.world import QUIET_END_S, WorldOptions, simulate

SEEDS = range(40)


def test_the_seed_decides_everything():
    assert simulate(3, 20) == simulate(3, 20)
    assert simulate(3, 20).events != simulate(4, 20).events


def test_every_verb_occurs():
    seen = {event.verb for seed in range(60) for event in simulate(seed, 20).events}
    assert seen == set(VERBS)


@pytest.mark.parametrize("options", [WorldOptions(), WorldOptions(gap_s=(0.8, 0.15), rest=0.0)])
def test_events_are_in_order_apart_and_not_at_the_end(options):
    for seed in SEEDS:
        times_s = [event.time_s for event in simulate(seed, 20, options).events]
        assert all(later - earlier >= 0.79 for earlier, later in pairwise(times_s))
        assert all(0 < time_s <= 20 - QUIET_END_S for time_s in times_s)


def test_objects_never_overlap_and_are_told_apart_by_colour_and_shape():
    for seed in SEEDS:
        scene = simulate(seed, 20)
        for tick in range(1, 400):
            time_s = tick * 0.05 + 0.01
            alive = [track for track in scene.tracks if track.visible_at(time_s)]
            names = [(track.shape, track.colour_at(time_s)) for track in alive]
            assert len(set(names)) == len(names)
            places = [track.at(time_s)[:2] for track in alive]
            for index, here in enumerate(places):
                for there in places[index + 1 :]:
                    assert math.dist(here, there) > 1.7 * RADIUS


def test_events_agree_with_the_tracks():
    for seed in SEEDS:
        scene = simulate(seed, 20)
        for event in scene.events:
            before_s, after_s = event.time_s - 0.01, event.time_s + 0.01
            tracks = [t for t in scene.tracks if t.shape == event.shape and t.gone_s > before_s]
            tracks = [t for t in tracks if t.born_s <= after_s and t.colour_at(after_s) == event.colour]
            assert tracks, event
            if event.verb in ("moves", "stops"):
                still = [t for t in tracks if t.at(after_s)[2:] == (0.0, 0.0)]
                assert bool(still) is (event.verb == "stops") or len(tracks) > 1
            if event.verb in ("leaves", "disappears"):
                assert any(t.gone_s == event.time_s for t in tracks)
            if event.verb == "changes":
                assert any(t.colour_at(before_s) != event.colour for t in tracks)


def test_a_scene_too_short_is_refused():
    with pytest.raises(ValueError, match=r"duration_s is 3: expected 4 or more"):
        simulate(0, 3)


def test_the_narrator_keeps_up():
    for seed in SEEDS:
        scene = simulate(seed, 20, WorldOptions(gap_s=(0.8, 0.15), rest=0.0))
        words = narrate(scene.events, 20)
        assert sum(word.endswith(".") for _, _, word in words) == len(scene.events)
