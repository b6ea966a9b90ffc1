"""Configures PyTorch's allocator of GPU memory for training."""

from __future__ import annotations

import os
import sys

_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the second is the older name of the first


def use_expandable_segments() -> None:
    """Use expandable segments of GPU memory, unless the environment configures the allocator already.

    Rows differ in length, so that training allocates blocks of many sizes. Segments of a fixed size would leave gaps
    into which no later block fits. Call this before CUDA starts, which is when PyTorch reads the setting.
    """
    if sys.platform == "linux" and not any(name in os.environ for name in _SETTINGS):
        os.environ[_SETTINGS[0]] = "expandable_segments:True"
