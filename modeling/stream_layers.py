"""The language model's layers and its vision tower as streams run them: the same numbers, with less around each.

A turn of a small model spends most of its time between the operations: in module calls, in norms of eight operations,
in questions about the grid whose answer never changes. What hangs on a module (hooks, adapters, quantisation, layers
on several devices) still works: where there is any, the module itself is called.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    PatchEmbed,
    PatchMerger,
    Qwen2MLP,
    Qwen2VisionTransformerPretrainedModel,
    Qwen2VLDecoderLayer,
    Qwen2VLRMSNorm,
    Qwen2VLVisionBlock,
    VisionAttention,
    VisionMlp,
)
from transformers.utils.generic import is_flash_attention_requested
from transformers.vision_utils import get_vision_attention_seqlens, get_vision_position_ids

from .attention import CACHE_KEYWORD, PackedCaches, StreamAttention
from .kv_cache import rotate
from .onednn import attend, bound_linear, is_for, is_for_attention


class StreamLayers:
    """The layers and the head of a model, bound for some passes; made anew for each turn, as adapters may change.

    Args:
        model: a `LiveCCForConditionalGeneration`.
    """

    def __init__(self, model):
        language_model = model.model.language_model
        dtype = model.get_input_embeddings().weight.dtype
        self._layers = [_bound(layer, dtype) for layer in language_model.layers]
        self._norm = _norm(language_model.norm, dtype)
        self._head = _linear(model.lm_head)
        # Products of a matrix and a vector cost less around them than those of matrices with one row.
        self._takes_vectors = is_for(language_model.norm.weight) and self.is_bare

    @property
    def is_bare(self) -> bool:
        """Whether nothing hangs on any module, so that a pass is known to be no more than these operations."""
        return all(isinstance(layer, _LeanLayer) for layer in self._layers) and not any(
            isinstance(part, nn.Module) for part in self._parts
        )

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Weights and biases of bare layers."""
        held = (value for part in self._parts for value in part.keywords.values())
        return [value for value in held if isinstance(value, torch.Tensor)]

    @property
    def _parts(self) -> list[Callable]:
        return [self._norm, self._head, *(part for layer in self._layers for part in layer.parts)]

    def logits(
        self,
        embeds: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        caches: PackedCaches,
        last: torch.LongTensor | None = None,
    ) -> torch.FloatTensor:
        """Run a row of tokens through all layers.

        Args:
            embeds: (tokens, hidden).
            cos: (tokens, 1, head size), see `Rope.table`.
            sin: as `cos`.
            caches: of the B streams in the row.
            last: (B,) the last token of each stream, where a stream has several.

        Returns:
            Logits of what follows each stream, of shape (B, vocabulary).
        """
        hidden = embeds
        if embeds.shape[0] == 1 and last is None and self._takes_vectors:
            hidden = embeds[0]
        for layer in self._layers[:-1]:
            hidden = layer(hidden, cos, sin, caches)
        # Of the last layer nobody reads more than the last token of each stream, its keys and values apart.
        hidden = self._layers[-1](hidden, cos, sin, caches, last)
        logits = self._head(self._norm(hidden))
        return logits if logits.ndim == 2 else logits[None]


def check_layers(model) -> None:
    """Check that this code can run a model whose class may be of another copy of it, such as a model folder's.

    Raises:
        ValueError: if it cannot: the other copy is of another version.
    """
    attention = model.model.language_model.layers[0].self_attn
    if not getattr(type(attention), "takes_packed", False):
        raise ValueError(
            f"the model's code ({type(model).__module__}) is of another version than the package livecc_hf, whose "
            "streams it does not take: load the model with livecc_hf.load_model_and_processor instead of AutoModel"
        )


def vision_features(visual: nn.Module, patches: torch.Tensor, grid_thw: torch.LongTensor) -> torch.Tensor:
    """Return the vision tower's tokens.

    Args:
        visual: Qwen2-VL's vision tower.
        patches: (patches, 1176).
        grid_thw: (videos, 3) their grids.

    Returns:
        (patches / 4, hidden).
    """
    patches = patches.to(visual.device, visual.dtype)
    embed = visual.patch_embed
    known = ((visual, Qwen2VisionTransformerPretrainedModel), (embed, PatchEmbed), (embed.proj, nn.Conv3d))
    if not all(type(module) is kind and is_bare(module) for module, kind in known):
        return visual(patches, grid_thw=grid_thw.to(visual.device)).pooler_output
    facts = _grid_facts(tuple(map(tuple, grid_thw.tolist())), visual)
    hidden = bound_linear(embed.proj.weight.flatten(1), embed.proj.bias)(
        patches
    )  # a convolution whose stride is its size
    is_lean = facts.n_pictures is not None and visual.config._attn_implementation == "sdpa"
    for block in visual.blocks:
        if is_lean and _is_known(block, _BLOCK_PARTS):
            hidden = _run_block(block, hidden, facts)
        else:
            hidden = block(hidden, cu_seqlens=facts.lengths, max_seqlen=facts.longest, position_embeddings=facts.turns)
    merger = visual.merger
    if not _is_known(merger, {"": PatchMerger, "mlp": nn.Sequential}):
        return merger(hidden)
    hidden = merger.ln_q(hidden).view(-1, merger.hidden_size)
    for module in merger.mlp:
        hidden = _linear(module)(hidden)
    return hidden


