"""Estimates the memory and the time of the recipes for models that no machine here holds, without running them.

    python benchmarks/training/estimates.py

Parameters are counted on models without memory ("meta"), from the published configs. A layer's working set is what
lives at the same time while it is run forward and backward on tensors without memory ("fake"), parameters and their
gradients aside. docs/training.md tells the arithmetic. A minute on one core; nothing is written.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import parser

FOUR_BIT_BYTES = 0.52  # of a weight, nested
TRAINED_BYTES = 16  # of a parameter: float32 weight, gradient, two moments
TFLOPS = {"H100": 989, "RTX 4090": 165, "RTX 4080": 97, "RTX 4070": 58}  # dense bfloat16, float32 accumulation
MFU, MFU_FOUR_BIT = 0.4, 0.3


def _qwen2_vision(hidden_size: int) -> dict[str, Any]:
    return {"depth": 32, "embed_dim": 1280, "hidden_size": hidden_size, "mlp_ratio": 4, "num_heads": 16}


def _qwen3_vision(hidden_size: int) -> dict[str, Any]:
    sizes = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16}
    return {**sizes, "out_hidden_size": hidden_size, "deepstack_visual_indexes": [5, 11, 17]}


def _text(hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, vocabulary: int = 151936) -> dict:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads}
    return {**sizes, "num_key_value_heads": kv_heads, "intermediate_size": intermediate, "vocab_size": vocabulary}


_7B = _text(3584, 28, 28, 4, 18944, 152064)
_QWEN2_5_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
}
# name -> transformers' class, sizes of text and vision, whether embeddings and head are one. The sizes are those of the
# config.json that each is published with; what is not named (heads of 128 in Qwen3-VL) is transformers' default there.
SHAPES: dict[str, tuple[str, dict, dict, bool]] = {
    "Qwen2-VL-7B": ("Qwen2VL", _7B, _qwen2_vision(3584), False),
    "Qwen2-VL-2B": ("Qwen2VL", _text(1536, 28, 12, 2, 8960), _qwen2_vision(1536), True),
    "Qwen2.5-VL-7B": ("Qwen2_5_VL", _7B, _QWEN2_5_VISION, False),
    "Qwen3-VL-4B": ("Qwen3VL", _text(2560, 36, 32, 8, 9728), _qwen3_vision(2560), True),
    "Qwen3-VL-2B": ("Qwen3VL", _text(2048, 28, 16, 8, 6144), _qwen3_vision(2048), True),
}


@dataclass(frozen=True)
class Counted:
    """Parameters of a model, and what its arithmetic needs beside them.

    Attributes:
        layers, embeddings, vision: parameters; embeddings with the head.
        adapter: parameters of a LoRA of rank 1 on all linear layers of the decoder.
        n_layers, width, attention_width: layers, hidden size, and heads times their size.
        vision_flops: of a vision token: each of its four patches passes the tower, and together they pass the mergers.
    """

    layers: int
    embeddings: int
    vision: int
    adapter: int
    n_layers: int
    width: int
    attention_width: int
    vision_flops: float


def model_of(name: str) -> nn.Module:
    """Return a model without memory, in the shape of a published one."""
    import transformers

    kind, text, vision, is_tied = SHAPES[name]
    config_class = getattr(transformers, f"{kind}Config")
    config = config_class(text_config=dict(text), vision_config=dict(vision), tie_word_embeddings=is_tied)
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        return getattr(transformers, f"{kind}ForConditionalGeneration")(config)


def counted(model: nn.Module) -> Counted:
    """Return what the arithmetic needs of a model."""

    def count(*modules: nn.Module) -> int:
        return sum(parameter.numel() for module in modules for parameter in module.parameters())

    body, text = model.model.language_model, model.config.text_config
    visual = model.model.visual
    head = [] if model.config.tie_word_embeddings else [model.lm_head]
    mergers = count(visual.merger) + count(*getattr(visual, "deepstack_merger_list", []))
    linear = [module for module in body.layers.modules() if isinstance(module, nn.Linear)]
    return Counted(
        layers=count(body.layers),
        embeddings=count(body.embed_tokens, *head),
        vision=count(visual),
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
    body = model.model.language_model
    default = torch.get_default_dtype()
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
            size = layer.self_attn.head_dim
            angles = (torch.randn(1, n_tokens, size), torch.randn(1, n_tokens, size))
            gradient = torch.ones_like(hidden)
            for parameter in layer.parameters():
                parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
            gradients = [parameter.grad for parameter in layer.parameters() if parameter.grad is not None]
            with _Live([hidden, *angles, gradient, *layer.parameters(), *gradients]) as live:
                with torch.autocast("cpu", torch.bfloat16):
                    out = layer(hidden, attention_mask=None, position_embeddings=angles)
                torch.autograd.backward(out[0] if isinstance(out, tuple) else out, gradient)
            return live.peak
    finally:
        torch.set_default_dtype(default)


@dataclass(frozen=True)
class Run:
    """A recipe's run.

    Attributes:
        model: of `SHAPES`.
        method: "full", "lora" or "qlora".
        n_tokens: of a row, as it is at most.
        rank: of the LoRA.
        gpus: over which FSDP2 spreads weights, gradients and optimizer; 1: nothing is spread.
        card: whose time is told.
        typical_tokens: of a row, for its time; 0: `n_tokens`.
    """

    model: str
    method: str
    n_tokens: int
    rank: int = 16
    gpus: int = 1
    card: str = "RTX 4090"
    typical_tokens: int = 0


RUNS = {
    "livecc-7b/sft_lora": Run("Qwen2-VL-7B", "lora", 8192),
    "livecc-7b/sft_qlora": Run("Qwen2-VL-7B", "qlora", 8192, card="RTX 4080"),
    "qwen2-vl-2b/sft": Run("Qwen2-VL-2B", "full", 32768, card="H100", typical_tokens=28000),
    "qwen2-vl-2b/sft_lora": Run("Qwen2-VL-2B", "lora", 8192, rank=32, card="RTX 4070"),
    "qwen2.5-vl-7b/sft": Run("Qwen2.5-VL-7B", "full", 32768, gpus=8, card="H100", typical_tokens=28000),
    "qwen2.5-vl-7b/sft_lora": Run("Qwen2.5-VL-7B", "lora", 8192),
    "qwen2.5-vl-7b/sft_qlora": Run("Qwen2.5-VL-7B", "qlora", 8192, card="RTX 4080"),
    "qwen3-vl-4b/sft": Run("Qwen3-VL-4B", "full", 32768, gpus=8, card="H100", typical_tokens=28000),
    "qwen3-vl-4b/sft_lora": Run("Qwen3-VL-4B", "lora", 16384, rank=32),
    "qwen3-vl-4b/sft_qlora": Run("Qwen3-VL-4B", "qlora", 8192, rank=32, card="RTX 4080"),
    "qwen3-vl-2b/sft": Run("Qwen3-VL-2B", "full", 32768, card="H100", typical_tokens=28000),
    "qwen3-vl-2b/sft_lora": Run("Qwen3-VL-2B", "lora", 8192, rank=32, card="RTX 4070"),
}


def memory_gb(run: Run, model: nn.Module) -> dict[str, float]:
    """Return what a run holds on a GPU, part by part, in 10⁹ bytes."""
    n = counted(model)
    rank = 0 if run.method == "full" else run.rank
    kept = n.n_layers * run.n_tokens * n.width * 2
    parts = {"activations": kept + working_set_bytes(model, run.n_tokens, rank)}
    if run.method == "full":
        trained = n.layers + n.embeddings
        parts["weights, gradients, optimizer"] = (trained * TRAINED_BYTES + n.vision * 4) / run.gpus
        if run.gpus > 1:  # embeddings, head and tower are gathered, and the head's gradient
            parts["gathered"] = (n.embeddings + n.vision) * 4 + model.lm_head.weight.numel() * 4
        else:
            parts["layers cast to bfloat16"] = n.layers * 2
        parts["loss and context"] = 2.5e9
    else:
        bytes_of_layers = FOUR_BIT_BYTES if run.method == "qlora" else 2
        parts["weights"] = n.layers * bytes_of_layers + (n.embeddings + n.vision) * 2
        parts["adapter"] = n.adapter * rank * TRAINED_BYTES
        parts["loss and context"] = 1.2e9
    return {name: value / 1e9 for name, value in parts.items()}


def row_seconds(run: Run, model: nn.Module) -> float:
    """Return how long a row takes on the run's card."""
    n = counted(model)
    n_tokens = run.typical_tokens or run.n_tokens
    attention = 2 * n.attention_width * n_tokens * n.n_layers
    on_layers = 4 if run.method == "full" else 3
    flops = on_layers * 2 * n.layers + 4 * attention + n.vision_flops
    rate = TFLOPS[run.card] * 1e12 * (MFU_FOUR_BIT if run.method == "qlora" else MFU)
    return flops * n_tokens / rate


def main() -> int:
    """Print the estimates."""
    parser(__doc__.splitlines()[0]).parse_args()
    models = {name: model_of(name) for name in SHAPES}
    for name, model in models.items():
        n = counted(model)
        sizes = [f"{value / 1e9:.2f}" for value in (n.layers, n.embeddings, n.vision)]
        print(f"{name}: 10⁹ parameters: layers {sizes[0]}, embeddings and head {sizes[1]}, vision {sizes[2]}")
    for name, run in RUNS.items():
        parts = memory_gb(run, models[run.model])
        listed = " + ".join(f"{part} {value:.1f}" for part, value in parts.items())
        seconds = row_seconds(run, models[run.model])
        print(f"{name}: {sum(parts.values()):.0f} GB = {listed}; a row {seconds:.1f} s on one {run.card}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
