"""LiveCC model configuration."""

from __future__ import annotations

import transformers

if tuple(int(part) for part in transformers.__version__.split(".")[:2]) < (5, 17):
    # Here, before anything that an older one lacks is imported.
    raise ImportError(
        f"LiveCC's code needs transformers 5.17 or newer, but {transformers.__version__} is installed: "
        'pip install -U "transformers>=5.17"'
    )

from transformers import Qwen2VLConfig
from transformers.utils import logging

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
    """Raise `ValueError` if `scheme` is none of `POSITION_SCHEMES`."""
    if scheme not in POSITION_SCHEMES:
        raise ValueError(f"position_scheme={scheme!r} is unknown: expected one of {', '.join(POSITION_SCHEMES)}")


class LiveCCConfig(Qwen2VLConfig):
    """Configuration of :class:`LiveCCForConditionalGeneration`: Qwen2-VL's, and the position scheme.

    Args:
        position_scheme: how tokens of a stream are numbered for the rotary embedding, saved with the
            checkpoint because the weights depend on it: ``mrope`` (3-D positions in every turn),
            ``sequential`` (1-D positions for every token) or ``reference`` (3-D in the first turn, 1-D
            after it; inference only).
        message_end_token_id: the id of `<|im_end|>`, where scheme ``reference`` looks for the end of the first
            turn; `None`: the language model's `eos_token_id`.

    Raises:
        ValueError: if `position_scheme` is none of these.
    """

    model_type = "livecc"

    position_scheme: str = "mrope"
    message_end_token_id: int | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        check_position_scheme(self.position_scheme)

    @classmethod
    def from_dict(cls, config_dict, **kwargs):
        """As `PreTrainedConfig.from_dict`; says so where a published config leaves the position scheme open."""
        is_open = "position_scheme" not in config_dict and "position_scheme" not in kwargs
        if config_dict.get("model_type") == "qwen2_vl" and is_open:
            logger.warning(
                "a published Qwen2-VL config names no position scheme: assuming 'mrope'. Released LiveCC weights need "
                "position_scheme='reference' to run as published, or 'sequential' to train further."
            )
        return super().from_dict(config_dict, **kwargs)

    def save_pretrained(self, save_directory, **kwargs):
        """Save with an `auto_map` for every auto class; arguments as in `PreTrainedConfig.save_pretrained`."""
        # A class registers for one auto class only, and a config from the Hub names its repo here.
        self.auto_map = dict(AUTO_MAP)
        return super().save_pretrained(save_directory, **kwargs)


LiveCCConfig.register_for_auto_class()
