"""Liger's Triton kernels for the layers of a model."""

from __future__ import annotations

from collections.abc import Callable
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

    Liger knows the language models that ours are built on but not our model type, so the trainer's own switch would do
    nothing. Its replacement of the model's forward is left off: it would compute positions of its own.

    Raises:
        ValueError: if there is no CUDA device, or Liger has no kernels for this language model.
        ImportError: if Liger is not installed.
    """
    check_liger()
    require_extra("liger", "use_liger_kernel", "liger_kernel")
    kernels_for(model.config.text_config.model_type)(model=model, cross_entropy=False, fused_linear_cross_entropy=False)


def kernels_for(model_type: str) -> Callable[..., None]:
    """Return what puts Liger's kernels into a language model.

    Args:
        model_type: that of its config, such as `qwen2_vl_text`.

    Raises:
        ValueError: if there are none for it.
    """
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    if model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ValueError(f"use_liger_kernel is on, but Liger has no kernels for {model_type}: turn it off")
    return MODEL_TYPE_TO_APPLY_LIGER_FN[model_type]
