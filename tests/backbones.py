"""Tiny random checkpoints of each backbone, as its stock classes save them: what is true of one is tested on all."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import torch
from transformers import BitsAndBytesConfig

REFERENCE = Path(__file__).parent / "data/reference/checkpoint"
BACKBONES = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")
_DEFAULT_SYSTEM = re.compile(r"\{%[^%]*loop\.first[^%]*%\}.*?\{% endif %\}", re.DOTALL)
_IDS = {
    "image_token_id": 1998,
    "video_token_id": 1999,
    "vision_start_token_id": 1995,
    "vision_end_token_id": 1996,
}
_TEXT = {
    **{"vocab_size": 2000, "hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32768},
    **{"bos_token_id": 1986, "eos_token_id": 1988},
}


def write_published(name: str, folder: Path, spread: float | None = None) -> Path:
    """Write a checkpoint with random weights in the layout in which the backbone's are published.

    Args:
        name: the backbone.
        folder: where to.
        spread: standard deviation of its weights, so that what it says depends on what it is shown; default: as its
            class begins. Qwen2-VL's are those of the recorded reference.

    Returns:
        The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if name == "qwen2_vl":
        return Path(shutil.copytree(REFERENCE, folder, dirs_exist_ok=True))
    torch.manual_seed(0)
    model = _MAKERS[name]()
    for parameter in model.parameters() if spread else ():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=spread)
    model.generation_config.eos_token_id = 1988
    model.save_pretrained(folder)
    for file in (*_TOKENIZER, "merges.txt"):
        shutil.copy(REFERENCE / file, folder / file)
    template = json.loads((REFERENCE / "chat_template.json").read_text())["chat_template"]
    processor = _processor(name)
    # Qwen3-VL's own opens a conversation with nothing.
    processor.chat_template = _DEFAULT_SYSTEM.sub("", template) if name == "qwen3_vl" else template
    processor.save_pretrained(folder)
    return folder


def _qwen2_5_vl():
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    rope = {"rope_type": "default", "mrope_section": [2, 5, 5], "rope_theta": 1e6}
    vision = {"depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "out_hidden_size": 96}
    vision |= {"window_size": 56, "fullatt_block_indexes": [1], "tokens_per_second": 2}
    config = Qwen2_5_VLConfig(text_config={**_TEXT, "rope_parameters": rope}, vision_config=vision, **_IDS)
    return Qwen2_5_VLForConditionalGeneration(config)


def _qwen3_vl():
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    rope = {"rope_type": "default", "mrope_section": [4, 4, 4], "mrope_interleaved": True, "rope_theta": 1e6}
    text = {**_TEXT, "head_dim": 24, "rope_parameters": rope, "tie_word_embeddings": True}
    vision = {"depth": 4, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "out_hidden_size": 96}
    vision |= {"deepstack_visual_indexes": [1, 2], "num_position_embeddings": 64}
    config = Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **_IDS)
    return Qwen3VLForConditionalGeneration(config)


_MAKERS = {"qwen2_5_vl": _qwen2_5_vl, "qwen3_vl": _qwen3_vl}


def _processor(name: str):
    """Return the stock processor of a backbone, with the reference's tokenizer."""
    from transformers import (
        AutoTokenizer,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    tokenizer = AutoTokenizer.from_pretrained(REFERENCE)
    if name == "qwen2_5_vl":
        return Qwen2_5_VLProcessor(Qwen2VLImageProcessor(), tokenizer, Qwen2VLVideoProcessor())
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    images = Qwen2VLImageProcessor(patch_size=16, size={"shortest_edge": 65536, "longest_edge": 16777216}, **half)
    videos = Qwen3VLVideoProcessor(size={"shortest_edge": 4096, "longest_edge": 25165824})
    return Qwen3VLProcessor(images, tokenizer, videos)


def in_4_bit() -> BitsAndBytesConfig:
    """A config that quantises one matrix a layer: on some CPUs, bitsandbytes only takes a multiple of 64 inputs."""
    narrow = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"]
    return BitsAndBytesConfig(load_in_4bit=True, llm_int8_skip_modules=["model.visual", "lm_head", *narrow])
