"""The models that benchmarks run, and what they watch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

FIRST_TURN_FRAMES, TURN_FRAMES = 6, 2


@dataclass(frozen=True)
class Case:
    """One model and what it watches.

    Attributes:
        name: of the model.
        turns: of all sides but the windowed engine.
        windowed_turns: of the windowed engine.
        frame_px: height and width of the video; `None`: the bundled clip.
        max_pixels: most pixels of a resized frame.
        new_tokens: generated in every turn.
        video_s: length of the video, which is repeated.
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
    video_s: int = 24
    bf16: bool = False
    vision_window_s: float = 16.0
    backbone: str = "qwen2_vl"

    @property
    def scheme(self) -> str:
        """Its position scheme: the reference's where the backbone knows it."""
        return "reference" if self.backbone == "qwen2_vl" else "mrope"


CASES = {
    case.name: case
    for case in (
        Case("livecc-tiny", 60, 240, max_pixels=84 * 84),
        Case("mid-size", 60, 60, frame_px=(720, 1080), video_s=12),
        Case("mid-size-bf16", 30, 30, frame_px=(720, 1080), video_s=12, bf16=True),
        Case("livecc-7b", 60, 240, frame_px=(720, 1080), video_s=12, bf16=True),
    )
}


def backbone_case(name: str) -> Case:
    """Return the mid-size case on a backbone, with as many vision tokens a frame pair on each."""
    from livecc_hf.modeling.backbones import find_backbone

    max_pixels = 384 * find_backbone(name).pixels_per_token
    return replace(CASES["mid-size"], name=f"mid-size-{name}", backbone=name, max_pixels=max_pixels)


def small(case: Case) -> Case:
    """Return the case with few turns and small frames."""
    turns = {"turns": 4, "windowed_turns": 6, "new_tokens": 3, "video_s": 2, "vision_window_s": 2.0}
    frames = {} if case.frame_px is None else {"frame_px": (112, 168), "max_pixels": 24 * 28 * 28}
    return replace(case, **turns, **frames)


class Shape(NamedTuple):
    """The size of a Qwen2-VL: of the language model, then of the vision tower."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    sections: tuple[int, int, int]
    is_tied: bool
    depth: int
    vision_dim: int
    vision_heads: int


SHAPES = {
    # 131M parameters: 78M in the tied embedding and head, 49M in the layers, 4M in the vision tower.
    "mid-size": Shape(151_936, 512, 2731, 10, 8, 2, (8, 12, 12), True, 4, 256, 4),
    # 96M parameters: 58M in the tied embedding and head, most others in the layers.
    "training": Shape(151_936, 384, 2048, 12, 6, 2, (8, 12, 12), True, 4, 256, 4),
    "livecc-7b": Shape(152_064, 3584, 18_944, 28, 28, 4, (16, 24, 24), False, 32, 1280, 16),
    "small": Shape(4096, 64, 128, 2, 4, 2, (4, 2, 2), True, 2, 64, 4),
}
# Those of the published checkpoints.
QWEN2_IDS = {
    "pad_token_id": 151_643,
    "vision_start_token_id": 151_652,
    "vision_end_token_id": 151_653,
    "image_token_id": 151_655,
    "video_token_id": 151_656,
    "message_end_token_id": 151_645,
}


def bundled_processor(backbone: str = "qwen2_vl"):
    """Return livecc-tiny's processor, whose special tokens all models here use, for a backbone."""
    from livecc_hf.assets import bundled_model_path
    from livecc_hf.checkpoints.loading import load_processor
    from livecc_hf.modeling.backbones import find_backbone
    from livecc_hf.modeling.video_processing_livecc import LiveCCVideoProcessor, frame_limits

    processor = load_processor(bundled_model_path())
    if backbone == processor.backbone:
        return processor
    of = find_backbone(backbone)
    patches = {name: getattr(of, name) for name in ("patch_size", "merge_size", "image_mean", "image_std")}
    images = type(processor.image_processor)(**patches)
    videos = LiveCCVideoProcessor(**patches, size=frame_limits(of))
    return type(processor)(images, processor.tokenizer, videos, processor.chat_template, backbone=backbone)


def ids_of(processor) -> dict[str, int]:
    """Return the ids of special tokens, as :func:`random_config` takes them."""
    ids = processor.tokenizer.convert_tokens_to_ids
    return {
        "pad_token_id": processor.tokenizer.pad_token_id,
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": processor.video_token_id,
        "message_end_token_id": processor.end_id,
    }


