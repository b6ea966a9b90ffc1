"""Many streams on one model: each hears what it would hear alone, whatever the others do."""

import gc
import os
import threading
from pathlib import Path

import pytest
import torch

from livecc_hf import CommentaryPool
from livecc_hf.modeling import ContextFullError, StreamOptions
from livecc_hf.pool import PoolFullError
from livecc_hf.pooled_stream import OverloadedError, StreamEndedError

OPTIONS = StreamOptions(
    do_sample=False,
    max_new_tokens=6,
    repetition_penalty=1.1,
    output_logits=True,
    max_pixels=28 * 28 * 12,
    min_pixels=28 * 28 * 4,
    vision_window_s=4,
    text_window=80,
    text_sink=40,
)


@pytest.fixture(scope="module")
def frames(load_frames):
    return load_frames("live_cc")[:28, :, :96, :130]


@pytest.fixture(scope="module")
def model(make_model):
    return make_model("mrope")


def run_all(pool):
    while pool.step():
        pass


def taken(stream):
    segments = []
    while (segment := stream.take()) is not None:
        segments.append(segment)
    return segments


def assert_same(got, expected):
    assert got == expected
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a.logits, b.logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize("scheme", ["mrope", "sequential", "reference"])
def test_each_stream_says_what_it_says_alone(scheme, frames, make_model, processor):
    model = make_model(scheme)
    shown = [frames, frames.flip(0), frames.flip(3)[:, :, :70], frames[:17]]
    queries = ["Comment.", "What moves?", "Say it.", "Comment."]
    alone = []
    for video, query in zip(shown, queries):
        stream = model.start_stream(processor, OPTIONS, query=query)
        said = stream.push(video[:10])
        stream.ask("Other.")
        alone.append(said + stream.push(video[10:]) + stream.finish())
    pool = CommentaryPool(model, processor, max_streams=4)
    streams = []
    for n, query in enumerate(queries):  # one joins each round
        streams.append(pool.join(OPTIONS, query=query))
        streams[-1].push(shown[n][:10])
        pool.step()
    run_all(pool)
    for stream, video in zip(streams, shown):
        stream.ask("Other.")
        stream.push(video[10:])
        stream.finish()
    run_all(pool)
    for stream, expected in zip(streams, alone, strict=True):
        assert_same(taken(stream), expected)
        assert stream.has_ended
    assert len(pool) == 0
    assert pool.stats.n_turns == sum(map(len, alone))
    assert pool.stats.n_tokens == sum(len(s.token_ids) for said in alone for s in said)


def test_no_stream_waits_more_than_one_round(frames, model, processor):
    pool = CommentaryPool(model, processor, max_streams=3)
    busy, late = pool.join(OPTIONS), pool.join(OPTIONS)
    busy.push(frames)  # many turns at once
    pool.step()
    late.push(frames[:6])
    assert pool.step() == 2
    assert len(taken(late)) == 1


def test_a_stream_that_fails_ends_alone(frames, model, processor, monkeypatch):
    expected = model.start_stream(processor, OPTIONS).push(frames[:12])
    pool = CommentaryPool(model, processor, max_streams=3)
    streams = [pool.join(OPTIONS) for _ in range(3)]
    for stream in streams:
        stream.push(frames[:6])
    pool.step()
    chooser, calls = streams[1]._stream._chooser, []

    def fails_late(*args):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("device trouble")
        return type(chooser).choose(chooser, *args)

    monkeypatch.setattr(chooser, "choose", fails_late)
    for stream in streams:
        stream.push(frames[6:12])
    run_all(pool)
    assert_same(taken(streams[0]), expected)
    assert_same(taken(streams[2]), expected)
    with pytest.raises(RuntimeError, match="device trouble"):
        taken(streams[1])
    with pytest.raises(StreamEndedError, match="stream 1 has ended"):
        streams[1].push(frames[:2])
    assert [s.has_ended for s in streams] == [False, True, False]
    assert pool.stats.n_failed == 1


