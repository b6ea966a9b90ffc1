"""Packed rows without a mask."""

import pytest
import torch

pytest.importorskip("trl")

from livecc_hf.acceleration.vision import PICTURE_SDPA
from livecc_hf.data.batches.loader import BOOKKEEPING
from livecc_hf.data.samples.pixels import normalise_pixels
from livecc_hf.training.model.packed_attention import PACKED_SDPA, packed_batch
from livecc_hf.training.options.recipe import parse
from livecc_hf.training.setup import build_trainer

ENTRIES = [
    {"source": "tiny", "length": [4, 7], "samples": 6, "group": 1},
    {"source": "tiny", "task": "list", "length": [1, 1], "samples": 6},
]


@pytest.fixture()
def trainers(recipe):
    """Two trainers of the same model and rows, with our attention and with eager attention's mask."""
    changes = {"data": ENTRIES, "optimizer": "trainer", "packing": True, "max_length": 700}

    def build(*extra: str):
        return build_trainer(parse(["--config", recipe(**changes), *extra]))

    return build, build("attn_implementation=eager")


def loss_and_gradients(trainer, batch):
    model = trainer.model.train()
    model.zero_grad()
    loss = trainer.compute_loss(model, dict(batch))
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_loss_and_gradients_are_those_with_a_mask(trainers, checkpointing):
    build, masked = trainers
    trainer = build(f"gradient_checkpointing={checkpointing}")
    assert trainer.model.config.text_config._attn_implementation == PACKED_SDPA
    assert trainer.model.config.vision_config._attn_implementation == PICTURE_SDPA
    batch = next(iter(trainer.get_train_dataloader()))
    batch.pop(BOOKKEEPING)
    assert len(batch["input_ids"]) > 1  # rows, some with several samples
    assert len(batch["cu_seq_lens_q"]) > len(batch["input_ids"]) + 1
    loss, gradients = loss_and_gradients(trainer, batch)
    expected_loss, expected = loss_and_gradients(masked, batch)
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    for name, gradient in expected.items():
        bound = 1e-5 * max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=bound)


def test_no_mask_is_made(trainers, monkeypatch):
    trainer = trainers[0]()
    batch = next(iter(trainer.get_train_dataloader()))
    seen = []
    layer = trainer.model.model.language_model.layers[0]
    layer.register_forward_pre_hook(lambda module, args, kw: seen.append(kw["attention_mask"]), with_kwargs=True)
    trainer.compute_loss(trainer.model.train(), dict(batch))
    assert seen == [None]


def test_layers_are_given_the_lengths(trainers):
    """On a GPU asking for them waits for the device, in every layer."""
    trainer = trainers[0]()
    batch = next(iter(trainer.get_train_dataloader()))
    seen = []
    for layer in trainer.model.model.language_model.layers:
        layer.self_attn.register_forward_pre_hook(
            lambda module, args, kw: seen.append(kw["sample_lengths"]), with_kwargs=True
        )
    trainer.compute_loss(trainer.model.train(), dict(batch))
    assert seen and set(seen) == {tuple(batch["cu_seq_lens_q"].diff().tolist())}


def test_without_lengths_the_mask_is_back(trainers):
    """Positions that restart are enough for a right result, wherever they come from."""
    trainer = trainers[0]()
    batch = next(iter(trainer.get_train_dataloader()))
    batch.pop(BOOKKEEPING)
    batch.pop("labels")
    batch = normalise_pixels(batch, trainer.processing_class.video_processor)
    model = trainer.model.eval()
    with torch.no_grad():
        without = {name: value for name, value in batch.items() if "seq_lens" not in name and "max_length" not in name}
        plain = model(**without, use_cache=False).logits
        with packed_batch(batch):
            packed = model(**batch, use_cache=False).logits
    torch.testing.assert_close(plain, packed, rtol=0, atol=1e-4)


def test_the_model_still_streams_and_saves_as_any_other(trainers, tmp_path):
    trainer = trainers[0]()
    stream = trainer.model.eval().start_stream(trainer.processing_class, do_sample=False, max_new_tokens=3)
    frames = torch.zeros(8, 3, 84, 84, dtype=torch.uint8)
    texts = [segment.token_ids for segment in stream.push(frames)]
    reference = trainers[1].model.eval().start_stream(trainer.processing_class, do_sample=False, max_new_tokens=3)
    assert texts == [segment.token_ids for segment in reference.push(frames)]
    trainer.save_model(tmp_path)
    saved = (tmp_path / "config.json").read_text()
    assert PACKED_SDPA not in saved and PICTURE_SDPA not in saved


def test_a_commentary_in_between_changes_nothing(trainers):
    """A stream replaces packed attention by its own; training then continues without masks."""
    trainer = trainers[0]()
    batch = next(iter(trainer.get_train_dataloader()))
    before = trainer.compute_loss(trainer.model.train(), dict(batch))
    stream = trainer.model.eval().start_stream(trainer.processing_class, do_sample=False, max_new_tokens=3)
    assert stream.push(torch.zeros(6, 3, 84, 84, dtype=torch.uint8))
    seen = []
    layer = trainer.model.model.language_model.layers[0]
    layer.register_forward_pre_hook(lambda module, args, kw: seen.append(kw), with_kwargs=True)
    after = trainer.compute_loss(trainer.model.train(), dict(batch))
    assert seen[0]["attention_mask"] is None and sum(seen[0]["sample_lengths"]) == batch["input_ids"].numel()
    assert after.item() == before.item()


def test_a_frozen_vision_tower_is_not_differentiated(recipe):
    changes = {"data": ENTRIES, "optimizer": "trainer", "gradient_checkpointing": True}
    for parts, expected in ((["language_model"], False), (["vision", "language_model"], True)):
        trainer = build_trainer(parse(["--config", recipe(**changes, train_parts=parts)]))
        trainer.train_dataset = trainer.train_dataset.select(range(4))
        hook = _RequiresGrad()
        trainer.model.model.visual.merger.register_forward_hook(hook)
        trainer.args.max_steps = 1
        trainer.train()
        assert hook.seen[0] is expected


class _RequiresGrad:
    """Notes whether a module's output is differentiated."""

    def __init__(self):
        self.seen = []

    def __call__(self, module, args, output):
        self.seen.append(output.requires_grad)
