"""Streams with equal settings are sampled in one batch, and each gets the same tokens as alone."""

import pytest
import torch
from operations import Operations
from pooled import OPTIONS, assert_same, run_all, taken
from transformers import LogitsProcessor

from livecc_hf import CommentaryPool
from livecc_hf.modeling import StreamOptions
from livecc_hf.modeling.sampling import NO_TOKEN, BatchSampler, Sampler

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def frames(load_frames):
    return load_frames("live_cc")[:14, :, :84, :112]


def make_sampler(**options):
    return Sampler(StreamOptions(**options), generation_config=None, end_ids=[0], continuation_id=1)


def test_pooled_streams_with_different_sampling_options_generate_the_same_as_alone(
    frames, make_model, processor, monkeypatch
):
    model = make_model("mrope")
    ways = [
        {"repetition_penalty": 1.3},
        {"do_sample": True, "seed": 3, "temperature": 2.0},
        {"repetition_penalty": 1.3, "max_new_tokens": 3},
        {"do_sample": True, "seed": 4, "temperature": 2.0},
        {"do_sample": True, "seed": 3, "temperature": 0.5, "top_p": 0.9},
    ]
    alone = [model.start_stream(processor, OPTIONS, **way).push(frames) for way in ways]
    sizes, sample = set(), BatchSampler._sample
    monkeypatch.setattr(
        BatchSampler,
        "_sample",
        lambda self, logits, members, *args: sizes.add(len(members)) or sample(self, logits, members, *args),
    )
    pool = CommentaryPool(model, processor, max_streams=5, max_lag_s=60)
    streams = [pool.join(OPTIONS, **way) for way in ways]
    for stream in streams:
        stream.push(frames)
    run_all(pool)
    for stream, expected in zip(streams, alone, strict=True):
        assert_same(taken(stream), expected)
    assert sizes == {1, 2}


def test_the_repetition_penalty_counts_only_the_streams_own_context():
    logits = torch.tensor([[1.0, 2.0, 1.9]]).repeat(3, 1)
    sampler = BatchSampler([make_sampler(do_sample=False, repetition_penalty=2.0)] * 3, [[0], [1], [2, 2, 1]], 3, CPU)
    assert sampler.sample(logits, [0, 1, 2], [0, 1, 2])[0].tolist() == [1, 2, 0]
    assert sampler.sample(logits, [0, 1, 2], [0, 1, 2])[0].tolist() == [2, 0, 1]
    assert sampler.sample(logits[:1], [1], [1])[0].tolist() == [1]  # all three are in its context now


def test_draws_follow_the_probabilities_and_are_reproducible_by_seed():
    """Each stream draws from its own generator as `torch.multinomial` does, whatever other streams draw."""
    options = {"do_sample": True, "top_k": 0, "repetition_penalty": 1.0}
    logits = torch.tensor([0.5, 0.3, 0.2]).log().repeat(3, 1)
    probabilities = logits[0].softmax(-1)
    samplers = [make_sampler(seed=seed, **options) for seed in (1, 1, 2)]
    batch = BatchSampler(samplers, [[0]] * 3, 4000, CPU)
    drawn = torch.stack([batch.sample(logits, range(3), range(3))[0] for _ in range(4000)], dim=1)
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    torch.testing.assert_close(torch.bincount(drawn[2]) / 4000, probabilities, atol=0.03, rtol=0)
    generator = torch.Generator().manual_seed(1)
    assert drawn[0, :50].tolist() == [int(torch.multinomial(probabilities, 1, generator=generator)) for _ in range(50)]


def test_more_streams_need_only_their_random_draws_as_further_operations():
    """Also when streams leave: the others continue as they would alone."""
    options = {"do_sample": True, "top_p": 0.9}
    logits = torch.randn(6, 8, 500, generator=torch.Generator().manual_seed(0))
    alone, n_operations = [], []
    for streams in ([0], range(8)):
        samplers = [make_sampler(seed=i, **options) for i in range(8)]
        batch, drawn = BatchSampler([samplers[i] for i in streams], [[i] for i in streams], 6, CPU), []
        left = list(range(len(streams)))
        for step in logits:
            with Operations() as operations:
                tokens, failures = batch.sample(step[left], left, left)
            assert not failures
            drawn.append(tokens[0].item())
            n_operations.append(len(operations.names) - operations.names.count("exponential_"))
            left = left[:4]
        alone.append(drawn)
    assert alone[0] == alone[1]
    assert set(n_operations[1:6]) == set(n_operations[8:])
    assert n_operations[1] < 40


@pytest.mark.parametrize("do_sample", [False, True])
def test_streams_without_finite_scores_get_no_token(do_sample):
    inf = float("inf")
    logits = torch.tensor([[1.0, 2.0], [float("nan"), 2.0], [3.0, -inf], [-inf, -inf], [1.0, inf]])
    sampler = BatchSampler([make_sampler(do_sample=do_sample, seed=0, top_k=1)] * 5, [[0]] * 5, 1, CPU)
    tokens, failures = sampler.sample(logits, range(5), range(5))
    assert (tokens.tolist(), failures) == ([1, NO_TOKEN, 0, NO_TOKEN, NO_TOKEN], {})


def test_a_failing_draw_affects_only_its_stream():
    samplers = [make_sampler(do_sample=True, seed=n, top_k=1) for n in range(3)]
    samplers[1].draw = lambda waits: 1 / 0
    tokens, failures = BatchSampler(samplers, [[0]] * 3, 1, CPU).sample(torch.eye(3), [0, 1, 2], [0, 1, 2])
    assert (tokens[0], tokens[2], list(failures), type(failures[1])) == (0, 2, [1], ZeroDivisionError)


@pytest.mark.parametrize("do_sample", [False, True])
def test_a_pooled_stream_with_nan_scores_fails_and_the_others_continue(do_sample, frames, make_model, processor):
    model = make_model("mrope")
    options = {"do_sample": do_sample, "seed": 5}
    expected = model.start_stream(processor, OPTIONS, **options).push(frames)
    pool = CommentaryPool(model, processor, max_streams=2, max_lag_s=60)
    good, bad = pool.join(OPTIONS, **options), pool.join(OPTIONS, **options)
    bad._stream._sampler.processors.append(lambda token_ids, scores: scores * float("nan"))
    for stream in (good, bad):
        stream.push(frames)
    run_all(pool)
    assert_same(taken(good), expected)
    with pytest.raises(RuntimeError, match=r"scores are not finite.*load it with dtype="):
        taken(bad)


class Picky(LogitsProcessor):
    """Fails for contexts that hold a token."""

    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores):
        if (input_ids == self.token).any():
            raise RuntimeError(f"token {self.token}")
        return scores


def test_a_logits_processor_that_fails_in_a_batch_is_attributed_to_its_stream():
    alike = [make_sampler(do_sample=False, repetition_penalty=1.0) for _ in range(3)]
    for one in alike:
        one.processors.append(Picky(7))
    sampler = BatchSampler(alike, [[1], [7], [2]], 2, CPU)
    tokens, failures = sampler.sample(torch.eye(3), [0, 1, 2], [0, 1, 2])
    assert (tokens[0], tokens[2]) == (0, 2)
    assert {i: str(error) for i, error in failures.items()} == {1: "token 7"}
