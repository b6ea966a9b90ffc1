"""Many streams on one model: each gets the same words as alone, whatever the others do."""

import contextlib
import gc
import threading
import weakref

import pytest
from pooled import OPTIONS, assert_same, run_all, run_in_time, taken

from livecc_hf import CommentaryPool
from livecc_hf.acceleration.decode_slots import DecodeSlots
from livecc_hf.pool import OverloadedError, PoolFullError


@pytest.mark.parametrize("scheme", ["mrope", "sequential", "reference"])
def test_pooled_streams_generate_the_same_as_alone(scheme, frames, make_model, processor):
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


def test_streams_with_different_windows_share_batches(frames, model, processor, monkeypatch):
    windows, calls = ["sliding", "none", "sliding", "reprefill"], []
    alone = [model.start_stream(processor, OPTIONS, window=window).push(frames) for window in windows]
    together = DecodeSlots.attend
    monkeypatch.setattr(DecodeSlots, "attend", lambda self, *a: calls.append(self) or together(self, *a))
    pool = CommentaryPool(model, processor, max_streams=4, max_lag_s=60)
    streams = [pool.join(OPTIONS, window=window) for window in windows]
    for stream in streams:
        stream.push(frames)
    run_all(pool)
    for stream, expected in zip(streams, alone, strict=True):
        assert_same(taken(stream), expected)
    assert calls


def test_a_stream_with_a_backlog_does_not_delay_the_others(frames, model, processor):
    pool = CommentaryPool(model, processor, max_streams=3)
    busy, late = pool.join(OPTIONS), pool.join(OPTIONS)
    busy.push(frames)  # many turns at once
    pool.step()
    late.push(frames[:6])
    assert pool.step() == 2
    assert len(taken(late)) == 1


def test_over_capacity_is_refused_or_dropped_and_counted(frames, model, processor):
    refusing = CommentaryPool(model, processor, max_streams=1, max_lag_s=1)
    stream = refusing.join(OPTIONS)
    with pytest.raises(PoolFullError, match=r"the pool has 1 streams, its maximum \(max_streams\)"):
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
    assert stream.push(frames[8:16]) == 6  # the oldest are dropped
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


def test_dropped_frames_that_put_two_sizes_into_the_first_turn(frames, model, processor):
    """Frames are dropped in pairs, but the first turn has six: it takes the size of its last frames."""
    pool = CommentaryPool(model, processor, max_streams=1, overload="drop", max_lag_s=1)
    stream = pool.join(OPTIONS)
    stream.push(frames[:6])
    assert stream.push(frames[6:10, :, :50, :60]) == 2
    run_all(pool)
    assert [(s.start_s, s.end_s) for s in taken(stream)] == [(1, 4), (4, 5)]


