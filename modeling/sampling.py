"""Sampling of next tokens with transformers' logits processors, by each stream's options.

Streams with equal settings are sampled in one batch, each with its own context and random generator.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .stream_options import LIVE_DEFAULTS, StreamOptions
from .transfer import to_device

NO_TOKEN = -1


class SilenceThresholdLogitsProcessor(LogitsProcessor):
    """Forbids one token if its probability is below a threshold.

    Args:
        token_id: the token for silence, `` ...``.
        threshold: the probability below which it is forbidden.
    """

    def __init__(self, token_id: int, threshold: float):
        self.token_id = token_id
        self.threshold = threshold

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores (batch, vocabulary), with the token's score at -inf in rows that forbid it."""
        improbable = scores.softmax(dim=-1)[:, self.token_id] < self.threshold
        scores = scores.clone()
        scores[:, self.token_id].masked_fill_(improbable, -torch.inf)
        return scores


class Sampler:
    """Samples a stream's tokens; settings come from its options, else the generation config, else the live defaults.

    Args:
        options: the stream's options.
        generation_config: the model's generation config.
        end_ids: ids that end a turn, in addition to those of `generation_config`.
        continuation_id: the id of `` ...``; `None` if the tokenizer has no such token.

    Raises:
        ValueError: if `silence_threshold` is set and `continuation_id` is `None`.
    """

    def __init__(
        self,
        options: StreamOptions,
        generation_config: GenerationConfig | None,
        end_ids: Iterable[int],
        continuation_id: int | None,
    ):
        values: dict[str, Any] = {}
        for name, live_default in LIVE_DEFAULTS.items():
            candidates = (getattr(options, name), getattr(generation_config, name, None), live_default)
            values[name] = next(value for value in candidates if value is not None)
        self.max_new_tokens: int = values["max_new_tokens"]
        self.do_sample: bool = values["do_sample"]
        eos = getattr(generation_config, "eos_token_id", None)
        self.end_ids = frozenset(end_ids) | frozenset([eos] if isinstance(eos, int) else eos or [])
        self.processors = LogitsProcessorList()
        if values["repetition_penalty"] != 1:
            self.processors.append(RepetitionPenaltyLogitsProcessor(float(values["repetition_penalty"])))
        if options.silence_threshold:
            if continuation_id is None:
                raise ValueError("silence_threshold needs a tokenizer in which ' ...' is one token; this one splits it")
            self.processors.append(SilenceThresholdLogitsProcessor(continuation_id, options.silence_threshold))
        if self.do_sample:
            self.processors.extend(_warpers(values))
        # Each stream has its own generator, so that its words do not depend on other streams.
        self._seed = int(torch.randint(2**62, ())) if options.seed is None else options.seed
        self._generator: torch.Generator | None = None

    @property
    def batch_key(self) -> Hashable:
        """A key that is equal for samplers that differ only in their random state, and so can share a batch."""
        return self.do_sample, *map(_processor_key, self.processors)

    def draw(self, waits: torch.Tensor) -> None:
        """Fill `waits` (vocabulary,) with samples from an exponential distribution, one for each token.

        The token with the largest ratio of probability to sample is drawn with its probability, as in
        `torch.multinomial`, whose checks on CUDA would let one stream's bad values fail the whole batch.
        """
        if self._generator is None:
            self._generator = torch.Generator(waits.device).manual_seed(self._seed)
        waits.exponential_(generator=self._generator)

    def snapshot(self) -> torch.Tensor | None:
        """Return the random state, for :meth:`restore`."""
        return None if self._generator is None else self._generator.get_state()

    def restore(self, snapshot: torch.Tensor | None) -> None:
        """Go back to a snapshot, and so sample the same tokens again."""
        if snapshot is None:
            self._generator = None
        elif self._generator is not None:
            self._generator.set_state(snapshot)


