"""A training step on a device: nothing is mixed with the host, and no layer waits for the device."""

import pytest
import torch
import trl.trainer.utils
from fake_cuda import DEVICE, FakeCUDA, to_cuda

from livecc_hf.data.batches.loader import BOOKKEEPING
from livecc_hf.training.options.recipe import parse
from livecc_hf.training.setup import build_trainer

ENTRY = {"source": "tiny", "length": [4, 7], "samples": 6, "group": 1}
# For the videos' sizes, numbers of supervised tokens and features, and lengths of samples: none for a layer.
_MOST_WAITS = 24


def test_a_packed_step_computes_the_same(recipe, monkeypatch):
    kernels = pytest.importorskip("trl.kernels.chunked_logprob")
    for module in (trl.trainer.utils, kernels):  # Triton compiles for real devices only
        monkeypatch.setattr(module, "_use_triton", lambda device: False)
    changes = {"data": [ENTRY], "optimizer": "trainer", "packing": True, "max_length": 700}
    changes |= {"train_parts": ["merger", "language_model"], "per_device_train_batch_size": 1}
    config = recipe(**changes)
    trainer = build_trainer(parse(["--config", config, "gradient_checkpointing=true"]))
    batch = next(iter(trainer.get_train_dataloader()))
    batch.pop(BOOKKEEPING)
    model = trainer.model.train()
    loss = trainer.compute_loss(model, dict(batch))
    loss.backward()
    expected = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert expected and not any(name.startswith("model.visual.blocks") for name in expected)
    with FakeCUDA() as device:
        trainer.model = model = to_cuda(model).train()
        there = {name: value.to(DEVICE) if torch.is_tensor(value) else value for name, value in batch.items()}
        device.waits.clear()
        got = trainer.compute_loss(model, there)
        got.backward()
        assert len(device.waits) <= _MOST_WAITS, device.waits
        waits = [place for _, place in device.waits]
        assert got.item() == pytest.approx(loss.item(), abs=1e-5)
        for name, weight in model.named_parameters():
            assert (weight.grad is not None) == (name in expected)
            if weight.grad is not None:
                torch.testing.assert_close(weight.grad.cpu(), expected[name], atol=1e-5, rtol=1e-4)
    assert not [place for place in waits if "packed_attention.py" in place and waits.count(place) > 1]
