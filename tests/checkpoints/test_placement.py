"""Device and dtype of loaded models."""

import pytest
import torch

from livecc_hf.checkpoints import placement
from livecc_hf.checkpoints.checkpoint import device_notes
from livecc_hf.checkpoints.errors import ModelLoadError


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [(None, "bfloat16"), ((7, 0), "float16"), ((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")],
)
def test_the_compute_dtype_of_four_bit_layers(capability, dtype):
    assert placement.four_bit_compute_dtype(capability) == getattr(torch, dtype)


def test_weights_keep_their_dtype_except_on_a_cpu():
    assert placement.weights_dtype(None, torch.device("cpu")) == torch.float32
    assert placement.weights_dtype(None, torch.device("cuda")) == "auto"
    assert placement.weights_dtype("float16", torch.device("cuda")) == torch.float16


def test_an_untested_accelerator_is_named_and_not_used_by_default(monkeypatch):
    found = torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: found)
    assert placement.default_device() == "cpu"
    assert device_notes(None) == [
        "device: CPU; mps is untested with livecc-hf: use it with --device mps --dtype bfloat16"
    ]
    assert device_notes("cpu") == []
    found = None
    assert device_notes(None) == []


def test_a_missing_device_is_a_one_line_error():
    with pytest.raises(ModelLoadError, match="device 'auto' cannot be used: expected cpu") as caught:
        placement.checked_device("auto")
    assert "\n" not in str(caught.value)
