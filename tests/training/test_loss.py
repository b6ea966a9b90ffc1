"""The loss at supervised positions is the loss."""

import pytest
import torch

from livecc_hf.training.arguments import parse
from livecc_hf.training.batches import BOOKKEEPING
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
