"""Choice of PyTorch's attention kernels."""

from __future__ import annotations

import torch


def avoid_cudnn_attention() -> None:
    """Disable cuDNN attention in this process from now on.

    cuDNN builds a plan for every new shape, which takes tens of milliseconds, and here nearly every shape is new. The
    setting is global to all threads, so switching it on and off around calls would affect other threads' calls.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
