"""Qwen2.5-VL (arXiv 2502.13923): Qwen2-VL's text model, windowed attention in the vision tower, positions in time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from .backbone import Backbone


class Qwen25VLBackbone(Backbone):
    """Qwen2.5-VL: like Qwen2-VL, but temporal positions grow by `tokens_per_second` per second."""

    name: ClassVar[str] = "qwen2_5_vl"
    needs_video_metadata: ClassVar[bool] = True
    renames_weights: ClassVar[bool] = True

    def temporal_step(self, vision_config: Any, patch_s: float = 1.0) -> float:
        """Return the step of the temporal position: `tokens_per_second` times the seconds of a pair."""
        return vision_config.tokens_per_second * float(patch_s)

    def video_inputs(self, patches_s: Sequence[float]) -> dict[str, list[float]]:
        """Return `second_per_grid_ts`, from which the model computes temporal positions."""
        return {"second_per_grid_ts": [float(patch_s) for patch_s in patches_s]}


BACKBONE: Backbone = Qwen25VLBackbone()
