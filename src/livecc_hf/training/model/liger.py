"""Applies Liger's Triton kernels to a model's layers."""

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
    """Replace norms and MLPs by Liger's; head and loss stay, since they run at supervised positions only.

    Liger knows the backbones' language models but not our model type, so the trainer's own `use_liger_kernel` would
    have no effect. Liger's model forward is not used because it computes positions itself.

    Raises:
        ValueError: if there is no CUDA device, or Liger has no kernels for this language model.
        ImportError: if Liger is not installed.
    """
    check_liger()
    require_extra("liger", "use_liger_kernel", "liger_kernel")
    kernels_for(model.config.text_config.model_type)(model=model, cross_entropy=False, fused_linear_cross_entropy=False)


def kernels_for(model_type: str) -> Callable[..., None]:
    """Return Liger's function that patches a language model.

    Args:
        model_type: `model_type` in the language model's config, such as `qwen2_vl_text`.

    Raises:
        ValueError: if Liger has no kernels for it.
    """
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    if model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ValueError(f"use_liger_kernel is on, but Liger has no kernels for {model_type}: turn it off")
    return MODEL_TYPE_TO_APPLY_LIGER_FN[model_type]
