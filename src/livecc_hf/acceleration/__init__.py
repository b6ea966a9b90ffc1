"""What exists only for speed: the same numbers as the model's own modules give, which do without it everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from livecc_hf.modeling import LiveCCForConditionalGeneration


def accelerate(model: LiveCCForConditionalGeneration) -> LiveCCForConditionalGeneration:
    """Return a model that streams, with shorter forward passes where they pay.

    On a GPU the vision tower runs in few large operations, decoding is replayed as a graph, and from here on PyTorch
    leaves no attention to cuDNN in this process (see `avoid_cudnn_attention`). On a CPU, which gains next to nothing by
    that, there is less around the language model's layers, and a turn attends to a long cache without a mask.

    Args:
        model: a `LiveCCForConditionalGeneration`; changed in place.
    """
    from .causal_attention import attend_causal
    from .decoding import FixedDecoding
    from .layers import use_lean_layers
    from .vision import use_lean_vision

    visual = model.model.visual
    if visual.device.type == "cpu":
        use_lean_layers(model.model.language_model)
        model.attend_causal = attend_causal
    else:
        use_lean_vision(visual)
        model.decode_step = FixedDecoding()
    return model
