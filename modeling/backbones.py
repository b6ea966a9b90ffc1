"""Finds backbones by name. Each is imported when it is used."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .backbone import Backbone

DEFAULT_BACKBONE = "qwen2_vl"
BACKBONES = (DEFAULT_BACKBONE, "qwen2_5_vl", "qwen3_vl")
# Model types (by prefix) that mix attention with recurrent layers.
_RECURRENT = ("qwen3_5", "qwen3_6", "qwen3_7", "qwen3_8", "qwen3_next", "qwen4")


def find_backbone(name: str) -> Backbone:
    """Return the backbone with this name.

    Raises:
        ValueError: if the name is unknown.
    """
    check_backbone(name)
    # One line for each, since transformers finds the files of remote code by their import statements.
    if name == "qwen2_5_vl":
        from .backbone_qwen2_5_vl import BACKBONE
    elif name == "qwen3_vl":
        from .backbone_qwen3_vl import BACKBONE
    else:
        from .backbone_qwen2_vl import BACKBONE
    return BACKBONE


def check_backbone(name: Any) -> None:
    """Raise `ValueError` if no backbone has this name; names are `model_type`s of transformers."""
    if name in BACKBONES:
        return
    expected = f"expected one of {', '.join(BACKBONES)}"
    if isinstance(name, str) and name.startswith(_RECURRENT):
        raise ValueError(
            f"{name} cannot be LiveCC's backbone: most of its layers are recurrent, and a span of video cannot be "
            f"evicted from a recurrent state, which endless streams need; {expected}"
        )
    raise ValueError(f"{name!r:.80} is not a LiveCC backbone: {expected}")


def backbone_of_values(values: Mapping[str, Any]) -> str:
    """Return the backbone's name from the values of a `config.json`, LiveCC's own or a published checkpoint's.

    Raises:
        ValueError: if it belongs to another family of models.
    """
    model_type = values.get("model_type")
    name = values.get("backbone") or (DEFAULT_BACKBONE if model_type in (None, "", "livecc") else model_type)
    check_backbone(name)
    return name


def backbone_of_patches(patch_size: int | None) -> str:
    """Return the first backbone with this patch size, for a video processor that does not name its backbone.

    Args:
        patch_size: side of a patch in pixels; `None` gives the default backbone.

    Raises:
        ValueError: if no backbone has it.
    """
    for name in BACKBONES:
        if patch_size in (None, find_backbone(name).patch_size):
            return name
    sizes = sorted({find_backbone(name).patch_size for name in BACKBONES})
    raise ValueError(
        f"the video processor's patch_size is {patch_size!r:.80}: expected one of {sizes}, as the model's own "
        "processor has"
    )
