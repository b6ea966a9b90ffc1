"""The vision tower, in training and in streams: its own modules, in fewer and larger operations.

What transformers does is slow on GPUs in three places, and is put right without touching the tower's forward pass:

- Patches are embedded by a 3-D convolution, for which cuDNN has no fast kernel in 16 bits. A convolution that sees
  each patch once is a matrix product.
- Attention runs picture by picture, thousands of calls for a row, and asks the device for their lengths in every
  block. Pictures of one size are a batch.
- A frozen tower under gradient checkpointing still goes through it. Nothing is kept of what is not differentiated.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from livecc_hf.acceleration.kernels import attention_kernels

PICTURE_SDPA = "picture_sdpa"


def use_lean_vision(visual: nn.Module) -> None:
    """Let Qwen2-VL's vision tower compute the same with fewer and larger operations; parameters and names stay.

    Attention implementations other than ``sdpa`` are left alone: flash attention takes all pictures at once.

    Args:
        visual: `model.model.visual`.
    """
    if hasattr(visual.config, "window_size"):
        return  # most of its blocks attend within windows
    projection = visual.patch_embed.proj
    if type(projection) is nn.Conv3d and projection.groups == 1 and set(projection.padding) == {0}:
        projection.__class__ = PatchProjection  # a new module would have to take over parameters, hooks and names
    if visual.config._attn_implementation == "sdpa":
        AttentionInterface.register(PICTURE_SDPA, _attend)
        visual.config._attn_implementation = PICTURE_SDPA
    if "forward" not in vars(visual):  # nobody else has put something in its place
        visual.forward = types.MethodType(_lean_forward, visual)  # a copy of the model has its own


class PatchProjection(nn.Conv3d):
    """A 3-D convolution, computed as a matrix product where its input is as large as its kernel."""

    def forward(self, patches: torch.Tensor) -> torch.Tensor:
        """Return (patches, features, 1, 1, 1) of patches (patches, channels, frames, height, width)."""
        if tuple(patches.shape[2:]) != self.kernel_size:
            return super().forward(patches)
        return functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)[..., None, None, None]


def _lean_forward(visual: nn.Module, hidden_states: torch.Tensor, grid_thw: torch.Tensor, **keywords) -> Any:
    """Run the tower's own forward pass: attention is told of the grids, and no gradients are kept if it is frozen."""
    if visual.config._attn_implementation == PICTURE_SDPA and "cu_seqlens" not in keywords:
        keywords["pictures"] = picture_runs(grid_thw.tolist())
        # To the tower it is one picture, which it leaves whole: attention does the rest.
        keywords["cu_seqlens"] = torch.tensor([0, len(hidden_states)], dtype=torch.int32)
    is_frozen = not any(parameter.requires_grad for parameter in visual.parameters())
    with torch.no_grad() if is_frozen else contextlib.nullcontext():
        return type(visual).forward(visual, hidden_states, grid_thw=grid_thw, **keywords)


def picture_runs(grids: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    """Return how many pictures of one size follow each other, and their patches.

    Args:
        grids: t, h, w in patches of each video; each of its t steps is a picture.
    """
    sizes = ((steps, height * width) for steps, height, width in grids)
    return tuple((sum(steps for steps, _ in run), size) for size, run in groupby(sizes, key=lambda item: item[1]))


def _attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    pictures: tuple[tuple[int, int], ...] | None = None,
    **keywords,
) -> tuple[torch.Tensor, None]:
    """Attend within each picture; all of shape (1, heads, patches, head size), pictures one after the other."""
    with attention_kernels(query.device):
        if pictures is None:
            return sdpa_attention_forward(module, query, key, value, attention_mask, **keywords)
        attended, start = [], 0
        for n_pictures, size in pictures:
            batch = (
                states[0, :, start : start + n_pictures * size].unflatten(1, (n_pictures, size)).transpose(0, 1)
                for states in (query, key, value)
            )
            found, _ = sdpa_attention_forward(module, *batch, None, **keywords)
            attended.append(found.flatten(0, 1))
            start += n_pictures * size
    return torch.cat(attended)[None], None
