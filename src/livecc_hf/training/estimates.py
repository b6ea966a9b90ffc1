"""Estimates the memory and time of a recipe for a published model, without weights and without running it.

Parameters are counted on a model on the "meta" device, in the published shape. The working set of a decoder layer is
the peak of the tensors alive in its forward and backward pass on fake tensors, without its parameters and their
gradients. `docs/training.md` explains the arithmetic.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from livecc_hf.checkpoints.shapes import PUBLISHED_SHAPES, shape_config, shape_processor

# Peak rates of GPUs in TFLOP/s: dense bfloat16 with float32 accumulation, from the vendors' data sheets. Looked up by
# the first key that occurs in a device's name.
PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H800": 989.0,
    "A100": 312.0,
    "A800": 312.0,
    "A10G": 70.0,
    "A10": 125.0,
    "A40": 150.0,
    "A6000": 155.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "RTX 6000 Ada": 364.0,
    "5090": 209.5,
    "4090": 165.2,
    "4080": 97.5,
    "4070": 58.0,
    "3090": 71.0,
    "T4": 65.0,
}
FOUR_BIT_BYTES = 0.52  # per weight, nested quantisation
TRAINED_BYTES = 16  # per trained parameter: float32 weight, gradient, two moments
MFU, MFU_FOUR_BIT = 0.4, 0.3
TYPICAL_TOKENS = 28_000  # in a row of at most 32,768, for estimates of time


def peak_tflops(device: str) -> float | None:
    """Return the peak rate assumed for a device, in TFLOP/s; `None` if unknown."""
    return next((rate for name, rate in PEAK_TFLOPS.items() if re.search(rf"\b{name}\b", device)), None)


@dataclass(frozen=True)
class ModelCounts:
    """Counts of a model's parameters, sizes and FLOPs that the estimates need.

    Attributes:
        layers, embeddings, vision: parameters; `embeddings` includes an untied head.
        head: parameters of the head, tied or untied.
        adapter: parameters of a LoRA of rank 1 on all linear layers of the decoder.
        n_layers, width, attention_width: layers, hidden size, and heads times head size.
        vision_flops: FLOPs per vision token: its four patches pass the tower separately, the mergers together.
    """

    layers: int
    embeddings: int
    vision: int
    head: int
    adapter: int
    n_layers: int
    width: int
    attention_width: int
    vision_flops: float


@cache
def published_model(name: str) -> Any:
    """Return a model on the meta device with a published model's shape.

    Args:
        name: one of `PUBLISHED_SHAPES`.

    Raises:
        ValueError: if the name is unknown.
    """
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration

    if name not in PUBLISHED_SHAPES:
        raise ValueError(f"model {name!r} has no known shape: expected one of {', '.join(PUBLISHED_SHAPES)}")
    with torch.device("meta"):
        return LiveCCForConditionalGeneration(shape_config(PUBLISHED_SHAPES[name], shape_processor()))


def count_model(model: Any) -> ModelCounts:
    """Return the counts of a `LiveCCForConditionalGeneration`."""

    def count(*modules: nn.Module) -> int:
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    body, text, visual = model.model.language_model, model.config.text_config, model.model.visual
    mergers = count(visual.merger) + count(*getattr(visual, "deepstack_merger_list", []))
    linear = [module for module in body.layers.modules() if isinstance(module, nn.Linear)]
    return ModelCounts(
        layers=count(body.layers),
        embeddings=count(body.embed_tokens, *([] if model.config.tie_word_embeddings else [model.lm_head])),
        vision=count(visual),
        head=count(model.lm_head),
        adapter=sum(module.in_features + module.out_features for module in linear),
        n_layers=text.num_hidden_layers,
        width=text.hidden_size,
        attention_width=body.layers[0].self_attn.o_proj.in_features,
        vision_flops=2 * (4 * (count(visual) - mergers) + mergers),
    )


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of live tensors created inside the context, and their peak.

    Args:
        known: existing tensors, which are not counted.
    """

    def __init__(self, known: Iterable[torch.Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self._seen = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(self, function: Callable, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage() not in self._seen:
                storage = tensor.untyped_storage()
                self._seen.add(storage)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, storage.nbytes())
        return out

    def _free(self, n_bytes: int) -> None:
        self.now -= n_bytes


class _LoraLinear(nn.Module):
    """A linear layer with LoRA as in peft, where the adapter and its inputs are float32."""

    def __init__(self, base: nn.Linear, rank: int):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False, dtype=torch.float32)
        self.up = nn.Linear(rank, base.out_features, bias=False, dtype=torch.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x.float())) * 2.0


