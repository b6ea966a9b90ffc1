"""Endless streams: after an eviction, kept keys are as if they had always been at their new positions."""

import pytest
import torch
from operations import Operations
from pooled import reserved_bytes
from replay import Item, Replay

from livecc_hf.modeling import ContextFullError, StreamOptions
from livecc_hf.modeling.context import TEXT, VISION, Span, StreamState, kept_spans
from livecc_hf.modeling.kv_cache import KVCache

SCHEMES = ["mrope", "sequential", "reference"]
OPTIONS = {
    "query": "Comment.",
    "do_sample": False,
    "max_new_tokens": 4,
    "repetition_penalty": 1.0,
    "output_logits": True,
    "max_pixels": 28 * 28 * 12,
    "min_pixels": 28 * 28 * 4,
    "stop_at_continuation": False,
}


@pytest.fixture(scope="module")
def frames(load_frames):
    """(34, 3, 84, 112): 15 turns."""
    recorded = load_frames("live_cc")[:, :, :84, :112]
    return torch.cat([recorded, recorded.flip(0)])[:34]


def expected_logits(model, processor, scheme, window, frames, segments, reprefill_s=None):
    """Logits of every token of `segments`, from a replay of the stream."""
    replay = Replay(model, scheme)
    from_s, logits, pending = 0.0, [], []
    chunks = [frames[:6], *frames[6:].split(2)]
    for turn, (chunk, segment) in enumerate(zip(chunks, segments, strict=True)):
        end_s = 3.0 + turn
        patches, grid = processor.video_processor.frames_to_patches(
            chunk, min_pixels=OPTIONS["min_pixels"], max_pixels=OPTIONS["max_pixels"]
        )
        ids = processor.turn_ids(
            end_s - (1 if turn else 3), end_s, len(patches) // 4, "" if turn else "Comment.", not turn
        )
        n_text = {}
        for item in replay.items:
            n_text[item.turn] = n_text.get(item.turn, 0) + (item.kind == "text")
        turns = sorted(n_text)
        stays = {t for t in turns if t in (0, turn - 1)}
        stays |= {t for t in turns if sum(n_text[u] for u in turns if u <= t) <= window["text_sink"]}
        stays |= {t for t in turns if sum(n_text[u] for u in turns if u >= t) <= window["text_window"]}
        if reprefill_s is None:
            replay.evict_except(
                lambda item, kept=stays, now=end_s: (
                    item.turn in kept if item.kind == "text" else item.end_s > now - window["vision_window_s"]
                )
            )
        elif end_s - from_s > reprefill_s:
            replay.evict_except(lambda item, kept=stays: item.kind == "text" and item.turn in kept)
            replay.reprefill()
            from_s = end_s - 1
        new = [Item(i, turn - 1, "text", end_s - 1) for i in pending]
        video, n_video = model.config.video_token_id, 0
        for at, token in enumerate(ids):
            is_vision = video in ids[max(at - 1, 0) : at + 2]
            first_video = token == video and n_video == 0
            n_video += token == video
            of = turn - 1 if turn and at < 2 else turn  # <|im_end|>\n closes the turn before
            grid_here = tuple(grid[0].tolist()) if first_video else None
            flat = scheme == "reference" and turn > 0
            new.append(Item(token, of, "vision" if is_vision else "text", end_s, grid_here, flat))
        with torch.no_grad():
            features = model.model.visual(patches, grid_thw=grid).pooler_output
        said = list(segment.token_ids)
        logits.append([replay.prefill(new, features)])
        for token in said[:-1]:
            logits[-1].append(replay.prefill([Item(token, turn, "text", end_s)]))
        pending = [] if said[-1] == processor.end_id else said[-1:]
    return [torch.stack(turn) for turn in logits], replay


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "window",
    [
        {"vision_window_s": 4.0, "text_window": 60, "text_sink": 0},
        {"vision_window_s": 2.0, "text_window": 40, "text_sink": 70},
        {"vision_window_s": 9.0, "text_window": 0, "text_sink": 0},
    ],
    ids=["vision and text", "with a sink", "text before its vision"],
)
def test_a_sliding_window_equals_its_replay(scheme, window, frames, make_model, processor):
    model = make_model(scheme)
    stream = model.start_stream(processor, **OPTIONS, **window)
    segments = stream.push(frames)
    expected, replay = expected_logits(model, processor, scheme, window, frames, segments)
    assert len(segments) == 15
    assert stream.state.n_evicted > 100
    for segment, logits in zip(segments, expected, strict=True):
        torch.testing.assert_close(segment.logits, logits, atol=1e-3, rtol=0)
    assert stream.state.token_ids == [item.token_id for item in replay.items]
    assert stream.state.next_position == replay.positions().max() + 1


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_reprefill_window_equals_its_replay(scheme, frames, make_model, processor, monkeypatch):
    monkeypatch.setattr("livecc_hf.modeling.model_runner.REPREFILL_S", 6.0)
    window = {"text_window": 60, "text_sink": 50}
    model = make_model(scheme)
    stream = model.start_stream(processor, **OPTIONS, **window, window="reprefill")
    segments = stream.push(frames)
    expected, replay = expected_logits(model, processor, scheme, window, frames, segments, reprefill_s=6.0)
    assert stream.state.n_evicted > 0
    for segment, logits in zip(segments, expected, strict=True):
        torch.testing.assert_close(segment.logits, logits, atol=1e-3, rtol=0)
    assert stream.state.token_ids == [item.token_id for item in replay.items]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_window_that_evicts_nothing_changes_nothing(scheme, frames, make_model, processor):
    model = make_model(scheme)
    options = StreamOptions(**OPTIONS)
    unbounded = model.start_stream(processor, options, window="none").push(frames)
    for window in ({"vision_window_s": 60}, {"window": "reprefill"}):
        bounded = model.start_stream(processor, options, **window, text_window=10**6).push(frames)
        assert bounded == unbounded
        for a, b in zip(bounded, unbounded, strict=True):
            torch.testing.assert_close(a.logits, b.logits, atol=0, rtol=0)


