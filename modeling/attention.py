"""Attention of several streams in one row: each sees its own cache.

The new tokens of all streams stand one after the other in a row of batch size 1, so that everything but attention
is computed for all of them at once.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLAttention

from .kv_cache import StreamCache, rotate, rotation
from .onednn import attend, is_for_attention
from .stream_together import TokenOfEach

# Its name was another up to transformers 5.23.
CACHE_KEYWORD = "cache" if "cache" in inspect.signature(Qwen2VLAttention.forward).parameters else "past_key_values"


class PackedCaches:
    """The caches of the streams in a row, passed through the layers in place of a transformers cache.

    Args:
        caches: one a stream.
        n_new: how many tokens of the row are of each stream.

    Attributes:
        is_packed: by which :class:`StreamAttention` knows it: that of a model folder's code is another class than the
            installed package's, and either may be given the other's caches.
    """

    is_packed = True

    def __init__(self, caches: Sequence[StreamCache], n_new: Sequence[int]):
        self.caches = caches
        self.n_new = n_new
        self._masks: dict[tuple, torch.Tensor] = {}
        # Streams of one token each that share their memory, by their places in the row.
        of_memory: dict[int, list[int]] = {}
        if len(caches) > 1 and all(n == 1 for n in n_new):
            for i, cache in enumerate(caches):
                of_memory.setdefault(id(cache.memory), []).append(i)
        shared = [rows for rows in of_memory.values() if len(rows) > 1]
        self._together = [(rows, TokenOfEach([caches[i] for i in rows])) for rows in shared]
        # The others: where in the row they are, and which of its tokens are theirs.
        first = itertools.accumulate(n_new, initial=0)
        spans = [(i, slice(at, at + n)) for i, (at, n) in enumerate(zip(first, n_new))]
        in_company = set(itertools.chain(*shared))
        self._apart = [(i, new) for i, new in spans if i not in in_company]

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Add the new tokens of a layer to the caches, and attend from each to its stream up to itself.

        Args:
            layer: the layer's index.
            query: (new tokens, heads, head size), rotated; or of each stream's last token only.
            key: (new tokens, key-value heads, head size), rotated.
            value: of the shape of `key`.
            scale: factor of the scores.

        Returns:
            As `query`.
        """
        if len(self.caches) == 1:
            return self._attend_one(self.caches[0], layer, query, key, value, scale)
        if len(self._together) == 1 and not self._apart:
            return self._attend_together(self._together[0][1], layer, query, key, value, scale)
        attended = torch.empty_like(query)
        for rows, together in self._together:
            attended[rows] = self._attend_together(together, layer, query[rows], key[rows], value[rows], scale)
        is_last = query.shape[0] == len(self.caches)
        for i, new in self._apart:
            rows = slice(i, i + 1) if is_last else new
            attended[rows] = self._attend_one(self.caches[i], layer, query[rows], key[new], value[new], scale)
        return attended

    def advance(self) -> None:
        """Make the caches count what all layers have added; with one token each, they may take the next then."""
        for cache, n in zip(self.caches, self.n_new):
            cache.advance(n)
        for _, together in self._together:
            together.move_on()

    def _attend_one(self, cache, layer, query, key, value, scale):
        """Attend from the new tokens of one stream, or the last of them."""
        n, n_heads, size = query.shape
        keys, values = cache.append(layer, key, value)
        n_kv_heads, length, _ = keys.shape
        if n == 1 and query.device.type != "cuda":
            # Heads that share keys become rows of one query: no key is copied, and no mask is needed. Not on CUDA,
            # where this may go to cuDNN, which makes a plan for each length.
            grouped = query.view(1, n_kv_heads, n_heads // n_kv_heads, size)
            return scaled_dot_product_attention(grouped, keys[None], values[None], scale=scale).view(1, n_heads, size)
        if is_for_attention(query, keys):
            return attend(query, *cache.place(layer), scale, length)
        attended = scaled_dot_product_attention(
            query.transpose(0, 1)[None],
            keys[None],
            values[None],
            attn_mask=self._mask(n, length, query),
            scale=scale,
            enable_gqa=n_heads > n_kv_heads,
        )
        return attended[0].transpose(0, 1)

    def _attend_together(self, together, layer, query, key, value, scale):
        """Attend from a token of each stream, in one operation over the memory that they share."""
        keys, values, mask = together.append(layer, key, value)
        n_heads, size = query.shape[1:]
        n_kv_heads = keys.shape[1]
        grouped = together.to_places(query).view(-1, n_kv_heads, n_heads // n_kv_heads, size)
        if query.device.type == "cpu":  # for a few rows, plain products are faster than blocks of scores
            grouped, keys, values, mask = (t.flatten(0, 1) for t in (grouped, keys, values, mask))
            scores = torch.baddbmm(mask, grouped, keys.transpose(1, 2), alpha=scale)
            attended = torch.bmm(scores.softmax(-1), values)
        else:
            attended = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale)
        return together.of_streams(attended.reshape(-1, n_heads, size))

    def _mask(self, n_new: int, n_all: int, like: torch.Tensor):
        """Return what keeps new tokens from later ones: on CUDA a form that flash attention takes, else a table."""
        if like.device.type == "cuda":
            return causal_lower_right(n_new, n_all)
        key = n_new, n_all, like.device
        if key not in self._masks:  # the same in all layers; numbers, as attention would make of truth values
            self._masks[key] = like.new_full((n_new, n_all), -torch.inf).triu(n_all - n_new + 1)
        return self._masks[key]


class StreamAttention(Qwen2VLAttention):
    """Qwen2-VL's attention that also takes :class:`PackedCaches`; everything else is as it was.

    Attributes:
        takes_packed: whether caches of another copy of this code are taken; see `PackedCaches.is_packed`.
    """

    takes_packed = True

    def forward(self, hidden_states, *args, position_embeddings=None, **kwargs):
        """As `Qwen2VLAttention.forward`.

        Args:
            hidden_states: (batch, length, hidden); batch 1 with packed caches.
            *args: as there.
            position_embeddings: cosine and sine; with packed caches (length, 1, head size) each.
            **kwargs: as there; a transformers cache, or :class:`PackedCaches`, under the name `CACHE_KEYWORD`.
        """
        caches = kwargs.get(CACHE_KEYWORD)
        if not getattr(caches, "is_packed", False):
            return super().forward(hidden_states, *args, position_embeddings=position_embeddings, **kwargs)
        n = hidden_states.shape[1]
        cos, sin = position_embeddings
        query = rotate(self.q_proj(hidden_states).view(n, -1, self.head_dim), cos, sin)
        key = rotate(self.k_proj(hidden_states).view(n, -1, self.head_dim), cos, sin)
        value = self.v_proj(hidden_states).view(n, -1, self.head_dim)
        attended = caches.attend(self.layer_idx, query, key, value, self.scaling)
        return self.o_proj(attended.reshape(1, n, -1)), None


@dataclass(frozen=True)
class Rope:
    """The rotary embedding of a language model.

    Attributes:
        inv_freq: (head size / 2,) frequencies.
        sections: how many frequencies turn with the temporal, height and width position.
        scaling: factor of cosine and sine.
    """

    inv_freq: torch.Tensor
    sections: tuple[int, ...]
    scaling: float

    @classmethod
    def of(cls, language_model) -> Rope:
        """Return that of a `Qwen2VLTextModel`."""
        embedding = language_model.rotary_emb
        return cls(embedding.inv_freq, tuple(embedding.mrope_section), embedding.attention_scaling)

    def table(self, rows: torch.LongTensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosine and sine of positions, as `rotate` takes them.

        The section i of the frequencies turns with row i modulo 3 (Qwen2-VL, arXiv 2409.12191, section 2.1).

        Args:
            rows: (3, n) positions.
            dtype: of the result.

        Returns:
            Two tensors of shape (n, 1, head size).
        """
        device = self.inv_freq.device
        angles = rows.to(device)[..., None].float() * self.inv_freq.float()
        angles = torch.cat([part[i % 3] for i, part in enumerate(angles.split(self.sections, dim=-1))], dim=-1)
        cos, sin = rotation(angles[:, None])
        return (cos * self.scaling).to(dtype), (sin * self.scaling).to(dtype)
