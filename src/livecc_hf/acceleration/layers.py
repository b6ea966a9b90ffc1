"""A backbone's language model with less overhead, for streams on a CPU.

A step of a small model spends most of its time between the matrix products: in decorators, rotations and norms of eight
operations. And the last layer only needs each stream's last token (and all keys and values). Every linear layer and MLP
runs its own forward pass, or is called as a module if it has hooks, so that adapters, hooks and quantisation work. A
layer whose other parts differ from the classes that were checked runs its own forward pass, and so does every pass that
is not a stream's. There is no list of backbones: one is supported if a tiny model of it gives the same numbers both
ways.
"""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import _has_any_global_hook
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast

from livecc_hf.acceleration.graph import has_hooks
from livecc_hf.modeling.attention import PackedBatch, use_stream_attention
from livecc_hf.modeling.kv_cache import KVCache, KVCachePool, rotate

# Classes whose forward pass was found to compute the same as this module, with that forward pass.
_FORWARD: dict[type, Callable] = {}
_CHECKED: dict[tuple[Callable, ...], bool] = {}  # results of `_computes_the_same`

_SUPPORTED_INPUTS = {"input_ids", "inputs_embeds", "attention_mask"}  # `_lean_forward` uses or safely ignores these


def use_lean_layers(language_model: Any) -> None:
    """Let a language model run streams' tokens with fewer operations; parameters and their names do not change.

    The model is left unchanged if the installed transformers computes something else than this module: both are first
    compared on a tiny model.

    Args:
        language_model: `model.model.language_model`.
    """
    kinds = _kinds(language_model)
    forwards = tuple(kind.forward for kind in kinds)
    if kinds and _computes_the_same(kinds, forwards, type(language_model.config)) and _is_as_checked(language_model):
        language_model.forward = types.MethodType(_lean_forward, language_model)  # deepcopy binds it to the copy


def _kinds(language_model: Any) -> tuple[Any, ...]:
    """Return the classes of a language model, its layers, their attention and norms; `()` if it lacks such parts."""
    try:
        layer = language_model.layers[0]
        parts = language_model, layer, layer.self_attn, layer.input_layernorm
    except (AttributeError, IndexError, TypeError):
        return ()
    return tuple(type(part) for part in parts)


def _lean_forward(
    model: Any, *arguments: Any, stream_cache: PackedBatch | None = None, **keywords: Any
) -> BaseModelOutputWithPast:
    """As the class's own `forward`; for streams, hidden states may be zero except those of `PackedBatch.last`."""
    if not isinstance(stream_cache, PackedBatch) or arguments or not _takes(model, **keywords):
        if stream_cache is not None:
            keywords["stream_cache"] = stream_cache
        return type(model).forward(model, *arguments, **keywords)
    embeds = keywords.get("inputs_embeds")
    if embeds is None:
        embeds = model.embed_tokens(keywords["input_ids"])
    seen, features = keywords.get("visual_pos_masks"), keywords.get("deepstack_visual_embeds")
    deep = [] if seen is None or features is None else [(seen[0], of_layer) for of_layer in features]
    cos, sin = model.rotary_emb(embeds, keywords["position_ids"])
    hidden = LeanModel(model).run(embeds[0], cos[0], signed(sin[0]), stream_cache, deep)
    return BaseModelOutputWithPast(last_hidden_state=hidden[None])


def _takes(
    model: nn.Module,
    position_ids: torch.Tensor | None = None,
    past_key_values: Any = None,
    use_cache: bool | None = None,
    visual_pos_masks: torch.Tensor | None = None,
    deepstack_visual_embeds: list[torch.Tensor] | None = None,
    **others: Any,
) -> bool:
    """Return whether a pass has only inputs that streams use, and the model's class was not patched since the check."""
    return (
        position_ids is not None
        and position_ids.device.type == "cpu"
        and position_ids.shape[0] == 3
        and past_key_values is None
        and not use_cache
        and not any(others[name] is not None for name in others.keys() - _SUPPORTED_INPUTS)
        and ((visual_pos_masks is None and deepstack_visual_embeds is None) or _has_deepstack(type(model)))
        and _is_usable(model)
    )


def _is_usable(model: Any) -> bool:
    """Return whether lean passes of a language model still compute the same as its class."""
    is_unchanged = type(model).forward is _FORWARD.get(type(model))
    return is_unchanged and not torch.is_autocast_enabled("cpu") and not _has_any_global_hook()


def runs_lean(model: Any) -> bool:
    """Return whether a language model runs streams' tokens on a CPU as a :class:`LeanModel`, and nothing else."""
    is_lean = getattr(vars(model).get("forward"), "__func__", None) is _lean_forward
    is_hooked = model._forward_hooks or model._forward_pre_hooks or model._compiled_call_impl is not None
    return is_lean and not is_hooked and _is_usable(model)