def test_memory_and_positions_of_a_long_stream_do_not_grow(frames, make_model, processor):
    model = make_model("mrope")
    stream = model.start_stream(processor, **OPTIONS, vision_window_s=4, text_window=100, text_sink=60)
    seen = []
    for n in range(120):
        stream.push(frames[n % 30 : n % 30 + 2])
        state = stream.state
        seen.append((reserved_bytes(state.cache.memory), state.next_position, len(state.spans)))
    assert len({n_bytes for n_bytes, _, _ in seen[40:]}) == 1
    assert max(position for _, position, _ in seen[60:]) <= max(position for _, position, _ in seen[20:60]) + 8
    assert max(n for _, _, n in seen) < 60


def test_an_answer_or_a_failure_after_an_eviction_leaves_the_stream_unchanged(frames, make_model, processor):
    model = make_model("mrope")
    options = StreamOptions(**OPTIONS, vision_window_s=3, text_window=60, text_sink=0)
    whole = model.start_stream(processor, options).push(frames)
    stream = model.start_stream(processor, options)
    got = stream.push(frames[:20])
    stream.answer("What was it?", max_new_tokens=5)
    stream._sampler.processors.append(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        stream.push(frames[20:22])
    stream._sampler.processors.pop()
    got += stream.push(frames[22:])
    assert got == whole
    for a, b in zip(got, whole, strict=True):
        torch.testing.assert_close(a.logits, b.logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_reprefill_happens_before_the_context_is_full(scheme, frames, make_model, processor):
    """With one position per token the context is full before 240 s are over."""
    model = make_model(scheme)
    text_config = model.config.text_config
    before = text_config.max_position_embeddings
    try:
        text_config.max_position_embeddings = 300
        options = OPTIONS | {"window": "reprefill", "text_window": 60, "text_sink": 30, "output_logits": False}
        segments = model.start_stream(processor, **options).push(frames)
    finally:
        text_config.max_position_embeddings = before
    assert len(segments) == 15


@pytest.mark.parametrize("window", ["sliding", "reprefill", "none"])
def test_a_first_turn_that_does_not_fit_is_a_clear_error(window, frames, make_model, processor):
    model = make_model("mrope")
    stream = model.start_stream(processor, window=window, previous="He said that. " * 30)
    text_config = model.config.text_config
    before = text_config.max_position_embeddings
    try:
        text_config.max_position_embeddings = 60
        with pytest.raises(ContextFullError, match="at position 0 and its next turn needs .* the model knows 60"):
            stream.push(frames[:6])
    finally:
        text_config.max_position_embeddings = before


@pytest.mark.parametrize("window", ["sliding", "reprefill"])
def test_a_later_query_stays_until_the_next_one(window, frames, make_model, processor, monkeypatch):
    monkeypatch.setattr("livecc_hf.modeling.model_runner.REPREFILL_S", 6.0)
    options = {"window": window, "text_window": 40, "text_sink": 0, "do_sample": False, "max_new_tokens": 2}
    stream = make_model("mrope").start_stream(processor, query="First.", **options)
    in_context = []
    for query in (None, "Second.", "Third."):
        if query is not None:
            stream.ask(query)
        stream.push(frames[:30])
        text = processor.tokenizer.decode(stream.state.token_ids)
        in_context.append([name for name in ("First.", "Second.", "Third.") if name in text])
        assert text.count("Time=") < 12  # of the 15 turns of a push
    assert in_context == [["First."], ["First.", "Second."], ["First.", "Third."]]


def test_which_spans_a_window_keeps():
    spans = []
    for turn in range(6):
        spans += [
            Span(TEXT, turn, 3.0 + turn, 10, 10),
            Span(VISION, turn, 3.0 + turn, 8, 4),
            Span(TEXT, turn, 3.0 + turn, 5, 5),
        ]
    state = StreamState(cache=None, spans=spans, query_turn=2)
    kept = kept_spans(state, StreamOptions(text_window=30, text_sink=15), oldest_s=6.0)
    text = [stays for span, stays in zip(spans, kept) if span.kind == TEXT]
    vision = [stays for span, stays in zip(spans, kept) if span.kind == VISION]
    assert text == [turn in (0, 2, 4, 5) for turn in range(6) for _ in range(2)]
    assert vision == [turn >= 4 for turn in range(6)]  # those that end after second 6


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"window": "slide"}, "window='slide': expected one of sliding, reprefill, none"),
        ({"vision_window_s": 0.5}, "vision_window_s=0.5: expected a number at least 1"),
        ({"vision_window_s": float("nan")}, "vision_window_s=nan"),
        ({"text_window": -1}, "text_window=-1: expected a whole number at least 0"),
        ({"text_sink": 1.5}, "text_sink=1.5: expected a whole number at least 0"),
    ],
)
def test_invalid_window_options_are_refused(option, message, make_model, processor):
    with pytest.raises(ValueError, match=message):
        make_model("mrope").start_stream(processor, **option)


