"""Copies between this process and a device of its own, which do not wait for what the device computes meanwhile."""

from __future__ import annotations

from collections.abc import Callable

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device.

    Args:
        tensor: any; on CUDA one of this process is copied in the order of the device's work, and nothing waits.
        device: where it goes.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tokens: torch.Tensor) -> Callable[[], list[int]]:
    """Begin to copy tokens to this process; the result waits for them."""
    if tokens.device.type != "cuda":
        return tokens.tolist
    host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
    host.copy_(tokens, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(tokens.device))

    def values() -> list[int]:
        copied.synchronize()
        return host.tolist()

    return values
