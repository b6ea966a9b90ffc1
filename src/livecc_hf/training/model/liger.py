"""Liger's Triton kernels for the layers of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from livecc_hf.utils.extras import require_extra

if TYPE_CHECKING:
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration


def check_liger() -> None:
    """Raise `ValueError` if Liger's kernels cannot run here."""
    if not torch.cuda.is_available():
        raise ValueError("use_liger_kernel is on, but Liger's kernels need a CUDA device: turn it off")


def apply_liger(model: LiveCCForConditionalGeneration) -> None:
    """Replace norms and MLPs by Liger's; the head and the loss stay, they see supervised positions only.

    Liger knows Qwen2-VL but not our model type, so the trainer's own switch would do nothing. Its replacement of the
    model's forward is left off: it would compute positions of its own.

    Raises:
        ValueError: if there is no CUDA device.
        ImportError: if Liger is not installed.
    """
    check_liger()
    require_extra("liger", "use_liger_kernel", "liger_kernel")
    from liger_kernel.transformers import apply_liger_kernel_to_qwen2_vl

    apply_liger_kernel_to_qwen2_vl(model=model, cross_entropy=False, fused_linear_cross_entropy=False)
