"""Collated batches: samples that share a row do not see each other, and padding changes nothing."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import find_packed_sequence_indices
from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

from livecc_hf.data.batches.collator import IGNORE_INDEX, CommentaryCollator
from livecc_hf.data.samples.commentary import encode_commentary
from livecc_hf.data.samples.placeholder import N_PLACEHOLDER_TOKENS, placeholder_sample, with_vision
from livecc_hf.data.samples.sample import Sample
from livecc_hf.modeling.configuration_livecc import POSITION_SCHEMES

PAD_ID = 1986
VISION_START_ID, VISION_END_ID, IMAGE_ID, VIDEO_ID = 1995, 1996, 1998, 1999
TRAINED_SCHEMES = ("mrope", "sequential")


def make_sample(*parts, seed: int = 0) -> Sample:
    """Make a sample from parts: an int is a number of supervised words, (t, h, w) the grid of an image or video.

    A grid with t == 1 is an image, others are videos.
    """
    rng = torch.Generator().manual_seed(seed)
    ids, labels, types, patches, grids = [], [], [], {1: [], 2: []}, {1: [], 2: []}
    for part in parts:
        if isinstance(part, int):
            words = torch.randint(0, 1900, (part,), generator=rng).tolist()
            ids += [*words, 1988]
            labels += [*words, 1988]
            types += [0] * (part + 1)
        else:
            t, h, w = part
            kind, n = (1 if t == 1 else 2), t * h * w // 4
            ids += [VISION_START_ID, *[IMAGE_ID if kind == 1 else VIDEO_ID] * n, VISION_END_ID]
            labels += [IGNORE_INDEX] * (n + 2)
            types += [0, *[kind] * n, 0]
            patches[kind].append(torch.randn(t * h * w, 1176, generator=rng))
            grids[kind].append(part)
    inputs = {
        "input_ids": torch.tensor(ids),
        "labels": torch.tensor(labels),
        "mm_token_type_ids": torch.tensor(types),
    }
    for kind, name, grid in ((1, "pixel_values", "image_grid_thw"), (2, "pixel_values_videos", "video_grid_thw")):
        if grids[kind]:
            inputs |= {name: torch.cat(patches[kind]), grid: torch.tensor(grids[kind])}
    return Sample(inputs, n_words=sum(part for part in parts if isinstance(part, int)))


def make_rows() -> list[list[Sample]]:
    """Make two rows of different lengths, with videos, text only, an image, and images between videos."""
    return [
        [make_sample((3, 4, 4), 5, (2, 4, 6), 3, seed=1), make_sample(9, seed=2), make_sample((1, 4, 6), 4, seed=3)],
        [
            make_sample((1, 4, 4), 2, (4, 4, 4), 2, (1, 2, 6), 4, (2, 2, 2), 2, seed=4),
            make_sample((5, 4, 4), 1, seed=5),
        ],
    ]


def losses_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the loss at each position, (…, L - 1)."""
    return cross_entropy(
        logits[..., :-1, :].flatten(0, -2), labels[..., 1:].flatten(), ignore_index=IGNORE_INDEX, reduction="none"
    )


def run_separate(model, samples: list[Sample]) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """Run each sample alone, with the model's own positions; return logits, and gradients of the summed loss."""
    model.zero_grad()
    logits = []
    for sample in samples:
        inputs = {k: v[None] if v.ndim == 1 else v for k, v in sample.model_inputs.items() if k != "labels"}
        out = model(**inputs, use_cache=False).logits[0]
        losses_of(out, sample.model_inputs["labels"]).sum().backward()
        logits.append(out.detach())
    return logits, gradients(model)


def run_batch(model, batch: dict) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "n_words")}
    logits = model(**inputs, use_cache=False).logits
    losses_of(logits, batch["labels"]).sum().backward()
    return logits.detach(), gradients(model)


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def split(tensor: torch.Tensor, rows: list[list[Sample]]) -> list[torch.Tensor]:
    """Split a tensor (rows, longest, ...) into one for each sample."""
    found = []
    for row, samples in zip(tensor, rows):
        start = 0
        for sample in samples:
            found.append(row[start : start + sample.n_tokens])
            start += sample.n_tokens
    return found


