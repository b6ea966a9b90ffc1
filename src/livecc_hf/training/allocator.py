"""Configures PyTorch's GPU memory allocator for training."""

from __future__ import annotations

import os
import sys

_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the second is the older name


def use_expandable_segments() -> None:
    """Use expandable segments for GPU memory, unless the environment already configures the allocator.

    Rows differ in length, so training allocates blocks of many sizes, which fragments segments of a fixed size. Call
    this before CUDA is initialized, when PyTorch reads the setting.
    """
    if sys.platform == "linux" and not any(name in os.environ for name in _SETTINGS):
        os.environ[_SETTINGS[0]] = "expandable_segments:True"
