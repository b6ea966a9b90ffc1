"""The explicit state of one stream, and the two steps that move it: prefill and decode.

Nothing of a stream lives on the model, so any number of them can take turns on it.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import torch
from transformers import DynamicCache

from .positions_livecc import PositionState, extend_positions


class ContextFullError(ValueError):
    """The next turn does not fit into the positions that the model knows.

    Attributes:
        segments: the turns that were completed before, where a `push` held several.
    """

    segments: tuple = ()


@dataclass
class StreamState:
    """What the model has read and said in one stream.

    Attributes:
        cache: keys and values of `token_ids`.
        token_ids: every token in the cache, in order.
        positions: where the rotary positions have got to.
        pending_ids: generated tokens that are not in the cache yet; they open the next prefill.
    """

    cache: DynamicCache = field(default_factory=DynamicCache)
    token_ids: list[int] = field(default_factory=list)
    positions: PositionState = field(default_factory=PositionState)
    pending_ids: list[int] = field(default_factory=list)

    def snapshot(self) -> tuple:
        """Return what :meth:`restore` needs to undo everything that follows."""
        return len(self.token_ids), copy.copy(self.positions), list(self.pending_ids)

    def restore(self, snapshot: tuple) -> None:
        """Go back to a snapshot taken of this state; only tokens added since are forgotten."""
        n_tokens, positions, pending_ids = snapshot
        if n_tokens == 0:
            self.cache = DynamicCache()
        else:
            for layer in self.cache.layers:
                layer.keys = layer.keys[..., :n_tokens, :]
                layer.values = layer.values[..., :n_tokens, :]
        del self.token_ids[n_tokens:]
        self.positions = copy.copy(positions)
        self.pending_ids = list(pending_ids)


def prefill(
    model,
    state: StreamState,
    token_ids: list[int],
    message_end_id: int,
    patches: torch.Tensor | None = None,
    grid_thw: torch.LongTensor | None = None,
    n_new_tokens: int = 1,
) -> torch.FloatTensor:
    """Read tokens (and a turn's frames) into the stream.

    Args:
        model: a `LiveCCForConditionalGeneration`.
        state: the stream's state, changed in place.
        token_ids: the L new tokens; `state.pending_ids` go before them.
        message_end_id: the id of `<|im_end|>`.
        patches: (t * h * w, 1176) patches of the frames among the tokens.
        grid_thw: (1, 3) their grid.
        n_new_tokens: how many tokens will be generated after this, at most.

    Returns:
        Logits of the token that follows, of shape (1, vocabulary).

    Raises:
        ContextFullError: if tokens read and generated would pass `max_position_embeddings`; the state is unchanged.
    """
    token_ids = state.pending_ids + token_ids
    ids = torch.tensor(token_ids)
    positions = copy.copy(state.positions)
    rows = extend_positions(
        2 * (ids == model.config.video_token_id).long(),
        [] if grid_thw is None else grid_thw.tolist(),
        positions,
        model.config.position_scheme,
        message_ends=ids == message_end_id,
        merge_size=model.config.vision_config.spatial_merge_size,
    )
    limit = model.config.text_config.max_position_embeddings
    if positions.next_position + n_new_tokens > limit:
        raise ContextFullError(
            f"the stream is at position {state.positions.next_position} and its next turn needs "
            f"{positions.next_position + n_new_tokens - state.positions.next_position} more, but the model knows "
            f"{limit} (max_position_embeddings): call reset() to go on with an empty memory, or use smaller frames "
            "(max_pixels) to get further"
        )
    vision = {}
    if patches is not None:
        vision = {"pixel_values_videos": patches.to(model.device), "video_grid_thw": grid_thw.to(model.device)}
    logits = _forward(model, state, ids, rows, **vision)
    state.positions = positions
    state.pending_ids = []
    state.token_ids += token_ids
    return logits


def decode(model, state: StreamState, token_id: int) -> torch.FloatTensor:
    """Read one generated token into the stream.

    Args:
        model: a `LiveCCForConditionalGeneration`.
        state: the stream's state, changed in place.
        token_id: the token.

    Returns:
        Logits of the token that follows, of shape (1, vocabulary).
    """
    rows = torch.full((3, 1), state.positions.next_position)
    logits = _forward(model, state, torch.tensor([token_id]), rows)
    state.positions.next_position += 1
    state.token_ids.append(token_id)
    return logits


def _forward(model, state, ids, rows, **vision) -> torch.FloatTensor:
    # Four rows: with the token's index on top, neither mask nor positions are guessed from the module's state.
    index = torch.arange(len(ids)) + len(state.token_ids)
    position_ids = torch.cat([index[None], rows])[:, None]
    return model(
        input_ids=ids[None].to(model.device),
        position_ids=position_ids.to(model.device),
        past_key_values=state.cache,
        use_cache=True,
        logits_to_keep=1,
        **vision,
    ).logits[:, -1]