def test_a_refused_push_changes_nothing(frames, model, processor):
    expected = model.start_stream(processor, OPTIONS).push(frames[:8])
    pool = CommentaryPool(model, processor, max_streams=1)
    stream = pool.join(OPTIONS)
    stream.push(frames[:5], [n / 2 for n in range(5)])
    bad_pushes = [
        (frames[:1].float(), "float32"),
        ([None], "of type NoneType"),
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


def test_a_running_pool_serves_several_threads(frames, model, processor):
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


def test_a_stream_that_joins_is_never_counted_twice(model, processor):
    """Else another one, which joins in another thread at that moment, is refused although there is room."""
    pool, n_counted = CommentaryPool(model, processor, max_streams=2), []

    class Counting(threading.Condition):
        def __exit__(self, *error):
            n_counted.append(len(pool._streams) + pool._n_joining)  # what another thread sees from here on
            return super().__exit__(*error)

    pool._changed = Counting()
    pool.join(OPTIONS)
    assert n_counted and max(n_counted) == 1
    with pytest.raises(ValueError, match="control token|special token"):
        pool.join(OPTIONS, query="<|im_end|>")
    assert n_counted[-1] == 1


@pytest.mark.parametrize("has_thread", [True, False])
@pytest.mark.parametrize("n_frames", [3, 6, 13])  # also an incomplete turn
def test_closing_comments_on_all_waiting_frames(n_frames, has_thread, frames, model, processor):
    """As a loop over a source that ends."""
    expected = []
    for video in (frames, frames.flip(0)):
        stream = model.start_stream(processor, OPTIONS)
        expected.append(stream.push(video[:n_frames]) + stream.finish())
    heard = [[], []]
    pool = CommentaryPool(model, processor, max_streams=2, max_lag_s=60)
    with pool.start() if has_thread else pool:
        for video, said in zip((frames, frames.flip(0)), heard, strict=True):
            pool.join(OPTIONS, on_segment=said.append).push(video[:n_frames])
    for said, wanted in zip(heard, expected, strict=True):
        assert_same(said, wanted)
    assert (len(pool), pool.stats.n_unsaid_frames) == (0, 0)
    with pytest.raises(PoolFullError, match="closed"):
        pool.join()


@pytest.mark.parametrize("has_thread", [True, False])
def test_a_closed_pool_frees_its_memory(has_thread, frames, model, processor):
    """While it is still referred to, for example for its counts."""
    pool = CommentaryPool(model, processor, max_streams=2, max_lag_s=60)
    gc.disable()
    try:
        with pool.start() if has_thread else pool:
            stream = pool.join(OPTIONS, max_new_tokens=1)
            stream.push(frames[:6])
            assert has_thread or pool.step() == 1
            assert stream.take(30)
            held = [weakref.ref(pool._memory), *map(weakref.ref, pool._memory.layers[0])]
        assert [each() for each in held] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize("has_thread", [True, False])
def test_closing_without_drain_reports_the_dropped_frames(has_thread, frames, model, processor, caplog):
    pool = CommentaryPool(model, processor, max_streams=2, max_lag_s=60)
    streams = [pool.join(OPTIONS) for _ in range(2)]
    for stream in streams:
        stream.push(frames[:9])
    if has_thread:
        with pool.paused():  # its first round has not begun
            assert pool.start().close(timeout_s=0.01, drain=False) == 18
    else:
        with pytest.raises(KeyboardInterrupt), pool:
            raise KeyboardInterrupt
    assert pool.stats.n_unsaid_frames == 18
    assert "the pool was closed before 18 frames (9.0 s of video) of 2 streams had their words" in caplog.text
    assert all(stream.has_ended for stream in streams)


def test_closing_stops_after_its_timeout(frames, model, processor, monkeypatch, caplog):
    go_on = threading.Event()
    pool = CommentaryPool(model, processor, max_streams=1, max_lag_s=60).start()
    stream = pool.join(OPTIONS)
    stream._stream._sampler.processors.append(lambda token_ids, scores: scores if go_on.wait(20) else None)
    stream.push(frames[:10])
    try:
        assert pool.close(timeout_s=0.2) == 10
        assert "10 frames (5.0 s of video) of 1 streams" in caplog.text
    finally:
        go_on.set()


def test_a_pool_may_be_closed_by_its_own_thread(frames, model, processor):
    heard = []

    def hear(segment):
        heard.append(segment)
        pool.close()

    pool = CommentaryPool(model, processor, max_streams=1, max_lag_s=60).start()
    stream = pool.join(OPTIONS, on_segment=hear)
    stream.push(frames[:9])
    assert stream.wait(30)
    assert [segment.end_s for segment in heard] == [3, 4, 5]


def test_a_round_does_not_wait_for_itself(frames, model, processor):
    """Without a thread, `on_segment` runs in the caller of `step`."""
    heard = []

    def hear(segment):
        heard.append(segment)
        assert not stream.wait()
        with pytest.raises(RuntimeError, match="this thread runs a round"):
            pool.step()
        with pytest.raises(RuntimeError, match="this thread runs a round"), pool.paused():
            pass
        assert pool.close() == 0

    pool = CommentaryPool(model, processor, max_streams=1, max_lag_s=60)
    stream = pool.join(OPTIONS, on_segment=hear)
    stream.push(frames[:9])
    run_in_time(lambda: run_all(pool))
    assert [segment.end_s for segment in heard] == [3, 4, 5]
    assert stream.has_ended and stream.error is None


@pytest.mark.parametrize("has_thread", [True, False])
def test_leaving_a_with_block_comments_on_the_waiting_frames(has_thread, frames, model, processor):
    alone = model.start_stream(processor, OPTIONS)
    expected = alone.push(frames[:9]) + alone.finish()
    with contextlib.ExitStack() as stack:
        pool = CommentaryPool(model, processor, max_streams=2, max_lag_s=60)
        if has_thread:
            stack.enter_context(pool.start())
        with pool.join(OPTIONS) as stream:
            stream.push(frames[:9])
        assert_same(taken(stream), expected)
        with contextlib.suppress(ZeroDivisionError), pool.paused(), pool.join(OPTIONS) as stream:
            stream.push(frames[:5])
            raise ZeroDivisionError
        assert stream.has_ended and pool.stats.n_unsaid_frames == 5
        waiting = pool.join(OPTIONS)
        waiting.push(frames[:3])
        assert not waiting.wait(0.05)  # it is not finished
        assert waiting.leave() == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_streams": 0}, "max_streams=0: expected a whole number, at least 1"),
        ({"max_streams": 2, "overload": "wait"}, "overload='wait': expected one of refuse, drop"),
        ({"max_streams": 2, "max_lag_s": 0}, "max_lag_s=0: expected a number of seconds, at least 1"),
    ],
)
def test_invalid_pool_arguments_are_refused(arguments, message, model, processor):
    with pytest.raises(ValueError, match=message):
        CommentaryPool(model, processor, **arguments)


@pytest.mark.parametrize("has_thread", [False, True])
def test_warming_up_a_pool_does_not_change_the_commentary(has_thread, frames, model, processor):
    expected = model.start_stream(processor, OPTIONS).push(frames)
    pool = CommentaryPool(model, processor, max_streams=3, max_lag_s=60)
    with pool.start() if has_thread else pool:
        assert pool.warm_up(OPTIONS) == 3
        assert (len(pool), pool.stats.n_turns) == (0, 0)
        stream = pool.join(OPTIONS)
        with pytest.raises(ValueError, match="called after 1 streams had joined"):
            pool.warm_up(OPTIONS)
        stream.push(frames)
        if has_thread:
            assert_same([stream.take(60) for _ in expected], expected)
        else:
            run_all(pool)
            assert_same(taken(stream), expected)
