"""Questions to pooled streams: answered as by a single stream, without any effect on the commentary."""

import dataclasses
import time

import pytest
from pooled import OPTIONS as LONG_TURNS
from pooled import assert_same, run_all, run_in_time, taken

from livecc_hf import CommentaryPool
from livecc_hf.modeling.context import ContextFullError
from livecc_hf.pool import OverloadedError, StreamEndedError

QUESTION = "What is shown?"
OPTIONS = dataclasses.replace(LONG_TURNS, max_new_tokens=2)


@pytest.mark.parametrize("scheme", ["mrope", "reference"])
def test_an_answer_equals_a_single_streams_and_does_not_change_any_commentary(scheme, frames, make_model, processor):
    model = make_model(scheme)
    alone = model.start_stream(processor, OPTIONS)
    expected = alone.push(frames[:12])
    answers = [alone.answer(QUESTION, 9), alone.answer("And then?", 3)]
    expected += alone.push(frames[12:]) + alone.finish()
    unasked = model.start_stream(processor, OPTIONS)
    assert_same(expected, unasked.push(frames) + unasked.finish())
    pool = CommentaryPool(model, processor, max_streams=2, max_lag_s=60)
    asking, other = pool.join(OPTIONS), pool.join(OPTIONS)
    asking.push(frames[:12])
    run_all(pool)
    other.push(frames)
    futures = [asking.answer(QUESTION, 9), asking.answer("And then?", 3)]
    asking.push(frames[12:])
    n_parts = 0
    while not futures[1].done():  # a round generates the other stream's turn, and at most a turn's tokens of the answer
        n_tokens = pool.stats.n_tokens
        assert pool.step() == 2
        assert pool.stats.n_tokens - n_tokens <= 2 * OPTIONS.max_new_tokens
        n_parts += 1
    assert n_parts == 7 and len(taken(other)) == n_parts
    for stream in (asking, other):
        stream.finish()
    run_all(pool)
    assert [future.result(0) for future in futures] == answers
    assert_same(taken(asking), expected)


def test_a_failed_answer_does_not_end_its_stream(frames, model, processor, monkeypatch):
    pool = CommentaryPool(model, processor, max_streams=2, max_lag_s=60)
    stream = pool.join(OPTIONS)
    early = stream.answer(QUESTION)
    run_all(pool)
    with pytest.raises(ValueError, match="nothing has been seen yet"):
        early.result(0)
    stream.push(frames[:6])
    waits = stream.answer(QUESTION, 4)  # answered after the first turn
    stream.push(frames[6:8])
    too_long = stream.answer(QUESTION, 10**7)
    run_all(pool)
    assert isinstance(waits.result(0), str)
    with pytest.raises(ContextFullError):
        too_long.result(0)
    for question in ("", "<|im_end|>"):
        with pytest.raises(ValueError, match="question|special token"):
            stream.answer(question)
    stream.push(frames[8:])
    run_all(pool)
    alone = model.start_stream(processor, OPTIONS)
    assert_same(taken(stream), alone.push(frames))


def test_callbacks_of_an_answer_may_use_the_stream(frames, model, processor):
    pool = CommentaryPool(model, processor, max_streams=1, max_lag_s=60)
    stream = pool.join(OPTIONS)
    failed = stream.answer(QUESTION)
    failed.add_done_callback(lambda _: stream.push(frames[:6]))
    run_in_time(lambda: run_all(pool))
    with pytest.raises(ValueError, match="nothing has been seen yet"):
        failed.result(0)
    answered = stream.answer(QUESTION)
    answered.add_done_callback(lambda _: stream.push(frames[6:8]))
    run_in_time(lambda: run_all(pool))
    assert answered.done()
    assert_same(taken(stream), model.start_stream(processor, OPTIONS).push(frames[:8]))


def test_pending_questions_fail_when_their_stream_ends(frames, model, processor):
    pool = CommentaryPool(model, processor, max_streams=1, max_lag_s=60)
    stream = pool.join(OPTIONS)
    stream.push(frames[:6])
    run_all(pool)
    futures = [stream.answer(QUESTION) for _ in range(8)]
    with pytest.raises(OverloadedError, match="8 questions wait on stream 0"):
        stream.answer(QUESTION)
    assert futures[1].cancel()
    pool.step()
    stream.leave()
    for future in (futures[0], futures[2], futures[7]):
        with pytest.raises(StreamEndedError, match="ended before it was answered"):
            future.result(0)
    with pytest.raises(StreamEndedError):
        stream.answer(QUESTION)


def test_finish_waits_for_pending_answers(frames, model, processor):
    alone = model.start_stream(processor, OPTIONS)
    alone.push(frames[:8])
    with CommentaryPool(model, processor, max_streams=1).start() as pool:
        stream = pool.join(OPTIONS)
        stream.push(frames[:8])
        while stream.waiting_s:
            time.sleep(0.01)
        future = stream.answer(QUESTION, 20)
        stream.finish()
        assert stream.wait(60)
        assert future.result(0) == alone.answer(QUESTION, 20)
