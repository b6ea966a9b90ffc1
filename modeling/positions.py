"""Rotary position schemes: the (temporal, height, width) position of each token of a stream.

Queries and keys are rotated by three positions (M-RoPE, arXiv 2409.12191, section 2.1). A text token has the same
position on all three axes, a vision token its position in the grid of its vision block; the token after a block
continues from the largest position so far plus one. Qwen2.5-VL's temporal positions grow by more than 1 per frame pair;
each of Qwen3-VL's blocks has one temporal position.

==============  =========================================================================
``mrope``       3-D positions in every turn
``sequential``  1-D positions for every token, as LiveCC's released weights were trained
``reference``   3-D up to the end of the first message that shows something, 1-D after it, as
                LiveCC's published inference runs
==============  =========================================================================

All functions work on the tokens of one sequence. A stream that extends its positions turn by turn gets the same as one
pass over the whole conversation.
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
    """The state of a sequence's position numbering.

    Attributes:
        next_position: the position of the next text token.
        seen_vision: whether the sequence has had a vision token.
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
        temporal_step: distance of consecutive temporal positions, see `Backbone.temporal_step`.

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
    """Return the positions of a sequence's next tokens, and advance `state` past them.

    Args:
        token_types: 0 text, 1 image, 2 video, for each of the L new tokens; `grids_thw` splits runs of vision tokens.
        grids_thw: (t, h, w) in patches of the images and videos among them, in order.
        state: the state of the sequence; changed in place.
        scheme: one of `POSITION_SCHEMES`.
        message_ends: for each token, whether it ends a message; only scheme ``reference`` needs it.
        merge_size: patches merged to one token along height and width.
        temporal_steps: one for each grid, see `Backbone.temporal_step`; default 1.

    Returns:
        `torch.LongTensor` of shape (3, L).

    Raises:
        ValueError: if the scheme is unknown, or the grids do not match the number of vision tokens.
    """
    check_position_scheme(scheme)
    types = _plain(token_types)
    grids = [tuple(int(n) for n in grid) for grid in grids_thw]
    lengths = [t * (h // merge_size) * (w // merge_size) for t, h, w in grids]
    n_vision = len(types) - types.count(TEXT_TYPE)
    if sum(lengths) != n_vision:
        raise ValueError(f"the grids {grids} make {sum(lengths)} tokens, but the sequence has {n_vision} vision tokens")
    if scheme == "sequential" or state.flat or (scheme == "mrope" and not n_vision):
        return _text_positions(len(types), state)
    ends = None if message_ends is None or scheme != "reference" else _plain(message_ends)
    steps = [1] * len(grids) if temporal_steps is None else temporal_steps
    return _extend_3d(types, list(zip(grids, lengths, steps, strict=True)), state, ends, merge_size)


def _plain(values: Sequence | torch.Tensor) -> list:
    return values.reshape(-1).tolist() if isinstance(values, torch.Tensor) else list(values)


def _text_positions(n_tokens: int, state: PositionState) -> torch.Tensor:
    """Return positions (3, n_tokens) that grow by 1 per token, and advance `state` past them."""
    first = state.next_position
    state.next_position += n_tokens
    return torch.arange(first, state.next_position).expand(3, -1)


def _extend_3d(
    types: list[int],
    blocks_of_vision: Sequence[tuple[tuple[int, ...], int, float]],
    state: PositionState,
    ends: list[bool] | None,
    merge_size: int,
) -> torch.Tensor:
    """Return positions run by run, with vision in 3-D; see :func:`extend_positions`."""
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
            block = _text_positions(n, state)
        else:
            grid, n, step = next(remaining)
            state.seen_vision = True
            if state.flat:
                block = _text_positions(n, state)
            else:
                block = vision_positions(grid, state.next_position, merge_size, step)
                n_temporal = int((grid[0] - 1) * step) + 1
                state.next_position += max(n_temporal, grid[1] // merge_size, grid[2] // merge_size)
        blocks.append(block)
        i += n
    return torch.cat(blocks, dim=1) if blocks else torch.zeros(3, 0, dtype=torch.long)
