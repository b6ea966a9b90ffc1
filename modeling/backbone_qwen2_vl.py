"""Qwen2-VL (arXiv 2409.12191), LiveCC's original backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from .backbone import Backbone


class Qwen2VLBackbone(Backbone):
    """Qwen2-VL: the frames of a turn are one block, whose temporal positions grow by 1."""

    name: ClassVar[str] = "qwen2_vl"
    position_schemes: ClassVar[Sequence[str]] = ("mrope", "sequential", "reference")
    renames_weights: ClassVar[bool] = True


BACKBONE: Backbone = Qwen2VLBackbone()
