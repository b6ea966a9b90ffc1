"""Corrects the gradient of a head sharded by FSDP2.

TRL multiplies the hidden states by the head's weight without calling the head, so FSDP2's hooks do not run. TRL (1.16)
gathers the weight as if all processes had the same loss: each process keeps only its shard of its own gradient, and the
other processes' gradients are lost. Here they are averaged.
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
def reduce_head_gradient(model: nn.Module) -> Iterator[None]:
    """Average the gradient of a sharded head over the processes, as FSDP2 does for every other weight.

    In the block, the inner model's `get_output_embeddings` returns a head with gathered weight and bias. The backward
    pass may run after the block. An unsharded or frozen head, or one used without gradients, is returned unchanged.

    Args:
        model: the trainer's model, including wrappers such as PEFT's.
    """
    inner = extract_model_from_parallel(model, keep_torch_compile=False)
    if isinstance(inner, PeftModel):
        inner = inner.get_base_model()
    original = inner.get_output_embeddings
    if not _needs_reduction(original()):
        yield
        return

    def get_output_embeddings() -> nn.Module | _GatheredHead | None:
        # Checked again: a head tied to the embeddings is in their FSDP unit, which may be gathered already.
        head = original()
        return _GatheredHead(head) if _needs_reduction(head) else head

    # An instance attribute shadows the method.
    inner.get_output_embeddings = get_output_embeddings
    try:
        yield
    finally:
        del inner.get_output_embeddings


class _GatheredHead:
    """Proxy of a sharded head that gathers each parameter once."""

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
    """Return the gathered parameter; its gradient is averaged over the processes of its mesh."""
    mesh = parameter.device_mesh
    sharded = parameter.view_as(parameter)
    if not isinstance(sharded, DTensor):
        raise TypeError(f"the view of a DTensor is a {type(sharded).__name__}: unsupported version of PyTorch")
    if sharded.requires_grad:
        # Divide the shard after the reduction: dividing the full gradient would allocate a second copy of it.
        sharded.register_hook(lambda gradient: gradient / mesh.size())
    return sharded.full_tensor(grad_placements=[Partial("sum")] * mesh.ndim)
