"""The LiveCC model: Qwen2-VL with a position scheme, and the streaming commentary on top of it."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)

from .configuration_livecc import POSITION_SCHEMES, LiveCCConfig, check_position_scheme
from .positions import PositionState, extend_positions
from .streaming_mixin import StreamingMixin

# Published checkpoints carry Qwen2-VL's first key layout (`visual.*`, `model.layers.*`); without a mapping
# for this class they would load with the language model left at random.
register_checkpoint_conversion_mapping(
    "LiveCCForConditionalGeneration",
    get_checkpoint_conversion_mapping("Qwen2VLForConditionalGeneration"),
    overwrite=True,
)


_HUB_OPTIONS = ("repo_id", "commit_message", "create_pr", "private", "revision", "tags")


class LiveCCModel(Qwen2VLModel):
    """Qwen2-VL's body whose positions follow `config.position_scheme`."""

    config_class = LiveCCConfig

    def forward(self, *args, kept_positions: torch.BoolTensor | None = None, **kwargs):
        """As `Qwen2VLModel.forward`.

        Args:
            kept_positions: (batch, length); `last_hidden_state` then holds these positions only, row after row, in
                shape (1, kept, hidden). Training needs the head at supervised positions alone, and most tokens of a
                commentary are vision.

        Raises:
            ValueError: if the model is in training mode and its scheme is for inference only.
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
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rotary positions of a batch, in the config's scheme.

        Unlike the stock method, what follows a video continues from the largest position used plus one,
        as Qwen2-VL was trained: the two differ where a clip has more temporal than spatial steps.

        Args:
            input_ids: (batch, length).
            mm_token_type_ids: (batch, length); 0 text, 1 image, 2 video.
            image_grid_thw: (images, 3) in patches.
            video_grid_thw: (videos, 3) in patches.
            attention_mask: (batch, length); padding gets position 0.

        Returns:
            positions of shape (3, batch, length), and (batch, 1) deltas: next position minus the
            number of tokens.
        """
        grids = {
            1: [] if image_grid_thw is None else image_grid_thw.tolist(),
            2: [] if video_grid_thw is None else video_grid_thw.tolist(),
        }
        merge_size = self.config.vision_config.spatial_merge_size
        positions = torch.zeros(3, *input_ids.shape, dtype=torch.long)
        deltas = []
        for row, (ids, types) in enumerate(zip(input_ids.cpu(), mm_token_type_ids.cpu())):
            kept = torch.ones_like(ids, dtype=torch.bool)
            if attention_mask is not None:
                kept = attention_mask[row].cpu().bool()
            ids, types = ids[kept], types[kept]
            state = PositionState()
            positions[:, row, kept] = extend_positions(
                types,
                _take_grids(types, grids, merge_size),
                state,
                self.config.position_scheme,
                message_ends=torch.isin(ids, self._message_end_ids()),
                merge_size=merge_size,
            )
            deltas.append([state.next_position - len(ids)])
        device = input_ids.device
        return positions.to(device), torch.tensor(deltas, device=device)

    def _message_end_ids(self) -> torch.Tensor:
        """Return the ids that close a message (`<|im_end|>` in Qwen2-VL's chat format)."""
        ids = self.config.message_end_token_id
        if ids is None:
            ids = self.config.text_config.eos_token_id
        return torch.tensor([ids] if isinstance(ids, int) else list(ids or []), dtype=torch.long)


def _take_grids(types: torch.Tensor, grids: dict[int, list], merge_size: int) -> list[list[int]]:
    """Take from `grids` (by type, changed in place) those of one sequence's vision tokens, in order."""
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


class LiveCCForConditionalGeneration(StreamingMixin, Qwen2VLForConditionalGeneration):
    """Qwen2-VL that comments on video while it plays.

    `generate` answers image and video questions as with Qwen2-VL; :meth:`start_stream` and
    :meth:`stream_generate` comment in real time.
    """

    config_class = LiveCCConfig

    def __init__(self, config: LiveCCConfig):
        check_position_scheme(config.position_scheme)  # may have been set after the config was made
        # Past Qwen2-VL's own constructor, which would build and initialise a second body.
        super(Qwen2VLForConditionalGeneration, self).__init__(config)
        self.model = LiveCCModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def enable_input_require_grads(self):
        """As `PreTrainedModel.enable_input_require_grads`, but for a frozen vision tower.

        Gradient checkpointing asks for this, and a frozen tower would be computed again and differentiated for nothing.
        """
        super().enable_input_require_grads()
        visual = self.model.visual
        if any(parameter.requires_grad for parameter in visual.parameters()):
            return
        for hook in self._require_grads_hooks:
            if hook.id in visual.get_input_embeddings()._forward_hooks:
                hook.remove()

    def save_pretrained(
        self, save_directory, *args, save_original_format: bool = False, push_to_hub: bool = False, **kwargs
    ):
        """As `PreTrainedModel.save_pretrained`, in the key layout of the modules.

        With `save_original_format=True` the keys go back to Qwen2-VL's published layout; a full
        fine-tune resumed from such a folder by `Trainer` would drop every renamed weight.

        Of a model that was loaded from an adapter, the adapter alone is saved, as transformers does; what it needs
        stands beside it: `config.json` with its position scheme, which may not be its base's, and its processor.
        """
        kwargs["save_original_format"] = save_original_format
        if not getattr(self, "_hf_peft_config_loaded", False):
            return super().save_pretrained(save_directory, *args, push_to_hub=push_to_hub, **kwargs)
        hub = {name: kwargs.pop(name) for name in _HUB_OPTIONS if name in kwargs}
        super().save_pretrained(save_directory, *args, **kwargs)
        if kwargs.get("is_main_process", True):
            self._save_beside_adapter(Path(save_directory))
            if push_to_hub:  # saves once more: transformers would not send what it has not written itself
                repo_id = hub.pop("repo_id", None) or Path(save_directory).name
                token = {"token": kwargs["token"]} if "token" in kwargs else {}
                self.push_to_hub(repo_id, **hub, **token)

    def _save_beside_adapter(self, folder: Path) -> None:
        config = copy.deepcopy(self.config)
        if hasattr(config, "quantization_config"):  # how the base was held, not what the adapter needs
            del config.quantization_config
        config.architectures = ["LiveCCForConditionalGeneration"]
        config.save_pretrained(folder)
        processor = getattr(self, "_adapter_processor", None)
        if processor is not None and not (folder / "processor_config.json").exists():
            processor.save_pretrained(folder)


LiveCCForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
