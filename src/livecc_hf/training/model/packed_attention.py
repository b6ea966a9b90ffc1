"""Computes attention within each sample of a packed row, without a mask.

For a packed batch, transformers' ``sdpa`` builds a mask of shape (rows, 1, length, length), which rules out PyTorch's
fast kernels. Here the collator passes the sample boundaries (`cu_seq_lens_q`), as for flash attention. All samples are
computed in one call if PyTorch has a kernel for it (`torch.nn.attention.varlen`, on GPUs in 16 bits), otherwise one
sample at a time, with the same result.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from livecc_hf.acceleration.kernels import avoid_cudnn_attention

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration

varlen_attn: Callable[..., Any] | None
try:
    from torch.nn.attention import varlen

    varlen_attn = varlen.varlen_attn
except ImportError:  # PyTorch before 2.10
    varlen_attn = None

PACKED_SDPA = "packed_sdpa"
_in_packed_batch: ContextVar[bool] = ContextVar("in_packed_batch", default=False)
# Its first version lacks `window_size`, which requests causal attention; PyTorch 2.11 still lacks grouped queries.
_HAS_VARLEN = varlen_attn is not None and {"window_size", "enable_gqa", "scale"} <= set(
    inspect.signature(varlen_attn).parameters
)


def use_packed_attention(model: LiveCCForConditionalGeneration) -> None:
    """Switch a model's language model from ``sdpa`` to attention within samples, for packed batches.

    Outside :func:`packed_batch` nothing changes. Other attention implementations are kept: flash attention reads the
    sample lengths itself.
    """
    if model.config.text_config._attn_implementation != "sdpa":
        return
    avoid_cudnn_attention()
    AttentionInterface.register(PACKED_SDPA, _attend)
    AttentionMaskInterface.register(PACKED_SDPA, _mask)
    model.set_attn_implementation({"text_config": PACKED_SDPA})


@contextlib.contextmanager
def packed_batch(inputs: Mapping[str, Any]) -> Iterator[None]:
    """Run the block's forward passes on this batch without a mask, if it has `cu_seq_lens_q`."""
    token = _in_packed_batch.set("cu_seq_lens_q" in inputs)
    try:
        yield
    finally:
        _in_packed_batch.reset(token)


def sample_lengths(model: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return packed attention's keyword `sample_lengths`, which saves each layer a device-to-host copy.

    Args:
        model: the model, without a trainer's wrappers.
        inputs: the batch.

    Returns:
        The lengths of the samples in all rows, including padding; empty if the model's attention does not use them.
    """
    implementation = model.config.get_text_config()._attn_implementation or ""
    if "cu_seq_lens_q" not in inputs or not implementation.endswith(PACKED_SDPA):
        return {}
    return {"sample_lengths": tuple(inputs["cu_seq_lens_q"].diff().tolist())}


def _mask(*args: Any, **keywords: Any) -> torch.Tensor | None:
    return None if _in_packed_batch.get() else sdpa_mask(*args, **keywords)


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seq_lens_q: torch.Tensor | None = None,
    sample_lengths: tuple[int, ...] | None = None,
    **keywords: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each sample; query is (rows, heads, length, size), `cu_seq_lens_q` spans all rows and padding."""
    if cu_seq_lens_q is None or attention_mask is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **keywords)
    rows, _, length, _ = query.shape
    if varlen_attn is not None and _is_for_varlen(query, keywords):
        longest, scale = keywords["max_length_q"], keywords.get("scaling")
        attended = attend_at_once(varlen_attn, (query, key, value), cu_seq_lens_q, longest, scale)
        return attended.reshape(rows, length, *attended.shape[1:]), None
    lengths = cu_seq_lens_q.diff().tolist() if sample_lengths is None else sample_lengths
    in_a_row = [tensor.transpose(0, 1).flatten(1, 2)[None] for tensor in (query, key, value)]
    samples = zip(*(tensor.split(lengths, dim=2) for tensor in in_a_row), strict=True)
    parts = [sdpa_attention_forward(module, *sample, None, **keywords)[0] for sample in samples]
    attended = torch.cat(parts, dim=1)
    return attended.reshape(rows, length, *attended.shape[2:]), None


def attend_at_once(
    varlen: Callable[..., torch.Tensor],
    states: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    starts: torch.Tensor,
    longest: int,
    scale: float | None,
) -> torch.Tensor:
    """Attend causally within each sample, in one kernel call for all samples.

    Args:
        varlen: `torch.nn.attention.varlen.varlen_attn`.
        states: query, key and value (rows, heads, length, size); under autocast their dtypes may differ.
        starts: int32 (samples + 1), start of each sample in the concatenated rows, then the total length.
        longest: tokens of the longest sample.
        scale: of the attention scores; `None` for the default, 1 / sqrt(size).

    Returns:
        (rows * length, heads, size).
    """
    device = states[0].device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states[0].dtype
    query, key, value = (tensor.transpose(1, 2).flatten(0, 1).to(dtype) for tensor in states)
    is_grouped = query.shape[1] != key.shape[1]
    causal = (-1, 0)
    return varlen(
        query, key, value, starts, starts, longest, longest, scale=scale, window_size=causal, enable_gqa=is_grouped
    )


def _is_for_varlen(query: torch.Tensor, keywords: Mapping[str, Any]) -> bool:
    """Return whether the variable-length kernel supports this device, dtype and shape."""
    if not _HAS_VARLEN or query.device.type != "cuda" or torch.version.hip is not None:
        return False
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    return (
        dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] % 8 == 0
        and query.shape[-1] <= 256
        and not keywords.get("dropout")
        and keywords.get("max_length_q") is not None
        and torch.cuda.get_device_capability(query.device) >= (8, 0)
    )