def _has_deepstack(kind: Any) -> bool:
    """Return whether a class of language models takes DeepStack features (as Qwen3-VL's does)."""
    return "deepstack_visual_embeds" in inspect.signature(kind.forward).parameters


def _is_known(layer: Any) -> bool:
    """Return whether a layer, its attention and its norms are of checked classes, without hooks."""
    if not _is_as_checked(layer):
        return False
    attention = layer.self_attn
    of_heads = [getattr(attention, name) for name in ("q_norm", "k_norm") if hasattr(attention, name)]
    parts = attention, layer.input_layernorm, layer.post_attention_layernorm, *of_heads
    return all(isinstance(part, nn.Module) and _is_as_checked(part) for part in parts)


def _is_as_checked(module: nn.Module) -> bool:
    """Return whether calling a module runs just its class's forward pass, unchanged since it was checked."""
    kind: Any = type(module)
    return kind.forward is _FORWARD.get(kind) and not has_hooks(module)


class LeanModel:
    """A language model's layers and final norm, for the passes of one turn.

    Args:
        model: the language model.
    """

    def __init__(self, model: Any):
        self._layers = [_LeanLayer(layer) if _is_known(layer) else layer for layer in model.layers]
        self._norm = _norm(model.norm)

    def run(
        self,
        hidden: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        caches: PackedBatch,
        deep: Sequence[tuple[torch.Tensor, torch.Tensor]] = (),
    ) -> torch.Tensor:
        """Return hidden states (tokens, hidden); those of tokens not in `caches.last` may be zero.

        Args:
            hidden: the tokens' embeddings, (tokens, hidden).
            cos, sin: see `rotate`, (tokens, head size) each.
            caches: the caches of the B streams.
            deep: DeepStack inputs of the first layers: a mask of the tokens (tokens,), and the features to add to them
                after the layer.
        """
        n_tokens, read, last = hidden.shape[0], caches.last, self._layers[-1]
        # Whether the last layer runs only the tokens that are read.
        is_cut = n_tokens > read.shape[0] and len(deep) < len(self._layers) and isinstance(last, _LeanLayer)
        for index, layer in enumerate(self._layers[:-1] if is_cut else self._layers):
            hidden = _run(layer, hidden, cos, sin, caches)
            if index < len(deep):
                seen, features = deep[index]
                hidden[seen] += features
        if is_cut:
            hidden = last(hidden, cos, sin, caches, read)
        hidden = self._norm(hidden)
        return hidden.new_zeros(n_tokens, hidden.shape[1]).index_copy_(0, read, hidden) if is_cut else hidden


def signed(sin: torch.Tensor) -> torch.Tensor:
    """Return sines (..., head size) as `rotate` takes them: negated in the first half."""
    half = sin.shape[-1] // 2
    return torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)