def _processor_key(processor: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Hashable:
    if isinstance(processor, LogitsProcessor):
        return type(processor), repr(sorted(vars(processor).items()))
    return id(processor)


def _warpers(values: dict) -> list:
    """Return the processors that only sampling uses, in transformers' order."""
    warpers = []
    if values["temperature"] != 1:
        warpers.append(TemperatureLogitsWarper(float(values["temperature"])))
    if values["top_k"]:
        warpers.append(TopKLogitsWarper(values["top_k"]))
    if values["top_p"] < 1:
        warpers.append(TopPLogitsWarper(float(values["top_p"])))
    return warpers


class BatchSampler:
    """Samples one token for each of B streams per call; streams with equal settings share a batch.

    Args:
        samplers: one for each stream.
        contexts: all tokens of each stream's context.
        n_new_tokens: most tokens that will be sampled for a stream.
        device: the device of the logits.
        streams: numbers of the streams; default: 0 to B - 1.
    """

    def __init__(
        self,
        samplers: Sequence[Sampler],
        contexts: Sequence[Sequence[int]],
        n_new_tokens: int,
        device: torch.device,
        streams: Sequence[int] | None = None,
    ):
        self._members = list(range(len(samplers)) if streams is None else streams)
        self._samplers = dict(zip(self._members, samplers))
        self._device = device
        self._cached_rows: dict[tuple, torch.Tensor] = {}
        by_key: dict[Hashable, list[int]] = {}
        for at, sampler in enumerate(samplers):
            by_key.setdefault(sampler.batch_key, []).append(at)
        self._parts: list[BatchSampler] = []
        if len(by_key) > 1:
            for rows in by_key.values():
                part_samplers, part_contexts = [samplers[at] for at in rows], [contexts[at] for at in rows]
                members = [self._members[at] for at in rows]
                self._parts.append(BatchSampler(part_samplers, part_contexts, n_new_tokens, device, members))
            return
        self._processors, self._do_sample = list(samplers[0].processors), samplers[0].do_sample
        self._waits: torch.Tensor | None = None
        self._ids: torch.Tensor | None = None
        if self._processors:
            # Processors only need the set of tokens in a context; shorter sets are padded with one of their own.
            known = [list(set(context)) for context in contexts]
            self._n_ids = max(map(len, known))
            width = self._n_ids + n_new_tokens
            ids = torch.tensor([ids + ids[:1] * (width - len(ids)) for ids in known])
            self._ids = to_device(ids, device)

    def sample(
        self, logits: torch.Tensor, held: Sequence[int], active: Sequence[int]
    ) -> tuple[torch.Tensor, dict[int, Exception]]:
        """Sample a token for each active stream.

        Args:
            logits: (b, vocabulary).
            held: (b,) the stream of each row, increasing; a subset of those in the call before.
            active: those of `held` that need a token.

        Returns:
            (b,) tokens, `NO_TOKEN` if the best score is not finite, and errors by stream. The tokens of streams that
            failed or are not active are arbitrary.
        """
        held = list(held)
        failures: dict[int, Exception] = {}
        if not self._parts:
            return self._sample(logits, held, active, failures), failures
        tokens = torch.empty(len(held), dtype=torch.long, device=self._device)
        for part in self._parts:
            members = [i for i in held if i in part._samplers]
            if members:
                rows = self._rows(members, held)
                tokens[rows] = part._sample(logits if members == held else logits[rows], members, active, failures)
        return tokens, failures

    def _rows(self, members: Sequence[int], held: Sequence[int]) -> torch.Tensor:
        """Return the rows of members in `held`, on the device; cached, because most steps have the same streams."""
        key = tuple(members), tuple(held)
        if key not in self._cached_rows:
            self._cached_rows[key] = to_device(torch.tensor([held.index(i) for i in members]), self._device)
        return self._cached_rows[key]

    def _sample(
        self,
        logits: torch.Tensor,
        members: list[int],
        active: Sequence[int],
        failures: dict[int, Exception],
    ) -> torch.Tensor:
        """Sample for streams with equal settings; see :meth:`sample`."""
        if members != self._members:
            if self._ids is not None:
                self._ids = self._ids[[self._members.index(i) for i in members]]
            self._members = members
        scores = self._scores(logits, failures)
        if self._do_sample:  # the softmax of scores that are not finite is NaN
            scores = scores.softmax(dim=-1).div_(self._drawn(scores, active, failures))
        best, tokens = scores.max(dim=-1)
        if self._ids is not None:
            self._ids[:, self._n_ids] = tokens
            self._n_ids += 1
        is_not_finite = best != best if self._do_sample else best - best != 0
        return tokens.masked_fill_(is_not_finite, NO_TOKEN)

    def _drawn(self, like: torch.Tensor, active: Sequence[int], failures: dict[int, Exception]) -> torch.Tensor:
        """Return (members, vocabulary): the :meth:`Sampler.draw` of each active member; other rows are arbitrary."""
        if self._waits is None or len(self._waits) != len(like):
            self._waits = torch.ones_like(like)
        for row, i in enumerate(self._members):
            if i in active and i not in failures:
                try:
                    self._samplers[i].draw(self._waits[row])
                except Exception as error:
                    failures[i] = error
        return self._waits

    def _scores(self, logits: torch.Tensor, failures: dict[int, Exception]) -> torch.Tensor:
        try:
            return self._processed(logits, slice(None))
        except Exception as error:
            if len(self._members) == 1:
                failures[self._members[0]] = error
                return logits.float()
        rows = []
        for row, i in enumerate(self._members):  # one by one, to find the stream that fails
            its = slice(row, row + 1)
            try:
                rows.append(self._processed(logits[its], its))
            except Exception as error:
                failures[i] = error
                rows.append(logits[its].float())
        return torch.cat(rows)

    def _processed(self, logits: torch.Tensor, rows: slice) -> torch.Tensor:
        scores = logits.float()
        if self._ids is None:
            return scores
        ids = self._ids[rows, : self._n_ids]
        for process in self._processors:  # not LogitsProcessorList's call, which inspects signatures for every token
            scores = process(ids, scores)
        return scores
