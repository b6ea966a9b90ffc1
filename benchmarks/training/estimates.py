"""Estimates the memory and the time of the recipes for models that no machine here holds, without running them.

    python benchmarks/training/estimates.py

Parameters are counted on models without memory ("meta"), in the published shapes. A layer's working set is what
lives at the same time while it is run forward and backward on tensors without memory ("fake"), parameters and their
gradients aside. docs/training.md tells the arithmetic. A minute on one core; nothing is written.
"""

from __future__ import annotations

import argparse
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import ROOT
from models import SHAPES, bundled_processor, peak_tflops, random_config

from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration

FOUR_BIT_BYTES = 0.52  # of a weight, nested
TRAINED_BYTES = 16  # of a parameter: float32 weight, gradient, two moments
MFU, MFU_FOUR_BIT = 0.4, 0.3
TYPICAL_TOKENS = 28_000  # of a row of 32,768, for its time
# recipe -> the card whose time is told, and over how many FSDP2 spreads weights, gradients and optimizer
RUNS = {
    "livecc-7b/sft_lora": ("RTX 4090", 1),
    "livecc-7b/sft_qlora": ("RTX 4080", 1),
    "qwen2-vl-2b/sft": ("H100", 1),
    "qwen2-vl-2b/sft_lora": ("RTX 4070", 1),
    "qwen2.5-vl-7b/sft": ("H100", 8),
    "qwen2.5-vl-7b/sft_lora": ("RTX 4090", 1),
    "qwen2.5-vl-7b/sft_qlora": ("RTX 4080", 1),
    "qwen3-vl-4b/sft": ("H100", 8),
    "qwen3-vl-4b/sft_lora": ("RTX 4090", 1),
    "qwen3-vl-4b/sft_qlora": ("RTX 4080", 1),
    "qwen3-vl-2b/sft": ("H100", 1),
    "qwen3-vl-2b/sft_lora": ("RTX 4070", 1),
}


@dataclass(frozen=True)
class Counted:
    """Parameters of a model, and what its arithmetic needs beside them.

    Attributes:
        layers, embeddings, vision: parameters; embeddings with the head.
        head: parameters of it, whether or not it is the embeddings too.
        adapter: parameters of a LoRA of rank 1 on all linear layers of the decoder.
        n_layers, width, attention_width: layers, hidden size, and heads times their size.
        vision_flops: of a vision token: each of its four patches passes the tower, and together they pass the mergers.
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
def model_of(name: str) -> nn.Module:
    """Return a model without memory, in the shape of a published one."""
    with torch.device("meta"):
        return LiveCCForConditionalGeneration(random_config(SHAPES[name], bundled_processor()))


def counted(model: nn.Module) -> Counted:
    """Return what the arithmetic needs of a model."""

    def count(*modules: nn.Module) -> int:
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    body, text, visual = model.model.language_model, model.config.text_config, model.model.visual
    mergers = count(visual.merger) + count(*getattr(visual, "deepstack_merger_list", []))
    linear = [module for module in body.layers.modules() if isinstance(module, nn.Linear)]
    return Counted(
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


class _Live(TorchDispatchMode):
    """Bytes of the tensors made inside that live at the same time, at most."""

    def __init__(self, known: Sequence[torch.Tensor]):
        super().__init__()
        self.now = self.peak = 0
        self._seen = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
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


class _Adapted(nn.Module):
    """A linear layer with a LoRA as peft has it: in float32, on inputs that are made float32."""

    def __init__(self, base: nn.Linear, rank: int):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False, dtype=torch.float32)
        self.up = nn.Linear(rank, base.out_features, bias=False, dtype=torch.float32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.up(self.down(x.float())) * 2.0


def working_set_bytes(model: nn.Module, n_tokens: int, rank: int = 0) -> int:
    """Return what a decoder layer needs while it is computed again and differentiated, its parameters aside.

    Args:
        model: of :func:`model_of`.
        n_tokens: of the row.
        rank: of the LoRA; 0: the layer is trained in full.
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
                            setattr(part, name, _Adapted(module, rank))
            hidden = torch.randn(1, n_tokens, body.config.hidden_size, requires_grad=True)
            angles = tuple(torch.randn(1, n_tokens, layer.self_attn.head_dim) for _ in range(2))
            gradient = torch.ones_like(hidden)
            trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
            for parameter in trained:
                parameter.grad = torch.zeros_like(parameter)
            gradients = [parameter.grad for parameter in trained]
            with _Live([hidden, *angles, gradient, *layer.parameters(), *gradients]) as live:
                with torch.autocast("cpu", torch.bfloat16):
                    out = layer(hidden, attention_mask=None, position_embeddings=angles)
                torch.autograd.backward(out[0] if isinstance(out, tuple) else out, gradient)
            return live.peak
    finally:
        torch.set_default_dtype(default)


