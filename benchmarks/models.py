"""The models that benchmarks run, and what they watch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

FIRST_TURN_FRAMES, TURN_FRAMES = 6, 2
FIRST_TEXT_ID = 1000  # past livecc-tiny's ids, whose special tokens all models here have


@dataclass(frozen=True)
class Case:
    """One model and what it watches.

    Attributes:
        name: of the model.
        turns: of all sides but the windowed engine.
        windowed_turns: of the windowed engine.
        frame_px: height and width of random frames; `None`: the bundled clip.
        max_pixels: most pixels of a resized frame.
        new_tokens: generated in every turn.
        bf16: whether the weights are in bfloat16 (else float32).
        vision_window_s: how long the windowed engine remembers vision.
        backbone: of the model, in its position scheme that is nearest to the reference's.
    """

    name: str
    turns: int
    windowed_turns: int
    frame_px: tuple[int, int] | None = None
    max_pixels: int = 384 * 28 * 28
    new_tokens: int = 10
    bf16: bool = False
    vision_window_s: float = 16.0
    backbone: str = "qwen2_vl"

    @property
    def scheme(self) -> str:
        """Its position scheme: the reference's where the backbone knows it."""
        return "reference" if self.backbone == "qwen2_vl" else "mrope"

    def small(self) -> Case:
        """Return the case with few turns and small frames."""
        few = replace(self, turns=4, windowed_turns=6, new_tokens=3, vision_window_s=2.0)
        return few if self.frame_px is None else replace(few, frame_px=(112, 168), max_pixels=24 * 28 * 28)


CASES = {
    case.name: case
    for case in (
        Case("livecc-tiny", 60, 240, max_pixels=84 * 84),
        Case("mid-size", 60, 60, frame_px=(720, 1080)),
        Case("mid-size-bf16", 30, 30, frame_px=(720, 1080), bf16=True),
        Case("livecc-7b", 60, 240, frame_px=(720, 1080), bf16=True),
    )
}


def backbone_case(name: str) -> Case:
    """Return the mid-size case on a backbone, with as many vision tokens a frame pair on each."""
    from livecc_hf.modeling.backbones import find_backbone

    max_pixels = 384 * find_backbone(name).pixels_per_token
    return replace(CASES["mid-size"], name=f"mid-size-{name}", backbone=name, max_pixels=max_pixels)


class Shape(NamedTuple):
    """The size of a model: of the language model, then of the vision tower."""

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
    head_size: int = 0  # 0: the hidden size divided among the heads
    vision_heads: int = 16


SHAPES = {
    # 131M parameters: 78M in the tied embedding and head, 49M in the layers, 4M in the vision tower.
    "mid-size": Shape(151_936, 512, 2731, 10, 8, 2, True, 4, 256, vision_heads=4),
    # 96M parameters: 58M in the tied embedding and head, most others in the layers.
    "training": Shape(151_936, 384, 2048, 12, 6, 2, True, 4, 256, vision_heads=4),
    "small": Shape(4096, 64, 128, 2, 4, 2, True, 2, 64, vision_heads=4),
    # Sizes of the config.json that each is published with.
    "LiveCC-7B": Shape(152_064, 3584, 18_944, 28, 28, 4, False, 32, 1280),
    "Qwen2-VL-2B": Shape(151_936, 1536, 8960, 28, 12, 2, True, 32, 1280),
    "Qwen2.5-VL-7B": Shape(152_064, 3584, 18_944, 28, 28, 4, False, 32, 1280, "qwen2_5_vl"),
    "Qwen3-VL-4B": Shape(151_936, 2560, 9728, 36, 32, 8, True, 24, 1024, "qwen3_vl", 128),
    "Qwen3-VL-2B": Shape(151_936, 2048, 6144, 28, 16, 8, True, 24, 1024, "qwen3_vl", 128),
}


