"""Generates turns: prefill, then decode and sample token by token, for one stream or a batch of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from .attention import PackedBatch
from .model_runner import decode, prefill
from .sampling import NO_TOKEN, BatchSampler
from .transfer import to_device, to_host
from .turn import TurnRequest

if TYPE_CHECKING:
    from . import interfaces  # this form keeps the file out of a model's folder


def generate(
    model: interfaces.ModelForStreams,
    requests: Sequence[TurnRequest],
    trace: Callable[[str, Callable], Callable] | None = None,
) -> None:
    """Generate turns of different streams: one prefill of all, then steps that decode a token of each active stream.

    The states end before the last generated token of each turn, which is not decoded. A failure in sampling ends that
    turn alone (`TurnRequest.error`; its state is undefined). Any other failure is raised, and all states are undefined.
    `TurnRequest.undo` puts a stream back.

    Args:
        model: a `LiveCCForConditionalGeneration`.
        requests: the turns.
        trace: for measuring: takes `"prefill"` or `"decode"` and the function that does it, and returns what is called
            instead.

    Raises:
        ContextFullError: if a turn does not fit into the model's positions.
    """
    run = (lambda _, function: function) if trace is None else trace
    for request in requests:
        request.begin()
    logits = run("prefill", prefill)(model, requests)
    states = [request.state for request in requests]
    n_steps = max(request.n_left for request in requests)
    device = model.get_input_embeddings().weight.device
    positions = to_device(torch.tensor([state.next_position for state in states]), device)
    batch = _batch(requests)
    faster = None if model.decode_step is None else model.decode_step(model, batch.caches, n_steps)
    step = functools.partial(run("decode", decode), model, faster=faster)
    samplers, contexts = [request.sampler for request in requests], [state.token_ids for state in states]
    sampler = BatchSampler(samplers, contexts, n_steps, logits.device)
    (_decode_loop_async if _runs_async(logits.device) else _decode_loop)(
        requests, step, batch, positions, sampler, logits
    )


def _batch(requests: Sequence[TurnRequest]) -> PackedBatch:
    """Return the batch of a step that decodes a token of each turn."""
    n_steps = max(request.n_left for request in requests)
    return PackedBatch([request.state.cache for request in requests], [1] * len(requests), n_steps=n_steps)


def _decode_loop(
    requests: Sequence[TurnRequest],
    step: Callable,
    batch: PackedBatch,
    positions: torch.Tensor,
    sampler: BatchSampler,
    logits: torch.Tensor,
) -> None:
    """Sample and decode token after token; each step takes the active streams alone."""
    active = list(range(len(requests)))
    while active:
        tokens, failures = sampler.sample(logits, active, active)
        _accept_tokens(requests, active, active, logits, tokens.tolist(), failures)
        still_active = [i for i in active if requests[i].n_left]
        if still_active and still_active != active:
            rows = [active.index(i) for i in still_active]
            tokens, positions, batch = tokens[rows], positions[rows], _batch([requests[i] for i in still_active])
        if still_active:
            logits = step(batch, tokens, positions)
            positions = positions + 1
        for i in still_active:
            requests[i].state.append_token(requests[i].token_ids[-1])
        active = still_active


def _decode_loop_async(
    requests: Sequence[TurnRequest],
    step: Callable,
    batch: PackedBatch,
    positions: torch.Tensor,
    sampler: BatchSampler,
    logits: torch.Tensor,
) -> None:
    """Sample and decode; the next step is launched before the tokens of this one are known here.

    A device of its own then never waits for this process. Streams whose turn is over are decoded along, into memory
    that is not counted, so that every step has the same streams.
    """
    active = everyone = list(range(len(requests)))
    while active:
        tokens, failures = sampler.sample(logits, everyone, active)
        values, those_before = to_host(tokens), logits
        is_launched = any(requests[i].n_left > 1 for i in active)
        if is_launched:
            logits = step(batch, tokens.clamp(min=0), positions)
            positions = positions + 1
        _accept_tokens(requests, active, everyone, those_before, values(), failures)
        still_active = [i for i in active if requests[i].n_left]
        for i in set(everyone) - set(still_active) if is_launched else ():
            cache = requests[i].state.cache
            cache.truncate(cache.length - 1)
        for i in still_active:
            requests[i].state.append_token(requests[i].token_ids[-1])
        active = still_active


def _accept_tokens(
    requests: Sequence[TurnRequest],
    active: Sequence[int],
    held: Sequence[int],
    logits: torch.Tensor,
    tokens: Sequence[int],
    failures: dict[int, Exception],
) -> None:
    """Append the new token of each active stream, or note the error that ends its turn.

    Args:
        requests: the turns.
        active: the streams whose turn goes on.
        held: the stream of each row.
        logits: (rows, vocabulary).
        tokens: (rows,).
        failures: what failed, by stream.
    """
    for row, i in enumerate(held):
        request = requests[i]
        if i not in active:
            continue
        if tokens[row] == NO_TOKEN and i not in failures:
            failures[i] = RuntimeError(
                "the model's scores are not finite (NaN or infinite): its weights are damaged, or numbers got too "
                "large for its dtype; load it with dtype='bfloat16' or 'float32'"
            )
        if i in failures:
            if len(requests) == 1:
                raise failures[i]
            request.error = failures[i]
            continue
        if request.keep_logits:
            request.logits.append(logits[row].float().cpu())
        request.token_ids.append(tokens[row])


def _runs_async(device: torch.device) -> bool:
    """Return whether steps are launched ahead; see `_decode_loop_async`."""
    return device.type == "cuda"
