"""A stream's times: of its segments, and in the labels that the model reads."""

import pytest
import torch
from greedy import GREEDY


def test_segment_times_are_in_order_and_follow_the_clock(frames, make_model, processor):
    model = make_model("mrope")
    stream = model.start_stream(processor, **GREEDY)
    segments = stream.push(frames[:15], [100 + n / 2 for n in range(15)]) + stream.finish()
    assert [(s.start_s, s.end_s) for s in segments] == [
        (100, 103), (103, 104), (104, 105), (105, 106), (106, 107), (107, 108)
    ]  # fmt: skip
    relative = model.start_stream(processor, **GREEDY).push(frames[:8])
    assert [(s.start_s, s.end_s) for s in relative] == [(0, 3), (3, 4)]
    assert [s.token_ids for s in relative] == [s.token_ids for s in segments[:2]]


def test_missing_frames_move_the_time_label(frames, make_model, processor):
    stream = make_model("mrope").start_stream(processor, **GREEDY)
    times_s = [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 10.1, 10.6, 11.1, 11.6]
    segments = stream.push(frames[:12], times_s)
    assert [(s.start_s, s.end_s) for s in segments] == [(0, 3), (3, 4), (10, 11), (11, 12)]
    assert "Time=10.0-11.0s" in processor.tokenizer.decode(stream.state.token_ids)


def test_a_gap_within_a_turn_lies_before_it(frames, make_model, processor):
    """The words of a turn belong to its newest frames."""
    stream = make_model("mrope").start_stream(processor, **GREEDY)
    segments = stream.push(frames[:10], [7, 7.5, 100.1, 100.6, 101.1, 101.6, 102.1, 102.6, 110.1, 110.6])
    assert [(s.start_s, s.end_s) for s in segments] == [(99, 102), (102, 103), (110, 111)]
    assert "Time=3.0-4.0s" in processor.tokenizer.decode(stream.state.token_ids)
    later = make_model("mrope").start_stream(processor, **GREEDY)
    segments = later.push(frames[:10], [0, 0.5, 1, 1.5, 2, 2.5, 3, 49.5, 50, 50.5])
    assert [(s.start_s, s.end_s) for s in segments] == [(0, 3), (49, 50), (50, 51)]
    assert "Time=49.0-50.0s" in processor.tokenizer.decode(later.state.token_ids)
    last = make_model("mrope").start_stream(processor, **GREEDY)
    assert last.push(frames[:2], [7, 100.1]) == []
    assert [(s.start_s, s.end_s) for s in last.finish()] == [(99, 102)]


def test_labels_are_whole_seconds_and_stay_on_the_clock(frames, make_model, processor):
    stream = make_model("mrope").start_stream(processor, **GREEDY)
    segments = []
    for n in range(60):
        segments += stream.push(frames[n % 16 : n % 16 + 1], [n / 1.9])
    assert all(s.start_s == int(s.start_s) for s in segments)
    assert abs(segments[-1].end_s - 60 / 1.9) < 2
    too_fast = make_model("mrope").start_stream(processor, **GREEDY)
    with pytest.raises(ValueError, match=r"faster than 2 per second: one at .* take every n-th frame"):
        too_fast.push(frames, [n / 5 for n in range(16)])


def test_finish_flushes_an_incomplete_turn(frames, make_model, processor):
    model = make_model("mrope")
    stream = model.start_stream(processor, **GREEDY)
    assert stream.push(frames[:3]) == []
    (short,) = stream.finish()
    assert (short.start_s, short.end_s) == (0, 3)
    padded = model.start_stream(processor, **GREEDY)
    padded.push(torch.cat([frames[:3], frames[2:3]]))
    (same,) = padded.finish()
    assert same.token_ids == short.token_ids
    empty = model.start_stream(processor, **GREEDY)
    assert empty.finish() == []