def test_a_turn_that_does_not_fit_harms_its_stream_only(frames, model, processor):
    reached, said = {}, {}
    for window in ("sliding", "none"):
        stream = model.start_stream(processor, OPTIONS, window=window)
        said[window], reached[window] = [], 0
        for chunk in frames.split(2):
            said[window] += stream.push(chunk)
            reached[window] = max(reached[window], stream.state.positions.next_position)
    assert reached["none"] > reached["sliding"] + 50
    config = model.config.text_config
    limit = config.max_position_embeddings
    pool = CommentaryPool(model, processor, max_streams=2, max_lag_s=60)
    bounded, endless = pool.join(OPTIONS), pool.join(OPTIONS, window="none")
    try:
        config.max_position_embeddings = reached["sliding"] + 30
        bounded.push(frames)
        endless.push(frames)
        run_all(pool)
    finally:
        config.max_position_embeddings = limit
    assert_same(taken(bounded), said["sliding"])
    heard = []
    with pytest.raises(ContextFullError, match="max_position_embeddings"):
        while (segment := endless.take()) is not None:
            heard.append(segment)
    assert_same(heard, said["none"][: len(heard)])
    assert 4 < len(heard) < len(said["none"])


def test_a_failure_of_the_whole_pass_is_tried_one_by_one(frames, model, processor, monkeypatch):
    expected = model.start_stream(processor, OPTIONS).push(frames[:8])
    pool = CommentaryPool(model, processor, max_streams=2)
    streams = [pool.join(OPTIONS) for _ in range(2)]
    forward = model.model.visual.forward
    grids = []

    def out_of_memory_for_two(patches, grid_thw, **kwargs):
        grids.append(len(grid_thw))
        if len(grid_thw) > 1:
            raise torch.OutOfMemoryError("no memory")
        return forward(patches, grid_thw=grid_thw, **kwargs)

    monkeypatch.setattr(model.model.visual, "forward", out_of_memory_for_two)
    for stream in streams:
        stream.push(frames[:8])
    run_all(pool)
    assert grids == [2, 1, 1] * 2
    for stream in streams:
        assert_same(taken(stream), expected)


def test_over_capacity_is_refused_or_dropped_and_counted(frames, model, processor):
    refusing = CommentaryPool(model, processor, max_streams=1, max_lag_s=1)
    stream = refusing.join(OPTIONS)
    with pytest.raises(PoolFullError, match=r"holds 1 streams, as many as it may \(max_streams\)"):
        refusing.join(OPTIONS)
    stream.push(frames[:6])
    stream.push(frames[6:8])
    with pytest.raises(OverloadedError, match=r"stream 0 has 4 s of video waiting, with 1 s allowed.*overload='drop'"):
        stream.push(frames[8:10])
    assert stream.waiting_s == 4
    run_all(refusing)
    stream.push(frames[8:10])
    assert refusing.stats.n_refused == 2

    dropping = CommentaryPool(model, processor, max_streams=1, overload="drop", max_lag_s=1)
    stream = dropping.join(OPTIONS)
    assert stream.push(frames[:6]) == 0
    dropping.step()
    assert stream.push(frames[6:8]) == 0
    assert stream.push(frames[8:16]) == 6  # the oldest: what is new counts
    run_all(dropping)
    spans = [(s.start_s, s.end_s) for s in taken(stream)]
    assert spans == [(0, 3), (6, 7), (7, 8)]
    assert stream.n_dropped_frames == dropping.stats.n_dropped_frames == 6


def test_frames_dropped_before_the_first_turn_move_its_beginning(frames, model, processor):
    pool = CommentaryPool(model, processor, max_streams=1, overload="drop", max_lag_s=1)
    stream = pool.join(OPTIONS)
    stream.push(frames[:20], [100 + n / 2 for n in range(20)])
    run_all(pool)
    assert [(s.start_s, s.end_s) for s in taken(stream)] == [(106, 109), (109, 110)]


