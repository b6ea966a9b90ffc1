"""Prefill and decode: the two forward passes of streams, for one stream or a batch of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .attention import PackedBatch, run, use_stream_attention
from .context import ContextFullError, StreamState
from .interfaces import ModelForStreams
from .kv_cache import KVCache, KVCachePool
from .positions import TEXT_TYPE, VIDEO_TYPE, PositionState, extend_positions
from .transfer import to_device
from .video_processing_livecc import LiveCCVideoProcessor
from .window import TEXT, VISION, Span


@dataclass(frozen=True)
class PrefillInput:
    """What a stream prefills: the tokens of its next turn, with their frames.

    Attributes:
        state: the stream's state, advanced by :func:`prefill`.
        token_ids: the new tokens; `state.pending_ids` go before them.
        turn: number of the turn.
        end_s: where the turn ends, in seconds from the stream's start.
        message_end_id: the id of `<|im_end|>`.
        n_closing: how many of `token_ids` close the turn before.
        frames: uint8 (T, 3, H, W), those among the tokens, in the size in which they are cut into patches; T even.
        video_processor: the :class:`LiveCCVideoProcessor` that cuts them.
        n_new_tokens: how many tokens will be generated after this, at most.
        vision_first: where in `token_ids` begins what is forgotten with the frames; default: with the marker before
            the first vision token.
    """

    state: StreamState
    token_ids: list[int]
    turn: int
    end_s: float
    message_end_id: int
    n_closing: int = 0
    frames: torch.Tensor | None = None
    video_processor: LiveCCVideoProcessor | None = None
    n_new_tokens: int = 1
    vision_first: int | None = None

    @property
    def grid_thw(self) -> tuple[int, int, int] | None:
        """How many patches there are in time, height and width; `None` without frames."""
        return None if self.frames is None or self.video_processor is None else self.video_processor.grid(self.frames)


@dataclass(frozen=True)
class _PrefillPlan:
    """The tokens of a prefill with their positions, and what the state becomes."""

    token_ids: list[int]
    rows: torch.Tensor  # (3, tokens)
    positions: PositionState
    spans: list[Span]


def new_kv_cache_pool(model: ModelForStreams, is_evictable: bool = False, n_expected: int = 1) -> KVCachePool:
    """Return a pool for the KV caches of streams; see `KVCachePool`."""
    layers = model.model.language_model.layers
    return KVCachePool([next(layer.parameters()).device for layer in layers], is_evictable, n_expected)


@torch.no_grad()
def prefill(model: ModelForStreams, inputs: Sequence[PrefillInput]) -> torch.Tensor:
    """Prefill a batch of streams in one forward pass.

    Args:
        model: a `LiveCCForConditionalGeneration`.
        inputs: of B different streams; their states advance together, or on any failure not at all.

    Returns:
        Logits of the tokens that follow, of shape (B, vocabulary).

    Raises:
        ContextFullError: if tokens read and generated of a stream would pass `max_position_embeddings`.
        RuntimeError: if an eviction was interrupted.
    """
    for prefill_input in inputs:
        prefill_input.state.check()
    use_stream_attention(model.model.language_model)
    plans = [_plan(model, prefill_input) for prefill_input in inputs]
    lengths = [len(plan.token_ids) for plan in plans]
    caches = PackedBatch([prefill_input.state.cache for prefill_input in inputs], lengths)
    token_ids = torch.tensor([token for plan in plans for token in plan.token_ids])
    positions = torch.cat([plan.rows for plan in plans], dim=1)
    hidden = run(model.model, token_ids, positions, caches, **_video_inputs(model, inputs))
    logits = model.lm_head(hidden[to_device(caches.last, hidden.device)])
    caches.advance()
    for prefill_input, plan in zip(inputs, plans):
        state = prefill_input.state
        state.token_ids += plan.token_ids
        state.positions, state.spans, state.pending_ids = plan.positions, plan.spans, []
    return logits


@torch.no_grad()
def reprefill(model: ModelForStreams, state: StreamState, kept: Sequence[bool], message_end_id: int) -> StreamState:
    """Return a new state whose context is the kept spans of text, prefilled anew.

    Args:
        model: a `LiveCCForConditionalGeneration`.
        state: the stream's state; stays as it is.
        kept: which of its spans stay, none of vision.
        message_end_id: the id of `<|im_end|>`.
    """
    token_ids, at = [], 0
    for span, stays in zip(state.spans, kept):
        token_ids += state.token_ids[at : at + span.n_tokens] if stays else []
        at += span.n_tokens
    again = StreamState(KVCache(new_kv_cache_pool(model)))
    again.positions = PositionState(0, state.positions.seen_vision, state.positions.flat)
    prefill(model, [PrefillInput(again, token_ids, 0, 0.0, message_end_id)])
    again.spans = [span for span, stays in zip(state.spans, kept) if stays]
    again.pending_ids = list(state.pending_ids)
    again.n_evicted = state.n_evicted + at - len(token_ids)
    return again


class DecodeBatch:
    """A batch of streams that are decoded side by side, a token of each at a time.

    Args:
        model: a `LiveCCForConditionalGeneration`.
        states: of the B streams.
        n_steps: how many tokens will be decoded of each stream, at most.
    """

    def __init__(self, model: ModelForStreams, states: Sequence[StreamState], n_steps: int):
        self._language_model, self._head = model.model.language_model, model.lm_head
        self._states = states
        start = torch.tensor([state.positions.next_position for state in states])
        # All steps' positions at once: a step then copies nothing to the device.
        device = model.get_input_embeddings().weight.device
        self._positions = to_device(start + torch.arange(n_steps)[:, None], device)
        caches = [state.cache for state in states]
        self._faster = None if model.decode_step is None else model.decode_step(model, caches, n_steps)
        self._select(range(len(states)))

    @torch.no_grad()
    def step(self, token_ids: torch.Tensor, streams: Sequence[int], step: int) -> torch.Tensor:
        """Run one token of some streams; the caches count it, `StreamState.append_token` does the rest.

        Args:
            token_ids: (b,) the tokens, on the model's device.
            streams: (b,) indices of the streams, each of which was among those of the step before.
            step: how many steps came before this one.

        Returns:
            Logits of the tokens that follow, of shape (b, vocabulary).
        """
        if list(streams) != self._streams:  # some have ended their turn
            self._select(streams)
        positions = self._positions[step]
        if self._selected is not None:
            positions = positions[self._selected]
        if self._faster is None:
            logits = self._head(run(self._language_model, token_ids, positions.expand(3, -1), self._packed))
        else:
            logits = self._faster.step(token_ids, positions, [cache.slot for cache in self._packed.caches])
        self._packed.advance()
        return logits

    def _select(self, streams: Sequence[int]) -> None:
        """Select the streams of the next steps."""
        self._streams, self._selected = list(streams), None
        if len(streams) < len(self._states):
            self._selected = to_device(torch.tensor(self._streams), self._positions.device)
        self._packed = PackedBatch([self._states[i].cache for i in streams], [1] * len(streams))


def _plan(model: ModelForStreams, prefill_input: PrefillInput) -> _PrefillPlan:
    """Return what a prefill will do to its stream; change nothing."""
    config, state = model.config, prefill_input.state
    token_ids = state.pending_ids + prefill_input.token_ids
    positions, spans = copy.copy(state.positions), list(state.spans)
    types = [VIDEO_TYPE if token == config.video_token_id else TEXT_TYPE for token in token_ids]
    ends = [token == prefill_input.message_end_id for token in token_ids]
    backbone = config.find_backbone()
    grids = [] if prefill_input.grid_thw is None else backbone.block_grids(prefill_input.grid_thw)
    step = backbone.temporal_step(config.vision_config)
    rows = []
    n_pending = len(state.pending_ids)
    n_closing = n_pending + prefill_input.n_closing if spans else 0
    vision_first = None if prefill_input.vision_first is None else n_pending + prefill_input.vision_first
    for kind, first, last in _parts(types, n_closing, vision_first):
        before = positions.next_position
        in_part = slice(first, last)
        in_vision = grids if kind == VISION else []
        rows.append(
            extend_positions(
                types[in_part],
                in_vision,
                positions,
                config.position_scheme,
                message_ends=ends[in_part],
                merge_size=config.vision_config.spatial_merge_size,
                temporal_steps=[step] * len(in_vision),
            )
        )
        if first == 0 and spans:
            spans[-1] = spans[-1].longer(last, positions.next_position - before)
        else:
            spans.append(
                Span(kind, prefill_input.turn, prefill_input.end_s, last - first, positions.next_position - before)
            )
    _check_room(model, state, positions, prefill_input.n_new_tokens)
    return _PrefillPlan(token_ids, torch.cat(rows, dim=1), positions, spans)


def _parts(types: list[int], n_closing: int, vision_first: int | None) -> list[tuple[str, int, int]]:
    """Split new tokens into (kind, first, end): what closes the turn before, text, vision with its markers, text."""
    parts = [(TEXT, 0, n_closing), (TEXT, n_closing, len(types))]
    if VIDEO_TYPE in types:
        first = types.index(VIDEO_TYPE) - 1 if vision_first is None else vision_first
        end = len(types) - types[::-1].index(VIDEO_TYPE) + 1
        parts[1:] = [(TEXT, n_closing, first), (VISION, first, end), (TEXT, end, len(types))]
    return [part for part in parts if part[1] < part[2]]


def _check_room(model: ModelForStreams, state: StreamState, positions: PositionState, n_new_tokens: int) -> None:
    limit = model.config.text_config.max_position_embeddings
    needed = positions.next_position + n_new_tokens
    if needed > limit:
        raise ContextFullError(
            f"the stream is at position {state.positions.next_position} and its next turn needs "
            f"{needed - state.positions.next_position} more, but the model knows {limit} (max_position_embeddings): "
            "call reset() to go on with an empty memory, use smaller frames (max_pixels) to get further, or a window "
            "(window='sliding') to go on for ever"
        )


def _video_inputs(model: ModelForStreams, inputs: Sequence[PrefillInput]) -> dict[str, torch.Tensor]:
    """Return what the model's body takes beside tokens: the patches and grids of those that bring frames."""
    videos = [(prefill_input.frames, prefill_input.video_processor) for prefill_input in inputs]
    with_frames = [(frames, by) for frames, by in videos if frames is not None and by is not None]
    if not with_frames:
        return {}
    device = model.model.visual.device
    grids = to_device(torch.tensor([by.grid(frames) for frames, by in with_frames]), device)
    return {"pixel_values_videos": _patches(with_frames, device), "video_grid_thw": grids}


def _patches(videos: Sequence[tuple[torch.Tensor, LiveCCVideoProcessor]], device: torch.device) -> torch.Tensor:
    """Return the patches (patches, 3 * 2 * patch size²) of all frames.

    Those of videos of one size are cut together, on the device.
    """
    alike: dict[tuple, list[int]] = {}
    for i, (frames, by) in enumerate(videos):
        alike.setdefault((id(by), frames.shape, frames.device), []).append(i)
    of_each: dict[int, torch.Tensor] = {}
    for alike_ones in alike.values():
        stacked = to_device(torch.stack([videos[i][0] for i in alike_ones]), device)
        of_each |= zip(alike_ones, videos[alike_ones[0]][1].cut(stacked))
    return torch.cat([of_each[i] for i in range(len(videos))])
