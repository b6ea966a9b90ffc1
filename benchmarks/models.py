"""The models that benchmarks run, and the frames that they see."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from harness import Run, times_of
from transformers import GenerationConfig, PreTrainedModel, initialization

from livecc_hf import StreamOptions
from livecc_hf.acceleration import accelerate
from livecc_hf.assets import bundled_model_path, demo_clip_path
from livecc_hf.checkpoints.shapes import PUBLISHED_SHAPES, Shape, shape_config, shape_processor
from livecc_hf.modeling import LiveCCForConditionalGeneration
from livecc_hf.modeling.backbones import find_backbone
from livecc_hf.modeling.grammar import FIRST_TURN_FRAMES, TURN_FRAMES
from livecc_hf.video.reader import iter_chunks

FIRST_TEXT_ID = 1000  # above the special tokens, which are livecc-tiny's in all models here


@dataclass(frozen=True)
class Case:
    """One model and the frames it sees."""

    name: str
    turns: int  # of all sides except the windowed engine
    windowed_turns: int
    frame_px: tuple[int, int] | None = None  # height and width of random frames; None: the bundled clip
    max_pixels: int = 384 * 28 * 28  # of a resized frame
    new_tokens: int = 10  # in every turn
    bf16: bool = False  # else float32
    vision_window_s: float = 16.0  # of the windowed engine
    backbone: str = "qwen2_vl"
    accelerated: bool = True  # with `livecc_hf.acceleration`, as `load_model` does; a model's folder alone is not

    @property
    def scheme(self) -> str:
        """Its position scheme: the reference's, if the backbone has it."""
        return "reference" if "reference" in find_backbone(self.backbone).position_schemes else "mrope"

    def small(self) -> Self:
        """Return the case with few turns and small frames."""
        few = replace(self, turns=4, windowed_turns=6, new_tokens=3, vision_window_s=2.0)
        return few if self.frame_px is None else replace(few, frame_px=(112, 168), max_pixels=24 * 28 * 28)


CASES = {
    case.name: case
    for case in (
        Case("livecc-tiny", 60, 240, max_pixels=84 * 84),
        Case("livecc-tiny-plain", 60, 60, max_pixels=84 * 84, accelerated=False),
        Case("mid-size", 60, 60, frame_px=(720, 1080)),
        Case("mid-size-bf16", 30, 30, frame_px=(720, 1080), bf16=True),
        Case("livecc-7b", 60, 240, frame_px=(720, 1080), bf16=True),
    )
}
SHAPES = {
    # 131M parameters: 78M in the tied embedding and head, 49M in the layers, 4M in the vision tower.
    "mid-size": Shape(151_936, 512, 2731, 10, 8, 2, True, 4, 256, vision_heads=4),
    # 96M parameters: 58M in the tied embedding and head, most others in the layers.
    "training": Shape(151_936, 384, 2048, 12, 6, 2, True, 4, 256, vision_heads=4),
    "small": Shape(4096, 64, 128, 2, 4, 2, True, 2, 64, vision_heads=4),
    "livecc-7b": PUBLISHED_SHAPES["LiveCC-7B"],
}


def backbone_case(name: str) -> Case:
    """Return the mid-size case on a backbone, with the same number of vision tokens a frame pair on each."""
    max_pixels = 384 * find_backbone(name).pixels_per_token
    return replace(CASES["mid-size"], name=f"mid-size-{name}", backbone=name, max_pixels=max_pixels)


def random_bf16_model(config, device: str):
    """Return a model with random bfloat16 weights, created on the device without touching host memory."""
    with initialization.no_init_weights(), torch.device(device):
        model = LiveCCForConditionalGeneration._from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    model.tie_weights()
    for name, parameter in model.requires_grad_(False).named_parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=0.02)
        else:
            parameter.fill_(name.endswith("weight"))
    return model


def build_model(case: Case, run: Run) -> tuple[Any, Any]:
    """Return the model of a case in evaluation mode, in the case's position scheme, and its processor."""
    processor = shape_processor(case.backbone)
    model: LiveCCForConditionalGeneration
    if case.name.startswith("livecc-tiny"):
        model = LiveCCForConditionalGeneration.from_pretrained(bundled_model_path(), dtype="float32")
        model.config.position_scheme = case.scheme
    else:
        torch.manual_seed(0)
        shape = SHAPES["small" if run.is_small else "mid-size" if case.name.startswith("mid-size") else case.name]
        config = shape_config(shape._replace(backbone=case.backbone), processor, position_scheme=case.scheme)
        model = random_bf16_model(config, run.device) if case.bf16 else LiveCCForConditionalGeneration(config)
    model = model.to(run.device).eval()
    return accelerate(model) if case.accelerated else model, processor