def bundled_processor(backbone: str = "qwen2_vl"):
    """Return livecc-tiny's processor, whose special tokens all models here use, for a backbone."""
    from livecc_hf.assets import bundled_model_path
    from livecc_hf.checkpoints.loading import load_processor
    from livecc_hf.modeling.backbones import find_backbone
    from livecc_hf.modeling.video_processing_livecc import LiveCCVideoProcessor

    processor = load_processor(bundled_model_path())
    if backbone == processor.backbone:
        return processor
    of = find_backbone(backbone)
    images = type(processor.image_processor)(
        patch_size=of.patch_size, merge_size=of.merge_size, image_mean=of.image_mean, image_std=of.image_std
    )
    videos = LiveCCVideoProcessor(patch_size=of.patch_size, merge_size=of.merge_size)
    return type(processor)(images, processor.tokenizer, videos, processor.chat_template, backbone=backbone)


def random_config(shape: Shape, processor, **values: Any):
    """Return a config of a shape, with the special tokens of a processor."""
    from livecc_hf.modeling.configuration_livecc import LiveCCConfig

    ids, size = processor.tokenizer.convert_tokens_to_ids, shape.head_size or shape.hidden // shape.heads
    side = 3 * size // 16  # of the angles of a head: 16, 24 and 24 of 64, Qwen3-VL's 24, 20 and 20
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [size // 2 - 2 * side, side, side]}
    text = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": 131_072,  # random weights have learned no limit
        "rope_parameters": rope,
        "bos_token_id": None,
        "eos_token_id": processor.end_id,
        "pad_token_id": processor.tokenizer.pad_token_id,
        "tie_word_embeddings": shape.is_tied,
    }
    vision: dict = {"depth": shape.depth, "num_heads": shape.vision_heads}
    if shape.backbone == "qwen2_vl":
        vision |= {"embed_dim": shape.vision_dim, "mlp_ratio": 4, "hidden_size": shape.hidden}
    else:
        vision |= {"hidden_size": shape.vision_dim, "out_hidden_size": shape.hidden}
    if shape.backbone == "qwen2_5_vl":  # one full layer in eight in the published ones, the last among them
        vision |= {"intermediate_size": 8 * shape.vision_dim // 3, "fullatt_block_indexes": [shape.depth - 1]}
        vision |= {"tokens_per_second": 2}
    if shape.backbone == "qwen3_vl":
        vision |= {"intermediate_size": 4 * shape.vision_dim, "deepstack_visual_indexes": [*range(shape.depth)][-3:]}
        side = 5 * size // 32
        rope |= {"mrope_interleaved": True, "mrope_section": [size // 2 - 2 * side, side, side]}
        text["head_dim"] = size
    special = {f"{name}_token_id": ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    special |= {"image_token_id": ids("<|image_pad|>"), "video_token_id": processor.video_token_id}
    special |= {"message_end_token_id": processor.end_id}
    values |= {"backbone": shape.backbone, "tie_word_embeddings": shape.is_tied}
    return LiveCCConfig(text_config=text, vision_config=vision, **special, **values)


def random_bf16_model(config, device: str):
    """Return a model with random bfloat16 weights, drawn on the device: the memory here is never touched."""
    import torch
    from transformers import initialization

    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration

    with initialization.no_init_weights():
        model = LiveCCForConditionalGeneration._from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    for module in model.modules():
        for key, parameter in list(module.named_parameters(recurse=False)):
            drawn = torch.zeros(parameter.shape, dtype=torch.bfloat16, device=device)
            if parameter.ndim > 1:
                drawn.normal_(std=0.02)
            elif key == "weight":
                drawn.fill_(1)
            module.register_parameter(key, torch.nn.Parameter(drawn, requires_grad=False))
    model.tie_weights()
    return model.to(device)  # buffers


def build_model(case: Case, processor, device: str, is_small: bool):
    """Return the model of a case in evaluation mode, in the case's position scheme."""
    import torch

    from livecc_hf.acceleration import accelerate
    from livecc_hf.assets import bundled_model_path
    from livecc_hf.checkpoints.loading import load_model
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration

    if case.name == "livecc-tiny":
        return load_model(bundled_model_path(), device=device, dtype="float32", position_scheme="reference")[0]
    torch.manual_seed(0)
    shape = SHAPES["small" if is_small else "mid-size" if case.name.startswith("mid-size") else "LiveCC-7B"]
    config = random_config(shape._replace(backbone=case.backbone), processor, position_scheme=case.scheme)
    model = random_bf16_model(config, device) if case.bf16 else LiveCCForConditionalGeneration(config).to(device)
    return accelerate(model.eval())  # as `load_model` does


def never_end(model, processor) -> None:
    """Change a model's head so that no greedy turn ends before its token limit: the end never has the highest score."""
    import torch

    with torch.no_grad():
        model.lm_head.weight[processor.end_id] = 0


def synthetic_commentary(
    config, rng, pairs: Sequence[int], side: int, n_text: int, n_spoken: tuple[int, int]
) -> dict[str, Any]:
    """Return a sample of random words and pixels.

    Args:
        config: of the model.
        rng: what draws, a `torch.Generator`.
        pairs: frame pairs of each turn.
        side: patches along a side of a frame.
        n_text: tokens before the frames of a turn.
        n_spoken: fewest and most words of a turn.
    """
    import torch

    def words(low: int, high: int) -> torch.Tensor:
        n = int(torch.randint(low, high + 1, (), generator=rng))
        return torch.randint(FIRST_TEXT_ID, config.text_config.vocab_size, (n,), generator=rng)

    ids, labels = [], []
    grid_thw = torch.tensor([[n, side, side] for n in pairs])
    start, end = (torch.tensor([token]) for token in (config.vision_start_token_id, config.vision_end_token_id))
    for grid in grid_thw:
        video = torch.full((int(grid.prod()) // 4,), config.video_token_id)
        prompt, spoken = torch.cat([words(n_text, n_text), start, video, end]), words(*n_spoken)
        ids += [prompt, spoken]
        labels += [torch.full_like(prompt, -100), spoken]
    input_ids = torch.cat(ids)
    return {
        "input_ids": input_ids,
        "labels": torch.cat(labels),
        "mm_token_type_ids": (input_ids == config.video_token_id).long() * 2,
        "pixel_values_videos": torch.randn(int(grid_thw.prod(1).sum()), 1176, generator=rng),
        "video_grid_thw": grid_thw,
    }


def peak_tflops(device: str) -> float | None:
    """Return the peak rate assumed for a device, by its name; `None` if it is not in the table."""
    import yaml

    table = yaml.safe_load(Path(__file__).with_name("gpus.yaml").read_text())
    return next((rate for name, rate in table.items() if re.search(rf"\b{name}\b", device)), None)


def weights_floor(model) -> dict[str, float]:
    """Return what reading the language model's weights once takes on a CUDA device: no token is decoded in less."""
    import torch
    from harness import times_of

    language = model.model.language_model.layers.parameters()
    n_bytes = sum(weight.numel() * weight.element_size() for weight in (*language, model.lm_head.weight))
    source = torch.ones(2**31, dtype=torch.uint8, device=model.device).view(torch.float32)
    took_s = [times_of(lambda: [source.sum() for _ in range(20)])[0] for _ in range(2)][1]
    bytes_per_s = 20 * 2**31 / took_s
    return {
        "memory_bandwidth_gb_per_s": bytes_per_s / 1e9,
        "weights_read_per_token_gb": n_bytes / 1e9,
        "weights_over_bandwidth_s": n_bytes / bytes_per_s,
    }


class Video:
    """The frames of each turn: of the bundled clip, or random ones in a case's own size; played again and again."""

    def __init__(self, case: Case):
        import torch

        if case.frame_px is None:
            from livecc_hf.assets import demo_clip_path
            from livecc_hf.video.reader import iter_chunks

            self.frames = torch.cat([chunk.frames for chunk in iter_chunks(demo_clip_path())])
        else:
            rng, shape = torch.Generator().manual_seed(0), (4 * TURN_FRAMES, 3, *case.frame_px)
            self.frames = torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng)

    def clip(self, turn: int):
        """Return the frames of a turn, counted from 0."""
        first, n = (0, FIRST_TURN_FRAMES) if turn == 0 else (FIRST_TURN_FRAMES + TURN_FRAMES * (turn - 1), TURN_FRAMES)
        return self.frames[[index % len(self.frames) for index in range(first, first + n)]]
