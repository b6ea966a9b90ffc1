"""The loss at supervised positions equals the full loss, and logged values are means over tokens."""

import json

import pytest

pytest.importorskip("trl")

import torch

from livecc_hf.data.batches.loader import BOOKKEEPING
from livecc_hf.data.samples.pixels import normalise_pixels
from livecc_hf.training.options.recipe import parse
from livecc_hf.training.setup import build_trainer

ENTRY = {"source": "tiny", "length": [4, 6], "samples": 8}


@pytest.fixture()
def trainer(recipe):
    return build_trainer(parse(["--config", recipe(data=[ENTRY], optimizer="trainer", max_length=600, packing=True)]))


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_loss_and_gradients_equal_the_full_computation(trainer):
    batch = next(iter(trainer.get_train_dataloader()))
    batch.pop(BOOKKEEPING)
    model = trainer.model.train()
    loss = trainer.compute_loss(model, dict(batch))
    loss.backward()
    ours = gradients(model)
    model.zero_grad()
    labels = batch.pop("labels")
    batch = normalise_pixels(batch, trainer.processing_class.video_processor)
    logits = model(**batch, use_cache=False).logits
    full = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    full.backward()
    assert loss.item() == pytest.approx(full.item(), abs=1e-5)
    expected = gradients(model)
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(ours[name], gradient, rtol=0, atol=1e-5 * max(1.0, gradient.abs().max().item()))


def test_the_head_sees_supervised_positions_only(trainer):
    batch = next(iter(trainer.get_train_dataloader()))
    seen = []
    trainer.model.model.register_forward_hook(lambda module, args, output: seen.append(output.last_hidden_state.shape))
    trainer.compute_loss(trainer.model.train(), dict(batch))
    n_supervised = int((batch["labels"][:, 1:] != -100).sum())
    assert seen == [(1, n_supervised, trainer.model.config.text_config.hidden_size)]
    assert n_supervised < 0.5 * batch["labels"].numel()


def test_a_batch_without_a_supervised_token_has_no_loss_and_no_gradient(trainer):
    batch = next(iter(trainer.get_train_dataloader()))
    batch["labels"].fill_(-100)
    model = trainer.model.train()
    loss = trainer.compute_loss(model, dict(batch))
    loss.backward()
    assert loss.item() == 0
    assert all((gradient == 0).all() for gradient in gradients(model).values())


MEASURED = ("loss", "mean_token_accuracy", "entropy")


def uneven_chats(path, n_missing: int) -> dict:
    """A data entry of conversations with answers of 1 to 9 words, and some whose image does not exist."""
    words = ["red", "ball", "moves", "blue", "square", "stops", "green", "ring", "leaves"]
    chats = [("Who?", " ".join(words[:n])) for n in (1, 9, 2, 7, 3)]
    chats += [([{"type": "image", "image": "no.png"}, {"type": "text", "text": "?"}], "none")] * n_missing
    rows = [[{"role": "user", "content": ask}, {"role": "assistant", "content": say}] for ask, say in chats]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"source": "jsonl", "path": str(path)}


def direct_means(trainer, data) -> dict[str, float]:
    """Loss, accuracy and entropy of every supervised token of the usable samples, each computed on its own."""
    found = {name: [] for name in MEASURED}
    for index in range(5):
        inputs = {name: value[None] for name, value in data.sample(index).model_inputs.items()}
        labels = inputs.pop("labels")[:, 1:]
        with torch.no_grad():
            logits = trainer.model.eval()(**inputs).logits[:, :-1][labels != -100].log_softmax(-1)
        labels = labels[labels != -100]
        found["loss"].append(-logits[torch.arange(len(labels)), labels])
        found["mean_token_accuracy"].append((logits.argmax(-1) == labels).float())
        found["entropy"].append(-(logits.exp() * logits).sum(-1))
    return {name: torch.cat(values).mean().item() for name, values in found.items()}


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_held_out_means_are_over_tokens_whatever_the_batch(recipe, tmp_path, batch_size):
    changes = {"per_device_eval_batch_size": batch_size, "eval_strategy": "steps", "commentary_clips": 0}
    held = uneven_chats(tmp_path / "held.jsonl", n_missing=3)
    trainer = build_trainer(parse(["--config", recipe(eval_data=[held], **changes)]))
    measured = trainer.evaluate()
    right = direct_means(trainer, trainer._held_out_loader.data)
    assert {name: measured[f"eval_{name}"] for name in MEASURED} == pytest.approx(right, rel=1e-4)


@pytest.mark.parametrize(
    ("batch_size", "accumulated", "packing"), [(1, 1, False), (3, 1, False), (2, 2, False), (1, 1, True)]
)
def test_logged_means_of_training_are_over_tokens_whatever_the_step(recipe, tmp_path, batch_size, accumulated, packing):
    data = uneven_chats(tmp_path / "all.jsonl", n_missing=4)
    changes = {"per_device_train_batch_size": batch_size, "gradient_accumulation_steps": accumulated}
    changes |= {"packing": True, "max_length": 100} if packing else {}
    fixed = {"learning_rate": 0.0, "optimizer": "trainer", "num_train_epochs": 1, "logging_steps": 1.0 - 1e-9}
    trainer = build_trainer(parse(["--config", recipe(data=[data], **changes, **fixed, max_skipped=1)]))
    right = direct_means(trainer, trainer.data_collator.data)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 1
    assert {name: logged[0][name] for name in MEASURED} == pytest.approx(right, rel=1e-4)
    assert trainer.state.log_history[-1]["train_loss"] == pytest.approx(right["loss"], rel=1e-4)


def test_a_step_without_a_supervised_token_has_no_loss_to_log(recipe, tmp_path):
    data = uneven_chats(tmp_path / "all.jsonl", n_missing=3)
    changes = {"per_device_train_batch_size": 1, "optimizer": "trainer", "num_train_epochs": 1, "max_skipped": 1}
    trainer = build_trainer(parse(["--config", recipe(data=[data], **changes)]))
    trainer.train()
    assert ["loss" in entry for entry in trainer.state.log_history] == [True] * 5 + [False] * 4


@pytest.mark.gpu
@pytest.mark.parametrize("packing", [False, True])
def test_on_a_gpu_the_loss_is_that_of_the_full_computation(recipe, packing):
    path = recipe(data=[ENTRY], optimizer="trainer", max_length=600, packing=packing, use_cpu=False)
    trainer = build_trainer(parse(["--config", path]))
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    batch.pop(BOOKKEEPING)
    model = trainer.model.train()
    loss = trainer.compute_loss(model, dict(batch))
    labels = batch.pop("labels")
    with torch.no_grad():
        logits = model(**batch, use_cache=False).logits
    full = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert loss.item() == pytest.approx(full.item(), abs=1e-4)
