"""Finds backbones by name; each is imported when it is used, so that an older transformers runs those it has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .backbone import Backbone

DEFAULT_BACKBONE = "qwen2_vl"
BACKBONES = (DEFAULT_BACKBONE, "qwen2_5_vl", "qwen3_vl")

# What mixes attention with recurrent layers, by the start of its model type.
_RECURRENT = ("qwen3_5", "qwen3_6", "qwen3_7", "qwen3_8", "qwen3_next", "qwen4")


def find_backbone(name: str) -> Backbone:
    """Return the backbone of this name.

    Raises:
        ValueError: if there is none.
        ImportError: if the installed transformers does not have its classes, when they are asked for.
    """
    check_backbone(name)
    # Written out, since transformers finds the files of remote code by these lines.
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
            f"{name} cannot be LiveCC's backbone: most of its layers sum up all tokens in a recurrent state, which "
            f"cannot forget a span of video, as a stream without end must; {expected}"
        )
    raise ValueError(f"{name!r:.80} is unknown as LiveCC's backbone: {expected}")


def backbone_of_values(values: Mapping[str, Any]) -> str:
    """Return the backbone's name from the values of a `config.json`: LiveCC's, or that of a published checkpoint.

    Raises:
        ValueError: if it is of another family of models.
    """
    model_type = values.get("model_type")
    name = values.get("backbone") or (DEFAULT_BACKBONE if model_type in (None, "", "livecc") else model_type)
    check_backbone(name)
    return name


def backbone_of_patches(patch_size: int | None) -> str:
    """Return the backbone of a video processor that names none: the first one with patches of this size.

    Raises:
        ValueError: if none has.
    """
    sizes = []
    for name in BACKBONES:
        sizes.append(find_backbone(name).patch_size)
        if patch_size in (None, sizes[-1]):
            return name
    raise ValueError(
        f"the video processor's patch_size is {patch_size!r:.80}: expected one of {sorted(set(sizes))}, as the "
        "model's own processor has"
    )
