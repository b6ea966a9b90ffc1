"""Decoding on a CPU through lean layers, without the calls around them that a step of a small model spends long in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from livecc_hf.acceleration.layers import LeanModel, forward_of, runs_lean, signed
from livecc_hf.modeling.attention import PackedBatch
from livecc_hf.modeling.kv_cache import KVCache

if TYPE_CHECKING:
    from livecc_hf.modeling import LiveCCForConditionalGeneration

_STEPS_AHEAD = 16  # rotary angles are computed for this many decode steps at once


def lean_decode_step(
    model: LiveCCForConditionalGeneration, caches: Sequence[KVCache], n_steps: int
) -> LeanDecodeStep | None:
    """Return a decode step for some streams; used as a model's `decode_step`.

    Args:
        model: a `LiveCCForConditionalGeneration`.
        caches: the streams' caches.
        n_steps: most tokens that each will decode.

    Returns:
        The step; `None` if the language model runs elsewhere or has to run its own forward pass, such as for its hooks.
    """
    language_model = model.model.language_model
    is_on_cpu = model.get_input_embeddings().weight.device.type == "cpu"
    return LeanDecodeStep(model) if is_on_cpu and runs_lean(language_model) else None


class LeanDecodeStep:
    """Decodes one token of each of several streams, as :class:`DecodeStep`.

    Args:
        model: a `LiveCCForConditionalGeneration` whose language model has lean layers.
    """

    def __init__(self, model: LiveCCForConditionalGeneration):
        language_model = model.model.language_model
        self._embed, self._head = forward_of(language_model.embed_tokens), forward_of(model.lm_head)
        self._lean, self._rotary = LeanModel(language_model), language_model.rotary_emb
        self._n_ahead = _STEPS_AHEAD if getattr(self._rotary, "rope_type", None) == "default" else 1
        self._ahead: Iterator[tuple[torch.Tensor, torch.Tensor]] = iter(())
        self._next_positions: list[int] = []

    def step(self, batch: PackedBatch, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Run one token of each of B streams; see `decode`.

        Args:
            batch: the streams.
            token_ids: (B,) the tokens.
            positions: (B,) their positions.

        Returns:
            Logits of the next tokens, (B, vocabulary).
        """
        hidden = self._embed(token_ids)
        return self._head(self._lean.run(hidden, *self._tables(hidden, positions), batch))

    def _tables(self, hidden: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the `cos` and `sin` of `rotate`, (B, head size); computes several steps at once."""
        known = positions.tolist()
        tables = next(self._ahead, None) if known == self._next_positions else None
        if tables is None:
            steps = positions[:, None] + torch.arange(self._n_ahead)
            cos, sin = self._rotary(hidden[None], steps.reshape(1, 1, -1).expand(3, 1, -1))
            ahead = (table.unflatten(0, (-1, self._n_ahead)).unbind(1) for table in (cos[0], signed(sin[0])))
            self._ahead = zip(*ahead, strict=True)
            tables = next(self._ahead)
        self._next_positions = [position + 1 for position in known]
        return tables
