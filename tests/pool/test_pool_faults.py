"""Streams that fail, leave at any moment or join too late: the others are not affected, and nothing leaks."""

import gc
import threading
import weakref

import pytest
import torch
from pooled import OPTIONS, assert_same, n_handles, reserved_bytes, resident_bytes, run_all, taken

from livecc_hf import CommentaryPool
from livecc_hf.modeling import ContextFullError
from livecc_hf.modeling.kv_cache import KVCachePool
from livecc_hf.pool import PoolFullError, PoolStoppedError
from livecc_hf.pool.stream import StreamEndedError


def test_a_failing_stream_ends_and_the_others_continue(frames, model, processor):
    expected = model.start_stream(processor, OPTIONS).push(frames[:12])
    pool = CommentaryPool(model, processor, max_streams=3)
    streams = [pool.join(OPTIONS) for _ in range(3)]
    for stream in streams:
        stream.push(frames[:6])
    pool.step()
    calls = []

    def fails_late(token_ids, scores):
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("device trouble")
        return scores

    streams[1]._stream._sampler.processors.append(fails_late)
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


def test_a_full_context_ends_only_its_stream(frames, model, processor):
    reached, said = {}, {}
    for window in ("sliding", "none"):
        stream = model.start_stream(processor, OPTIONS, window=window)
        said[window], reached[window] = [], 0
        for chunk in frames.split(2):
            said[window] += stream.push(chunk)
            reached[window] = max(reached[window], stream.state.next_position)
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


def test_after_a_failed_batch_each_stream_is_tried_alone(frames, model, processor, monkeypatch):
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


def test_a_failing_on_segment_callback_ends_only_its_stream(frames, model, processor):
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


@pytest.mark.parametrize("n_sessions", [100, pytest.param(500, marks=pytest.mark.slow)])
def test_sessions_that_end_in_any_way_leak_nothing(n_sessions, frames, model, processor):
    pool = CommentaryPool(model, processor, max_streams=4)
    stays = pool.join(OPTIONS)

    def session(n):
        stream = pool.join(OPTIONS)
        if n % 5 == 0:  # before its first frame
            stream.leave()
            return
        stream.push(frames[:6])
        if n % 5 == 1:  # with frames that wait
            stream.leave()
            return
        processors = stream._stream._sampler.processors

        def leaves_in_mid_turn(token_ids, scores):
            stream.leave()
            return scores

        if n % 5 > 2:
            processors.append({3: leaves_in_mid_turn, 4: lambda *args: 1 / 0}[n % 5])
        if n % 10 == 8:  # in a batch
            stays.push(frames[:6])
        pool.step()
        assert stream.has_ended == (n % 5 > 2)
        stream.leave()

    def sessions(n_sessions):
        for n in range(n_sessions):
            session(n)
        gc.collect()
        assert len(pool) == 1 and stays._stream is not None
        assert sorted(pool._memory._free) == list(range(1, pool._memory._n_slots))

    sessions(50)
    before = resident_bytes(), n_handles(), threading.active_count(), reserved_bytes(pool._memory)
    sessions(n_sessions)
    after = resident_bytes(), n_handles(), threading.active_count(), reserved_bytes(pool._memory)
    assert after[0] - before[0] < 30e6  # one stream's cache is 0.5 MB: 100 would be 50 MB
    assert after[1:] == before[1:]
    assert pool.stats.n_failed == (50 + n_sessions) // 5


def test_stale_nans_in_a_slot_do_not_reach_its_next_stream(frames, model, processor):
    expected = model.start_stream(processor, OPTIONS).push(frames[:12])
    pool = CommentaryPool(model, processor, max_streams=2)
    stays, ill = pool.join(OPTIONS), pool.join(OPTIONS)
    stays.push(frames[:8])
    ill.push(frames[:12])
    pool.step()
    for parts in pool._memory.slot_tensors(ill._stream.state.cache.slot):
        for part in parts:
            part.fill_(torch.nan)  # as after an overflow in half precision
    ill.leave()
    comes = pool.join(OPTIONS)
    comes.push(frames[:12])
    stays.push(frames[8:12])
    run_all(pool)
    assert_same(taken(stays), expected)
    assert_same(taken(comes), expected)


def test_leaving_before_a_slot_was_taken(frames, model, processor):
    pool = CommentaryPool(model, processor, max_streams=2)
    stays = pool.join(OPTIONS)
    stays.push(frames[:6])
    pool.step()  # memory for one
    pool.join(OPTIONS).leave()
    assert len(pool) == 1 and pool._memory._n_slots == 1


def test_a_stream_that_joins_while_another_leaves_takes_no_further_memory(frames, model, processor, monkeypatch):
    """The one that leaves during a round keeps its slot until the end of the round."""
    pool = CommentaryPool(model, processor, max_streams=2)
    stays, leaves = pool.join(OPTIONS), pool.join(OPTIONS)
    forward, joined = model.model.visual.forward, []

    def forwards(*args, **keywords):
        if not joined:
            leaves.leave()
            joined.append(pool.join(OPTIONS))
            joined[0].push(frames[:6])
        return forward(*args, **keywords)

    monkeypatch.setattr(model.model.visual, "forward", forwards)
    for stream in (stays, leaves):
        stream.push(frames[:6])
    run_all(pool)
    expected = model.start_stream(processor, OPTIONS).push(frames[:6])
    assert_same(taken(stays), expected)
    assert_same(taken(joined[0]), expected)
    assert pool._memory._n_slots == len(pool) == 2


