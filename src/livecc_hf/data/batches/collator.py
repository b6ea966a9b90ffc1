"""Collates samples into batches, with one or more samples in each row, padded on the right.

Positions keep the samples of a row separate. `position_ids` has four components: the first counts the tokens of each
sample from 0, the others are its rotary positions. There is no attention mask: transformers' ``eager``, ``sdpa`` and
``flex_attention`` derive it from the first component (`masking_utils.find_packed_sequence_indices`). Flash attention
does so only for a batch of one row, so packed batches also have `cu_seq_lens_q` and related inputs, over all rows.

Padding continues the token count of the last sample in its row. Since it comes after all real tokens, the causal mask
hides it: a batch without packing needs no mask tensor, even if it is padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from livecc_hf.modeling.modeling_livecc import rotary_positions, take_grids, vision_blocks
from livecc_hf.modeling.positions import IMAGE_TYPE, TEXT_TYPE, VIDEO_TYPE, PositionState

from ..samples.sample import IGNORE_INDEX, Sample

if TYPE_CHECKING:
    from livecc_hf.modeling.configuration_livecc import LiveCCConfig

# Names of the patches and grids for each type of vision token.
VISION_INPUTS = {IMAGE_TYPE: ("pixel_values", "image_grid_thw"), VIDEO_TYPE: ("pixel_values_videos", "video_grid_thw")}
_GRIDS = tuple(grids for _, grids in VISION_INPUTS.values())  # images, videos
# Seconds between the frame pairs of each video, if a sample has them; 1 in a commentary. The positions of some
# backbones depend on it. It is not part of a batch, since the model gets positions.
PATCH_SECONDS = "second_per_grid_ts"


class CommentaryCollator:
    """Collates rows of samples into a batch.

    Args:
        config: the model's config, for position scheme, patch merging and end-of-message token. It is read at every
            call, so that later changes to the position scheme take effect.
        pad_token_id: token with which `input_ids` are padded.
        pad_to_multiple_of: round the row length up to a multiple, which is faster on some accelerators.
        images_as_videos: pass images to the model as videos of one temporal step. The result is the same, but the
            vision tower runs exactly once in every batch with images or videos, instead of once for each kind. Ranks
            that shard its parameters depend on that.

    Raises:
        ValueError: if the pad token is missing, or the multiple is not positive.
    """

    def __init__(
        self,
        config: LiveCCConfig,
        pad_token_id: int | None,
        pad_to_multiple_of: int | None = None,
        images_as_videos: bool = False,
    ):
        if pad_token_id is None:
            raise ValueError("the tokenizer has no pad token: set tokenizer.pad_token, e.g. to <|endoftext|>")
        if pad_to_multiple_of is not None and pad_to_multiple_of < 1:
            raise ValueError(f"pad_to_multiple_of is {pad_to_multiple_of}: expected a positive number of tokens")
        self.config = config
        self.pad_token_id = pad_token_id
        self.pad_to_multiple_of = pad_to_multiple_of
        self.images_as_videos = images_as_videos

    def __call__(self, rows: Sequence[Sequence[Sample]]) -> dict[str, torch.Tensor | int]:
        """Collate rows into a batch.

        Args:
            rows: the samples of each row, at least one.

        Returns:
            `input_ids`, `labels`, `mm_token_type_ids` (rows, longest); `position_ids` (4, rows, longest); `n_words`,
            the number of supervised words. With videos, `pixel_values_videos` (patches, values) and `video_grid_thw`
            (videos, 3); with images, `pixel_values` (patches, values) and `image_grid_thw` (images, 3), all in token
            order. If any row has several samples, `cu_seq_lens_q` and `cu_seq_lens_k`, int32 (samples + 1), the start
            of each sample in the concatenated rows and their end, and `max_length_q` and `max_length_k`.

        Raises:
            ValueError: if there are no rows, a row is empty, or a sample's tensors are inconsistent.
        """
        if not rows or not all(rows):
            raise ValueError(f"got rows of {[len(row) for row in rows]} samples: expected at least one sample in each")
        inputs = [[self._prepare_sample(sample) for sample in row] for row in rows]
        n_tokens = [sum(len(sample["input_ids"]) for sample in row) for row in inputs]
        multiple = self.pad_to_multiple_of or 1
        length = -(-max(n_tokens) // multiple) * multiple
        shape = (len(rows), length)
        batch: dict[str, torch.Tensor] = {
            "input_ids": torch.full(shape, self.pad_token_id),
            "labels": torch.full(shape, IGNORE_INDEX),
            "mm_token_type_ids": torch.zeros(shape, dtype=torch.long),
            "position_ids": torch.zeros(4, *shape, dtype=torch.long),
        }
        starts: list[int] = []
        for row, samples in enumerate(inputs):
            starts += [row * length + start for start in self._fill_row(batch, row, samples)]
        samples = [sample for row in inputs for sample in row]
        for names in VISION_INPUTS.values():
            if any(names[1] in sample for sample in samples):
                for name in names:
                    tensors = [sample[name] for sample in samples if name in sample]
                    batch[name] = tensors[0] if len(tensors) == 1 else torch.cat(tensors)  # no copy of up to 400 MB
        varlen = _varlen_inputs(starts, len(rows) * length) if len(samples) > len(rows) else {}
        return {**batch, **varlen, "n_words": sum(sample.n_words for samples in rows for sample in samples)}

    def _fill_row(self, batch: dict[str, torch.Tensor], row: int, samples: list[dict[str, torch.Tensor]]) -> list[int]:
        """Write the samples of a row into the batch; return the start of each in the row."""
        starts, end = [], 0
        for sample in samples:
            start, end = end, end + len(sample["input_ids"])
            for name in ("input_ids", "labels", "mm_token_type_ids"):
                batch[name][row, start:end] = sample[name]
            # The first token of a packed sample would be predicted from the sample before it.
            batch["labels"][row, start] = IGNORE_INDEX
            batch["position_ids"][0, row, start:] = torch.arange(batch["input_ids"].shape[1] - start)
            batch["position_ids"][1:, row, start:end] = sample["position_ids"]
            starts.append(start)
        return starts

    def _rotary_positions(self, sample: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the positions (3, L) that `LiveCCModel.get_rope_index` returns for the sample alone."""
        blocks = vision_blocks(self.config, *(sample.get(name) for name in (*_GRIDS, PATCH_SECONDS)))
        return rotary_positions(self.config, sample["input_ids"], sample["mm_token_type_ids"], blocks, PositionState())

    def _prepare_sample(self, sample: Sample) -> dict[str, torch.Tensor]:
        """Return a sample's inputs with rotary positions, and images as videos if requested.

        Raises:
            ValueError: if the sizes of its tensors are inconsistent.
        """
        inputs = sample.model_inputs
        sizes = {name: tuple(inputs[name].shape) for name in ("input_ids", "labels", "mm_token_type_ids")}
        if len(set(sizes.values())) > 1 or len(sizes["input_ids"]) != 1 or sizes["input_ids"] == (0,):
            raise ValueError(f"a sample's tensors have shapes {sizes}: expected one length (L,), at least 1")
        merged = self.config.vision_config.spatial_merge_size**2
        for kind, (patches, grids) in VISION_INPUTS.items():
            n_patches = len(inputs.get(patches, ()))
            n_in_grids = int(inputs[grids].prod(1).sum()) if grids in inputs else 0
            n_tokens = int((inputs["mm_token_type_ids"] == kind).sum())
            if not n_patches == n_in_grids == n_tokens * merged:
                raise ValueError(
                    f"a sample has {n_patches} patches in {patches}, {n_in_grids} in {grids} and {n_tokens} tokens of "
                    f"type {kind}: expected {merged} patches a token; encode it with the processor of this model"
                )
        positions = {"position_ids": self._rotary_positions(inputs)}
        is_merged = self.images_as_videos and "image_grid_thw" in inputs
        return (self._merge_kinds(inputs) if is_merged else inputs) | positions

    def _merge_kinds(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return inputs with images turned into videos, and patches and grids in token order."""
        types = inputs["mm_token_type_ids"]
        is_image = types == IMAGE_TYPE
        merge_size = self.config.vision_config.spatial_merge_size
        grids = vision_blocks(self.config, *(inputs.get(name) for name in _GRIDS))
        blocks = take_grids(types, grids, merge_size)
        patches = inputs["pixel_values"]
        if "pixel_values_videos" in inputs:
            kinds = types[types != TEXT_TYPE].repeat_interleave(merge_size**2)  # of each patch, in order
            patches = patches.new_empty(len(kinds), patches.shape[1])
            for kind, (name, _) in VISION_INPUTS.items():
                patches[kinds == kind] = inputs[name]
        return {
            "input_ids": torch.where(is_image, self.config.video_token_id, inputs["input_ids"]),
            "labels": inputs["labels"],
            "mm_token_type_ids": torch.where(is_image, VIDEO_TYPE, types),
            "pixel_values_videos": patches,
            "video_grid_thw": torch.tensor([block[:3] for block in blocks]),
        }


def _varlen_inputs(starts: list[int], total: int) -> dict[str, torch.Tensor | int]:
    """Return the inputs by which flash attention separates samples in `total` tokens."""
    cumulative = torch.tensor([*starts, total], dtype=torch.int32)
    longest = int(cumulative.diff().max())
    return {
        "cu_seq_lens_q": cumulative,
        "cu_seq_lens_k": cumulative,
        "max_length_q": longest,
        "max_length_k": longest,
    }
