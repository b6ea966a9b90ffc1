"""Which of PyTorch's attention kernels to take."""

from __future__ import annotations

import torch


def avoid_cudnn_attention() -> None:
    """Keep PyTorch from cuDNN's attention, in this process and from now on.

    cuDNN makes a plan for every new shape: tens of milliseconds, and here nearly every shape is new. The setting holds
    for all threads, so it is not made and unmade around calls, where another thread would see it in the middle of one.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