def stock_model(model: LiveCCForConditionalGeneration) -> PreTrainedModel:
    """Return transformers' own model of the backbone, over the same weights, in evaluation mode."""
    ours_only = ("model_type", "backbone", "position_scheme", "message_end_token_id", "auto_map", "architectures")
    backbone = model.config.find_backbone()
    values = {name: value for name, value in model.config.to_dict().items() if name not in ours_only}
    with torch.device("meta"):
        config = backbone.config_class()(**values)
        stock = backbone.model_classes()[0]._from_config(config, attn_implementation="sdpa")
    stock.load_state_dict(model.state_dict(), assign=True)
    stock.tie_weights()
    for name, buffer in model.named_buffers():  # no checkpoint has these
        owner, _, key = name.rpartition(".")
        setattr(stock.get_submodule(owner), key, buffer)
    stock.generation_config = GenerationConfig()  # no end tokens: every turn has the same length
    return stock.eval()


def never_end(model, processor) -> None:
    """Change a model's head so that greedy turns never end early: the end token never scores highest."""
    with torch.no_grad():
        model.lm_head.weight[processor.end_id] = 0


def synthetic_commentary(
    config, rng: torch.Generator, pairs: Sequence[int], side: int, n_text: int, n_spoken: tuple[int, int]
) -> dict[str, Any]:
    """Return the inputs of a sample of random words and pixels.

    Each turn has `n_text` tokens, its frame pairs of `side` times `side` patches, and within `n_spoken` words.
    """

    def words(low: int, high: int) -> list[int]:
        n = int(torch.randint(low, high + 1, (), generator=rng))
        return torch.randint(FIRST_TEXT_ID, config.text_config.vocab_size, (n,), generator=rng).tolist()

    ids, labels = [], []
    for n in pairs:
        video = [config.video_token_id] * (n * side**2 // 4)
        prompt = [*words(n_text, n_text), config.vision_start_token_id, *video, config.vision_end_token_id]
        spoken = words(*n_spoken)
        ids += prompt + spoken
        labels += [-100] * len(prompt) + spoken
    return {
        "input_ids": torch.tensor(ids),
        "labels": torch.tensor(labels),
        "mm_token_type_ids": torch.tensor(ids).eq(config.video_token_id).long() * 2,
        "pixel_values_videos": torch.randn(sum(pairs) * side**2, 1176, generator=rng),
        "video_grid_thw": torch.tensor([[n, side, side] for n in pairs]),
    }


def weights_floor(model) -> dict[str, float]:
    """Return the time to read the language model's weights once on a CUDA device: the least that a token takes."""
    language = model.model.language_model.layers.parameters()
    n_bytes = sum(weight.numel() * weight.element_size() for weight in (*language, model.lm_head.weight))
    source = torch.ones(2**31, dtype=torch.uint8, device=model.device).view(torch.float32)
    took_s = [times_of(lambda: [source.sum() for _ in range(20)])[0] for _ in range(2)][1]
    bytes_per_s = 20 * 2**31 / took_s
    found = {"memory_bandwidth_gb_per_s": bytes_per_s / 1e9, "weights_read_per_token_gb": n_bytes / 1e9}
    return found | {"weights_over_bandwidth_s": n_bytes / bytes_per_s}


def random_frames(n: int, height: int, width: int) -> torch.Tensor:
    """Return random frames, uint8 (n, 3, height, width)."""
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def seen_frames(case: Case, n: int) -> torch.Tensor:
    """Return random frames in the size in which a case's model sees them: 9, 12 (small) or 384 tokens a pair."""
    if case.frame_px is None:
        return random_frames(n, 84, 84)
    return random_frames(n, *((448, 672) if case.max_pixels >= 448 * 672 else (84, 112)))


def greedy_options(case: Case) -> StreamOptions:
    """Return options with which every turn has the same number of tokens, given :func:`never_end`."""
    return StreamOptions(
        do_sample=False, max_new_tokens=case.new_tokens, max_pixels=case.max_pixels, stop_at_continuation=False
    )


def turns_of(case: Case) -> Iterator[torch.Tensor]:
    """Yield the frames of each turn: of the bundled clip, or random ones of a case's size; repeated when they end."""
    if case.frame_px is None:
        frames = torch.cat([chunk.frames for chunk in iter_chunks(demo_clip_path())])
    else:
        frames = random_frames(4 * TURN_FRAMES, *case.frame_px)
    first, n = 0, FIRST_TURN_FRAMES
    while True:
        yield frames[torch.arange(first, first + n) % len(frames)]
        first, n = first + n, TURN_FRAMES
