"""Keeps patches in uint8 between processes, and normalises them on the device.

Normalised patches are float32 and take four times the memory of uint8: 462 MB for a row of 24,000 tokens, for each row
that the loader's workers prefetch into shared memory.
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
    """Return a copy of the processor that leaves patches in uint8, for `normalise_pixels`.

    A processor that normalises images and videos differently is returned unchanged.
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
    """Return inputs with their uint8 patches normalised, on the patches' device.

    Args:
        inputs: the inputs of a sample or batch; not changed in place.
        video_processor: gives the normalisation; not the one of `with_raw_pixels`.
    """
    found = dict(inputs)
    for name in PIXELS:
        if name in found and found[name].dtype == torch.uint8:
            found[name] = _normalise(found[name], video_processor)
    return found


def _normalise(patches: torch.Tensor, video_processor: LiveCCVideoProcessor) -> torch.Tensor:
    """Normalise patches (patches, values), whose values are grouped by channel, to float32."""
    options = [getattr(video_processor, name) for name in _OPTIONS]
    channels = patches.view(len(patches), 3, -1, video_processor.patch_size)
    return video_processor.rescale_and_normalize(channels, *options).view(patches.shape).float()


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value
