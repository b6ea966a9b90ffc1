"""Corrects the gradient of a head that FSDP2 shards.

TRL multiplies the hidden states by the head's weight itself, without calling the head, so that FSDP2's hooks do not
run. TRL gathers the weight, but (in 1.16) as if all processes had the same loss: each keeps its part of its own
gradient, and the gradients of the other processes are lost. Here they are averaged.
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

    In the block, `get_output_embeddings` of the model inside TRL's loss returns a head with gathered weight and bias.
    The backward pass may come after the block. A head that is not sharded, is frozen, or runs without gradients is
    returned as it is.

    Args:
        model: as the trainer runs it, with its wrappers, such as PEFT's.
    """
    inner = extract_model_from_parallel(model, keep_torch_compile=False)
    if isinstance(inner, PeftModel):
        inner = inner.get_base_model()
    original = inner.get_output_embeddings
    if not _needs_reduction(original()):
        yield
        return

    def get_output_embeddings() -> nn.Module | _GatheredHead | None:
        # Checked again here: a head tied to the embeddings is in their unit, and is gathered by now.
        head = original()
        return _GatheredHead(head) if _needs_reduction(head) else head

    # Set on the instance, where it hides the method.
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
        # Divided after the sum, on the shard: dividing the whole gradient would need its memory twice.
        sharded.register_hook(lambda gradient: gradient / mesh.size())
    return sharded.full_tensor(grad_placements=[Partial("sum")] * mesh.ndim)
