"""How the next token is sampled: by transformers' logits processors, as a stream's options say."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from .stream_options import LIVE_DEFAULTS, StreamOptions


class SilenceThresholdLogitsProcessor(LogitsProcessor):
    """Rules out one token where its probability is below a threshold.

    Args:
        token_id: the token that says "nothing more for now", `` ...``.
        threshold: the probability below which it may not be chosen.
    """

    def __init__(self, token_id: int, threshold: float):
        self.token_id = token_id
        self.threshold = threshold

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores (batch, vocabulary), the token at minus infinity where it is improbable."""
        improbable = scores.softmax(dim=-1)[:, self.token_id] < self.threshold
        scores = scores.clone()
        scores[:, self.token_id].masked_fill_(improbable, -torch.inf)
        return scores


class Sampler:
    """Samples the tokens of a stream as options, generation config and live defaults say.

    Args:
        options: the stream's options.
        generation_config: the model's.
        end_ids: ids that end a turn, besides those of `generation_config`.
        continuation_id: the id of `` ...``, or `None` where the tokenizer has no such token.

    Raises:
        ValueError: if a silence threshold is set and there is no such token.
    """

    def __init__(self, options: StreamOptions, generation_config, end_ids, continuation_id):
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
        # Each stream draws from its own generator, so that streams do not touch each other here either.
        self._seed = int(torch.randint(2**62, ())) if options.seed is None else options.seed
        self._generator: torch.Generator | None = None

    @property
    def batch_key(self) -> Hashable:
        """The same for samplers that differ by their generators alone, so that one operation serves them."""
        return self.do_sample, *map(_processor_key, self.processors)

    def sample(self, probabilities: torch.Tensor) -> torch.Tensor:
        """Sample a token by its probability; return it, of shape ().

        As `torch.multinomial` does, but without its checks, by which one stream would fail all others on CUDA.

        Args:
            probabilities: (vocabulary,).
        """
        if self._generator is None:
            self._generator = torch.Generator(probabilities.device).manual_seed(self._seed)
        waits = torch.empty_like(probabilities).exponential_(generator=self._generator)
        return (probabilities / waits).argmax()

    def snapshot(self) -> torch.Tensor | None:
        """Return what :meth:`restore` needs to draw the same tokens again."""
        return None if self._generator is None else self._generator.get_state()

    def restore(self, snapshot: torch.Tensor | None) -> None:
        """Go back to a snapshot."""
        if snapshot is None:
            self._generator = None
        elif self._generator is not None:
            self._generator.set_state(snapshot)


def _processor_key(processor) -> Hashable:
    if isinstance(processor, LogitsProcessor):
        return type(processor), repr(sorted(vars(processor).items()))
    return id(processor)


def _warpers(values: dict) -> list:
    """Return the sampling processors in transformers' order."""
    warpers = []
    if values["temperature"] != 1:
        warpers.append(TemperatureLogitsWarper(float(values["temperature"])))
    if values["top_k"]:
        warpers.append(TopKLogitsWarper(values["top_k"]))
    if values["top_p"] < 1:
        warpers.append(TopPLogitsWarper(float(values["top_p"])))
    return warpers