@pytest.mark.parametrize("option", [{"vision_window_s": float("inf")}, {"text_window": 10**9}, {"text_sink": 10**9}])
def test_huge_windows_preallocate_a_bounded_cache(option, frames, make_model, processor):
    model = make_model("mrope")
    expected = model.start_stream(processor, StreamOptions(**OPTIONS, window="none")).push(frames[:12])
    bounds = {"vision_window_s": 1000, "text_window": 10_000} | option
    stream = model.start_stream(processor, StreamOptions(**OPTIONS, **bounds))
    assert stream.push(frames[:12]) == expected
    assert stream.state.cache.memory.capacity <= 16_384


def test_if_the_cache_cannot_be_preallocated_it_grows_on_demand(frames, make_model, processor, monkeypatch):
    model = make_model("mrope")
    expected = model.start_stream(processor, **OPTIONS).push(frames[:12])
    zeros = torch.zeros

    def little(*shape, **options):
        if isinstance(shape[0], tuple) and shape[0][3] > 1000:
            raise torch.OutOfMemoryError("no memory")
        return zeros(*shape, **options)

    monkeypatch.setattr(torch, "zeros", little)
    stream = model.start_stream(processor, StreamOptions(**OPTIONS, vision_window_s=100))
    assert stream.push(frames[:12]) == expected
    assert 0 < stream.state.cache.memory.capacity < 1000


@pytest.mark.parametrize("share", [0.5, 1.0], ids=["half-way", "at the last operation"])
def test_an_interrupted_eviction_is_reported_until_reset(share, frames, make_model, processor, monkeypatch):
    options = StreamOptions(**OPTIONS, vision_window_s=3, text_window=60, text_sink=0)
    stream = make_model("mrope").start_stream(processor, options)
    expected = stream.push(frames[:20])
    evict, lengths = KVCache.evict, []

    def interrupted(cache, *args):
        last = int(share * lengths[-1]) if lengths else None
        with Operations(last) as operations:
            evict(cache, *args)
        lengths.append(len(operations.names))

    monkeypatch.setattr(KVCache, "evict", interrupted)
    stream.push(frames[20:22])
    with pytest.raises(KeyboardInterrupt):
        stream.push(frames[22:24])
    monkeypatch.undo()
    for use in (lambda: stream.push(frames[24:26]), lambda: stream.answer("What?"), stream.finish):
        with pytest.raises(RuntimeError, match=r"cache inconsistent: call reset\(\)"):
            use()
    stream.reset()
    assert stream.push(frames[:20]) == expected


def test_a_sliding_window_never_reallocates_its_cache(frames, make_model, processor):
    stream = make_model("mrope").start_stream(processor, StreamOptions(**OPTIONS, vision_window_s=3, text_window=60))
    stream.push(frames[:6])
    memory = stream.state.cache.memory
    layers = memory.layers
    for chunk in frames[6:].repeat(4, 1, 1, 1).split(2):
        stream.push(chunk)
    assert stream.state.n_evicted > 500
    assert memory.layers is layers
