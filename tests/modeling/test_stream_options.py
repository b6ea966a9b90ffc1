"""Generation settings: options, then the model's generation config, then the live defaults."""

import pytest
import torch
from greedy import GREEDY


def test_sampling_is_reproducible_by_seed(frames, make_model, processor):
    model = make_model("mrope")
    options = {"do_sample": True, "temperature": 2.0, "top_p": 0.99, "top_k": 0, "max_new_tokens": 8}

    def ids(seed):
        stream = model.start_stream(processor, seed=seed, **options)
        return [s.token_ids for s in stream.push(frames)]

    assert ids(1) == ids(1) != ids(2)


def test_options_override_the_generation_config_which_overrides_live_defaults(make_model, processor):
    model = make_model("mrope")
    live = model.start_stream(processor)._sampler
    assert (live.do_sample, live.max_new_tokens) == (True, 16)
    config = model.generation_config
    try:
        config.do_sample, config.max_new_tokens = False, 7
        configured = model.start_stream(processor)._sampler
        assert (configured.do_sample, configured.max_new_tokens) == (False, 7)
        assert model.start_stream(processor, max_new_tokens=3)._sampler.max_new_tokens == 3
    finally:
        config.do_sample, config.max_new_tokens = None, None


def test_silence_threshold_makes_an_improbable_continuation_impossible(frames, make_model, processor):
    model = make_model("mrope")
    token = processor.continuation_id
    with torch.no_grad():
        before = model.lm_head.weight[token].clone()
        model.lm_head.weight[token] = model.lm_head.weight[processor.end_id] * 1.05
    try:
        plain = model.start_stream(processor, **GREEDY).push(frames[:6])[0]
        assert plain.token_ids[0] == token
        probability = plain.logits[0].softmax(-1)[token].item()
        for threshold, spoken in ((probability * 0.9, token), (min(probability * 1.1, 1.0), None)):
            segment = model.start_stream(
                processor, silence_threshold=threshold, **(GREEDY | {"repetition_penalty": 1.0})
            )
            first = segment.push(frames[:6])[0].token_ids[0]
            assert first == token if spoken else first != token
    finally:
        with torch.no_grad():
            model.lm_head.weight[token] = before


def test_qwen2_vls_own_generation_config_works(frames, make_model, processor):
    """Nearly greedy sampling, two ending tokens."""
    model = make_model("mrope")
    config = model.generation_config
    shipped = {"do_sample": True, "temperature": 0.01, "top_p": 0.001, "top_k": 1, "repetition_penalty": 2}
    before = {name: getattr(config, name) for name in shipped}
    try:
        for name, value in shipped.items():
            setattr(config, name, value)
        nearly = model.start_stream(processor, max_pixels=50176).push(frames[:8])
        greedy = model.start_stream(processor, max_pixels=50176, do_sample=False).push(frames[:8])
        assert nearly == greedy
    finally:
        for name, value in before.items():
            setattr(config, name, value)


WRONG = {
    "query": [5, b"what", ["what"]],
    "title": [0],
    "previous": [False],
    "do_sample": ["no", 1],
    "output_logits": [None, "yes"],
    "do_resize": [None, 0],
    "stop_at_continuation": ["off"],
    "seed": [2**70, -(2**64), 1.5, True, "1"],
    "max_pixels": [0, -1, 1e6, True, "many"],
    "min_pixels": [0, [1]],
    "max_new_tokens": [0, 2.0, True],
    "temperature": [True, "hot", float("nan")],
    "top_k": [True],
    "silence_threshold": [float("nan"), b"1"],
    "vision_window_s": [True, None],
    "text_window": [True, None],
    "window": [None, ["none"]],
}


@pytest.mark.parametrize("name", WRONG)
def test_options_of_a_wrong_type_are_refused_when_the_stream_starts(name, make_model, processor):
    model = make_model("mrope")
    for value in WRONG[name]:
        with pytest.raises(ValueError, match=f"^{name}=.*: expected "):
            model.start_stream(processor, **{name: value})
    with pytest.raises(ValueError, match="options are of type dict: expected StreamOptions"):
        model.start_stream(processor, {name: None})


def test_the_smallest_and_largest_seeds_are_accepted(frames, make_model, processor):
    for seed in (2**64 - 1, -(2**63)):
        assert make_model("mrope").start_stream(processor, seed=seed, max_pixels=50176).push(frames[:6])


def test_max_new_tokens_limits_an_answer(frames, make_model, processor):
    stream = make_model("mrope").start_stream(processor, **GREEDY)
    stream.push(frames[:6])
    for wrong in (0, "many", 2.0, None, True):
        with pytest.raises(ValueError, match="max_new_tokens=.*: expected a whole number at least 1"):
            stream.answer("Why?", max_new_tokens=wrong)
