"""Qwen3-VL (arXiv 2511.21631): every frame pair is a vision block of its own, with its time as text before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from .backbone import Backbone
from .grammar import FRAME_STEP_S, VIDEO_PAD, VISION_END, VISION_START


class Qwen3VLBackbone(Backbone):
    """Qwen3-VL.

    A turn starts with `Time=3.0-4.0s` as everywhere in LiveCC. Before each frame pair comes the time of the pair's
    middle, such as `<3.2 seconds>`: this backbone learned time from that text, not from temporal positions. In a stream
    it counts from the stream's start, like `Time=`. In questions and conversations it counts from the time that players
    show as 0:00, also in a part of a video, as qwen-vl-utils counts it for the published models.

    Its published chat template writes a system message only if the conversation has one.
    """

    name: ClassVar[str] = "qwen3_vl"
    patch_size: ClassVar[int] = 16
    image_mean: ClassVar[Sequence[float]] = [0.5, 0.5, 0.5]
    image_std: ClassVar[Sequence[float]] = [0.5, 0.5, 0.5]
    system_prompt: ClassVar[str | None] = None
    limits_whole_videos: ClassVar[bool] = True
    needs_video_metadata: ClassVar[bool] = True

    def vision_labels(self, n_patches: int, start_s: float = 0.0, patch_s: float = 1.0) -> list[str]:
        """Return the time of the middle of each frame pair; each pair is a block of its own."""
        middle_s = start_s + FRAME_STEP_S / 2 * patch_s
        return [_time_text(middle_s + n * patch_s) for n in range(n_patches)]

    def join_vision(self, text: str) -> str:
        """Return the text with bare video placeholders: `video_text` adds the vision markers of each block."""
        return text.replace(f"{VISION_START}{VIDEO_PAD}{VISION_END}", VIDEO_PAD)

    def video_text(self, video_token: str, grid_thw: Sequence[int], times_s: Sequence[float]) -> str:
        """Return the blocks of a video, each after its time."""
        t, h, w = (int(n) for n in grid_thw)
        shown_s = list(times_s)
        shown_s += shown_s[-1:] * (2 * t - len(shown_s))
        pads = video_token * (h * w // self.merge_size**2)
        pairs = zip(shown_s[: 2 * t : 2], shown_s[1 : 2 * t : 2], strict=True)
        return "".join(f"{_time_text((a + b) / 2)}{VISION_START}{pads}{VISION_END}" for a, b in pairs)


def _time_text(time_s: float) -> str:
    # Rounded twice: float noise at x.x5 would change the label.
    return f"<{round(time_s, 3):.1f} seconds>"


BACKBONE: Backbone = Qwen3VLBackbone()