class _LeanLayer:
    """A decoder layer's forward pass over a packed sequence, with the layer's own linear layers and MLP."""

    def __init__(self, layer: Any):
        attention = layer.self_attn
        self.index, self.size, self.scale = attention.layer_idx, attention.head_dim, attention.scaling
        self.norm, self.mlp_norm = _norm(layer.input_layernorm), _norm(layer.post_attention_layernorm)
        names = "q_proj", "k_proj", "v_proj", "o_proj"
        self.q, self.k, self.v, self.o = (forward_of(getattr(attention, name)) for name in names)
        self.has_head_norms = hasattr(attention, "q_norm")
        if self.has_head_norms:
            self.q_norm, self.k_norm = _norm(attention.q_norm), _norm(attention.k_norm)
        self.mlp = forward_of(layer.mlp)

    def __call__(
        self,
        hidden: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        caches: PackedBatch,
        read: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return (tokens or B, hidden).

        Args:
            hidden: (tokens, hidden).
            cos, sin: see `rotate`, (tokens, head size).
            caches: the streams' caches.
            read: (B,) the tokens whose hidden states are needed; `None`: all.
        """
        normed = self.norm(hidden)
        value = _heads(self.v(normed), self.size)
        if read is None:  # rotate queries and keys in one operation
            rotated = rotate(self._unrotated(normed), cos, sin)
            n_kv_heads = value.shape[1]
            query, key = rotated.split_with_sizes([rotated.shape[1] - n_kv_heads, n_kv_heads], dim=1)
        else:
            query = rotate(self._query(normed[read]), cos[read], sin[read])
            key = rotate(self._key(normed), cos, sin)
            hidden = hidden[read]
        attended = caches.attend(self.index, query, key, value, self.scale)
        hidden = hidden + self.o(attended.reshape(hidden.shape[0], -1))
        return hidden + self.mlp(self.mlp_norm(hidden))

    def _unrotated(self, normed: torch.Tensor) -> torch.Tensor:
        """Return queries and keys, (1, heads and key-value heads, tokens, head size)."""
        if self.has_head_norms:
            return torch.cat([self._query(normed), self._key(normed)], dim=1)
        return _heads(torch.cat([self.q(normed), self.k(normed)], dim=-1), self.size)

    def _query(self, normed: torch.Tensor) -> torch.Tensor:
        query = _heads(self.q(normed), self.size)
        return self.q_norm(query) if self.has_head_norms else query

    def _key(self, normed: torch.Tensor) -> torch.Tensor:
        key = _heads(self.k(normed), self.size)
        return self.k_norm(key) if self.has_head_norms else key


def forward_of(module: Any) -> Callable[..., torch.Tensor]:
    """Return the forward pass of a module without hooks, which spares `Module.__call__`; else the module."""
    return module if has_hooks(module) else module.forward


def _heads(states: torch.Tensor, size: int) -> torch.Tensor:
    """Reshape states (tokens, heads * size) for attention, to (1, heads, tokens, size)."""
    n = states.shape[0]
    return states.view(1, -1, 1, size) if n == 1 else states.view(1, n, -1, size).transpose(1, 2)


def _run(
    layer: nn.Module | _LeanLayer, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, caches: PackedBatch
) -> torch.Tensor:
    """Run a lean layer, or a layer's own forward pass; arguments as in `_LeanLayer.__call__`."""
    if isinstance(layer, _LeanLayer):
        return layer(hidden, cos, sin, caches)
    return layer(
        hidden[None],
        attention_mask=None,
        position_embeddings=(cos[None], signed(sin)[None]),
        position_ids=None,
        past_key_values=None,
        use_cache=False,
        stream_cache=caches,
    )[0]


def _norm(norm: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that applies a norm: the module itself, or one with half as many operations in float32."""
    if not _is_as_checked(norm) or norm.weight.dtype != torch.float32:
        return norm  # in 16 bits the module rounds in between, which the function does not
    size = norm.weight.shape[0]
    weight, least = norm.weight * size**0.5, _scalar((size * norm.variance_epsilon) ** 0.5)

    def normed(hidden: torch.Tensor) -> torch.Tensor:
        if hidden.dtype != torch.float32:
            return norm(hidden)
        length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
        return (hidden / torch.hypot(length, least)).mul_(weight)

    return normed


@lru_cache
@torch.inference_mode(False)  # it outlives the caller's mode
def _scalar(value: float) -> torch.Tensor:
    return torch.tensor(value)


def _computes_the_same(
    kinds: tuple[type, ...], forwards: tuple[Callable, ...], config_class: type[PreTrainedConfig]
) -> bool:
    """Return whether lean and stock passes agree, over a prefill and a decode step of two streams.

    Args:
        kinds: from :func:`_kinds`.
        forwards: their forward passes.
        config_class: the language model's config class.
    """
    if forwards in _CHECKED:
        return _CHECKED[forwards]
    before = dict(_FORWARD)
    _FORWARD.update(zip(kinds, forwards, strict=True))
    try:
        model = _tiny_model(kinds[0], config_class)
        is_same = _kinds(model) == kinds and all(
            torch.allclose(stock, lean, atol=1e-5, rtol=1e-5)
            for stock, lean in zip(_passes(model, forwards[0]), _passes(model, _lean_forward), strict=True)
        )
    except Exception:  # an unknown backbone or transformers release may fail in any way: not supported
        is_same = False
    if not is_same:
        _FORWARD.clear()
        _FORWARD.update(before)
    _CHECKED[forwards] = is_same
    return is_same


@torch.no_grad()
def _passes(model: PreTrainedModel, forward: Callable) -> list[torch.Tensor]:
    """Return the hidden states that streams read after a prefill, and after a decode step."""
    deep: dict[str, Any] = {}
    if _has_deepstack(type(model)):
        features = torch.linspace(-1, 1, 4 * model.config.hidden_size).view(4, -1)
        deep = {"visual_pos_masks": torch.arange(12)[None] % 3 == 1, "deepstack_visual_embeds": [features]}
    caches = [KVCache(KVCachePool([torch.device("cpu")] * 2)) for _ in range(2)]
    found = []
    for ids, lengths in ((torch.arange(12) % 7, [7, 5]), (torch.tensor([3, 4]), [1, 1])):
        packed = PackedBatch(caches, lengths)
        positions = torch.stack([torch.arange(len(ids)) * step for step in (1, 2, 3)])
        hidden = forward(
            model,
            inputs_embeds=model.embed_tokens(ids[None]),
            position_ids=positions[:, None],
            attention_mask=torch.zeros(1, 1, 1, 1),
            use_cache=False,
            stream_cache=packed,
            **deep,
        ).last_hidden_state[0]
        found.append(hidden[packed.last])
        packed.advance()
        deep = {}
    return found


@torch.inference_mode(False)
def _tiny_model(kind: type[PreTrainedModel], config_class: type[PreTrainedConfig]) -> PreTrainedModel:
    config = config_class(
        vocab_size=8,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0, "mrope_section": [1, 1, 2]},
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        model = kind._from_config(config, dtype=torch.float32, attn_implementation="sdpa").eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(std=0.3)
    use_stream_attention(model)
    return model
