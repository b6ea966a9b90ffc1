"""Keeps patches in uint8 between processes, and normalises them on the device.

Normalised patches are float32, which takes four times the memory of uint8: 462 MB for a row of 24,000 tokens, for each
row that the loader's processes hold ready in shared memory.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from livecc_hf.modeling.processing_livecc import StreamingProcessor
    from livecc_hf.modeling.video_processing_livecc import LiveCCVideoProcessor

PIXELS = ("pixel_values", "pixel_values_videos")
_OPTIONS = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")


def with_raw_pixels(processor: StreamingProcessor) -> StreamingProcessor:
    """Return a processor that makes the same patches in uint8, for :func:`normalise_pixels`.

    If it normalises images and videos differently, the processor itself is returned.
    """
    parts = {name: getattr(processor, name) for name in ("image_processor", "video_processor")}
    options = [[_plain(getattr(part, name)) for name in _OPTIONS] for part in parts.values()]
    if options[0] != options[1]:
        return processor
    raw = copy.copy(processor)
    for name, part in parts.items():
        part = copy.copy(part)
        part.do_rescale = part.do_normalize = False
        setattr(raw, name, part)
    return raw


def normalise_pixels(inputs: Mapping[str, Any], video_processor: LiveCCVideoProcessor) -> dict[str, Any]:
    """Return inputs in which uint8 patches are normalised as `video_processor` does it, on their device.

    Args:
        inputs: of a sample or a batch; only uint8 patches change.
        video_processor: the normalising one, not the one with raw pixels.
    """
    found = dict(inputs)
    for name in PIXELS:
        if name in found and found[name].dtype == torch.uint8:
            found[name] = _normalise(found[name], video_processor)
    return found


def _normalise(patches: torch.Tensor, video_processor: LiveCCVideoProcessor) -> torch.Tensor:
    """Return normalised patches (patches, 3 * 2 * 14 * 14), whose values are ordered by channel."""
    options = [getattr(video_processor, name) for name in _OPTIONS]
    channels = patches.view(len(patches), 3, -1, video_processor.patch_size)
    return video_processor.rescale_and_normalize(channels, *options).view(patches.shape).float()


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value