def memory_gb(recipe: dict[str, Any], model: nn.Module, gpus: int) -> dict[str, float]:
    """Return what a run holds on a GPU, part by part, in 10⁹ bytes."""
    n, n_tokens = counted(model), recipe["max_length"]
    rank = recipe["lora_r"] if recipe.get("use_peft") else 0
    parts: dict[str, float] = {"activations": n.n_layers * n_tokens * n.width * 2}
    parts["activations"] += working_set_bytes(model, n_tokens, rank)
    if rank:
        parts["weights"] = n.layers * (FOUR_BIT_BYTES if recipe.get("load_in_4bit") else 2)
        parts["weights"] += (n.embeddings + n.vision) * 2
        parts["adapter"] = n.adapter * rank * TRAINED_BYTES
    else:
        parts["weights, gradients, optimizer"] = ((n.layers + n.embeddings) * TRAINED_BYTES + n.vision * 4) / gpus
        if gpus > 1:  # embeddings, head and tower are gathered, and the head's gradient
            parts["gathered"] = (n.embeddings + n.vision + n.head) * 4
        else:
            parts["layers cast to bfloat16"] = n.layers * 2
    parts["loss and context"] = 1.2e9 if rank else 2.5e9
    return {name: value / 1e9 for name, value in parts.items()}


def row_seconds(recipe: dict[str, Any], model: nn.Module, card: str) -> float:
    """Return how long a row takes on a card."""
    n, is_full = counted(model), not recipe.get("use_peft")
    n_tokens = TYPICAL_TOKENS if is_full else recipe["max_length"]
    attention = 2 * n.attention_width * n_tokens * n.n_layers
    flops = (4 if is_full else 3) * 2 * n.layers + 4 * attention + n.vision_flops
    tflops = int(peak_tflops(card) or 0)  # whole ones, as docs/training.md has them
    rate = tflops * 1e12 * (MFU_FOUR_BIT if recipe.get("load_in_4bit") else MFU)
    return flops * n_tokens / rate


def main(argv: Sequence[str] | None = None) -> int:
    """Print the estimates."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    recipes = {name: yaml.safe_load((ROOT / f"recipes/{name}.yaml").read_text()) for name in RUNS}
    names = {key: Path(recipe["model_name_or_path"]).name.removesuffix("-Instruct") for key, recipe in recipes.items()}
    for name in dict.fromkeys(names.values()):
        n = counted(model_of(name))
        sizes = [f"{value / 1e9:.2f}" for value in (n.layers, n.embeddings, n.vision)]
        print(f"{name}: 10⁹ parameters: layers {sizes[0]}, embeddings and head {sizes[1]}, vision {sizes[2]}")
    for key, (card, gpus) in RUNS.items():
        model = model_of(names[key])
        parts = memory_gb(recipes[key], model, gpus)
        listed = " + ".join(f"{part} {value:.1f}" for part, value in parts.items())
        seconds = row_seconds(recipes[key], model, card)
        print(f"{key}: {sum(parts.values()):.0f} GB = {listed}; a row {seconds:.1f} s on one {card}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
