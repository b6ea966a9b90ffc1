"""Attention within the samples of a packed row, without a mask.

transformers' ``sdpa`` gives a packed batch a mask of (rows, 1, length, length), which keeps PyTorch from its fast
kernels and has an entry for each pair of tokens. Here each sample is attended to on its own, causally: the
same result, from the lengths that the collator puts into the batch (`cu_seq_lens_q`), as flash attention takes them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

if TYPE_CHECKING:
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration

PACKED_SDPA = "packed_sdpa"
_in_packed_batch: ContextVar[bool] = ContextVar("in_packed_batch", default=False)


def use_packed_attention(model: LiveCCForConditionalGeneration) -> None:
    """Lets the language model of a model that uses ``sdpa`` attend sample by sample in packed batches.

    Outside of :func:`packed_batch` nothing changes. Other attention implementations are left alone: flash attention
    takes the lengths itself.
    """
    if model.config.text_config._attn_implementation != "sdpa":
        return
    AttentionInterface.register(PACKED_SDPA, _attend)
    AttentionMaskInterface.register(PACKED_SDPA, _mask)
    model.set_attn_implementation({"text_config": PACKED_SDPA})


@contextlib.contextmanager
def packed_batch(inputs: Mapping[str, Any]) -> Iterator[None]:
    """Says that the forward pass inside is of this batch: it needs no mask if the batch has its samples' lengths."""
    token = _in_packed_batch.set("cu_seq_lens_q" in inputs)
    try:
        yield
    finally:
        _in_packed_batch.reset(token)


def _mask(*args, **keywords) -> torch.Tensor | None:
    return None if _in_packed_batch.get() else sdpa_mask(*args, **keywords)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    **keywords,
) -> tuple[torch.Tensor, None]:
    """Attends within each sample; query (rows, heads, length, size), `cu_seq_lens_q` over all rows with padding."""
    if cu_seq_lens_q is None or attention_mask is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **keywords)
    rows, _, length, _ = query.shape
    lengths = cu_seq_lens_q.diff().tolist()
    in_a_row = [tensor.transpose(0, 1).flatten(1, 2)[None] for tensor in (query, key, value)]
    samples = zip(*(tensor.split(lengths, dim=2) for tensor in in_a_row), strict=True)
    attended = torch.cat([sdpa_attention_forward(module, *sample, None, **keywords)[0] for sample in samples], dim=1)
    return attended.reshape(rows, length, *attended.shape[2:]), None
