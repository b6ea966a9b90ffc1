"""Tiny models with random weights, one for each backbone."""

import torch

from livecc_hf.modeling import LiveCCConfig, LiveCCForConditionalGeneration, LiveCCVideoProcessor, StreamingProcessor
from livecc_hf.modeling.backbones import BACKBONES, find_backbone

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "bos_token_id": None,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
TOWER = {"depth": 2, "num_heads": 4, "hidden_size": 32, "out_hidden_size": 32, "intermediate_size": 64}
# Differences; Qwen3-VL's head size is 16, twice hidden size / heads.
OWN = {
    "qwen2_vl": ({"mrope_section": [2, 1, 1]}, {}, {"depth": 2, "embed_dim": 32, "num_heads": 4, "hidden_size": 32}),
    "qwen2_5_vl": (
        {"mrope_section": [2, 1, 1]},
        {},
        TOWER | {"fullatt_block_indexes": [1], "tokens_per_second": 2, "window_size": 56},
    ),
    "qwen3_vl": (
        {"mrope_section": [4, 2, 2], "mrope_interleaved": True},
        {"head_dim": 16},
        TOWER | {"deepstack_visual_indexes": [0, 1], "num_position_embeddings": 16},
    ),
}


def tiny_config(backbone: str, tokenizer) -> LiveCCConfig:
    rope, text, vision = OWN[backbone]
    tokens = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>") for name, token in tokens.items()}
    end_id = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ends = {"vocab_size": len(tokenizer), "eos_token_id": end_id, "pad_token_id": tokenizer.pad_token_id}
    return LiveCCConfig(
        backbone=backbone,
        text_config=TEXT | ends | text | {"rope_parameters": ROPE | rope},
        vision_config=vision,
        message_end_token_id=end_id,
        **ids,
    )


def tiny_processor(backbone: str, like: StreamingProcessor) -> StreamingProcessor:
    spec = find_backbone(backbone)
    image_processor = type(like.image_processor)(
        patch_size=spec.patch_size, image_mean=list(spec.image_mean), image_std=list(spec.image_std)
    )
    return StreamingProcessor(
        image_processor,
        like.tokenizer,
        LiveCCVideoProcessor(patch_size=spec.patch_size),
        chat_template=like.chat_template,
        backbone=backbone,
    )


def tiny_model(backbone: str, tokenizer) -> LiveCCForConditionalGeneration:
    torch.manual_seed(0)
    model = LiveCCForConditionalGeneration(tiny_config(backbone, tokenizer)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:  # larger than the default, so that errors show in the logits
            torch.nn.init.normal_(parameter, std=0.15)
    return model


def all_backbones() -> tuple[str, ...]:
    return BACKBONES
