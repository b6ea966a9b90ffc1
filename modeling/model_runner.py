"""Prefill and decode: the two forward passes of streams, for one stream or a batch of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from .attention import PackedBatch, run, use_stream_attention
from .backbones import find_backbone
from .context import (
    REPREFILL_S,
    TEXT,
    VISION,
    ContextFullError,
    Span,
    StreamState,
    expected_tokens,
    kept_spans,
)
from .grammar import TURN_FRAMES
from .kv_cache import KVCache, KVCachePool
from .positions import TEXT_TYPE, VIDEO_TYPE, extend_positions
from .stream_options import StreamOptions
from .transfer import to_device
from .turn import TurnRequest
from .video_processing_livecc import LiveCCVideoProcessor

if TYPE_CHECKING:
    from . import interfaces  # this form keeps the file out of a model's folder


def new_kv_cache_pool(
    model: interfaces.ModelForStreams, is_evictable: bool = False, n_expected: int = 1
) -> KVCachePool:
    """Return a KV cache pool for a model's layers; see `KVCachePool`."""
    layers = model.model.language_model.layers
    return KVCachePool([next(layer.parameters()).device for layer in layers], is_evictable, n_expected)


def check_streamable(
    model: interfaces.ModelForStreams, processor: interfaces.ProcessorForStreams, options: StreamOptions
) -> None:
    """Raise `ValueError` if streams with these options cannot run with this model and processor."""
    if model.training:
        raise ValueError("the model is in training mode (dropout is on): call model.eval() before start_stream")
    parts = {"embeddings": model.get_input_embeddings(), "vision tower": model.model.visual, "head": model.lm_head}
    for name, part in parts.items():  # only decoder layers may be offloaded
        if any(parameter.is_meta for parameter in part.parameters()):
            raise ValueError(
                f"the model's {name} is offloaded to CPU or disk, where streams cannot run it: load it on a device, "
                "such as with device_map={'': 0}, and in 4-bit if it does not fit"
            )
    if not hasattr(processor, "turn_ids"):
        raise ValueError(
            f"the processor is a {type(processor).__name__}: expected a StreamingProcessor, which AutoProcessor "
            "loads from the model's folder with trust_remote_code=True"
        )
    backbone = model.config.find_backbone()
    if processor.backbone != backbone.name:
        raise ValueError(
            f"the processor was made for {processor.backbone}, but the model is a {backbone.name}: load the processor "
            "from the model's own folder"
        )
    if options.window == "sliding" and not backbone.can_forget:
        raise ValueError(f"nothing can be evicted from the context of a {backbone.name}: use window='reprefill'")


@torch.no_grad()
def prefill(model: interfaces.ModelForStreams, requests: Sequence[TurnRequest]) -> torch.Tensor:
    """Prefill a batch of streams in one forward pass.

    Args:
        requests: turns of B different streams, whose states advance. After a failure the states are undefined; restore
            them with `TurnRequest.undo`.

    Returns:
        Logits of the next tokens, (B, vocabulary).

    Raises:
        ContextFullError: if a stream would exceed `max_position_embeddings` with its new tokens, the generated ones
            included.
        RuntimeError: if an eviction of a stream was interrupted.
    """
    for request in requests:
        request.state.check()
    use_stream_attention(model.model.language_model)
    new = [_extend(model, request) for request in requests]
    lengths = [len(token_ids) for token_ids, _ in new]
    batch = model.packed_batch([request.state.cache for request in requests], lengths)
    token_ids = torch.tensor([token for token_ids, _ in new for token in token_ids])
    positions = torch.cat([positions for _, positions in new], dim=1)
    device = model.get_input_embeddings().weight.device
    token_ids, positions = to_device(token_ids, device), to_device(positions, device)
    hidden = run(model.model, token_ids, positions, batch, **_video_inputs(model, requests))
    logits = model.lm_head(hidden[to_device(batch.last, hidden.device)])
    batch.advance()
    for request, (added, _) in zip(requests, new):
        request.state.token_ids += added
    return logits


