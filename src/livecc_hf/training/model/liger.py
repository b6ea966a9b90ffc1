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
    """Replace norms and MLPs by Liger's. The head and the loss stay, since they run at supervised positions only.

    Liger knows the backbones' language models but not our model type, so that the trainer's own switch would do
    nothing. Liger's forward of the model is not used: it would compute its own positions.

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
        model_type: of the language model's config, such as `qwen2_vl_text`.

    Raises:
        ValueError: if Liger has none for it.
    """
    from liger_kernel.transformers.monkey_patch import MODEL_TYPE_TO_APPLY_LIGER_FN

    if model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ValueError(f"use_liger_kernel is on, but Liger has no kernels for {model_type}: turn it off")
    return MODEL_TYPE_TO_APPLY_LIGER_FN[model_type]