def varlen_attention(module, query, key, value, attention_mask, scaling=None, cu_seq_lens_q=None, **kwargs):
    """Compute flash attention with sequence lengths in plain PyTorch: sequences are concatenated over all rows."""
    assert attention_mask is None
    assert module.is_causal == (cu_seq_lens_q is not None), "the vision tower must not get the text's lengths"
    n_repeats = query.shape[1] // key.shape[1]
    batch, n_heads, length, width = query.shape
    key, value = (tensor.repeat_interleave(n_repeats, dim=1) for tensor in (key, value))
    flat = [tensor.transpose(0, 1).reshape(n_heads, batch * length, width) for tensor in (query, key, value)]
    sizes = [batch * length] if cu_seq_lens_q is None else cu_seq_lens_q.diff().tolist()
    pieces = [
        scaled_dot_product_attention(q, k, v, is_causal=module.is_causal, scale=scaling)
        for q, k, v in zip(*(tensor.split(sizes, dim=1) for tensor in flat))
    ]
    out = torch.cat(pieces, dim=1).view(n_heads, batch, length, width)
    return out.permute(1, 2, 0, 3).contiguous(), None


AttentionInterface.register("varlen_in_torch", varlen_attention)


@pytest.fixture()
def fresh_model(make_model):
    """Return a function that makes a new model from a position scheme and an attention implementation."""

    def make(scheme: str, attention: str = "sdpa"):
        model = copy.deepcopy(make_model(scheme)).train()
        model.set_attn_implementation(attention)
        return model

    return make


