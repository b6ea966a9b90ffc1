"""Qwen2-VL (arXiv 2409.12191), on which LiveCC was released."""

from __future__ import annotations

from typing import ClassVar

from .backbone import Backbone


class Qwen2VLBackbone(Backbone):
    """Qwen2-VL: a turn's frames are one block, whose temporal positions grow by 1."""

    name: ClassVar[str] = "qwen2_vl"
    position_schemes: ClassVar = ("mrope", "sequential", "reference")
    renames_weights: ClassVar[bool] = True

    def config_class(self) -> type:
        """Return transformers' config class."""
        from transformers import Qwen2VLConfig

        return Qwen2VLConfig

    def model_classes(self) -> tuple[type, type]:
        """Return transformers' classes, with the head and without."""
        from transformers import Qwen2VLForConditionalGeneration, Qwen2VLModel

        return Qwen2VLForConditionalGeneration, Qwen2VLModel


BACKBONE: Backbone = Qwen2VLBackbone()