def working_set_bytes(model: Any, n_tokens: int, rank: int = 0) -> int:
    """Return the peak memory in bytes to recompute and differentiate one decoder layer, without its parameters.

    Args:
        model: a `LiveCCForConditionalGeneration`, which may be on the meta device.
        n_tokens: tokens of the row.
        rank: LoRA rank; 0 if the layer is trained in full.
    """
    body, default = model.model.language_model, torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with FakeTensorMode():
            layer = type(body.layers[0])(body.config, 0)
            if rank:
                layer.requires_grad_(False)
                for part in (layer.self_attn, layer.mlp):
                    for name, module in list(part.named_children()):
                        if isinstance(module, nn.Linear):
                            setattr(part, name, _LoraLinear(module, rank))
            hidden = torch.randn(1, n_tokens, body.config.hidden_size, requires_grad=True)
            angles = tuple(torch.randn(1, n_tokens, layer.self_attn.head_dim) for _ in range(2))
            gradient = torch.ones_like(hidden)
            trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
            gradients = [parameter.grad for parameter in trained]
            with _LiveBytes([hidden, *angles, gradient, *layer.parameters(), *gradients]) as live:
                with torch.autocast("cpu", torch.bfloat16):
                    out = layer(hidden, attention_mask=None, position_embeddings=angles)
                torch.autograd.backward(out[0] if isinstance(out, tuple) else out, gradient)
            return live.peak
    finally:
        torch.set_default_dtype(default)


def memory_gb(recipe: dict[str, Any], model: Any, gpus: int = 1) -> dict[str, float]:
    """Return the memory of a run per GPU, by part, in 10⁹ bytes.

    Args:
        recipe: the options in a recipe file.
        model: from :func:`published_model`.
        gpus: number of GPUs over which FSDP2 shards weights, gradients and optimizer.
    """
    n, n_tokens = count_model(model), recipe["max_length"]
    rank = recipe["lora_r"] if recipe.get("use_peft") else 0
    parts: dict[str, float] = {"activations": n.n_layers * n_tokens * n.width * 2}
    parts["activations"] += working_set_bytes(model, n_tokens, rank)
    if rank:
        parts["weights"] = n.layers * (FOUR_BIT_BYTES if recipe.get("load_in_4bit") else 2)
        parts["weights"] += (n.embeddings + n.vision) * 2
        parts["adapter"] = n.adapter * rank * TRAINED_BYTES
    else:
        parts["weights, gradients, optimizer"] = ((n.layers + n.embeddings) * TRAINED_BYTES + n.vision * 4) / gpus
        if gpus > 1:  # FSDP2 gathers embeddings, head and vision tower, and the head's gradient
            parts["gathered"] = (n.embeddings + n.vision + n.head) * 4
        else:
            parts["layers cast to bfloat16"] = n.layers * 2
    parts["loss and context"] = 1.2e9 if rank else 2.5e9
    return {name: value / 1e9 for name, value in parts.items()}


def row_seconds(recipe: dict[str, Any], model: Any, card: str) -> float:
    """Return the seconds to train on one row on a card.

    Args:
        recipe: the options in a recipe file.
        model: from :func:`published_model`.
        card: a name that contains a key of `PEAK_TFLOPS`.

    Raises:
        ValueError: if the card is unknown.
    """
    rate = peak_tflops(card)
    if rate is None:
        raise ValueError(f"card {card!r} has no known rate: expected a name with one of {', '.join(PEAK_TFLOPS)} in it")
    n, is_full = count_model(model), not recipe.get("use_peft")
    n_tokens = TYPICAL_TOKENS if is_full else recipe["max_length"]
    attention = 2 * n.attention_width * n_tokens * n.n_layers
    flops = (4 if is_full else 3) * 2 * n.layers + 4 * attention + n.vision_flops
    # Whole TFLOP/s, as in docs/training.md.
    return flops * n_tokens / (int(rate) * 1e12 * (MFU_FOUR_BIT if recipe.get("load_in_4bit") else MFU))
