"""Generates turns: of one stream, or of several side by side, with one loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from .decoding_livecc import TokenChooser
from .stream_layers_livecc import StreamLayers
from .stream_reading_livecc import NextTokens, Reading, read


@dataclass
class TurnJob:
    """One turn to generate, and what came of it.

    Attributes:
        reading: what the model reads first.
        chooser: how tokens are chosen.
        stop_ids: tokens after which the turn is over.
        max_new_tokens: most tokens to generate.
        keep_logits: whether to keep the logits.
        token_ids: what was generated; the last token was not read.
        logits: of each, (vocabulary,) in float32 on the CPU.
        error: what ended this turn alone.
    """

    reading: Reading
    chooser: TokenChooser
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


def generate(model, jobs: Sequence[TurnJob]) -> None:
    """Generate turns of different streams: one pass reads all, then each step adds a token to all that still speak.

    The states end before the last generated token of each turn, which is not read. A failure in choosing a token ends
    that turn alone (`TurnJob.error`; its state is undefined, restore a snapshot). Any other failure is raised, and all
    states are undefined.

    Args:
        model: a `LiveCCForConditionalGeneration`.
        jobs: the turns.

    Raises:
        ContextFullError: if a turn does not fit into the model's positions; no state has changed.
    """
    layers = StreamLayers(model)
    logits = read(model, [job.reading for job in jobs], layers)
    is_ahead = _steps_ahead(logits.device)
    contexts = [_Context(job, logits.device) for job in jobs]
    steps = NextTokens(model, [job.reading.state for job in jobs], max(job.max_new_tokens for job in jobs), layers)
    speaking, step = list(range(len(jobs))), 0
    while speaking:
        speaking, tokens = _choose(jobs, contexts, speaking, logits)
        if not speaking:
            return
        values = _to_host(tokens)
        read_for = [i for i in speaking if len(jobs[i].token_ids) + 1 < jobs[i].max_new_tokens] if is_ahead else []
        if read_for:
            logits = steps.read(_rows_of(tokens, read_for, speaking), read_for, step)
        for i, value in zip(speaking, values()):
            jobs[i].token_ids.append(value)
        going_on = [i for i in speaking if not jobs[i].is_over]
        if is_ahead:
            for i in set(read_for) - set(going_on):
                jobs[i].reading.state.cache.truncate(jobs[i].reading.state.cache.length - 1)
            logits = _rows_of(logits, going_on, read_for)
        elif going_on:
            logits = steps.read(_rows_of(tokens, going_on, speaking), going_on, step)
        for i in going_on:
            jobs[i].reading.state.note_said(jobs[i].token_ids[-1])
        speaking, step = going_on, step + 1


def _steps_ahead(device: torch.device) -> bool:
    """Return whether the next step is launched before the tokens of this one are known here.

    A device of its own then never waits for this process; where a turn turns out to be over, the step is taken back.
    """
    return device.type == "cuda"


class _Context:
    """The tokens on which the choice of a turn's next token depends, on the device."""

    def __init__(self, job: TurnJob, device: torch.device):
        ids = list(set(job.reading.state.token_ids))  # all that is asked of them is which there are
        self._n_tokens = len(ids)
        self._ids = torch.tensor([ids + [0] * job.max_new_tokens], device=device)

    @property
    def ids(self) -> torch.LongTensor:
        """(1, tokens)."""
        return self._ids[:, : self._n_tokens]

    def append(self, token: torch.LongTensor) -> None:
        """Add a token (1,) of the device."""
        self._ids[:, self._n_tokens] = token
        self._n_tokens += 1


def _choose(
    jobs: Sequence[TurnJob], contexts: Sequence[_Context], speaking: Sequence[int], logits: torch.Tensor
) -> tuple[list[int], torch.LongTensor]:
    """Choose a token for each stream that speaks; return those for which that worked, and their tokens."""
    worked, tokens = [], []
    for row, i in enumerate(speaking):
        job = jobs[i]
        try:
            token = job.chooser.choose(contexts[i].ids, logits[row : row + 1])
        except Exception as error:
            if len(jobs) == 1:
                raise
            job.error = error
            continue
        if job.keep_logits:
            job.logits.append(logits[row].float().cpu())
        contexts[i].append(token)
        worked.append(i)
        tokens.append(token)
    return worked, torch.cat(tokens) if tokens else torch.zeros(0, dtype=torch.long)


def _to_host(tokens: torch.LongTensor) -> Callable[[], list[int]]:
    """Begin to copy tokens to this process; the result waits for them."""
    if tokens.device.type != "cuda":
        return tokens.tolist
    host = torch.empty(tokens.shape, dtype=tokens.dtype, pin_memory=True)
    host.copy_(tokens, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(tokens.device))

    def values() -> list[int]:
        copied.synchronize()
        return host.tolist()

    return values


def _rows_of(tensor: torch.Tensor, wanted: Sequence[int], held: Sequence[int]) -> torch.Tensor:
    """Return the rows of `tensor` that are of the streams `wanted`, where it has one of each of `held`."""
    if list(wanted) == list(held):
        return tensor
    return tensor[[held.index(i) for i in wanted]]
