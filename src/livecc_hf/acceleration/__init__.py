"""Optional speedups: they compute the same numbers as the model's own modules, which also run without them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from livecc_hf.modeling import LiveCCForConditionalGeneration


def accelerate(model: LiveCCForConditionalGeneration) -> LiveCCForConditionalGeneration:
    """Make a model's streams faster, in place, and return it.

    On a GPU the vision tower runs in few large operations, decode steps are replayed as CUDA graphs, and PyTorch does
    not use cuDNN attention in this process any more (see `avoid_cudnn_attention`). On a CPU, where these gain next to
    nothing, the language model's layers and decode steps run with less overhead, and a prefill attends to a long cache
    without a mask.

    Args:
        model: a `LiveCCForConditionalGeneration`.
    """
    from .causal_attention import LeanBatch
    from .decoding import FixedDecoding
    from .layers import use_lean_layers
    from .lean_decoding import lean_decode_step
    from .slot_batch import SlotBatch
    from .vision import use_lean_vision

    visual = model.model.visual
    if visual.device.type == "cpu":
        use_lean_layers(model.model.language_model)
        model.packed_batch, model.decode_step = LeanBatch, lean_decode_step
    else:
        use_lean_vision(visual)
        model.packed_batch, model.decode_step = SlotBatch, FixedDecoding()
    return model
