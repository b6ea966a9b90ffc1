"""Copies between host and device that do not wait for the device's queued work."""

from __future__ import annotations

from collections.abc import Callable

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return a tensor on a device; a copy from the CPU to CUDA is queued on the current stream and does not block."""
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(tokens: torch.Tensor) -> Callable[[], list[int]]:
    """Start to copy tokens (n,) to the host; return a function that waits for them and returns them."""
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