@torch.no_grad()
def decode(
    model: interfaces.ModelForStreams,
    batch: PackedBatch,
    token_ids: torch.Tensor,
    positions: torch.Tensor,
    faster: Any = None,
) -> torch.Tensor:
    """Run one token of each stream in a batch, and advance the caches (not the states; see `append_token`).

    Args:
        batch: B streams with one token each.
        token_ids: (B,) the tokens.
        positions: (B,) their positions, on the device of the embeddings.
        faster: what `model.decode_step` returned for these streams or a superset; `None`: run the model's modules.

    Returns:
        Logits of the next tokens, (B, vocabulary).
    """
    token_ids = token_ids.to(positions.device)  # the head, whose scores chose them, may be on another
    if faster is None:
        logits = model.lm_head(run(model.model.language_model, token_ids, positions.expand(3, -1), batch))
    else:
        logits = faster.step(batch, token_ids, positions)
    batch.advance()
    return logits


def make_room(model: interfaces.ModelForStreams, request: TurnRequest, options: StreamOptions) -> None:
    """Evict what has left a stream's window before its next turn.

    Args:
        request: the next turn; gets a new state if window ``reprefill`` evicts all vision and prefills the text again.
        options: the stream's options.

    Raises:
        RuntimeError: if an earlier eviction was interrupted.
    """
    state = request.state
    if options.window == "sliding":
        if request.frames is not None and request.turn == 0:
            # Growing later would copy the caches and, on CUDA, capture the graph again.
            n_first, n_vision = len(request.prompt_ids), request.prompt_ids.count(model.config.video_token_id)
            n_text = n_first - n_vision + request.max_new_tokens
            n_vision = n_vision * TURN_FRAMES // len(request.frames) + 2  # of a later turn, with its two markers
            state.cache.memory.expect(expected_tokens(options, n_first, n_vision, n_text))
        kept = kept_spans(state, options, request.end_s - options.vision_window_s)
        backbone = find_backbone(request.processor.backbone)
        state.evict(kept, backbone.shift_frequencies(model.model.language_model))
    elif options.window == "reprefill" and state.spans:
        needed = state.next_position + len(state.pending_ids) + len(request.prompt_ids) + request.max_new_tokens
        is_full = needed > model.config.text_config.max_position_embeddings
        if is_full or request.end_s - state.seen_from_s > REPREFILL_S:
            request.state = _reprefilled(model, request, kept_spans(state, options, math.inf))
            request.state.seen_from_s = request.start_s
    request.begin()


def _reprefilled(model: interfaces.ModelForStreams, request: TurnRequest, kept: Sequence[bool]) -> StreamState:
    """Return a new state with only the kept spans of text, prefilled again; the old state is not changed."""
    state, at = request.state, 0
    token_ids: list[int] = []
    for span, stays in zip(state.spans, kept):
        token_ids += state.token_ids[at : at + span.n_tokens] if stays else []
        at += span.n_tokens
    again = StreamState(0, state.seen_vision, state.flat, cache=KVCache(new_kv_cache_pool(model)))
    prefill(model, [TurnRequest(again, request.processor, request.sampler, token_ids)])
    again.spans = [span for span, stays in zip(state.spans, kept) if stays]
    again.pending_ids, again.query_turn = list(state.pending_ids), state.query_turn
    again.n_evicted = state.n_evicted + at - len(token_ids)
    return again


