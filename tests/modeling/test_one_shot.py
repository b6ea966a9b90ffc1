"""Plain `generate` and the training forward follow the config's position scheme."""

import json

import pytest
import torch


@pytest.fixture(scope="module")
def question(reference_dir, load_frames, processor):
    """The recorded long-clip question as model inputs."""
    ids = torch.tensor([json.loads((reference_dir / "qa.json").read_text())["input_ids"]])
    patches, grid = processor.video_processor.frames_to_patches(load_frames("qa"), do_resize=False)
    return {
        "input_ids": ids,
        "mm_token_type_ids": torch.tensor(processor.create_mm_token_type_ids(ids)),
        "attention_mask": torch.ones_like(ids),
        "pixel_values_videos": patches,
        "video_grid_thw": grid,
    }


def padded_left(inputs, n, pad_id):
    """The same question with `n` tokens of padding before it."""
    out = dict(inputs)
    for name, value in (("input_ids", pad_id), ("mm_token_type_ids", 0), ("attention_mask", 0)):
        out[name] = torch.cat([torch.full((1, n), value), inputs[name]], dim=1)
    return out


@pytest.mark.parametrize("scheme", ["mrope", "sequential", "reference"])
def test_generated_tokens_equal_those_of_one_forward_pass(scheme, question, make_model, processor):
    model = make_model(scheme)
    options = {"do_sample": False, "max_new_tokens": 6, "min_new_tokens": 6}
    out = model.generate(**question, **options)
    n = question["input_ids"].shape[1]
    whole = question | {
        "input_ids": out,
        "mm_token_type_ids": torch.tensor(processor.create_mm_token_type_ids(out)),
        "attention_mask": torch.ones_like(out),
    }
    with torch.no_grad():
        logits = model(**whole).logits[0, n - 1 : -1]
    eos = model.generation_config.eos_token_id
    logits[:, eos] = -torch.inf  # as min_new_tokens does
    assert logits.argmax(-1).tolist() == out[0, n:].tolist()

    left = model.generate(**padded_left(question, 7, processor.tokenizer.pad_token_id), **options)
    assert left[0, n + 7 :].tolist() == out[0, n:].tolist()


def test_the_training_loss_depends_on_the_position_scheme(question, make_model):
    labels = question["input_ids"].clone()
    labels[:, :-8] = -100  # the question after the clip
    losses = {}
    for scheme in ("mrope", "sequential"):
        model = make_model(scheme)
        model.train()
        try:
            losses[scheme] = model(**question, labels=labels).loss.item()
        finally:
            model.eval()
        with torch.no_grad():
            assert model(**question, labels=labels).loss.item() == pytest.approx(losses[scheme], abs=1e-5)
    assert abs(losses["mrope"] - losses["sequential"]) > 1e-4


def test_sequential_positions_are_token_indices(question, make_model):
    positions, delta = make_model("sequential").model.get_rope_index(
        question["input_ids"],
        mm_token_type_ids=question["mm_token_type_ids"],
        video_grid_thw=question["video_grid_thw"],
    )
    n = question["input_ids"].shape[1]
    assert torch.equal(positions, torch.arange(n).expand(3, 1, n))
    assert delta.tolist() == [[0]]
