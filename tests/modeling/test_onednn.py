"""oneDNN's products and the attention made of them: the same numbers as PyTorch's own."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import linear, scaled_dot_product_attention

from livecc_hf.modeling import onednn
from livecc_hf.modeling.onednn import attend, bound_linear, is_for, is_for_attention, product

pytestmark = pytest.mark.skipif(not is_for(torch.zeros(1)), reason="this PyTorch has no oneDNN for this processor")


def drawn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("n_rows", [1, 3, 400])
@pytest.mark.parametrize("shape", [(96, 64), (700, 512)], ids=["small", "large"])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_linear_layer_is_the_same_by_both_libraries(n_rows, shape, has_bias):
    weight, bias = torch.nn.Parameter(drawn(*shape), requires_grad=False), drawn(shape[0]) if has_bias else None
    rows = drawn(n_rows, shape[1])
    torch.testing.assert_close(bound_linear(weight, bias)(rows), linear(rows, weight, bias), atol=2e-4, rtol=1e-5)


def test_large_weights_and_many_rows_go_to_onednn(monkeypatch):
    shapes = []
    monkeypatch.setattr(onednn, "product", lambda rows, *_, **__: shapes.append(tuple(rows.shape)) or rows)
    bound_linear(drawn(512, 512), None)(drawn(1, 512))
    bound_linear(drawn(64, 64), None)(drawn(1, 64))
    bound_linear(drawn(64, 64), None)(drawn(600, 64))
    assert shapes == [(1, 512), (600, 64)]


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float64])
def test_other_types_stay_with_pytorch(kind):
    rows, weight = drawn(2, 512).to(kind), drawn(600, 512).to(kind)
    assert not is_for(weight)
    assert torch.equal(bound_linear(weight, None)(rows), linear(rows, weight))


def test_it_can_be_switched_off_as_all_of_onednn():
    with torch.backends.mkldnn.flags(enabled=False):
        assert not is_for(torch.zeros(1))
    assert is_for(torch.zeros(1))


@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("n_blocks", ["one", "several"])
@pytest.mark.parametrize(("n_heads", "n_kv_heads"), [(4, 4), (6, 2), (7, 1)])
def test_attention_is_the_same_as_in_double_precision(is_causal, n_blocks, n_heads, n_kv_heads, monkeypatch):
    if n_blocks == "several":
        monkeypatch.setattr(onednn, "_KEYS_AT_ONCE", 30)
        monkeypatch.setattr(onednn, "_ROUND_KEYS", 7)
    memory = drawn(2, n_kv_heads, 300, 16)
    keys, values = memory[:, :, :130]  # views, as of a cache
    query = drawn(31, n_heads, 16)
    mask = torch.ones(31, 130, dtype=torch.bool)
    exact = scaled_dot_product_attention(
        query.transpose(0, 1).double()[None],
        keys.double()[None],
        values.double()[None],
        attn_mask=mask.tril(130 - 31) if is_causal else mask,
        scale=0.3,
        enable_gqa=True,
    )[0].transpose(0, 1)
    # The memory goes on after the keys that count.
    found = attend(query, *memory, 0.3, length=130) if is_causal else attend(query, keys, values, 0.3)
    torch.testing.assert_close(found.double(), exact, atol=2e-6, rtol=0)


def test_attention_of_little_stays_with_pytorch():
    assert not is_for_attention(drawn(2, 4, 16), drawn(2, 100, 16))
    assert is_for_attention(drawn(600, 4, 16), drawn(2, 4000, 16))
    assert not is_for_attention(drawn(600, 4, 16).bfloat16(), drawn(2, 4000, 16).bfloat16())


def test_programs_for_few_shapes_only(monkeypatch):
    """oneDNN keeps what it has made for a shape; a stream that grows must not meet new ones all the time."""
    shapes, memory = set(), drawn(2, 2, 8192, 16)
    monkeypatch.setattr(
        onednn, "product", lambda rows, *rest: shapes.add((rows.shape, rest[0].shape)) or product(rows, *rest)
    )
    for turn in range(60):
        n, length = 395 + 7 * turn % 13, 5000 + 53 * turn
        attend(drawn(n, 4, 16), *memory, 0.3, length=length)
    assert len(shapes) < 50
    made = torch.ops.mkldnn._linear_pointwise
    rows_seen = set()
    patched = SimpleNamespace(
        mkldnn=SimpleNamespace(_linear_pointwise=lambda rows, *a: rows_seen.add(rows.shape) or made(rows, *a))
    )
    monkeypatch.setattr(torch, "ops", patched)
    for n in range(33, 300):
        assert product(drawn(n, 64), drawn(96, 64)).shape == (n, 96)
    assert len(rows_seen) < 10


def test_under_autocast_and_in_inference_mode(make_model, processor, load_frames, monkeypatch):
    for name in ("_MIN_WEIGHT", "_MIN_MULTIPLICATIONS", "_MIN_ATTENTION"):
        monkeypatch.setattr(onednn, name, 1)
    frames = load_frames("live_cc")[:10]
    stream = make_model("mrope").start_stream(processor, do_sample=False, max_new_tokens=3)
    with torch.inference_mode():
        stream.push(frames[:6])
    stream.push(frames[6:8])  # memory made in that mode can be written outside of it
    with torch.autocast("cpu", torch.bfloat16):
        stream.push(frames[8:])
    assert stream.waiting.n_turns == 3


def test_a_model_reads_the_same_with_and_without(make_model, processor, load_frames):
    """Everything through oneDNN, however small, against nothing."""
    frames = load_frames("live_cc")[:12]
    options = {"do_sample": False, "max_new_tokens": 5, "output_logits": True}
    model = make_model("sequential")

    def said():
        return model.start_stream(processor, **options).push(frames)

    with torch.backends.mkldnn.flags(enabled=False):
        without = said()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("_MIN_WEIGHT", "_MIN_MULTIPLICATIONS", "_MIN_ATTENTION"):
            patch.setattr(onednn, name, 1)
        with_it = said()
    assert [segment.token_ids for segment in with_it] == [segment.token_ids for segment in without]
    for a, b in zip(with_it, without, strict=True):
        torch.testing.assert_close(a.logits, b.logits, atol=2e-5, rtol=0)
        assert not torch.equal(a.logits, b.logits)  # so it was another way