def test_a_refused_stream_takes_no_memory(frames, model, processor):
    pool = CommentaryPool(model, processor, max_streams=2)
    streams = [pool.join(OPTIONS) for _ in range(2)]
    for _ in range(3):
        with pytest.raises(PoolFullError):
            pool.join(OPTIONS)
    for stream in streams:
        stream.push(frames[:6])
    assert pool.step() == 2
    assert pool._memory._n_slots == 2
    assert pool.stats.n_refused == 3


def test_activations_of_a_failed_batch_are_freed_before_the_retries(frames, model, processor, monkeypatch):
    class Activations:
        pass

    forward, held = model.model.visual.forward, []

    def out_of_memory_for_two(patches, grid_thw, **kwargs):
        activations = Activations()
        if len(grid_thw) > 1:
            held.append(weakref.ref(activations))
            raise torch.OutOfMemoryError("no memory")
        assert [ref() for ref in held] == [None]
        return forward(patches, grid_thw=grid_thw, **kwargs)

    monkeypatch.setattr(model.model.visual, "forward", out_of_memory_for_two)
    pool = CommentaryPool(model, processor, max_streams=2)
    streams = [pool.join(OPTIONS) for _ in range(2)]
    for stream in streams:
        stream.push(frames[:6])
    gc.disable()
    try:
        assert pool.step() == 2
    finally:
        gc.enable()
    assert pool.stats.n_rounds_apart == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_dead_pool_thread_ends_all_streams_with_an_error(frames, model, processor, monkeypatch):
    class Panic(BaseException):
        """As raised by libraries written in Rust."""

    def panics(*args):
        raise Panic("at line 7")

    with CommentaryPool(model, processor, max_streams=3).start() as pool:
        streams = [pool.join(OPTIONS) for _ in range(2)]
        monkeypatch.setattr(streams[0]._stream, "end_turn", panics)
        streams[0].push(frames[:6])
        for stream in streams:
            with pytest.raises(PoolStoppedError, match=r"has died \(Panic: at line 7\)"):
                stream.take(20)
        with pytest.raises(PoolStoppedError, match="has died"):
            pool.join(OPTIONS)
        assert isinstance(pool.failure, PoolStoppedError)
        assert pool.round_s == 0


def test_on_a_lost_device_every_stream_ends_with_the_error(frames, model, processor, monkeypatch):
    ends = []
    with CommentaryPool(model, processor, max_streams=3, max_lag_s=60).start() as pool:
        streams = [pool.join(OPTIONS, on_end=ends.append) for _ in range(3)]
        for stream in streams:
            stream.push(frames[:6])
            assert stream.take(20) is not None

        def is_lost(*args, **keywords):
            raise RuntimeError("the device is lost")

        with monkeypatch.context() as patched:  # neither a pass nor clearing memory works any more
            patched.setattr(model.model.visual, "forward", is_lost)
            patched.setattr(KVCachePool, "clear_slot", is_lost)
            with pool.paused():
                for stream in streams:
                    stream.push(frames[6:8])
                question = streams[2].answer("What is shown?")
            for stream in streams:
                with pytest.raises(RuntimeError, match="the device is lost"):
                    stream.take(20)
            with pytest.raises(StreamEndedError):
                question.result(20)
        assert [str(error) for error in ends] == ["the device is lost"] * 3
        assert len(pool) == 0 and pool.failure is None
        later = pool.join(OPTIONS)
        later.push(frames[:6])
        assert later.take(20) is not None


def test_a_slow_push_does_not_block_other_streams(frames, model, processor, monkeypatch):
    is_resizing, go_on = threading.Event(), threading.Event()
    with CommentaryPool(model, processor, max_streams=2).start() as pool:
        slow, quick = pool.join(OPTIONS), pool.join(OPTIONS)
        prepare = slow._stream.prepare

        def slowly(shown):
            is_resizing.set()
            assert go_on.wait(20)
            return prepare(shown)

        monkeypatch.setattr(slow._stream, "prepare", slowly)
        pusher = threading.Thread(target=slow.push, args=(frames[:6],))
        pusher.start()
        try:
            assert is_resizing.wait(20)
            quick.push(frames[:6])
            assert quick.take(5) is not None
        finally:
            go_on.set()
            pusher.join()
        assert slow.take(20) is not None


def test_frames_pushed_while_paused_share_one_round(frames, model, processor):
    with CommentaryPool(model, processor, max_streams=3).start() as pool:
        streams = [pool.join(OPTIONS) for _ in range(3)]
        with pool.paused():
            for stream in streams:
                stream.push(frames[:6])
            assert streams[0].take(0.05) is None
        assert all(stream.take(20) is not None for stream in streams)
    assert pool.stats.n_rounds == 1
