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

# What `generate` hands over that says where this code is, not what it does.
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
    """Comment on a video, segment by segment, while it is read; without a video generate as the model itself does.

    Args:
        model: a stock Qwen2-VL, Qwen2.5-VL or Qwen3-VL, such as a `Qwen2VLForConditionalGeneration`, in evaluation
            mode.
        video: a file that PyAV reads, or frames at 2 per second: uint8 (T, 3, H, W) as a tensor or NumPy array, a
            list of PIL images, or an iterable of such parts.
        processor: the model's own, such as a `Qwen2VLProcessor`.
        position_scheme: `mrope`, `sequential` or `reference`; default: what the model's config says, else `reference`
            where the name it was loaded by holds "livecc", else `mrope`; all but Qwen2-VL know `mrope` alone.
        grammar: in which texts it knows a commentary, `livecc` or `streamingvlm`; default: what the processor says,
            else `streamingvlm` where the name it was loaded by holds that, else `livecc`.
        generation_config: takes the place of the model's.
        **kwargs: `start_s` and `end_s` of a file, in seconds, and the options of a stream, such as `query`,
            `do_sample`, `max_new_tokens` (of a turn) and `window`; see `StreamOptions` in `stream_options.py`.

    Returns:
        An iterator over one `CommentarySegment` a turn, silent ones included; without a video what
        `model.generate` returns.

    Raises:
        ValueError: if the model is of no backbone, there is no processor of it, or an option is not valid.
    """
    kwargs = {name: value for name, value in kwargs.items() if name not in _SOURCE_OPTIONS}
    if video is None:
        return type(model).generate(model, generation_config=generation_config, **kwargs)
    _check_model(model)
    if generation_config is not None and not hasattr(generation_config, "eos_token_id"):
        raise ValueError(f"generation_config is a {type(generation_config).__name__}: expected a GenerationConfig")
    kwargs = _without_unset(kwargs)
    live = _LiveView(model, position_scheme, generation_config)
    speaker = _streaming_processor(processor, model.config, grammar)
    return live.stream_generate(speaker, video, **kwargs)


class _LiveView(StreamingMixin):
    """A stock model as streams use one: the same modules, with the position scheme in its config."""

    def __init__(self, model: PreTrainedModel, position_scheme: str | None, generation_config: GenerationConfig | None):
        self.model, self.lm_head, self.training = model.model, model.lm_head, model.training
        self.get_input_embeddings = model.get_input_embeddings
        self.generation_config = model.generation_config if generation_config is None else generation_config
        values = model.config.to_dict()
        backbone = model.config.model_type
        scheme = position_scheme or values.get("position_scheme") or _assumed_scheme(model.config)
        values = {k: v for k, v in values.items() if k not in ("model_type", "architectures", "auto_map")}
        self.config = LiveCCConfig.from_dict(values | {"position_scheme": scheme, "backbone": backbone})


def _assumed_scheme(config: PretrainedConfig) -> str:
    """Return how positions are counted in published weights, which do not say: as the package livecc-hf assumes it."""
    if "reference" not in find_backbone(config.model_type).position_schemes:
        return "mrope"
    return "reference" if any("livecc" in name.lower() for name in _names_of(config)) else "mrope"


def _names_of(config: PretrainedConfig) -> list[str]:
    """Return what a model is called."""
    name = config.name_or_path
    path = Path(name or "").expanduser()
    if path.is_dir():  # a folder of the Hub's cache is called by its commit; the repository's name stands above it
        return [path.resolve().name] + [part for part in path.resolve().parts if part.startswith("models--")]
    return [str(name)]


def _check_model(model: PreTrainedModel) -> None:
    """Raise `ValueError` if streams cannot run on a model."""
    backbone = model.config.model_type
    if backbone not in BACKBONES or not isinstance(model, find_backbone(backbone).model_classes()[0]):
        raise ValueError(
            f"the model is a {type(model).__name__}: live commentary needs a Qwen2VLForConditionalGeneration, such as "
            f"of chenjoya/LiveCC-7B-Instruct, or that of another of {', '.join(BACKBONES)}"
        )
    if any(hasattr(layer.self_attn, "_hf_hook") for layer in model.model.language_model.layers):
        raise ValueError(
            "the model's layers are spread over devices or kept off them, where live commentary cannot run: load it on "
            'one, with device_map={"": 0}'
        )


def _without_unset(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return what was given of `generate`'s arguments; raise `ValueError` for those that a stream does not take."""
    stock = (
        *("inputs", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "synced_gpus"),
        *("assistant_model", "streamer", "negative_prompt_ids", "negative_prompt_attention_mask"),
    )
    refused = [name for name in stock if kwargs.get(name) is not None]
    if refused:
        raise ValueError(
            f"{', '.join(refused)} cannot be had with video=: leave it out; segments come one by one as they are said"
        )
    return {name: value for name, value in kwargs.items() if name not in stock}


def _streaming_processor(
    processor: ProcessorMixin | None, config: PretrainedConfig, grammar: str | None
) -> StreamingProcessor:
    """Return a stock processor as one that speaks in turns; its own parts stay as they are."""
    if processor is not None and hasattr(processor, "turn_ids"):
        if grammar not in (None, processor.grammar):
            raise ValueError(f"grammar={grammar!r}, but the processor speaks in {processor.grammar!r}: leave it out")
        return processor
    parts = ("image_processor", "tokenizer", "video_processor")
    if processor is None or not all(hasattr(processor, part) for part in parts):
        given = "is missing" if processor is None else f"is a {type(processor).__name__}"
        raise ValueError(f"processor {given}: give the model's own, as processor=AutoProcessor.from_pretrained(MODEL)")
    streaming = StreamingProcessor(
        processor.image_processor,
        copy.copy(processor.tokenizer),  # padding changes side
        processor.video_processor,
        chat_template=processor.chat_template,
        backbone=config.model_type,
        grammar=grammar or grammar_of_names(_names_of(config)) or LIVECC.name,
    )
    # Checkpoints older than video processors have limits of still images alone, which are not meant for a video.
    if streaming.video_processor.size == processor.image_processor.size:
        streaming.video_processor.size = LiveCCVideoProcessor(patch_size=streaming.video_processor.patch_size).size
    return streaming
