"""Means over supervised tokens, kept as sums, because a mean of batch means would depend on the batching."""

from __future__ import annotations

from typing import Any

import torch

_SUMS = ("loss", "entropy", "mean_token_accuracy", "n_tokens", "n_words")


class TokenMeans:
    """Accumulates loss, entropy and accuracy of supervised tokens; returns their means over all processes."""

    def __init__(self) -> None:
        self._sums = torch.zeros(len(_SUMS), dtype=torch.float64)

    def clear(self) -> None:
        """Reset all sums to 0."""
        self._sums.zero_()

    def add(self, loss_sum: torch.Tensor, outputs: Any, n_tokens: int, n_words: int, skip_nan: bool) -> None:
        """Add a batch.

        Args:
            loss_sum: the loss, summed over supervised tokens.
            outputs: of TRL's fused head, with `entropy` and `is_top1`, both zero at unsupervised tokens.
            n_tokens: number of supervised tokens.
            n_words: number of supervised words.
            skip_nan: leave the batch out if its loss is not finite.
        """
        if skip_nan and not torch.isfinite(loss_sum):
            return
        measured = [loss_sum.item(), outputs.entropy.sum().item(), outputs.is_top1.sum().item()]
        self._sums += torch.tensor([*measured, n_tokens, n_words], dtype=torch.float64)

    def add_all(self, others: TokenMeans) -> None:
        """Add the sums of another instance."""
        self._sums += others._sums

    def means(self, accelerator: Any) -> dict[str, float]:
        """Return the means per supervised token over all processes (a collective call).

        Args:
            accelerator: the trainer's.

        Returns:
            `loss`, `entropy` and `mean_token_accuracy`, and `loss_per_word` if words were counted; empty if no token
            was supervised.
        """
        # Some devices have no float64. In float32, counts are exact up to 16 million.
        total = accelerator.reduce(self._sums.to(accelerator.device, torch.float32), "sum").tolist()
        sums = dict(zip(_SUMS, total, strict=True))
        if not sums["n_tokens"]:
            return {}
        means = {name: sums[name] / sums["n_tokens"] for name in _SUMS[:3]}
        return means | ({"loss_per_word": sums["loss"] / sums["n_words"]} if sums["n_words"] else {})