@pytest.mark.parametrize("images_as_videos", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager", "varlen_in_torch"])
@pytest.mark.parametrize("scheme", TRAINED_SCHEMES)
def test_packed_equals_separate(fresh_model, scheme, attention, images_as_videos):
    rows = make_rows()
    samples = [sample for row in rows for sample in row]
    expected, expected_gradients = run_separate(fresh_model(scheme), samples)
    model = fresh_model(scheme, attention)
    collator = CommentaryCollator(model.config, PAD_ID, pad_to_multiple_of=16, images_as_videos=images_as_videos)
    batch = collator(rows)
    if not images_as_videos:
        model.activation_checkpointing_enable({"use_reentrant": False})
    logits, found_gradients = run_batch(model, batch)
    for ours, alone in zip(split(logits, rows), expected, strict=True):
        torch.testing.assert_close(ours, alone, atol=1e-5, rtol=1e-5)
    assert found_gradients.keys() == expected_gradients.keys()
    for name, gradient in expected_gradients.items():
        scale = max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(found_gradients[name] / scale, gradient / scale, atol=1e-5, rtol=0, msg=name)


def test_samples_would_see_each_other_without_the_first_row(fresh_model):
    rows = make_rows()
    model = fresh_model("mrope")
    batch = CommentaryCollator(model.config, PAD_ID)(rows)
    apart, _ = run_batch(model, batch)
    together = dict(batch)
    together["position_ids"] = batch["position_ids"].clone()
    together["position_ids"][0] = torch.arange(batch["input_ids"].shape[1])
    mixed, _ = run_batch(model, together)
    changes = [(a - b).abs().max().item() for a, b in zip(split(apart, rows), split(mixed, rows))]
    is_first = [number == 0 for row in rows for number in range(len(row))]
    assert all(change < 1e-5 if first else change > 1e-2 for change, first in zip(changes, is_first))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("scheme", TRAINED_SCHEMES)
def test_a_padded_batch_without_packing_equals_separate_and_needs_no_mask(fresh_model, scheme, attention):
    rows = [[sample] for row in make_rows() for sample in row]
    expected, expected_gradients = run_separate(fresh_model(scheme), [row[0] for row in rows])
    model = fresh_model(scheme, attention)
    batch = CommentaryCollator(model.config, PAD_ID)(rows)
    assert find_packed_sequence_indices(batch["position_ids"][0]) is None
    assert not {"attention_mask", "cu_seq_lens_q", "max_length_q"} & set(batch)
    logits, found_gradients = run_batch(model, batch)
    for ours, alone in zip(split(logits, rows), expected, strict=True):
        torch.testing.assert_close(ours, alone, atol=1e-5, rtol=1e-5)
    for name, gradient in expected_gradients.items():
        scale = max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(found_gradients[name] / scale, gradient / scale, atol=1e-5, rtol=0, msg=name)


def test_real_commentary_packs_too(fresh_model, processor):
    rng = torch.Generator().manual_seed(0)
    samples = []
    for n_frames, side_px in ((6, 56), (10, 84), (7, 112)):
        frames = torch.randint(0, 256, (n_frames, 3, side_px, side_px), generator=rng, dtype=torch.uint8)
        words = [[i / 2, i / 2 + 0.4, f"word{i}"] for i in range(n_frames - 1)]
        times_s = [i / 2 for i in range(n_frames)]
        encoded = encode_commentary(processor, frames, times_s, words, min_pixels=28 * 28, max_pixels=112 * 112)
        samples.append(Sample(encoded.model_inputs, n_words=n_frames - 1))
    samples.append(placeholder_sample(processor))
    rows = [samples[:2], samples[2:]]
    expected, _ = run_separate(fresh_model("mrope"), samples)
    model = fresh_model("mrope")
    batch = CommentaryCollator(model.config, PAD_ID)(rows)
    logits, _ = run_batch(model, batch)
    for ours, alone in zip(split(logits, rows), expected, strict=True):
        torch.testing.assert_close(ours, alone, atol=1e-5, rtol=1e-5)
    assert batch["n_words"] == 5 + 9 + 6


@pytest.mark.parametrize("scheme", POSITION_SCHEMES)
def test_positions_are_the_models_own(make_model, scheme):
    rows = make_rows()
    body = make_model(scheme).model
    batch = CommentaryCollator(body.config, PAD_ID)(rows)
    positions = split(batch["position_ids"].permute(1, 2, 0), rows)
    for found, sample in zip(positions, [sample for row in rows for sample in row], strict=True):
        inputs = {k: v[None] if v.ndim == 1 else v for k, v in sample.model_inputs.items()}
        names = ("input_ids", "mm_token_type_ids", "image_grid_thw", "video_grid_thw")
        alone, _ = body.get_rope_index(**{name: inputs[name] for name in names if name in inputs})
        assert torch.equal(found[:, 0], torch.arange(sample.n_tokens))
        assert torch.equal(found[:, 1:].T, alone[:, 0])


def test_flash_attention_is_told_the_same_boundaries(make_model):
    batch = CommentaryCollator(make_model("mrope").config, PAD_ID, pad_to_multiple_of=64)(make_rows())
    (starts, _), (longest, _) = prepare_fa_kwargs_from_position_ids(batch["position_ids"][0])
    assert torch.equal(batch["cu_seq_lens_q"], starts) and torch.equal(batch["cu_seq_lens_k"], starts)
    assert batch["cu_seq_lens_q"].dtype == torch.int32
    assert batch["max_length_q"] == batch["max_length_k"] == longest.item()
    assert len(starts) == 5 + 1


def test_pads_on_the_right_and_keeps_every_patch(make_model):
    rows = make_rows()
    samples = [sample.model_inputs for row in rows for sample in row]
    batch = CommentaryCollator(make_model("mrope").config, PAD_ID, pad_to_multiple_of=64)(rows)
    n_tokens = [sum(sample.n_tokens for sample in row) for row in rows]
    assert n_tokens[0] != n_tokens[1]
    assert batch["input_ids"].shape == (2, -(-max(n_tokens) // 64) * 64)
    for row, n in enumerate(n_tokens):
        assert (batch["input_ids"][row, n:] == PAD_ID).all()
        assert (batch["labels"][row, n:] == IGNORE_INDEX).all()
        assert (batch["mm_token_type_ids"][row, n:] == 0).all()
    for name in ("input_ids", "mm_token_type_ids"):
        found = split(batch[name], rows)
        assert all(torch.equal(a, sample[name]) for a, sample in zip(found, samples, strict=True))
    for name in ("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw"):
        assert torch.equal(batch[name], torch.cat([sample[name] for sample in samples if name in sample]))


def test_a_samples_first_token_is_not_predicted_from_the_sample_before_it(make_model):
    samples = [make_sample(4, seed=1), make_sample(6, seed=2)]
    assert all(sample.model_inputs["labels"][0] != IGNORE_INDEX for sample in samples)
    batch = CommentaryCollator(make_model("mrope").config, PAD_ID)([samples])
    supervised = torch.cat([sample.model_inputs["labels"][1:] for sample in samples])
    assert torch.equal(batch["labels"][batch["labels"] != IGNORE_INDEX], supervised)
    assert batch["labels"][0, 5] == IGNORE_INDEX


def test_text_alone_has_no_vision_inputs(make_model):
    batch = CommentaryCollator(make_model("mrope").config, PAD_ID)([[make_sample(4)]])
    assert set(batch) == {"input_ids", "labels", "mm_token_type_ids", "position_ids", "n_words"}


def test_images_as_videos_leave_one_kind_in_the_order_of_the_tokens(make_model):
    rows = make_rows()
    batch = CommentaryCollator(make_model("mrope").config, PAD_ID, images_as_videos=True)(rows)
    assert not {"pixel_values", "image_grid_thw"} & set(batch)
    assert not (batch["input_ids"] == IMAGE_ID).any() and not (batch["mm_token_type_ids"] == 1).any()
    grids = [[3, 4, 4], [2, 4, 6], [1, 4, 6], [1, 4, 4], [4, 4, 4], [1, 2, 6], [2, 2, 2], [5, 4, 4]]
    assert batch["video_grid_thw"].tolist() == grids
    assert (rows[1][0].model_inputs["input_ids"] == IMAGE_ID).any()  # the sample is left as it was


def test_a_placeholder_runs_the_vision_tower_and_teaches_nothing(fresh_model, processor):
    sample = placeholder_sample(processor)
    assert sample.n_tokens == N_PLACEHOLDER_TOKENS
    assert sample.model_inputs["video_grid_thw"].tolist() == [[1, 2, 2]]
    model = fresh_model("mrope")
    batch = CommentaryCollator(model.config, PAD_ID)([[sample]])
    assert (batch["labels"] == IGNORE_INDEX).all()
    _, found = run_batch(model, batch)
    assert any(name.startswith("model.visual") for name in found)
    assert all((gradient == 0).all() for gradient in found.values())


def test_the_placeholder_fits_every_processor(tiny_processor):
    sample = placeholder_sample(tiny_processor)
    assert (sample.model_inputs["input_ids"] >= 0).all()
    assert tiny_processor.tokenizer.decode(sample.model_inputs["input_ids"]).count("<|vision_start|>") == 1
    assert sample.model_inputs["pixel_values_videos"].shape == (4, 1176)


@pytest.mark.parametrize("scheme", TRAINED_SCHEMES)
def test_vision_after_the_end_changes_nothing_before_it(fresh_model, processor, scheme):
    sample = make_sample(7)
    longer = with_vision(sample, processor)
    assert longer.n_tokens == sample.n_tokens + N_PLACEHOLDER_TOKENS
    assert longer.n_words == sample.n_words and set(sample.model_inputs) == {"input_ids", "labels", "mm_token_type_ids"}
    model = fresh_model(scheme)
    (before, after), _ = run_separate(model, [sample, longer])
    torch.testing.assert_close(after[: sample.n_tokens], before, atol=1e-5, rtol=1e-5)  # matrix kernels may differ
    assert (longer.model_inputs["labels"][sample.n_tokens :] == IGNORE_INDEX).all()


def test_samples_with_media_are_not_changed(processor):
    for sample in (make_sample((1, 4, 4), 3), make_sample((2, 4, 4), 3)):
        assert with_vision(sample, processor) is sample


def damaged(**changes) -> Sample:
    sample = make_sample((2, 4, 4), 3)
    return replace(sample, model_inputs=sample.model_inputs | changes)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"rows of \[\] samples"),
        ([[make_sample(3)], []], r"rows of \[1, 0\] samples"),
        ([[damaged(labels=torch.zeros(3))]], r"'labels': \(3,\).*one length"),
        (
            [[damaged(pixel_values_videos=torch.zeros(12, 1176))]],
            "12 patches in pixel_values_videos, 32 in .* 8 tokens",
        ),
        ([[damaged(video_grid_thw=torch.tensor([[1, 4, 4]]))]], "16 in video_grid_thw"),
        ([[damaged(pixel_values=torch.zeros(4, 1176))]], "4 patches in pixel_values, 0 in image_grid_thw"),
    ],
)
def test_malformed_rows_are_refused(make_model, rows, message):
    with pytest.raises(ValueError, match=message):
        CommentaryCollator(make_model("mrope").config, PAD_ID)(rows)


def test_a_missing_pad_token_and_a_wrong_multiple_are_refused(make_model):
    config = make_model("mrope").config
    with pytest.raises(ValueError, match="no pad token"):
        CommentaryCollator(config, None)
    with pytest.raises(ValueError, match="pad_to_multiple_of is 0"):
        CommentaryCollator(config, 0, pad_to_multiple_of=0)
