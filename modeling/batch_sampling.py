"""Samples the next tokens of several streams: those that sample alike do it in one operation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import torch

from .sampling import Sampler
from .transfer import to_device

NO_TOKEN = -1


class BatchSampler:
    """Samples the next tokens of B streams, one of each at a time.

    Args:
        samplers: of the streams.
        contexts: all tokens read and said in each.
        n_new_tokens: how many tokens will be sampled for a stream, at most.
        device: of the logits.
    """

    def __init__(
        self,
        samplers: Sequence[Sampler],
        contexts: Sequence[Sequence[int]],
        n_new_tokens: int,
        device: torch.device,
    ):
        by_key: dict[Hashable, dict[int, Sampler]] = {}
        for i, sampler in enumerate(samplers):
            by_key.setdefault(sampler.batch_key, {})[i] = sampler
        self._groups = [
            _SamplerGroup(alike, [contexts[i] for i in alike], n_new_tokens, device) for alike in by_key.values()
        ]
        self._device = device
        self._orders: dict[tuple, torch.Tensor] = {}

    def sample(
        self, logits: torch.Tensor, held: Sequence[int], active: Sequence[int]
    ) -> tuple[torch.Tensor, dict[int, Exception]]:
        """Sample a token for each active stream.

        Args:
            logits: (b, vocabulary).
            held: (b,) the stream of each row, increasing; each was among those of the call before.
            active: those of them that get a token.

        Returns:
            (b,) tokens, `NO_TOKEN` where the best score is not finite, any for streams that are not active; and what
            failed for a stream, whose token is any too.
        """
        held, chosen, order = list(held), [], []
        failures: dict[int, Exception] = {}
        for group in self._groups:
            members = [i for i in held if i in group.samplers]
            if members:
                rows = logits if members == held else logits[self._order(members, held)]
                chosen.append(group.sample(rows, members, active, failures))
                order += members
        tokens = chosen[0] if len(chosen) == 1 else torch.cat(chosen)
        return tokens if order == held else tokens[self._order(held, order)], failures

    def _order(self, wanted: Sequence[int], held: Sequence[int]) -> torch.Tensor:
        key = tuple(wanted), tuple(held)
        if key not in self._orders:
            self._orders[key] = to_device(torch.tensor([held.index(i) for i in wanted]), self._device)
        return self._orders[key]


class _SamplerGroup:
    """Streams whose tokens are sampled by the same rules."""

    def __init__(
        self,
        samplers: Mapping[int, Sampler],
        contexts: Sequence[Sequence[int]],
        n_new_tokens: int,
        device: torch.device,
    ):
        self.samplers = samplers
        self._members = list(samplers)
        first = samplers[self._members[0]]
        self._processors, self._do_sample = list(first.processors), first.do_sample
        self._ids: torch.Tensor | None = None
        if self._processors:
            # All that processors ask of a context is which tokens are in it: one stands in where another has more.
            known = [list(set(context)) for context in contexts]
            self._n_ids = max(map(len, known))
            width = self._n_ids + n_new_tokens
            ids = torch.tensor([ids + ids[:1] * (width - len(ids)) for ids in known])
            self._ids = to_device(ids, device)

    def sample(
        self,
        logits: torch.Tensor,
        members: list[int],
        active: Sequence[int],
        failures: dict[int, Exception],
    ) -> torch.Tensor:
        """Sample for the active members; see `BatchSampler.sample`."""
        if members != self._members:
            if self._ids is not None:
                self._ids = self._ids[[self._members.index(i) for i in members]]
            self._members = members
        scores = self._scores(logits, failures)
        best, tokens = scores.max(dim=-1)
        if self._do_sample:
            tokens = self._sampled(scores.softmax(dim=-1), tokens, active, failures)
        if self._ids is not None:
            self._ids[:, self._n_ids] = tokens
            self._n_ids += 1
        return tokens.where(best - best == 0, NO_TOKEN)  # which infinity and NaN are not

    def _sampled(
        self,
        probabilities: torch.Tensor,
        best: torch.Tensor,
        active: Sequence[int],
        failures: dict[int, Exception],
    ) -> torch.Tensor:
        """Return a sampled token for each active member, the best for others."""
        tokens = list(best)
        for row, i in enumerate(self._members):
            if i in active and i not in failures:
                try:
                    tokens[row] = self.samplers[i].sample(probabilities[row])
                except Exception as error:
                    failures[i] = error
        return torch.stack(tokens)

    def _scores(self, logits: torch.Tensor, failures: dict[int, Exception]) -> torch.Tensor:
        try:
            return self._processed(logits, slice(None))
        except Exception as error:
            if len(self._members) == 1:
                failures[self._members[0]] = error
                return logits.float()
        rows = []
        for row, i in enumerate(self._members):  # whose fault it is shows when each goes alone
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
        for process in self._processors:  # one by one: the list's own call inspects signatures for every token
            scores = process(ids, scores)
        return scores