def test_bad_frames_change_nothing(frames, model, processor):
    expected = model.start_stream(processor, OPTIONS).push(frames[:8])
    pool = CommentaryPool(model, processor, max_streams=1)
    stream = pool.join(OPTIONS)
    stream.push(frames[:5], [n / 2 for n in range(5)])
    bad_pushes = [
        (frames[:1].float(), "float32"),
        ([None], "type list"),
        (frames[:1, :, :50], "waiting frames of the same turn"),
    ]
    for bad, message in bad_pushes:
        with pytest.raises(ValueError, match=message):
            stream.push(bad, [2.5] * len(bad))
    with pytest.raises(ValueError, match="go back"):
        stream.push(frames[:1], [0.0])
    with pytest.raises(ValueError, match="special token"):
        stream.ask("<|im_end|>")
    stream.push(frames[5:8], [2.5, 3.0, 3.5])
    run_all(pool)
    assert_same(taken(stream), expected)


def test_a_running_pool_serves_threads(frames, model, processor):
    alone = [model.start_stream(processor, OPTIONS, query=f"{n}?").push(frames) for n in range(4)]
    heard = {}
    with CommentaryPool(model, processor, max_streams=4, max_lag_s=60).start() as pool:

        def watch(n):
            with pool.join(OPTIONS, query=f"{n}?") as stream:
                for chunk in frames.split(2):
                    stream.push(chunk)
                stream.finish()
                heard[n] = list(stream)

        threads = [threading.Thread(target=watch, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    for n in range(4):
        assert_same(heard[n], alone[n])
    assert len(pool) == 0


def test_a_listener_that_fails_ends_its_stream_only(frames, model, processor):
    ends = []

    def deaf(segment):
        raise OSError("gone")

    pool = CommentaryPool(model, processor, max_streams=2)
    bad = pool.join(OPTIONS, on_segment=deaf, on_end=ends.append)
    good = pool.join(OPTIONS)
    for stream in (bad, good):
        stream.push(frames[:8])
    run_all(pool)
    assert len(taken(good)) == 2
    assert bad.has_ended and isinstance(ends[0], OSError) and len(ends) == 1


def test_closing_ends_what_runs(frames, model, processor):
    pool = CommentaryPool(model, processor, max_streams=1).start()
    stream = pool.join(OPTIONS)
    waiter = threading.Thread(target=lambda: list(stream))
    waiter.start()
    stream.push(frames[:8])
    pool.close()
    waiter.join(10)
    assert not waiter.is_alive()
    with pytest.raises(PoolFullError, match="closed"):
        pool.join()


def test_five_hundred_sessions_leave_nothing_behind(frames, model, processor):
    pool = CommentaryPool(model, processor, max_streams=4)

    def sessions(n):
        for _ in range(n):
            stream = pool.join(OPTIONS)
            stream.push(frames[:6])
            pool.step()
            stream.leave()
        gc.collect()

    sessions(50)
    before = _resident_bytes(), _n_handles(), threading.active_count()
    sessions(500)
    after = _resident_bytes(), _n_handles(), threading.active_count()
    assert after[0] - before[0] < 30e6  # one stream's cache is 0.5 MB: 500 would be 250 MB
    assert after[1:] == before[1:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_streams": 0}, "max_streams=0: expected a whole number, at least 1"),
        ({"max_streams": 2, "overload": "wait"}, "overload='wait': expected one of refuse, drop"),
        ({"max_streams": 2, "max_lag_s": 0}, "max_lag_s=0: expected a number of seconds, at least 1"),
    ],
)
def test_bad_arguments(arguments, message, model, processor):
    with pytest.raises(ValueError, match=message):
        CommentaryPool(model, processor, **arguments)


def _resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _n_handles():
    return len(list(Path("/proc/self/fd").iterdir()))
