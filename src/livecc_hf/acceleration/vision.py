"""A faster vision tower for training and streams: its own modules, in fewer and larger operations.

transformers' code is slow on GPUs in three places, which are fixed without replacing the tower's forward pass:

- Patches are embedded by a 3-D convolution, for which cuDNN has no fast kernel in 16 bits. A convolution whose kernel
  covers each patch once is a matrix product.
- Attention runs picture by picture, in thousands of calls for one training sequence, and reads the pictures' lengths
  from the device in every block. Here, pictures of one size are a batch, even if they are not consecutive.
- A frozen tower still runs under gradient checkpointing. Here, it runs without gradients.
"""

from __future__ import annotations

import contextlib
import inspect
import types
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from livecc_hf.acceleration.kernels import avoid_cudnn_attention
from livecc_hf.modeling.transfer import to_device

try:
    from transformers.vision_utils import get_vision_position_ids
except ImportError:  # earlier versions compute positions in the tower
    get_vision_position_ids = None

# Whether the vision tower accepts precomputed positions.
_ACCEPTS_POSITIONS = (
    get_vision_position_ids is not None and "kwargs" in inspect.signature(get_vision_position_ids).parameters
)
PICTURE_SDPA = "picture_sdpa"


def use_lean_vision(visual: Any) -> None:
    """Let a vision tower compute the same in fewer, larger operations; parameters and their names do not change.

    Attention implementations other than ``sdpa`` are not changed: flash attention takes all pictures at once. Towers
    with windowed attention (Qwen2.5-VL's) are not changed at all.

    Args:
        visual: `model.model.visual`.
    """
    avoid_cudnn_attention()
    if hasattr(visual.config, "window_size"):
        return  # most of its blocks attend within windows
    projection = visual.patch_embed.proj
    if type(projection) is nn.Conv3d and projection.groups == 1 and set(projection.padding) == {0}:
        projection.__class__ = PatchProjection  # keeps parameters, hooks and names, unlike a new module
    if visual.config._attn_implementation == "sdpa":
        AttentionInterface.register(PICTURE_SDPA, _attend)
        visual.config._attn_implementation = PICTURE_SDPA
    if "forward" not in vars(visual):  # not patched by someone else
        visual.forward = types.MethodType(_lean_forward, visual)  # deepcopy binds it to the copy


class PatchProjection(nn.Conv3d):
    """A 3-D convolution, computed as a matrix product if its input has the size of its kernel."""

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Return features (patches, features, 1, 1, 1) of patches (patches, channels, frames, height, width)."""
        if tuple(patches.shape[2:]) != self.kernel_size:
            return super().forward(patches)
        return functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]


def _lean_forward(visual: Any, hidden_states: torch.Tensor, grid_thw: torch.Tensor, **keywords: Any) -> Any:
    """Run the tower's own forward pass, with picture sizes for attention, and without gradients if it is frozen."""
    if visual.config._attn_implementation == PICTURE_SDPA and "cu_seqlens" not in keywords:
        grids = grid_thw.tolist()
        keywords["pictures"] = picture_groups(grids)
        if _ACCEPTS_POSITIONS and "position_ids" not in keywords:
            merge_size = visual.spatial_merge_size
            keywords["position_ids"] = _patch_positions(grids, merge_size, hidden_states.device)
        # Makes the tower call attention once for all patches; `_attend` separates the pictures.
        keywords["cu_seqlens"] = torch.tensor([0, len(hidden_states)], dtype=torch.int32)
    is_frozen = not any(parameter.requires_grad for parameter in visual.parameters())
    with torch.no_grad() if is_frozen else contextlib.nullcontext():
        return type(visual).forward(visual, hidden_states, grid_thw=grid_thw, **keywords)


class PictureGroup(NamedTuple):
    """Pictures with the same number of patches.

    Attributes:
        size: patches of each picture.
        runs: their ranges among all patches; consecutive pictures are one range.
    """

    size: int
    runs: tuple[slice, ...]


def picture_groups(grids: Sequence[Sequence[int]]) -> tuple[PictureGroup, ...]:
    """Group the pictures of videos by their number of patches.

    Args:
        grids: (t, h, w) in patches of each video; each of its t steps is a picture.
    """
    runs: dict[int, list[slice]] = {}
    start = 0
    for size, videos in groupby(grids, key=lambda grid: grid[1] * grid[2]):
        end = start + size * sum(steps for steps, _, _ in videos)
        runs.setdefault(size, []).append(slice(start, end))
        start = end
    return tuple(PictureGroup(size, tuple(of_size)) for size, of_size in runs.items())


def _patch_positions(grids: Sequence[Sequence[int]], merge_size: int, device: torch.device) -> torch.Tensor:
    """Return the row and column of each patch, (patches, 2); cached for each grid."""
    return torch.cat([_patch_positions_of(tuple(grid), merge_size, device) for grid in grids])


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # it outlives the caller's mode
def _patch_positions_of(grid: tuple[int, ...], merge_size: int, device: torch.device) -> torch.Tensor:
    return to_device(get_vision_position_ids(torch.tensor([grid]), merge_size), device)


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    pictures: tuple[PictureGroup, ...] | None = None,
    **keywords: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each picture; query, key and value are (1, heads, patches, head size) of all pictures."""
    if pictures is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **keywords)
    attended: list[tuple[int, torch.Tensor]] = []
    for size, runs in pictures:
        batch = (_pictures_in(states[0], runs, size) for states in (query, key, value))
        found = sdpa_attention_forward(module, *batch, None, **keywords)[0].flatten(0, 1)
        parts = found.split([run.stop - run.start for run in runs])
        attended += zip((run.start for run in runs), parts, strict=True)
    return torch.cat([part for _, part in sorted(attended, key=itemgetter(0))])[None], None


def _pictures_in(states: torch.Tensor, runs: Sequence[slice], size: int) -> torch.Tensor:
    """Return a batch (pictures, heads, size, head size) of pictures of one size, from states (heads, patches, ...)."""
    parts = [states[:, run] for run in runs]
    together = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
    return together.unflatten(1, (-1, size)).transpose(0, 1)
