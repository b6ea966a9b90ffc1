"""A cache after an eviction equals one that never held the evicted tokens; evicting takes few operations."""

import gc
import random
import weakref

import pytest
import torch
from operations import Operations

from livecc_hf.modeling import kv_cache
from livecc_hf.modeling.kv_cache import KVCache, KVCachePool, rotate, rotation

SIZE = 64
INV_FREQ = 1.0 / 10000 ** (torch.arange(0, SIZE, 2) / SIZE)
# Tolerance of keys: one rounding to 8 bits, or many to 24.
LIMITS = [(torch.bfloat16, 0.003), (torch.float32, 1e-5)]


def read(cache, layer):
    """Keys and values of a layer, (heads, tokens, head size) each."""
    none = torch.zeros(1, 2, 0, SIZE)
    return [held[0] for held in cache.append(layer, none, none)]


def shifted(keys, shifts):
    """Keys (float64) shifted to positions earlier by `shifts`."""
    cos, sin = rotation(-torch.tensor(shifts, dtype=torch.float64)[:, None] * INV_FREQ.double())
    return rotate(keys.double(), cos, sin)


def relative_error(found, expected):
    return (found.double() - expected).norm() / expected.norm()


@pytest.mark.parametrize(("dtype", "limit"), LIMITS)
def test_rotating_keys_at_64_evictions_rounds_them_only_once(dtype, limit):
    torch.manual_seed(0)
    keys = torch.randn(1, 2, 200, SIZE).to(dtype)
    cache = KVCache(KVCachePool([torch.device("cpu")], is_evictable=True))
    cache.append(0, keys, keys)
    cache.advance(200)
    for n in range(64):  # evict one token per turn
        cache.evict([(0, 1, 0), (2, 200 - n, 7)], INV_FREQ)
    moved, _ = read(cache, 0)
    assert relative_error(moved[:, 1:], shifted(keys[0, :, 65:], [64 * 7] * 135)) < limit
    assert torch.equal(moved[:, 0], keys[0, :, 0])


@pytest.mark.parametrize("by_run", [True, False], ids=["by run", "at once"])
@pytest.mark.parametrize(("dtype", "limit"), LIMITS)
def test_kept_keys_equal_keys_computed_at_their_new_positions_after_random_evictions(dtype, limit, by_run, monkeypatch):
    """Two streams in one pool; keys and values of each layer against a list of tokens that is cut the same way."""
    monkeypatch.setattr(kv_cache, "_BY_RUN", ["cpu"] if by_run else [])
    torch.manual_seed(0)
    chance = random.Random(0)
    pool = KVCachePool([torch.device("cpu")] * 2, is_evictable=True)
    caches = [KVCache(pool), KVCache(pool)]
    tokens = [[], []]  # per stream: (keys and values of each layer, total shift)
    most_shifts = 0
    for _ in range(40):
        for cache, held in zip(caches, tokens):
            n = chance.randrange(10, 30)
            new = torch.randn(2, 2, 2, n, SIZE).to(dtype)  # layers, keys and values, heads, tokens
            for layer, (keys, values) in enumerate(new):
                cache.append(layer, keys[None], values[None])
            cache.advance(n)
            held += [(token, 0) for token in new.unbind(3)]
            if chance.random() < 0.2:
                cache.truncate(len(held) - 5)
                del held[-5:]
            runs, shift, first = [], 0, 0
            for end in [*sorted(chance.sample(range(1, len(held)), 8)), len(held)]:
                if len(held) > 60 and chance.random() < 0.3:
                    shift += chance.randrange(1, 9)
                else:
                    runs.append((first, end, shift))
                first = end
            cache.evict(runs, INV_FREQ)
            held[:] = [(token, moved + shift) for first, end, shift in runs for token, moved in held[first:end]]
            shifts = [moved for _, moved in held]
            most_shifts = max(most_shifts, len(set(shifts)))
            assert cache.length == len(held)
            for layer in range(2):
                keys, values = read(cache, layer)
                expected = torch.stack([token[layer] for token, _ in held], dim=2)
                assert torch.equal(values, expected[1])
                assert relative_error(keys, shifted(expected[0], shifts)) < limit
    assert most_shifts > 10


