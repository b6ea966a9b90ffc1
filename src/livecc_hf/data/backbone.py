"""What a processor's backbone says, for what makes samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from livecc_hf.modeling.backbones import find_backbone
from livecc_hf.modeling.grammar import (
    IM_END,
    IM_START,
    TURN_FRAMES,
    TURN_JOINT,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    TurnSpan,
    user_turn,
)

if TYPE_CHECKING:
    from livecc_hf.modeling.backbone import Backbone
    from livecc_hf.modeling.processing_livecc import StreamingProcessor


def backbone_of(processor: StreamingProcessor) -> Backbone:
    """Return the backbone that a processor is for."""
    return find_backbone(getattr(processor, "backbone", "qwen2_vl"))


def prompt_start(backbone: Backbone) -> str:
    """Return what opens a conversation without a system message of its own."""
    system = backbone.system_prompt
    return "" if system is None else f"{IM_START}system\n{system}{IM_END}\n"


def turn_prompt(backbone: Backbone, span: TurnSpan, query: str) -> str:
    """Return a user turn with the joint or opening before it, and one placeholder for each vision block.

    Args:
        backbone: the model's.
        span: the turn.
        query: what it asks, where it carries a query.
    """
    opening = TURN_JOINT if span.first_frame else prompt_start(backbone)
    blocks = backbone.vision_blocks(-(-span.n_frames // TURN_FRAMES), span.start_s)
    # Between the markers of the first block stand its placeholder and the others, with markers of their own.
    video = f"{VISION_END}".join(f"{block.label}{VISION_START}{VIDEO_PAD}" for block in blocks)
    label = blocks[0].label
    text = user_turn(span.start_s, span.end_s, query, video.removeprefix(f"{label}{VISION_START}"))
    return opening + text.replace(VISION_START, f"{label}{VISION_START}", 1)
