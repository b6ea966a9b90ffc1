"""Live commentary from a stock model of a backbone: `model.generate(custom_generate=..., video=..., processor=...)`."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .backbones import BACKBONES, find_backbone
from .configuration_livecc import LiveCCConfig
from .grammar import LIVECC, grammar_of_names
from .processing_livecc import StreamingProcessor
from .stream import CommentarySegment
from .streaming_mixin import StreamingMixin
from .video_processing_livecc import LiveCCVideoProcessor

if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, ProcessorMixin

# Arguments that `generate` passes on although they only locate this code.
_SOURCE_OPTIONS = (
    *("revision", "code_revision", "token", "cache_dir", "local_files_only", "force_download", "proxies"),
    *("subfolder", "repo_type"),
)


def generate(
    model: PreTrainedModel,
    video: str | os.PathLike | Iterable | None = None,
    processor: ProcessorMixin | None = None,
    position_scheme: str | None = None,
    grammar: str | None = None,
    generation_config: GenerationConfig | None = None,
    **kwargs: Any,
) -> Iterator[CommentarySegment]:
    """Comment on a video while it is read, yielding a segment per turn; without a video, call the model's `generate`.

    Args:
        model: a stock Qwen2-VL, Qwen2.5-VL or Qwen3-VL model, such as a `Qwen2VLForConditionalGeneration`, in
            evaluation mode.
        video: a file that PyAV reads, or frames at 2 per second: uint8 (T, 3, H, W) as a tensor or NumPy array, a
            list of PIL images, or an iterable of such chunks.
        processor: the model's processor, such as a `Qwen2VLProcessor`.
        position_scheme: `mrope`, `sequential` or `reference`; default: the scheme in the model's config, else
            `reference` if the name of the model contains "livecc", else `mrope`. Backbones other than Qwen2-VL only
            support `mrope`.
        grammar: the chat format of a commentary, `livecc` or `streamingvlm`; default: the processor's grammar, else
            `streamingvlm` if the name of the model contains it, else `livecc`.
        generation_config: replaces the model's generation config.
        **kwargs: `start_s` and `end_s` of a file, in seconds, and the options of a stream, such as `query`,
            `do_sample`, `max_new_tokens` (of a turn) and `window`; see `StreamOptions` in `stream_options.py`.

    Returns:
        An iterator over the `CommentarySegment` of each turn, silent turns included; without a video, the result of
        `model.generate`.

    Raises:
        ValueError: if the model has another architecture or is spread over devices, the processor is missing or not
            the model's, or an option is not valid.
    """
    kwargs = {name: value for name, value in kwargs.items() if name not in _SOURCE_OPTIONS}
    if video is None:
        return type(model).generate(model, generation_config=generation_config, **kwargs)
    _check_model(model)
    if generation_config is not None and not hasattr(generation_config, "eos_token_id"):
        raise ValueError(f"generation_config is a {type(generation_config).__name__}: expected a GenerationConfig")
    kwargs = _without_unset(kwargs)
    streaming_model = _StreamingModel(model, position_scheme, generation_config)
    streaming_processor = _streaming_processor(processor, model.config, grammar)
    return streaming_model.stream_generate(streaming_processor, video, **kwargs)


class _StreamingModel(StreamingMixin):
    """A stock model with the interface that streams need: it shares its modules, and its config is a `LiveCCConfig`."""

    def __init__(self, model: PreTrainedModel, position_scheme: str | None, generation_config: GenerationConfig | None):
        self.model, self.lm_head, self.training = model.model, model.lm_head, model.training
        self.get_input_embeddings = model.get_input_embeddings
        self.generation_config = model.generation_config if generation_config is None else generation_config
        values = model.config.to_dict()
        backbone = model.config.model_type
        scheme = position_scheme
        if scheme is None:
            scheme = values.get("position_scheme") or _assumed_scheme(model.config)
        values = {k: v for k, v in values.items() if k not in ("model_type", "architectures", "auto_map")}
        self.config = LiveCCConfig.from_dict(values | {"position_scheme": scheme, "backbone": backbone})


def _assumed_scheme(config: PretrainedConfig) -> str:
    """Return the position scheme of a model whose config does not name it, by the same rule as livecc-hf."""
    if "reference" not in find_backbone(config.model_type).position_schemes:
        return "mrope"
    return "reference" if any("livecc" in name.lower() for name in _names_of(config)) else "mrope"


def _names_of(config: PretrainedConfig) -> list[str]:
    """Return the names of a model: its Hub id or folder name, and the repository's name if it is in the Hub's cache."""
    name = config.name_or_path
    path = Path(name or "").expanduser()
    if path.is_dir():  # in the Hub's cache, the folder is named by the commit, and a parent folder by the repository
        return [path.resolve().name] + [part for part in path.resolve().parts if part.startswith("models--")]
    return [str(name)]


def _check_model(model: PreTrainedModel) -> None:
    """Raise `ValueError` if streams cannot run on a model."""
    backbone = model.config.model_type
    if backbone not in BACKBONES:
        raise ValueError(
            f"the model is a {type(model).__name__} of type {backbone!r}: live commentary needs a model of type "
            f"{' or '.join(BACKBONES)}"
        )
    model_class = find_backbone(backbone).model_classes()[0]
    if not isinstance(model, model_class):
        raise ValueError(
            f"the model is a {type(model).__name__}: live commentary on {backbone} needs a {model_class.__name__}"
        )
    if any(hasattr(layer.self_attn, "_hf_hook") for layer in model.model.language_model.layers):
        raise ValueError(
            "the model's layers are split over devices or offloaded, which live commentary does not support: load the "
            'model on one device, with device_map={"": 0}'
        )


def _without_unset(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments without those of `generate` that are unset; raise `ValueError` if one of those is set."""
    stock = (
        *("inputs", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "synced_gpus"),
        *("assistant_model", "streamer", "negative_prompt_ids", "negative_prompt_attention_mask"),
    )
    refused = [name for name in stock if kwargs.get(name) is not None]
    if refused:
        raise ValueError(
            f"{', '.join(refused)} cannot be combined with video=: leave it out; segments are yielded one by one"
        )
    return {name: value for name, value in kwargs.items() if name not in stock}


def _streaming_processor(
    processor: ProcessorMixin | None, config: PretrainedConfig, grammar: str | None
) -> StreamingProcessor:
    """Return a `StreamingProcessor` with the parts of a stock processor, which is not changed."""
    if processor is not None and hasattr(processor, "turn_ids"):
        if grammar not in (None, processor.grammar):
            raise ValueError(f"grammar={grammar!r}, but the processor has grammar {processor.grammar!r}: leave it out")
        return processor
    parts = ("image_processor", "tokenizer", "video_processor")
    if processor is None or not all(hasattr(processor, part) for part in parts):
        given = "is missing" if processor is None else f"is a {type(processor).__name__}"
        raise ValueError(f"processor {given}: give the model's own, as processor=AutoProcessor.from_pretrained(MODEL)")
    streaming = StreamingProcessor(
        processor.image_processor,
        copy.copy(processor.tokenizer),  # copied because its padding side is changed
        processor.video_processor,
        chat_template=processor.chat_template,
        backbone=config.model_type,
        grammar=grammar or grammar_of_names(_names_of(config)) or LIVECC.name,
    )
    # Old checkpoints have no video processor, and their video limits are those of images.
    if streaming.video_processor.size == processor.image_processor.size:
        streaming.video_processor.size = LiveCCVideoProcessor(patch_size=streaming.video_processor.patch_size).size
    return streaming