def _extend(model: interfaces.ModelForStreams, request: TurnRequest) -> tuple[list[int], torch.Tensor]:
    """Advance a state's positions and spans by its new tokens; return these and their positions (3, tokens)."""
    config, state, processor = model.config, request.state, request.processor
    token_ids, n_closing = state.pending_ids + request.prompt_ids, len(state.pending_ids) + processor.n_joint_tokens
    if request.token_ids:  # the next part of an answer: its last token is not in the cache yet
        token_ids, n_closing = request.token_ids[-1:], 1
    elif not state.spans:
        n_closing = 0
    before = state.next_position
    backbone, end_id = find_backbone(processor.backbone), processor.end_id
    grids: list = []
    if request.frames is not None:
        grids = backbone.block_grids(processor.video_processor.grid(request.frames))
    types = [VIDEO_TYPE if token == config.video_token_id else TEXT_TYPE for token in token_ids]
    vision_first = None if request.vision_first is None else len(state.pending_ids) + request.vision_first
    rows = []
    for kind, first, end in _parts(types, n_closing, vision_first):
        start = state.next_position
        in_vision = grids if kind == VISION else []
        rows.append(
            extend_positions(
                types[first:end],
                in_vision,
                state,
                config.position_scheme,
                message_ends=[token == end_id for token in token_ids[first:end]],
                merge_size=config.vision_config.spatial_merge_size,
                temporal_steps=[backbone.temporal_step(config.vision_config)] * len(in_vision),
            )
        )
        n_positions = state.next_position - start
        if first == 0 and state.spans:
            state.spans[-1] = state.spans[-1].longer(end, n_positions)
        else:
            state.spans.append(Span(kind, request.turn, request.end_s, end - first, n_positions))
    state.pending_ids = []
    _check_room(model, before, state.next_position + request.max_new_tokens - len(request.token_ids))
    return token_ids, torch.cat(rows, dim=1)


def _parts(types: list[int], n_closing: int, vision_first: int | None) -> list[tuple[str, int, int]]:
    """Split new tokens into (kind, first, end): end of the previous turn, text, vision with its markers, text."""
    parts = [(TEXT, 0, n_closing), (TEXT, n_closing, len(types))]
    if VIDEO_TYPE in types:
        first = types.index(VIDEO_TYPE) - 1 if vision_first is None else vision_first
        end = len(types) - types[::-1].index(VIDEO_TYPE) + 1
        parts[1:] = [(TEXT, n_closing, first), (VISION, first, end), (TEXT, end, len(types))]
    return [part for part in parts if part[1] < part[2]]


def _check_room(model: interfaces.ModelForStreams, at: int, needed: int) -> None:
    limit = model.config.text_config.max_position_embeddings
    if needed > limit:
        raise ContextFullError(
            f"the stream is at position {at} and its next turn needs {needed - at} more, but the model knows {limit} "
            "(max_position_embeddings): call reset() to continue with an empty context, use smaller frames "
            "(max_pixels), or use window='sliding' to continue indefinitely"
        )


def _video_inputs(model: interfaces.ModelForStreams, requests: Sequence[TurnRequest]) -> dict[str, torch.Tensor]:
    """Return the vision inputs of the model's body: patches and grids of all requests with frames."""
    videos = [(each.frames, each.processor.video_processor) for each in requests if each.frames is not None]
    if not videos:
        return {}
    device = model.model.visual.device
    grids = to_device(torch.tensor([by.grid(frames) for frames, by in videos]), device)
    return {"pixel_values_videos": _patches(videos, device), "video_grid_thw": grids}


def _patches(videos: Sequence[tuple[torch.Tensor, LiveCCVideoProcessor]], device: torch.device) -> torch.Tensor:
    """Return the patches (patches, 3 * 2 * patch size²) of all videos; those of one size are cut together."""
    same_size: dict[tuple, list[int]] = {}
    for i, (frames, video_processor) in enumerate(videos):
        same_size.setdefault((id(video_processor), frames.shape, frames.device), []).append(i)
    patches: dict[int, torch.Tensor] = {}
    for indices in same_size.values():
        stacked = to_device(torch.stack([videos[i][0] for i in indices]), device)
        patches |= zip(indices, videos[indices[0]][1].cut(stacked))
    return torch.cat([patches[i] for i in range(len(videos))])