def random_config(shape: Shape, ids: dict[str, int], backbone: str = "qwen2_vl", **values):
    """Return a config of a backbone's kind."""
    from livecc_hf.modeling.configuration_livecc import LiveCCConfig

    text = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": 131_072,  # random weights have learned no limit
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(shape.sections)},
        "bos_token_id": None,
        "eos_token_id": ids["message_end_token_id"],
        "pad_token_id": ids["pad_token_id"],
        "tie_word_embeddings": shape.is_tied,
    }
    vision: dict = {"depth": shape.depth, "num_heads": shape.vision_heads}
    if backbone == "qwen2_vl":
        vision |= {"embed_dim": shape.vision_dim, "mlp_ratio": 4, "hidden_size": shape.hidden}
    else:
        vision |= {"hidden_size": shape.vision_dim, "out_hidden_size": shape.hidden}
    if backbone == "qwen2_5_vl":  # one full layer in eight in the published ones, the last among them
        vision |= {"intermediate_size": 8 * shape.vision_dim // 3, "fullatt_block_indexes": [shape.depth - 1]}
        vision |= {"tokens_per_second": 2}
    if backbone == "qwen3_vl":
        vision |= {"intermediate_size": 4 * shape.vision_dim, "deepstack_visual_indexes": [*range(shape.depth)][-3:]}
        text["head_dim"] = shape.hidden // shape.heads
        side = 5 * sum(shape.sections) // 16  # 20 of 64 in the published ones
        text["rope_parameters"] |= {
            "mrope_interleaved": True,
            "mrope_section": [sum(shape.sections) - 2 * side, side, side],
        }
    special = {name: value for name, value in ids.items() if name != "pad_token_id"}
    values |= {"backbone": backbone, "tie_word_embeddings": shape.is_tied}
    return LiveCCConfig(text_config=text, vision_config=vision, **special, **values)


def random_bf16_model(config, device: str, attention: str = "sdpa", replaced: Callable | None = None):
    """Return a model with random bfloat16 weights, drawn on the device: the memory here is never touched.

    Args:
        config: of the model.
        device: where it goes.
        attention: its `attn_implementation`.
        replaced: returns what stands for a module once its weights are drawn, such as a quantised one, or `None`.
    """
    import torch
    from transformers import initialization

    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration

    with initialization.no_init_weights():
        model = LiveCCForConditionalGeneration._from_config(config, dtype=torch.bfloat16, attn_implementation=attention)
    for name, module in list(model.named_modules()):
        for key, parameter in list(module.named_parameters(recurse=False)):
            drawn = torch.zeros(parameter.shape, dtype=torch.bfloat16, device=device)
            if parameter.ndim > 1:
                drawn.normal_(std=0.02)
            elif key == "weight":
                drawn.fill_(1)
            module._parameters[key] = torch.nn.Parameter(drawn, requires_grad=False)
        if replaced is not None and (other := replaced(name, module)) is not None:
            model.set_submodule(name, other)
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
    shape = SHAPES["small" if is_small else "mid-size" if case.name.startswith("mid-size") else case.name]
    config = random_config(shape, ids_of(processor), case.backbone, position_scheme=case.scheme)
    model = random_bf16_model(config, device) if case.bf16 else LiveCCForConditionalGeneration(config).to(device)
    return accelerate(model.eval())  # as `load_model` does


def never_end(model, processor) -> None:
    """Change a model's head so that no greedy turn ends before its token limit: the end never has the highest score."""
    import torch

    with torch.no_grad():
        model.lm_head.weight[processor.end_id] = 0


def weights_floor(model) -> dict[str, float]:
    """Return what reading the language model's weights once takes on a CUDA device: no token is decoded in less."""
    import torch

    language = model.model.language_model.layers.parameters()
    n_bytes = sum(weight.numel() * weight.element_size() for weight in (*language, model.lm_head.weight))
    source = torch.ones(2**31, dtype=torch.uint8, device=model.device).view(torch.float32)
    for _ in range(3):
        source.sum()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(20):
        source.sum()
    end.record()
    torch.cuda.synchronize()
    bytes_per_s = 20 * 2**31 / (start.elapsed_time(end) / 1000)
    return {
        "memory_bandwidth_gb_per_s": bytes_per_s / 1e9,
        "weights_read_per_token_gb": n_bytes / 1e9,
        "weights_over_bandwidth_s": n_bytes / bytes_per_s,
    }


class Video:
    """The frames of each turn, decoded from a file that is played again and again; with what decoding took.

    Where PyAV is missing, a case with a size of its own gets random pictures.
    """

    def __init__(self, case: Case, folder: Path):
        import torch

        try:
            import av  # noqa: F401
        except ImportError:
            if case.frame_px is None:
                raise
            shape = FIRST_TURN_FRAMES + TURN_FRAMES, 3, *case.frame_px
            self.decode_s, self.frames = [0.0], torch.randint(0, 256, shape, dtype=torch.uint8)
            return
        from livecc_hf.assets import demo_clip_path
        from livecc_hf.video.reader import iter_chunks

        path = demo_clip_path()
        if case.frame_px is not None:
            from videos import write_moving_video

            path = folder / "video.mp4"
            write_moving_video(path, case.video_s, case.frame_px[1], case.frame_px[0])
        self.decode_s, frames = [], []
        start_s = time.perf_counter()
        for chunk in iter_chunks(path):
            self.decode_s.append(time.perf_counter() - start_s)
            frames.append(chunk.frames)
            if sum(map(len, frames)) >= case.video_s * 2:
                break
            start_s = time.perf_counter()
        self.frames = torch.cat(frames)

    def clip(self, turn: int):
        """Return the frames of a turn, counted from 0."""
        first, n = (0, FIRST_TURN_FRAMES) if turn == 0 else (FIRST_TURN_FRAMES + TURN_FRAMES * (turn - 1), TURN_FRAMES)
        return self.frames[[index % len(self.frames) for index in range(first, first + n)]]
