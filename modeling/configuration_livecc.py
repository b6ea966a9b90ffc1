"""LiveCC model configuration."""

from __future__ import annotations

import os
from typing import Any

import transformers

if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (5, 17):
    # Before the imports that an older version would fail on.
    raise ImportError(
        f"LiveCC's code needs transformers 5.17 or newer, but {transformers.__version__} is installed: "
        'pip install -U "transformers>=5.17"'
    )

from transformers import Qwen2VLConfig
from transformers.utils import logging

from .backbones import DEFAULT_BACKBONE, Backbone, backbone_of_values, check_backbone, find_backbone

logger = logging.get_logger(__name__)

POSITION_SCHEMES = ("mrope", "sequential", "reference")

AUTO_MAP = {
    "AutoConfig": "configuration_livecc.LiveCCConfig",
    "AutoModel": "modeling_livecc.LiveCCForConditionalGeneration",
    "AutoModelForImageTextToText": "modeling_livecc.LiveCCForConditionalGeneration",
    "AutoModelForMultimodalLM": "modeling_livecc.LiveCCForConditionalGeneration",
    "AutoProcessor": "processing_livecc.StreamingProcessor",
    "AutoVideoProcessor": "video_processing_livecc.LiveCCVideoProcessor",
}


def check_position_scheme(scheme: str) -> None:
    """Raise `ValueError` if `scheme` is not one of `POSITION_SCHEMES`."""
    if scheme not in POSITION_SCHEMES:
        raise ValueError(f"position_scheme={scheme!r} is unknown: expected one of {', '.join(POSITION_SCHEMES)}")


class LiveCCConfig(Qwen2VLConfig):
    """Configuration of :class:`LiveCCForConditionalGeneration`: the backbone's config plus the position scheme.

    Args:
        backbone: the model family of the weights: ``qwen2_vl``, ``qwen2_5_vl`` or ``qwen3_vl``; `text_config` and
            `vision_config` are that family's.
        position_scheme: how tokens of a stream are numbered for the rotary embedding: ``mrope`` (3-D positions in
            every turn), ``sequential`` (1-D positions for every token) or ``reference`` (3-D in the first turn, 1-D
            after it; inference only). Saved with the checkpoint because the weights depend on it. The last two exist
            only for Qwen2-VL, the backbone of the released LiveCC weights.
        message_end_token_id: the id of `<|im_end|>`, which marks the end of the first turn in scheme ``reference``;
            `None`: the language model's `eos_token_id`.

    Raises:
        ValueError: if the backbone is unknown, has another patch size, or does not support the `position_scheme`.
    """

    model_type = "livecc"

    backbone: str = DEFAULT_BACKBONE
    position_scheme: str = "mrope"
    message_end_token_id: int | None = None

    def __post_init__(self, **kwargs: Any):
        check_backbone(self.backbone)
        if self.backbone != DEFAULT_BACKBONE:  # the base class is Qwen2-VL's config
            kwargs = self._take_from_backbone(kwargs)
        super().__post_init__(**kwargs)
        self._check_patches()
        self.check_scheme()

    def _take_from_backbone(self, values: dict) -> dict:
        """Parse the backbone's own values with its config class, and return the remaining ones."""
        own = {name: getattr(self, name) for name in ("text_config", "vision_config", "tie_word_embeddings")}
        taken = self.find_backbone().config_class()(**own, **values)
        self.text_config, self.vision_config = taken.text_config, taken.vision_config
        self.tie_word_embeddings = taken.tie_word_embeddings
        flat = vars(self.text_config) if self.text_config is not None else {}
        return {name: value for name, value in values.items() if name not in flat or hasattr(type(self), name)}

    def find_backbone(self) -> Backbone:
        """Return the backbone object for this config's `backbone` name."""
        return find_backbone(self.backbone)

    def _check_patches(self) -> None:
        expected = self.find_backbone().patch_size
        given = getattr(self.vision_config, "patch_size", expected)
        if given != expected:
            raise ValueError(
                f"vision_config.patch_size is {given!r:.80}, but a {self.backbone} has patches of {expected} pixels: "
                "use the config.json that was published with the weights"
            )

    def check_scheme(self) -> None:
        """Raise `ValueError` if the position scheme is unknown or the backbone does not support it."""
        check_position_scheme(self.position_scheme)
        known = self.find_backbone().position_schemes
        if self.position_scheme not in known:
            raise ValueError(
                f"position_scheme={self.position_scheme!r} is only for {DEFAULT_BACKBONE}, whose released LiveCC "
                f"weights need it; this model is a {self.backbone}: expected {' or '.join(map(repr, known))}"
            )

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> LiveCCConfig:
        """As `PreTrainedConfig.from_dict`, but also accept the config of a backbone's published checkpoint.

        Warns if a published Qwen2-VL config does not name a position scheme.

        Raises:
            ValueError: if the config belongs to another family of models.
        """
        if "backbone" not in kwargs:
            config_dict = {**config_dict, "backbone": backbone_of_values(config_dict)}
        is_open = "position_scheme" not in config_dict and "position_scheme" not in kwargs
        if config_dict.get("model_type") == DEFAULT_BACKBONE and is_open:
            logger.warning(
                "a published Qwen2-VL config names no position scheme: assuming 'mrope'. Released LiveCC weights need "
                "position_scheme='reference' to run as published, or 'sequential' to train further."
            )
        return super().from_dict(config_dict, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save with an `auto_map` for every auto class; arguments as in `PreTrainedConfig.save_pretrained`."""
        # `register_for_auto_class` keeps one auto class, and a config loaded from the Hub has its repo in `auto_map`.
        self.auto_map = dict(AUTO_MAP)
        return super().save_pretrained(save_directory, **kwargs)


LiveCCConfig.register_for_auto_class()
