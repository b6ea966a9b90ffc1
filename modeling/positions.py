"""Rotary position schemes: which (temporal, height, width) position each token of a stream has.

Queries and keys are rotated by three positions (M-RoPE, arXiv 2409.12191, section 2.1). A text token has the
same number three times; a vision token has one in the grid of its vision block; what follows a block goes on from
the largest position used so far, plus one. Qwen2.5-VL's temporal positions grow by more than 1; Qwen3-VL's blocks have
one temporal position each.

==============  =========================================================================
``mrope``       3-D positions in every turn
``sequential``  1-D positions for every token, as LiveCC's released weights were trained
``reference``   3-D up to the end of the first message that shows something, 1-D after it, as
                LiveCC's published inference runs
==============  =========================================================================

All functions work on the tokens of one sequence, so that a stream extends its positions turn by turn and arrives
where a single pass over the whole conversation does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

from .configuration_livecc import check_position_scheme

TEXT_TYPE, IMAGE_TYPE, VIDEO_TYPE = 0, 1, 2


@dataclass
class PositionState:
    """Where the positions of a sequence have got to.

    Attributes:
        next_position: the position of the next text token.
        seen_vision: whether a vision token has passed.
        flat: whether vision tokens are numbered like text from here on.
    """

    next_position: int = 0
    seen_vision: bool = False
    flat: bool = False


def vision_positions(
    grid_thw: Sequence[int], start: int, merge_size: int = 2, temporal_step: float = 1
) -> torch.Tensor:
    """Return the positions of one image's or video's tokens.

    Args:
        grid_thw: patches in time, height and width, before merging.
        start: the position at the grid's origin.
        merge_size: patches merged to one token along height and width.
        temporal_step: how far two temporal patches are apart, see `Backbone.temporal_step`.

    Returns:
        `torch.LongTensor` of shape (3, t * h/merge * w/merge).
    """
    t, h, w = (int(n) for n in grid_thw)
    return _grid_positions(t, h // merge_size, w // merge_size, temporal_step) + start


@lru_cache(maxsize=8)  # the turns of a stream have the same grid
@torch.inference_mode(False)  # it outlives the caller's mode
def _grid_positions(t: int, h: int, w: int, temporal_step: float) -> torch.Tensor:
    times = (torch.arange(t) * temporal_step).long()
    return torch.cartesian_prod(times, torch.arange(h), torch.arange(w)).T


def extend_positions(
    token_types: Sequence[int] | torch.Tensor,
    grids_thw: Sequence[Sequence[int]],
    state: PositionState,
    scheme: str,
    message_ends: Sequence[bool] | torch.Tensor | None = None,
    merge_size: int = 2,
    temporal_steps: Sequence[float] | None = None,
) -> torch.Tensor:
    """Return the positions of the next tokens of a sequence and move `state` past them.

    Args:
        token_types: 0 text, 1 image, 2 video for each of the L new tokens; a vision token run is split by `grids_thw`.
        grids_thw: (t, h, w) in patches of the images and videos among them, in order.
        state: how far the sequence has come; it is changed.
        scheme: one of `POSITION_SCHEMES`.
        message_ends: which tokens end a message; only scheme ``reference`` asks.
        merge_size: patches merged to one token along height and width.
        temporal_steps: one for each grid, see `Backbone.temporal_step`; default 1.

    Returns:
        `torch.LongTensor` of shape (3, L).

    Raises:
        ValueError: if the scheme is unknown, or the grids do not account for the vision tokens.
    """
    check_position_scheme(scheme)
    types = _plain(token_types)
    grids = [tuple(int(n) for n in grid) for grid in grids_thw]
    lengths = [t * (h // merge_size) * (w // merge_size) for t, h, w in grids]
    n_vision = len(types) - types.count(TEXT_TYPE)
    if sum(lengths) != n_vision:
        raise ValueError(f"the grids {grids} make {sum(lengths)} tokens, but the sequence has {n_vision} vision tokens")
    if scheme == "sequential" or state.flat or (scheme == "mrope" and not n_vision):  # one by one
        return _one_by_one(len(types), state)
    ends = None if message_ends is None or scheme != "reference" else _plain(message_ends)
    steps = [1] * len(grids) if temporal_steps is None else temporal_steps
    return _extend_3d(types, list(zip(grids, lengths, steps, strict=True)), state, ends, merge_size)


def _plain(values: Sequence | torch.Tensor) -> list:
    return values.reshape(-1).tolist() if isinstance(values, torch.Tensor) else list(values)


def _one_by_one(n_tokens: int, state: PositionState) -> torch.Tensor:
    """Give tokens the positions of text, and advance `state` past them."""
    first = state.next_position
    state.next_position += n_tokens
    return torch.arange(first, state.next_position).expand(3, -1)


def _extend_3d(types, blocks_of_vision, state, ends, merge_size):
    """Walk the runs of text and vision tokens; see :func:`extend_positions`."""
    blocks = []
    remaining = iter(blocks_of_vision)
    i = 0
    while i < len(types):
        if types[i] == TEXT_TYPE:
            n = 1
            while i + n < len(types) and types[i + n] == TEXT_TYPE:
                n += 1
            if ends is not None and state.seen_vision and any(ends[i : i + n]):
                state.flat = True
            block = _one_by_one(n, state)
        else:
            grid, n, step = next(remaining)
            state.seen_vision = True
            if state.flat:
                block = _one_by_one(n, state)
            else:
                block = vision_positions(grid, state.next_position, merge_size, step)
                n_temporal = int((grid[0] - 1) * step) + 1
                state.next_position += max(n_temporal, grid[1] // merge_size, grid[2] // merge_size)
        blocks.append(block)
        i += n
    return torch.cat(blocks, dim=1) if blocks else torch.zeros(3, 0, dtype=torch.long)
