"""LiveCC model configuration."""

from __future__ import annotations

from transformers import Qwen2VLConfig

POSITION_SCHEMES = ("mrope", "sequential", "reference")

AUTO_MAP = {
    "AutoConfig": "configuration_livecc.LiveCCConfig",
    "AutoModel": "modeling_livecc.LiveCCForConditionalGeneration",
    "AutoModelForImageTextToText": "modeling_livecc.LiveCCForConditionalGeneration",
    "AutoProcessor": "processing_livecc.StreamingProcessor",
    "AutoVideoProcessor": "video_processing_livecc.LiveCCVideoProcessor",
}


class LiveCCConfig(Qwen2VLConfig):
    """Configuration of :class:`LiveCCForConditionalGeneration`: Qwen2-VL's, and the position scheme.

    Args:
        position_scheme: how tokens of a stream are numbered for the rotary embedding, saved with the
            checkpoint because the weights depend on it: ``mrope`` (3-D positions in every turn),
            ``sequential`` (1-D positions for every token) or ``reference`` (3-D in the first turn, 1-D
            after it; inference only).

    Raises:
        ValueError: if `position_scheme` is none of these.
    """

    model_type = "livecc"

    position_scheme: str = "mrope"

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.position_scheme not in POSITION_SCHEMES:
            raise ValueError(
                f"position_scheme={self.position_scheme!r} is unknown: expected one of {', '.join(POSITION_SCHEMES)}"
            )

    def save_pretrained(self, save_directory, **kwargs):
        """Save with an `auto_map` for every auto class; arguments as in `PreTrainedConfig.save_pretrained`."""
        # A class registers for one auto class only, and a config from the Hub names its repo here.
        self.auto_map = dict(AUTO_MAP)
        return super().save_pretrained(save_directory, **kwargs)


LiveCCConfig.register_for_auto_class()
