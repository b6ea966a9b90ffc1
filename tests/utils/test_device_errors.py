"""Errors about memory and accelerators, from the libraries that raise them."""

import pytest
import torch

from livecc_hf.utils.device_errors import is_accelerator_failure, is_out_of_memory


def test_memory_that_runs_out():
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(2**50, dtype=torch.uint8)
    with pytest.raises(MemoryError) as of_python:
        bytearray(2**55)
    for error in (of_torch.value, of_python.value, torch.OutOfMemoryError("CUDA out of memory")):
        assert is_out_of_memory(error) and not is_accelerator_failure(error)


def test_an_accelerator_that_fails():
    for error in (torch.AcceleratorError("device-side assert"), RuntimeError("CUDA error: illegal access")):
        assert is_accelerator_failure(error) and not is_out_of_memory(error)


def test_other_errors():
    with pytest.raises(RuntimeError) as shapes:
        torch.ones(2) + torch.ones(3)
    for error in (shapes.value, ValueError("CUDA error"), OSError("can't allocate memory")):
        assert not is_out_of_memory(error) and not is_accelerator_failure(error)
