"""Which of PyTorch's attention kernels to take."""

from __future__ import annotations

import contextlib

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

# All but cuDNN's, which makes a plan for every new shape: tens of milliseconds, and here nearly every shape is new.
_BACKENDS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def attention_kernels(device: torch.device) -> contextlib.AbstractContextManager:
    """Return a context in which `scaled_dot_product_attention` takes a kernel that does not care for new shapes."""
    return sdpa_kernel(_BACKENDS) if device.type == "cuda" else contextlib.nullcontext()
