"""Shapes of published models, and config and processor of a model of any shape, to try it without its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..assets import bundled_model_path
from ..modeling.backbones import DEFAULT_BACKBONE, find_backbone
from ..modeling.configuration_livecc import LiveCCConfig
from ..modeling.video_processing_livecc import LiveCCVideoProcessor
from .loading import load_processor

if TYPE_CHECKING:
    from ..modeling.processing_livecc import StreamingProcessor

# Longer than the published limits, which random weights have not learned.
_MAX_POSITIONS = 131_072


class Shape(NamedTuple):
    """The size of a model: of its language model, then of its vision tower.

    Attributes:
        vocabulary, hidden, intermediate, layers, heads, kv_heads: of the language model.
        is_tied: whether head and embeddings share their weights.
        depth, vision_dim: layers and width of the vision tower.
        backbone: the family of models.
        head_size: width of an attention head; 0: `hidden` divided by `heads`.
        vision_heads: attention heads of the vision tower.
    """

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    is_tied: bool
    depth: int
    vision_dim: int
    backbone: str = "qwen2_vl"
    head_size: int = 0
    vision_heads: int = 16


# From the config.json of each published model.
PUBLISHED_SHAPES = {
    "LiveCC-7B": Shape(152_064, 3584, 18_944, 28, 28, 4, False, 32, 1280),
    "Qwen2-VL-2B": Shape(151_936, 1536, 8960, 28, 12, 2, True, 32, 1280),
    "Qwen2.5-VL-7B": Shape(152_064, 3584, 18_944, 28, 28, 4, False, 32, 1280, "qwen2_5_vl"),
    "Qwen3-VL-4B": Shape(151_936, 2560, 9728, 36, 32, 8, True, 24, 1024, "qwen3_vl", 128),
    "Qwen3-VL-2B": Shape(151_936, 2048, 6144, 28, 16, 8, True, 24, 1024, "qwen3_vl", 128),
}


def _sections(size: int, side: int) -> dict[str, Any]:
    """Return how a head's rotary frequencies are split into time, height and width, with `side` for each of the two."""
    return {"mrope_section": [size // 2 - 2 * side, side, side]}


def _qwen2_vl_values(shape: Shape, size: int) -> tuple[dict, dict, dict]:
    vision = {"embed_dim": shape.vision_dim, "mlp_ratio": 4, "hidden_size": shape.hidden}
    return vision, _sections(size, 3 * size // 16), {}


def _qwen2_5_vl_values(shape: Shape, size: int) -> tuple[dict, dict, dict]:
    vision: dict[str, Any] = {"hidden_size": shape.vision_dim, "out_hidden_size": shape.hidden, "tokens_per_second": 2}
    vision |= {"intermediate_size": 8 * shape.vision_dim // 3}
    # Of the layers with full attention that the published model has, the last.
    vision |= {"fullatt_block_indexes": [shape.depth - 1]}
    return vision, _sections(size, 3 * size // 16), {}


def _qwen3_vl_values(shape: Shape, size: int) -> tuple[dict, dict, dict]:
    vision: dict[str, Any] = {"hidden_size": shape.vision_dim, "out_hidden_size": shape.hidden}
    vision |= {"intermediate_size": 4 * shape.vision_dim, "deepstack_visual_indexes": [*range(shape.depth)][-3:]}
    return vision, _sections(size, 5 * size // 32) | {"mrope_interleaved": True}, {"head_dim": size}


# By backbone: values of its vision config, rotary embedding and text config, for a shape and the size of a head.
_OWN_VALUES = {"qwen2_vl": _qwen2_vl_values, "qwen2_5_vl": _qwen2_5_vl_values, "qwen3_vl": _qwen3_vl_values}


def shape_processor(backbone: str = DEFAULT_BACKBONE) -> StreamingProcessor:
    """Return livecc-tiny's processor for a backbone: its tokenizer, and the backbone's patches.

    Raises:
        ValueError: if there is no such backbone.
    """
    processor = load_processor(bundled_model_path())
    if backbone == processor.backbone:
        return processor
    spec = find_backbone(backbone)
    patches = {"patch_size": spec.patch_size, "merge_size": spec.merge_size}
    images = type(processor.image_processor)(**patches, image_mean=spec.image_mean, image_std=spec.image_std)
    videos = LiveCCVideoProcessor(**patches)
    return type(processor)(images, processor.tokenizer, videos, processor.chat_template, backbone=backbone)


def shape_config(shape: Shape, processor: StreamingProcessor, **values: Any) -> LiveCCConfig:
    """Return the config of a model of this shape, with the special tokens of a processor.

    Args:
        shape: the sizes and the backbone.
        processor: its tokenizer defines the special tokens; its vocabulary may be smaller than the shape's.
        **values: other values of the config, such as `position_scheme`.
    """
    ids, size = processor.tokenizer.convert_tokens_to_ids, shape.head_size or shape.hidden // shape.heads
    own_vision, own_rope, own_text = _OWN_VALUES[shape.backbone](shape, size)
    text: dict[str, Any] = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": _MAX_POSITIONS,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, **own_rope},
        "bos_token_id": None,
        "eos_token_id": processor.end_id,
        "pad_token_id": processor.tokenizer.pad_token_id,
        "tie_word_embeddings": shape.is_tied,
    }
    vision = {"depth": shape.depth, "num_heads": shape.vision_heads, **own_vision}
    special = {f"{name}_token_id": ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    special |= {"image_token_id": ids("<|image_pad|>"), "video_token_id": processor.video_token_id}
    special |= {"message_end_token_id": processor.end_id}
    values |= {"backbone": shape.backbone, "tie_word_embeddings": shape.is_tied}
    return LiveCCConfig(text_config=text | own_text, vision_config=vision, **special, **values)