def test_a_pool_that_grows_for_one_stream_frees_the_memory_that_others_have_used():
    pool = KVCachePool([torch.device("cpu")] * 2)
    caches = [KVCache(pool), KVCache(pool)]
    for cache in caches:
        for layer in range(2):
            cache.append(layer, *torch.randn(2, 1, 2, 10, SIZE))
        cache.advance(10)
    expected = read(caches[1], 0)[1].clone()
    before = [weakref.ref(held) for layer in pool.layers for held in layer]
    gc.disable()
    try:
        pool.reserve_all(pool.capacity + 1)
        assert not any(held() is not None for held in before)
    finally:
        gc.enable()
    assert torch.equal(read(caches[1], 0)[1], expected)


def test_memory_that_grows_under_another_dtype_keeps_its_own():
    """Keys saved without their shift, in 16 bits, are not lost."""
    torch.manual_seed(0)
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        cache = KVCache(KVCachePool([torch.device("cpu")], is_evictable=True))
        keys = torch.arange(600).view(1, 1, 600, 1).expand(1, 2, 600, SIZE) % 7 / 4
        for n, end in ((0, 200), (190, 600)):
            new = keys[:, :, n + 10 if n else 0 : end].to(dtype if n else torch.bfloat16)
            cache.append(0, new, new)
            cache.advance(new.shape[2])
            cache.evict([(0, 1, 0), (11, cache.length, 7)], INV_FREQ)
        found.append(read(cache, 0))
    assert found[1][0].dtype == torch.bfloat16
    for plain, other in zip(*found):
        assert torch.equal(plain, other)


def test_evicting_the_last_tokens_runs_no_operation():
    cache = KVCache(KVCachePool([torch.device("cpu")], is_evictable=True))
    keys = torch.randn(1, 2, 10, SIZE)
    cache.append(0, keys, keys)
    cache.advance(10)
    with Operations() as operations:
        cache.evict([(0, 4, 0), (4, 7, 0)], INV_FREQ)
    assert (cache.length, operations.names) == (7, [])
    assert torch.equal(read(cache, 0)[0], keys[0, :, :7])


def operations_of_an_eviction(dtype, n_layers, n_tokens, n_runs, device="meta"):
    """For a stream that has evicted before; on device "meta", where reading a value would fail."""
    pool = KVCachePool([torch.device(device)] * n_layers, is_evictable=True, n_expected=24)
    pool.expect(n_tokens + 500)
    cache = KVCache(pool)
    keys = torch.zeros(1, 4, n_tokens, 128, dtype=dtype, device=device)
    inv_freq = torch.zeros(64, device=device)
    for _ in range(2):
        for layer in range(n_layers):
            cache.append(layer, *(2 * [keys[:, :, cache.length :]]))
        cache.advance(n_tokens - cache.length)
        runs = [(50 * n, 50 * n + 40, 10 * n) for n in range(n_runs)] + [(50 * n_runs, n_tokens, 400)]
        with Operations() as operations:
            cache.evict(runs, inv_freq)
    return operations.names


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_eviction_takes_few_operations_and_reads_no_value_from_the_device(dtype):
    """In LiveCC-7B's shape."""
    few = operations_of_an_eviction(dtype, n_layers=28, n_tokens=7000, n_runs=2)
    assert len(few) < 40
    assert operations_of_an_eviction(dtype, n_layers=28, n_tokens=7000, n_runs=12) == few
    assert len(operations_of_an_eviction(dtype, n_layers=28, n_tokens=3500, n_runs=2)) < len(few)


@pytest.mark.gpu
def test_an_eviction_does_not_synchronise_with_the_gpu():
    operations_of_an_eviction(torch.bfloat16, 4, 2000, 3, "cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        operations_of_an_eviction(torch.bfloat16, 4, 2000, 3, "cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
