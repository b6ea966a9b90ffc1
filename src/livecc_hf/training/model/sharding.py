"""The head's gradient where FSDP2 shards the head.

TRL multiplies the hidden states by the head's weight itself instead of calling the head. So FSDP2's hooks do not run
and TRL gathers the weight, but (in 1.16) as if all processes had the same loss: each keeps a part of its own gradient,
and nobody adds up the others'. Here it is gathered for losses that differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from peft import PeftModel
from torch import nn
from torch.distributed.tensor import DTensor, Partial


@contextmanager
def reduced_head_gradient(model: nn.Module) -> Iterator[None]:
    """Make the gradient of a sharded head the mean over the processes, as that of every other weight is.

    Inside, `get_output_embeddings` of the model that TRL's loss runs in returns a head whose weight (and bias) are
    gathered. The backward pass may come after. A head that is not sharded, is frozen, or runs without gradients stays
    as it is.

    Args:
        model: as the trainer runs it: may be wrapped, by PEFT too.
    """
    inner = extract_model_from_parallel(model, keep_torch_compile=False)
    if isinstance(inner, PeftModel):
        inner = inner.get_base_model()
    original = inner.get_output_embeddings
    if not _needs_reduction(original()):
        yield
        return

    def get_output_embeddings() -> nn.Module | _GatheredHead | None:
        # Looked at again: a head that is in one unit with embeddings (tied) is whole by now.
        head = original()
        return _GatheredHead(head) if _needs_reduction(head) else head

    # On the instance, where it hides the method.
    inner.get_output_embeddings = get_output_embeddings
    try:
        yield
    finally:
        del inner.get_output_embeddings


class _GatheredHead:
    """A sharded head with its parameters gathered, each once."""

    def __init__(self, head: nn.Linear):
        self._head = head

    @cached_property
    def weight(self) -> torch.Tensor:
        weight = self._head.weight
        return _gather(weight) if isinstance(weight, DTensor) else weight

    @cached_property
    def bias(self) -> torch.Tensor | None:
        bias = self._head.bias
        return _gather(bias) if isinstance(bias, DTensor) else bias

    def __getattr__(self, name: str) -> Any:
        return getattr(self._head, name)


def _needs_reduction(head: nn.Module | None) -> bool:
    weight = getattr(head, "weight", None)
    return isinstance(weight, DTensor) and weight.requires_grad and torch.is_grad_enabled()


def _gather(parameter: DTensor) -> torch.Tensor:
    """Return the whole parameter; its gradient is averaged over the processes of its mesh."""
    mesh = parameter.device_mesh
    sharded = parameter.view_as(parameter)
    if not isinstance(sharded, DTensor):
        raise TypeError(f"the view of a DTensor is a {type(sharded).__name__}: this version of PyTorch is not known")
    if sharded.requires_grad:
        # On the shard, after the sum: dividing the whole gradient would take its memory once more.
        sharded.register_hook(lambda gradient: gradient / mesh.size())
    return sharded.full_tensor(grad_placements=[Partial("sum")] * mesh.ndim)
