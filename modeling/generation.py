"""Generates turns: of one stream, or of several side by side, with one loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from .batch_sampling import NO_TOKEN, ChoiceOfEach
from .interfaces import ModelForStreams
from .model_runner import NextTokens, Reading, read
from .sampling import TokenChooser
from .transfer import to_host


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


def generate(
    model: ModelForStreams, jobs: Sequence[TurnJob], trace: Callable[[str, Callable], Callable] | None = None
) -> None:
    """Generate turns of different streams: one pass reads all, then each step adds a token to all that still speak.

    The states end before the last generated token of each turn, which is not read. A failure in choosing a token ends
    that turn alone (`TurnJob.error`; its state is undefined, restore a snapshot). Any other failure is raised, and all
    states are undefined.

    Args:
        model: a `LiveCCForConditionalGeneration`.
        jobs: the turns.
        trace: for measuring: takes `"prefill"` or `"decode"` and the function that does it, and returns what is called
            in its place.

    Raises:
        ContextFullError: if a turn does not fit into the model's positions; no state has changed.
    """
    prefill = read if trace is None else trace("prefill", read)
    logits = prefill(model, [job.reading for job in jobs])
    states = [job.reading.state for job in jobs]
    n_steps = max(job.max_new_tokens for job in jobs)
    steps = NextTokens(model, states, n_steps)
    decode = steps.read if trace is None else trace("decode", steps.read)
    choice = ChoiceOfEach([job.chooser for job in jobs], [s.token_ids for s in states], n_steps, logits.device)
    (_speak_ahead if _steps_ahead(logits.device) else _speak)(jobs, decode, choice, logits)


def _speak(jobs: Sequence[TurnJob], decode: Callable, choice: ChoiceOfEach, logits: torch.Tensor) -> None:
    """Add token after token; each step reads those of the streams that still speak."""
    speaking, step = list(range(len(jobs))), 0
    while speaking:
        tokens, failures = choice.choose(logits, speaking, speaking)
        _take(jobs, speaking, speaking, logits, tokens.tolist(), failures)
        going_on = [i for i in speaking if not jobs[i].is_over]
        if going_on:
            if going_on != speaking:
                tokens = tokens[[speaking.index(i) for i in going_on]]
            logits = decode(tokens, going_on, step)
        for i in going_on:
            jobs[i].reading.state.note_said(jobs[i].token_ids[-1])
        speaking, step = going_on, step + 1


def _speak_ahead(jobs: Sequence[TurnJob], decode: Callable, choice: ChoiceOfEach, logits: torch.Tensor) -> None:
    """Add token after token; the next step is launched before the tokens of this one are known here.

    A device of its own then never waits for this process. Streams that have fallen silent are read along, into memory
    that is not counted, so that no step has to be told who speaks.
    """
    everyone = list(range(len(jobs)))
    speaking, step = everyone, 0
    while speaking:
        tokens, failures = choice.choose(logits, everyone, speaking)
        values, those_before = to_host(tokens), logits
        is_launched = any(len(jobs[i].token_ids) + 1 < jobs[i].max_new_tokens for i in speaking)
        if is_launched:
            logits = decode(tokens.clamp(min=0), everyone, step)
        _take(jobs, speaking, everyone, those_before, values(), failures)
        going_on = [i for i in speaking if not jobs[i].is_over]
        for i in set(everyone) - set(going_on) if is_launched else ():
            cache = jobs[i].reading.state.cache
            cache.truncate(cache.length - 1)
        for i in going_on:
            jobs[i].reading.state.note_said(jobs[i].token_ids[-1])
        speaking, step = going_on, step + 1


def _take(
    jobs: Sequence[TurnJob],
    speaking: Sequence[int],
    held: Sequence[int],
    logits: torch.Tensor,
    tokens: Sequence[int],
    failures: dict[int, Exception],
) -> None:
    """Give its new token to each stream that speaks, or the error that ends its turn.

    Args:
        jobs: the turns.
        speaking: the streams that speak.
        held: the stream of each row.
        logits: (rows, vocabulary).
        tokens: (rows,).
        failures: what failed, by stream.
    """
    for row, i in enumerate(held):
        job = jobs[i]
        if i not in speaking:
            continue
        if tokens[row] == NO_TOKEN and i not in failures:
            failures[i] = RuntimeError(
                "the model's scores are not finite (NaN or infinite): its weights are damaged, or numbers got too "
                "large for its dtype; load it with dtype='bfloat16' or 'float32'"
            )
        if i in failures:
            if len(jobs) == 1:
                raise failures[i]
            job.error = failures[i]
            continue
        if job.keep_logits:
            job.logits.append(logits[row].float().cpu())
        job.token_ids.append(tokens[row])


def _steps_ahead(device: torch.device) -> bool:
    """Return whether steps are launched ahead; see `_speak_ahead`."""
    return device.type == "cuda"
