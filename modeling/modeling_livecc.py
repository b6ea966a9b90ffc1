"""The LiveCC model: a backbone with a position scheme and streaming commentary.

Users call `LiveCCForConditionalGeneration`. Its instances belong to a subclass per backbone, created here on first
use, that also inherits from the backbone's stock class.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .configuration_livecc import POSITION_SCHEMES, LiveCCConfig  # first: checks transformers' version # isort: skip
from transformers import GenerationMixin, PreTrainedModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.utils import ModelOutput

from .backbones import BACKBONES, find_backbone
from .positions import PositionState, extend_positions
from .streaming_mixin import StreamingMixin

# Published checkpoints of Qwen2-VL and Qwen2.5-VL have an older key layout (`visual.*`, `model.layers.*`). Without a
# mapping for this class, their language model would load as random weights. Other layouts are not affected.
register_checkpoint_conversion_mapping(
    "LiveCCForConditionalGeneration",
    get_checkpoint_conversion_mapping("Qwen2VLForConditionalGeneration"),
    overwrite=True,
)


_HUB_OPTIONS = ("repo_id", "commit_message", "create_pr", "private", "revision", "tags")


class LiveCCModel(PreTrainedModel):
    """A backbone's model without head, with positions by `config.position_scheme`; see `model_class`."""

    config_class = LiveCCConfig

    def forward(self, *args: Any, kept_positions: torch.BoolTensor | None = None, **kwargs: Any) -> ModelOutput:
        """As the backbone's forward.

        Args:
            kept_positions: (batch, length); reduces `last_hidden_state` to these positions, row after row, in shape
                (1, kept, hidden). Training runs the head only at supervised positions, and most tokens of a commentary
                are vision tokens.

        Raises:
            ValueError: if the model is in training mode and its position scheme is for inference only.
        """
        if self.training and self.config.position_scheme == "reference":
            others = ", ".join(scheme for scheme in POSITION_SCHEMES if scheme != "reference")
            raise ValueError(
                "position_scheme='reference' changes numbering inside a stream and is for inference only; to train, "
                f"set config.position_scheme to one of {others} (released LiveCC weights: 'sequential')"
            )
        outputs = super().forward(*args, **kwargs)
        if kept_positions is not None:
            outputs.last_hidden_state = outputs.last_hidden_state[kept_positions][None]
        return outputs

    def get_rope_index(
        self,
        input_ids: torch.Tensor,
        mm_token_type_ids: torch.Tensor,
        image_grid_thw: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        second_per_grid_ts: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rotary positions of a batch in the config's scheme.

        Unlike in the stock method, tokens after a video continue from the largest position so far plus one, as the
        backbones were trained. The two differ if a clip has more temporal than spatial steps.

        Args:
            input_ids: (batch, length).
            mm_token_type_ids: (batch, length); 0 text, 1 image, 2 video.
            image_grid_thw: (images, 3) in patches.
            video_grid_thw: (videos, 3) in patches.
            attention_mask: (batch, length); padding gets position 0.
            second_per_grid_ts: (videos,) seconds from one frame pair to the next, default 1; used by Qwen2.5-VL only.

        Returns:
            positions (3, batch, length), and deltas (batch, 1): next position minus the number of tokens.

        Raises:
            ValueError: if a vision token has no grid.
        """
        blocks = vision_blocks(self.config, image_grid_thw, video_grid_thw, second_per_grid_ts)
        positions = torch.zeros(3, *input_ids.shape, dtype=torch.long)
        deltas = []
        for row, (ids, types) in enumerate(zip(input_ids.cpu(), mm_token_type_ids.cpu())):
            kept = torch.ones_like(ids, dtype=torch.bool)
            if attention_mask is not None:
                kept = attention_mask[row].cpu().bool()
            ids, types = ids[kept], types[kept]
            state = PositionState()
            positions[:, row, kept] = rotary_positions(self.config, ids, types, blocks, state)
            deltas.append([state.next_position - len(ids)])
        device = input_ids.device
        return positions.to(device), torch.tensor(deltas, device=device)


def vision_blocks(
    config: LiveCCConfig,
    image_grids: torch.Tensor | None,
    video_grids: torch.Tensor | None,
    patches_s: Sequence[float] | torch.Tensor | None = None,
) -> dict[int, list[list]]:
    """Return the vision blocks of a batch in order, for `rotary_positions`.

    Args:
        config: the model's config.
        image_grids: (images, 3) in patches, or `None`.
        video_grids: (videos, 3) in patches, or `None`.
        patches_s: (videos,) seconds from one frame pair to the next, default 1.

    Returns:
        For each token type (1 image, 2 video) a list of `[t, h, w, temporal step]`.
    """
    backbone = config.find_backbone()
    blocks: dict[int, list[list]] = {1: [], 2: []}
    for grid in [] if image_grids is None else image_grids.tolist():
        blocks[1].append([*grid, 1])
    for i, grid in enumerate([] if video_grids is None else video_grids.tolist()):
        step = backbone.temporal_step(config.vision_config, 1.0 if patches_s is None else float(patches_s[i]))
        blocks[2] += [[*block, step] for block in backbone.block_grids(grid)]
    return blocks


def rotary_positions(
    config: LiveCCConfig, ids: torch.Tensor, types: torch.Tensor, blocks: dict[int, list[list]], state: PositionState
) -> torch.Tensor:
    """Return the rotary positions (3, L) of one sequence.

    Args:
        config: the model's config.
        ids: (L,) token ids.
        types: (L,) token types; 0 text, 1 image, 2 video.
        blocks: as `vision_blocks` returns them; those of the sequence are removed.
        state: the state of the sequence; changed in place.

    Raises:
        ValueError: if a vision token has no grid.
    """
    merge_size = config.vision_config.spatial_merge_size
    taken = take_grids(types, blocks, merge_size)
    end_ids = config.message_end_token_id
    if end_ids is None:
        end_ids = config.text_config.eos_token_id
    return extend_positions(
        types,
        [block[:3] for block in taken],
        state,
        config.position_scheme,
        message_ends=torch.isin(ids, torch.tensor([] if end_ids is None else end_ids, dtype=torch.long)),
        merge_size=merge_size,
        temporal_steps=[block[3] for block in taken],
    )


def take_grids(types: torch.Tensor, grids: dict[int, list], merge_size: int) -> list[list]:
    """Remove the grids of one sequence's vision tokens from `grids` (lists by type) and return them in order.

    Args:
        types: (L,) token types; 0 text, 1 image, 2 video.
        grids: for each token type a list of grids that start with (t, h, w), in patches; changed in place.
        merge_size: patches merged to one token along height and width.

    Raises:
        ValueError: if a vision token has no grid.
    """
    taken = []
    i = 0
    kinds = types.tolist()
    while i < len(kinds):
        if kinds[i] == 0:
            i += 1
            continue
        if not grids[kinds[i]]:
            raise ValueError(
                f"token {i} is a vision token of type {kinds[i]} (1 image, 2 video), but no grid is left for it: pass "
                "the image_grid_thw / video_grid_thw that the processor returned"
            )
        grid = grids[kinds[i]].pop(0)
        taken.append(grid)
        i += grid[0] * (grid[1] // merge_size) * (grid[2] // merge_size)
    return taken


class LiveCCForConditionalGeneration(StreamingMixin, PreTrainedModel, GenerationMixin):
    """A vision-language model that comments on video while it plays: Qwen2-VL, Qwen2.5-VL or Qwen3-VL.

    `generate` answers image and video questions as the backbone does; :meth:`start_stream` and
    :meth:`stream_generate` comment in real time.

    Args:
        config: its `backbone` selects the stock class that the model is also an instance of.
    """

    config_class = LiveCCConfig

    def __new__(cls, config: LiveCCConfig | None = None, *args: Any, **kwargs: Any):
        """Create an instance of the subclass for `config.backbone`; of `cls` itself without a config (copy, pickle)."""
        if cls is LiveCCForConditionalGeneration and config is not None:
            return super().__new__(model_class(config.backbone))
        return super().__new__(cls)

    def __init__(self, config: LiveCCConfig):
        config.check_scheme()  # the scheme may have been set after the config was created
        stock_class: Any
        stock_class, body_class = config.find_backbone().model_classes()
        # Skip the stock class's constructor, which would build a second model.
        super(stock_class, self).__init__(config)
        self.model = _combined(LiveCCModel, body_class, config.backbone)(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def enable_input_require_grads(self) -> None:
        """As `PreTrainedModel.enable_input_require_grads`, but not for a frozen vision tower.

        Gradient checkpointing calls this; a frozen tower would then be recomputed and differentiated for nothing.
        """
        super().enable_input_require_grads()
        visual = self.model.visual
        if any(parameter.requires_grad for parameter in visual.parameters()):
            return
        for hook in self._require_grads_hooks:
            if any(hook.id in module._forward_hooks for module in visual.modules()):
                hook.remove()

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        *args: Any,
        save_original_format: bool = False,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """As `PreTrainedModel.save_pretrained`, with the key layout of the modules.

        With `save_original_format=True` the keys get the backbone's published layout; `Trainer` would drop every
        renamed weight when it resumes a full fine-tune from such a folder.

        If the model was loaded from an adapter, transformers saves only the adapter. The `config.json` and processor
        are saved with it, since position scheme and processor may differ from the base model's.
        """
        kwargs["save_original_format"] = save_original_format and self.config.find_backbone().renames_weights
        if not getattr(self, "_hf_peft_config_loaded", False):
            return super().save_pretrained(save_directory, *args, push_to_hub=push_to_hub, **kwargs)
        hub = {name: kwargs.pop(name) for name in _HUB_OPTIONS if name in kwargs}
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            self._save_beside_adapter(Path(save_directory))
            if push_to_hub:  # saves again: transformers only uploads files that it wrote itself
                repo_id = hub.pop("repo_id", None) or Path(save_directory).name
                token = {"token": kwargs["token"]} if "token" in kwargs else {}
                self.push_to_hub(repo_id, **hub, **token)

    def _save_beside_adapter(self, folder: Path) -> None:
        config = copy.deepcopy(self.config)
        if hasattr(config, "quantization_config"):  # describes the loaded base, not the adapter
            del config.quantization_config
        config.architectures = ["LiveCCForConditionalGeneration"]
        config.save_pretrained(folder)
        processor = getattr(self, "_adapter_processor", None)
        if processor is not None and not (folder / "processor_config.json").exists():
            processor.save_pretrained(folder)


LiveCCForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")


def model_class(backbone: str) -> type[LiveCCForConditionalGeneration]:
    """Return the class of models with this backbone.

    Raises:
        ValueError: if there is no such backbone.
    """
    return _combined(LiveCCForConditionalGeneration, find_backbone(backbone).model_classes()[0], backbone)


def _combined(ours: type, stock: type, backbone: str) -> type:
    """Return the subclass of one of our classes and a stock class, created once per backbone."""
    name = f"{ours.__name__}_{backbone}"
    if name not in globals():
        # `__name__` is ours: transformers uses it for key layouts and configs. Pickle looks up `__qualname__`.
        names = {"__module__": __name__, "__qualname__": name, "__doc__": ours.__doc__}
        globals()[name] = type(ours.__name__, (ours, stock), names)
    return globals()[name]


def __getattr__(name: str) -> type:
    """Return a subclass named in a pickle if this process has not created it yet."""
    for ours in (LiveCCForConditionalGeneration, LiveCCModel):
        backbone = name.removeprefix(f"{ours.__name__}_")
        if backbone in BACKBONES and backbone != name:
            return _combined(ours, find_backbone(backbone).model_classes()[ours is LiveCCModel], backbone)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