class _GridFacts(NamedTuple):
    """What the vision tower works out from the grids, turn by turn the same.

    Attributes:
        lengths, longest: patches of each picture, added up, and the most; on the CPU where attention asks for them
            number by number.
        turns: cosine and sine of each patch, in Qwen2-VL's form.
        rotation: the same as `rotate` takes them, (patches, 1, 1, head size) each.
        n_pictures: how many pictures there are if all have the same size, else `None`.
    """

    lengths: torch.Tensor
    longest: int | None
    turns: tuple[torch.Tensor, torch.Tensor]
    rotation: tuple[torch.Tensor, torch.Tensor]
    n_pictures: int | None


_GRID_FACTS: dict[tuple, _GridFacts] = {}  # of a few grids: a stream has two


@torch.inference_mode(False)  # it outlives the caller's mode
def _grid_facts(grids: tuple, visual: nn.Module) -> _GridFacts:
    config, device, merge_size = visual.config, visual.device, visual.spatial_merge_size
    on_device = is_flash_attention_requested(config)
    frequencies = visual.rotary_pos_emb.inv_freq
    key = grids, merge_size, device, on_device, frequencies.data_ptr(), len(frequencies)
    facts = _GRID_FACTS.get(key)  # others may clear it at any time
    if facts is None:
        grid_thw = torch.tensor(grids)
        position_ids = get_vision_position_ids(grid_thw, merge_size).to(device)
        lengths, longest = get_vision_attention_seqlens(grid_thw.to(device) if on_device else grid_thw, config)
        turns = visual.rotary_pos_emb(torch.zeros(0, device=device), position_ids)
        cos, sin = (turn[:, None, None] for turn in turns)
        sin = torch.cat([-sin[..., : sin.shape[-1] // 2], sin[..., sin.shape[-1] // 2 :]], dim=-1)
        sizes = {height * width for _, height, width in grids}
        n_pictures = sum(t for t, _, _ in grids) if len(sizes) == 1 else None
        if len(_GRID_FACTS) >= 16:
            _GRID_FACTS.clear()
        facts = _GRID_FACTS[key] = _GridFacts(lengths, longest, turns, (cos, sin), n_pictures)
    return facts


_BLOCK_PARTS = {
    "": Qwen2VLVisionBlock,
    "norm1": nn.LayerNorm,
    "norm2": nn.LayerNorm,
    "attn": VisionAttention,
    "mlp": VisionMlp,
}


def _run_block(block: Qwen2VLVisionBlock, hidden: torch.Tensor, facts: _GridFacts) -> torch.Tensor:
    """`Qwen2VLVisionBlock.forward` for pictures of one size, whose attention is then one operation."""
    attention, mlp = block.attn, block.mlp
    qkv = _linear(attention.qkv)(block.norm1(hidden)).view(len(hidden), 3, attention.num_heads, -1)
    turned = rotate(qkv[:, :2].float(), *facts.rotation).to(hidden.dtype)
    query, key, value = (part.unflatten(0, (facts.n_pictures, -1)) for part in (turned[:, 0], turned[:, 1], qkv[:, 2]))
    attended = _attend_in_pictures(query, key, value, attention.scaling)
    hidden = hidden + _linear(attention.proj)(attended.reshape(hidden.shape))
    return hidden + _linear(mlp.fc2)(mlp.act(_linear(mlp.fc1)(block.norm2(hidden))))


def _attend_in_pictures(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float) -> torch.Tensor:
    """Attend within each picture; all of shape (pictures, patches, heads, head size)."""
    if is_for_attention(query[0], key[0].transpose(0, 1)):
        return torch.cat([attend(q, k.transpose(0, 1), v.transpose(0, 1), scale) for q, k, v in zip(query, key, value)])
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    return scaled_dot_product_attention(query, key, value, scale=scale).transpose(1, 2)


def _is_known(module: nn.Module, parts: dict[str, type]) -> bool:
    """Return whether a module and its parts are of these classes, with nothing that hangs on them."""
    found = ((module.get_submodule(name), kind) for name, kind in parts.items())
    return all((type(part) is kind or _is_copy(part, kind)) and is_bare(part) for part, kind in found)


def _is_copy(part: nn.Module, kind: type) -> bool:
    """Return whether a module is of the same attention in another copy of this code, such as a model folder's."""
    return kind is StreamAttention and getattr(type(part), "takes_packed", False)


def _bound(layer: nn.Module, dtype: torch.dtype) -> Callable[..., torch.Tensor]:
    """Return what runs a layer: (hidden, cos, sin, caches, last=None) to (tokens or streams, hidden)."""
    if _is_known(layer, {"": Qwen2VLDecoderLayer, "self_attn": StreamAttention, "mlp": Qwen2MLP}):
        return _LeanLayer(layer, dtype)
    return partial(_run_module, layer)


def _run_module(layer: nn.Module, hidden, cos, sin, caches, last=None) -> torch.Tensor:
    keywords = {"attention_mask": None, CACHE_KEYWORD: caches, "position_embeddings": (cos, sin), "use_cache": True}
    hidden = layer(hidden[None], **keywords)[0]
    return hidden if last is None else hidden[last.to(hidden.device)]


class _LeanLayer:
    """A layer of Qwen2-VL's language model, written out: `Qwen2VLDecoderLayer.forward` for a row of streams."""

    def __init__(self, layer: Qwen2VLDecoderLayer, dtype: torch.dtype):
        attention, mlp = layer.self_attn, layer.mlp
        self.index, self.size, self.scale = attention.layer_idx, attention.head_dim, attention.scaling
        self.n_heads = attention.num_heads
        self.norm = _norm(layer.input_layernorm, dtype)
        self.mlp_norm = _norm(layer.post_attention_layernorm, dtype)
        self.q, self.k, self.v, self.o = (
            _linear(module) for module in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        )
        self.gate, self.up, self.down = (_linear(module) for module in (mlp.gate_proj, mlp.up_proj, mlp.down_proj))
        self.parts = [self.norm, self.mlp_norm, self.q, self.k, self.v, self.o, self.gate, self.up, self.down]
        self.act = silu if mlp.config.hidden_act == "silu" else mlp.act_fn

    def __call__(self, hidden, cos, sin, caches, last=None):
        n, size = hidden.shape[0] if hidden.ndim == 2 else 1, self.size
        normed = self.norm(hidden)
        value = self.v(normed).view(n, -1, size)
        if last is None:  # queries and keys turn together
            turned = rotate(torch.cat([self.q(normed), self.k(normed)], dim=-1).view(n, -1, size), cos, sin)
            query, key = turned[:, : self.n_heads], turned[:, self.n_heads :]
        else:
            key = rotate(self.k(normed).view(n, -1, size), cos, sin)
            query = rotate(self.q(normed[last]).view(last.shape[0], -1, size), cos[last], sin[last])
            hidden = hidden[last]
        attended = caches.attend(self.index, query, key, value, self.scale)
        hidden = hidden + self.o(attended.reshape(*hidden.shape[:-1], -1))
        normed = self.mlp_norm(hidden)
        return hidden + self.down(self.act(self.gate(normed)) * self.up(normed))


def _linear(module: nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what applies a module, which is a linear layer where it is bare."""
    if type(module) is nn.Linear and is_bare(module):
        return bound_linear(module.weight, module.bias)
    return module


def _norm(module: nn.Module, dtype: torch.dtype) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return what applies a norm."""
    if type(module) is Qwen2VLRMSNorm and is_bare(module) and module.weight.dtype == dtype:
        weight, eps = module.weight, module.variance_epsilon
        if is_for(weight):
            size = weight.shape[0]
            return partial(_rms_norm, weight=weight * size**0.5, least=(size * eps) ** 0.5)
        return partial(rms_norm, normalized_shape=weight.shape, weight=weight, eps=eps)
    return module


@lru_cache
def _scalar(value: float) -> torch.Tensor:
    with torch.inference_mode(False):  # it outlives the caller's mode
        return torch.tensor(value, dtype=torch.float32, device="cpu")


def _rms_norm(hidden: torch.Tensor, weight: torch.Tensor, least: float) -> torch.Tensor:
    """`rms_norm` in half as many operations; `weight` and `least` hold the size and epsilon."""
    if hidden.ndim == 1:
        return (hidden * weight).mul_(1 / math.sqrt(torch.dot(hidden, hidden).item() + least**2))
    length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
    return (hidden / torch.hypot(length, _scalar(least))).mul_(weight)


def is_bare(module: nn.Module) -> bool:
    """Return whether calling a module is no more than its class's forward pass."""
    return not (
        module._forward_hooks
        or module._forward_pre_hooks
        or "forward" in module.__dict__
        or module._compiled_call_impl is not None
    )
