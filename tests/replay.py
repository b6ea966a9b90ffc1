"""A naive replay of a stream: keys are kept unrotated, and rotated for each query to their positions at that time.

It shares only the model's modules with the engine, and decides itself which tokens are kept and at which positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Item:
    """One token of the context."""

    token_id: int
    turn: int
    kind: str  # "text" or "vision" (markers included)
    end_s: float
    grid: tuple[int, int, int] | None = None  # of the block, at its first vision token
    is_flat: bool = False


class Replay:
    """The context of one stream, and the logits of its next token."""

    def __init__(self, model, scheme: str):
        self.model, self.scheme = model, scheme
        self.temporal_step = getattr(model.config.vision_config, "tokens_per_second", 1)
        self.items: list[Item] = []
        text = model.model.language_model
        self.keys = [[] for _ in text.layers]
        self.values = [[] for _ in text.layers]

    def positions(self) -> torch.Tensor:
        """(3, tokens): contiguous over the kept tokens."""
        rows, following, block = [], 0, []
        merge = self.model.config.vision_config.spatial_merge_size
        for item in self.items:
            if self.scheme == "sequential" or item.is_flat or item.token_id != self.model.config.video_token_id:
                rows.append((following,) * 3)
                following += 1
                continue
            if item.grid is not None:
                t, h, w = item.grid
                block = [
                    (following + int(a * self.temporal_step), following + b, following + c)
                    for a in range(t)
                    for b in range(h // merge)
                    for c in range(w // merge)
                ]
                following = max(max(position) for position in block) + 1
            rows.append(block.pop(0))
        return torch.tensor(rows).T

    def evict_except(self, stays) -> None:
        """Keep the items for which `stays` holds."""
        index = [i for i, item in enumerate(self.items) if stays(item)]
        self.items = [self.items[i] for i in index]
        for held in (self.keys, self.values):
            for layer, tensors in enumerate(held):
                held[layer] = [tensors[i] for i in index]

    def reprefill(self) -> None:
        """Compute keys and values of all kept tokens again."""
        items, self.items = self.items, []
        self.keys, self.values = ([[] for _ in held] for held in (self.keys, self.values))
        self.prefill(items)

    @torch.no_grad()
    def prefill(self, items: list[Item], features: torch.Tensor | None = None, deep: Sequence = ()) -> torch.Tensor:
        """Prefill tokens and return the logits (vocabulary,) of the next one.

        Args:
            items: the tokens.
            features: of the vision tokens among them.
            deep: what is added to the hidden states of these after the first layers (DeepStack).
        """
        model, text = self.model, self.model.model.language_model
        self.items += items
        hidden = text.embed_tokens(torch.tensor([item.token_id for item in items]))
        shown = [i for i, item in enumerate(items) if item.token_id == model.config.video_token_id]
        if features is not None:
            hidden[shown] = features
        rows = self.positions()
        n = len(items)
        for number, (layer, keys, values) in enumerate(zip(text.layers, self.keys, self.values)):
            attention = layer.self_attn
            q_norm, k_norm = (getattr(attention, name, nn.Identity()) for name in ("q_norm", "k_norm"))
            x = layer.input_layernorm(hidden)
            size = attention.head_dim
            keys += k_norm(attention.k_proj(x).view(n, -1, size))
            values += attention.v_proj(x).view(n, -1, size)
            query = self.rotated(q_norm(attention.q_proj(x).view(n, -1, size)), rows[:, -n:])
            key, value = self.rotated(torch.stack(keys), rows), torch.stack(values)
            outs = []
            for i in range(n):
                seen = len(self.items) - n + i + 1
                heads = []
                for head in range(query.shape[1]):
                    shared = head * key.shape[1] // query.shape[1]
                    scores = key[:seen, shared] @ query[i, head] / size**0.5
                    heads.append(scores.softmax(0) @ value[:seen, shared])
                outs.append(torch.cat(heads))
            hidden = hidden + attention.o_proj(torch.stack(outs))
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
            if number < len(deep):
                hidden[shown] += deep[number]
        return model.lm_head(text.norm(hidden[-1]))

    def rotated(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Rotate (n, heads, size) by positions (3, n): frequency j by the axis of its section."""
        embedding = self.model.model.language_model.rotary_emb
        sections = embedding.mrope_section
        of_row = [i % 3 for i, count in enumerate(sections) for _ in range(count)]
        if embedding.config.rope_parameters.get("mrope_interleaved"):  # thw, thw, ... and the rest by time
            of_row = [j % 3 if j < 3 * sections[j % 3] else 0 for j in range(len(embedding.inv_freq))]
        angles = torch.stack([rows[row].float() * f for row, f in zip(of_row, embedding.inv_freq)], dim=-1)[:, None]
        a, b = x.split(x.shape[-1] // 2, dim=-1)
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], dim=-1)
