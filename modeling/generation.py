"""Generate turns: prefill, then sample and decode token by token, for one stream or a batch of them."""

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


@torch.inference_mode()  # not `no_grad`: a small model's turn takes a tenth less time
def generate(
    model: interfaces.ModelForStreams,
    requests: Sequence[TurnRequest],
    trace: Callable[[str, Callable], Callable] | None = None,
) -> None:
    """Generate turns of different streams: one prefill for all, then steps that decode one token of each active stream.

    The last generated token of each turn is not decoded, so it is not in the cache. A failure in sampling ends that
    turn alone (`TurnRequest.error`; its state is undefined). Any other failure is raised, and all states are undefined.
    `TurnRequest.undo` restores a stream.

    Args:
        requests: the turns.
        trace: wraps functions to measure them: called with `"prefill"` or `"decode"` and the function, it returns the
            function to call instead.

    Raises:
        ContextFullError: if a turn would exceed the model's `max_position_embeddings`.
        RuntimeError: if a stream's cache is inconsistent, or the logits of a single request are not finite.
    """
    run = (lambda _, function: function) if trace is None else trace
    for request in requests:
        request.begin()
    logits = run("prefill", prefill)(model, requests)
    states = [request.state for request in requests]
    device = model.get_input_embeddings().weight.device
    positions = to_device(torch.tensor([state.next_position for state in states]), device)
    batch = _batch(model.packed_batch, requests)
    faster = None if model.decode_step is None else model.decode_step(model, batch.caches, batch.n_steps)
    step = functools.partial(run("decode", decode), model, faster=faster)
    samplers, contexts = [request.sampler for request in requests], [state.token_ids for state in states]
    sampler = BatchSampler(samplers, contexts, batch.n_steps, logits.device)
    loop = _decode_loop_async if _runs_async(logits.device) else _decode_loop
    loop(requests, step, batch, positions, sampler, logits)


def _batch(make: type[PackedBatch], requests: Sequence[TurnRequest]) -> PackedBatch:
    """Return the batch of steps that decode one token of each turn."""
    n_steps = max(request.n_left for request in requests)
    return make([request.state.cache for request in requests], [1] * len(requests), n_steps)


def _decode_loop(
    requests: Sequence[TurnRequest],
    step: Callable,
    batch: PackedBatch,
    positions: torch.Tensor,
    sampler: BatchSampler,
    logits: torch.Tensor,
) -> None:
    """Sample and decode token by token; each step runs only the active streams."""
    active = list(range(len(requests)))
    while active:
        tokens, failures = sampler.sample(logits, active, active)
        _accept_tokens(requests, active, active, logits, tokens.tolist(), failures)
        still_active = [i for i in active if requests[i].n_left]
        if still_active and still_active != active:
            rows = [active.index(i) for i in still_active]
            tokens, positions = tokens[rows], positions[rows]
            batch = _batch(type(batch), [requests[i] for i in still_active])
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
    """Sample and decode; launch each step before the host knows the tokens it decodes.

    The device then never waits for the host. Every step runs all streams: the token of a stream whose turn is over is
    decoded too, and dropped from its cache afterwards.
    """
    active = everyone = list(range(len(requests)))
    while active:
        tokens, failures = sampler.sample(logits, everyone, active)
        values, sampled_logits = to_host(tokens), logits
        is_launched = any(requests[i].n_left > 1 for i in active)
        if is_launched:
            logits = step(batch, tokens.clamp(min=0), positions)
            positions = positions + 1
        _accept_tokens(requests, active, everyone, sampled_logits, values(), failures)
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
    """Append the new token of each active stream, or record the error that ends its turn.

    Args:
        requests: the turns.
        active: the streams whose turn is not over.
        held: the stream of each row.
        logits: (rows, vocabulary).
        tokens: (rows,).
        failures: errors in sampling, by stream.
    """
    for row, i in enumerate(held):
        request = requests[i]
        if i not in active:
            continue
        if tokens[row] == NO_TOKEN and i not in failures:
            failures[i] = RuntimeError(
                "the model's scores are not finite (NaN or infinite): its weights are damaged, or values overflow its "
                "dtype; load it with dtype='bfloat16' or 'float32'"
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
    """Return whether to use `_decode_loop_async`."""
    return device.type == "cuda"
