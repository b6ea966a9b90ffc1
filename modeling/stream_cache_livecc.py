"""The keys and values of one stream: preallocated, cut at the end, thinned out in the middle.

Nothing is concatenated per token: what is read is written into memory that is there, which grows in steps while
the context grows and stays as it is once a window bounds it.
"""

from __future__ import annotations

import torch

# Memory is reserved in steps of this many tokens, and grows by half, so that each token is copied O(1) times.
_STEP = 256
_GROWTH = 1.5


class StreamCache:
    """Keys and values of the first `length` tokens, layer by layer.

    Args:
        n_layers: layers of the language model.
        is_movable: whether tokens may be dropped from the middle (:meth:`keep`). The keys are then also kept as they
            were first read: each move starts from these, so that no rounding adds up however often a key moves.

    Attributes:
        length: tokens held; every layer holds as many once a forward pass is complete.
    """

    def __init__(self, n_layers: int, is_movable: bool = False):
        self.length = 0
        # Of shape (key-value heads, capacity, head size) each; made by the first `append`, on the layer's device.
        self._keys: list[torch.Tensor | None] = [None] * n_layers
        self._values: list[torch.Tensor | None] = [None] * n_layers
        self._first_keys: list[torch.Tensor | None] | None = [None] * n_layers if is_movable else None
        self._moved_back = torch.zeros(0, dtype=torch.long)  # of the first tokens; the others have not moved

    @property
    def capacity(self) -> int:
        """Tokens for which there is memory."""
        return max((keys.shape[1] for keys in self._keys if keys is not None), default=0)

    @property
    def n_bytes(self) -> int:
        """Bytes of memory reserved."""
        held = (*self._keys, *self._values, *(self._first_keys or ()))
        return sum(tensor.numel() * tensor.element_size() for tensor in held if tensor is not None)

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write new tokens of a layer behind those held; `advance` makes them count.

        Args:
            layer: the layer's index.
            keys: (new tokens, key-value heads, head size), rotated.
            values: of the same shape.

        Returns:
            Views of keys and values, old and new, of shape (key-value heads, `length` + new tokens, head size).
        """
        end = self.length + keys.shape[0]
        if self._keys[layer] is None or self._keys[layer].shape[1] < end:
            self._grow(layer, keys, end)
        new = slice(self.length, end)
        self._keys[layer][:, new] = keys.transpose(0, 1)
        self._values[layer][:, new] = values.transpose(0, 1)
        return self._keys[layer][:, :end], self._values[layer][:, :end]

    def advance(self, n_tokens: int) -> None:
        """Count tokens that every layer has appended."""
        self.length += n_tokens

    def truncate(self, length: int) -> None:
        """Forget all tokens from index `length` on."""
        self.length = min(self.length, length)
        self._moved_back = self._moved_back[: self.length]

    def keep(self, kept: torch.LongTensor, moved_back: torch.LongTensor, inv_freq: torch.Tensor) -> None:
        """Keep some tokens, in order, and move their keys back to earlier positions.

        Keys are held rotated; rotations compose, so a key at position p becomes the key at p - d by one more rotation
        by -d (RoFormer, arXiv 2104.09864, section 3.2.2; with Qwen2-VL's three positions, by -d in each of them).

        Args:
            kept: (kept,) indices of the tokens to keep, increasing.
            moved_back: (kept,) how far the position of each goes back; 0 before the first dropped token.
            inv_freq: (head size / 2,) the rotary embedding's frequencies.
        """
        if self._first_keys is None:
            raise ValueError("tokens can only be dropped from the middle of a cache made with is_movable=True")
        new = slice(len(self._moved_back), self.length)
        for first_keys, keys in zip(self._first_keys, self._keys):
            first_keys[:, new] = keys[:, new]  # never moved: held as they were first read
        unmoved = torch.zeros(new.stop - new.start, dtype=torch.long)
        self._moved_back = torch.cat([self._moved_back, unmoved])[kept] + moved_back
        n_kept, self.length = len(kept), len(kept)
        n_same = int((kept == torch.arange(n_kept)).sum())  # those before the first dropped one stay where they are
        if n_same == n_kept:
            return
        index, to = kept[n_same:], slice(n_same, n_kept)
        angles = -self._moved_back[to, None].float() * inv_freq.float().cpu()
        cos, sin = (torch.cat([t, t], dim=-1) for t in (angles.cos(), angles.sin()))
        for keys, first_keys, values in zip(self._keys, self._first_keys, self._values):
            if index.device != keys.device:  # layers may be on several devices
                index, cos, sin = (t.to(keys.device) for t in (index, cos, sin))
            moved = first_keys.index_select(1, index)
            first_keys[:, to] = moved
            keys[:, to] = rotate(moved.float(), cos, sin).to(keys.dtype)
            values[:, to] = values.index_select(1, index)

    def _grow(self, layer: int, like: torch.Tensor, n_tokens: int) -> None:
        wanted = self.capacity  # what an earlier layer has, so that all have the same
        if wanted < n_tokens:
            wanted = -(-max(n_tokens, int(wanted * _GROWTH)) // _STEP) * _STEP
        for held in (self._keys, self._values, self._first_keys):
            if held is None:
                continue
            larger = like.new_empty(like.shape[1], wanted, like.shape[2])
            if held[layer] is not None:
                larger[:, : self.length] = held[layer][:, : self.length]
            held[layer] = larger


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Apply a rotary embedding to the last dimension of `x`, halves paired as in Qwen2-VL."""
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-b, a], dim=-1) * sin
