"""Generates turns: prefill, then decode and sample token by token, for one stream or a batch of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from .batch_sampling import NO_TOKEN, BatchSampler
from .interfaces import ModelForStreams
from .model_runner import DecodeBatch, PrefillInput, prefill
from .sampling import Sampler
from .transfer import to_host


@dataclass
class TurnRequest:
    """One turn to generate, and what was generated.

    Attributes:
        prefill_input: the turn's prompt.
        sampler: samples its tokens.
        stop_ids: tokens after which the turn is over.
        max_new_tokens: most tokens to generate.
        keep_logits: whether to keep the logits.
        token_ids: what was generated; the last token is not in the cache.
        logits: of each, (vocabulary,) in float32 on the CPU.
        error: what ended this turn alone.
    """

    prefill_input: PrefillInput
    sampler: Sampler
    stop_ids: frozenset[int]
    max_new_tokens: int
    keep_logits: bool = False
    token_ids: list[int] = field(default_factory=list)
    logits: list[torch.Tensor] = field(default_factory=list)
    error: Exception | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more is generated."""
        done = self.token_ids and self.token_ids[-1] in self.stop_ids
        return bool(done) or len(self.token_ids) == self.max_new_tokens or self.error is not None


def generate(
    model: ModelForStreams, requests: Sequence[TurnRequest], trace: Callable[[str, Callable], Callable] | None = None
) -> None:
    """Generate turns of different streams: one prefill of all, then steps that decode a token of each active stream.

    The states end before the last generated token of each turn, which is not decoded. A failure in sampling ends that
    turn alone (`TurnRequest.error`; its state is undefined, restore a snapshot). Any other failure is raised, and all
    states are undefined.

    Args:
        model: a `LiveCCForConditionalGeneration`.
        requests: the turns.
        trace: for measuring: takes `"prefill"` or `"decode"` and the function that does it, and returns what is called
            instead.

    Raises:
        ContextFullError: if a turn does not fit into the model's positions; no state has changed.
    """
    run_prefill = prefill if trace is None else trace("prefill", prefill)
    logits = run_prefill(model, [request.prefill_input for request in requests])
    states = [request.prefill_input.state for request in requests]
    n_steps = max(request.max_new_tokens for request in requests)
    batch = DecodeBatch(model, states, n_steps)
    decode = batch.step if trace is None else trace("decode", batch.step)
    sampler = BatchSampler(
        [request.sampler for request in requests], [s.token_ids for s in states], n_steps, logits.device
    )
    (_decode_loop_async if _runs_async(logits.device) else _decode_loop)(requests, decode, sampler, logits)


def _decode_loop(
    requests: Sequence[TurnRequest], decode: Callable, sampler: BatchSampler, logits: torch.Tensor
) -> None:
    """Sample and decode token after token; each step takes the active streams alone."""
    active, step = list(range(len(requests))), 0
    while active:
        tokens, failures = sampler.sample(logits, active, active)
        _accept_tokens(requests, active, active, logits, tokens.tolist(), failures)
        still_active = [i for i in active if not requests[i].is_over]
        if still_active:
            if still_active != active:
                tokens = tokens[[active.index(i) for i in still_active]]
            logits = decode(tokens, still_active, step)
        for i in still_active:
            requests[i].prefill_input.state.append_token(requests[i].token_ids[-1])
        active, step = still_active, step + 1


def _decode_loop_async(
    requests: Sequence[TurnRequest], decode: Callable, sampler: BatchSampler, logits: torch.Tensor
) -> None:
    """Sample and decode; the next step is launched before the tokens of this one are known here.

    A device of its own then never waits for this process. Streams whose turn is over are decoded along, into memory
    that is not counted, so that every step has the same streams.
    """
    everyone = list(range(len(requests)))
    active, step = everyone, 0
    while active:
        tokens, failures = sampler.sample(logits, everyone, active)
        values, those_before = to_host(tokens), logits
        is_launched = any(len(requests[i].token_ids) + 1 < requests[i].max_new_tokens for i in active)
        if is_launched:
            logits = decode(tokens.clamp(min=0), everyone, step)
        _accept_tokens(requests, active, everyone, those_before, values(), failures)
        still_active = [i for i in active if not requests[i].is_over]
        for i in set(everyone) - set(still_active) if is_launched else ():
            cache = requests[i].prefill_input.state.cache
            cache.truncate(cache.length - 1)
        for i in still_active:
            requests[i].prefill_input.state.append_token(requests[i].token_ids[-1])
        active, step = still_active, step + 1


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
