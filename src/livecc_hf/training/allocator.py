"""How PyTorch's allocator keeps GPU memory in training."""

from __future__ import annotations

import os
import sys

_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the second is the older name of the first


def use_expandable_segments() -> None:
    """Let segments of GPU memory grow, unless the environment configures the allocator already.

    Rows differ in length, so blocks of ever new sizes are asked for; segments of a fixed size leave gaps between them
    that no later block fits. PyTorch reads the setting when it starts CUDA: call this before.
    """
    if sys.platform == "linux" and not any(name in os.environ for name in _SETTINGS):
        os.environ[_SETTINGS[0]] = "expandable_segments:True"
