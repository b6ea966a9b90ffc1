"""Initializes livecc-tiny: random weights, then a vision tower trained to recognise objects.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 recipes/livecc-tiny/warmup.py OUT_FOLDER [BACKBONE]

Takes about 1.5 minutes on 2 cores and 1 GB of memory. Temporary heads on the vision tower's output tokens
classify the colour, shape, motion and mark in each of the 3 x 3 cells of a frame pair. Without this warm-up, the
language model gets uninformative features and does not learn long conversations.

livecc-tiny is a Qwen2-VL; backbones.sh also initializes tiny models of the other backbones with this script.
"""

from __future__ import annotations

import math
import os
import random
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import Qwen2VLImageProcessor

from livecc_hf.modeling.backbones import DEFAULT_BACKBONE, find_backbone
from livecc_hf.modeling.configuration_livecc import LiveCCConfig
from livecc_hf.modeling.grammar import FRAME_STEP_S
from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration
from livecc_hf.modeling.processing_livecc import StreamingProcessor
from livecc_hf.modeling.video_processing_livecc import LiveCCVideoProcessor
from livecc_hf.tiny.narration import QUERY
from livecc_hf.tiny.rendering import draw_frames
from livecc_hf.tiny.samples import FRAME_SIZE_PX, like_decoded
from livecc_hf.tiny.scene import COLOURS, MARK_S, MARKS, SHAPES
from livecc_hf.tiny.world import simulate
from livecc_hf.training.optim import MuonAdamW

sys.path.insert(0, str(Path(__file__).parent))
from make_tokenizer import build as build_tokenizer

SEED = 0
N_STEPS = 400
BATCH = 32  # frame pairs per process
MUON_LEARNING_RATE, LEARNING_RATE = 0.02, 0.003
GRID = 3  # tokens along a side
N_CLASSES = {"colour": 1 + len(COLOURS), "shape": 1 + len(SHAPES), "motion": 5, "mark": 1 + len(MARKS)}
IGNORE = -100
# Config values that differ between backbones: rotary sections, language model, vision tower.
_TOWER = {"depth": 2, "num_heads": 4, "hidden_size": 96, "out_hidden_size": 128}
OWN: dict[str, tuple[dict, dict, dict]] = {
    "qwen2_vl": (
        {"mrope_section": [4, 6, 6]},
        {},
        {"depth": 2, "embed_dim": 96, "num_heads": 4, "mlp_ratio": 4, "hidden_size": 128},
    ),
    # Windows of 2 x 2 tokens in the first block, smaller than a frame; the MLP has a third matrix.
    "qwen2_5_vl": (
        {"mrope_section": [4, 6, 6]},
        {},
        _TOWER | {"intermediate_size": 256, "window_size": 56, "fullatt_block_indexes": [1], "tokens_per_second": 2},
    ),
    # One learned position per patch of a frame; the first block's features are added after the first text layer.
    "qwen3_vl": (
        {"mrope_section": [6, 5, 5], "mrope_interleaved": True},
        {"head_dim": 32},
        _TOWER | {"intermediate_size": 384, "deepstack_visual_indexes": [0], "num_position_embeddings": 36},
    ),
}


def frame_px(processor: StreamingProcessor) -> int:
    """Return the side of a frame of 3 x 3 tokens, in pixels: 84, or 96 with Qwen3-VL."""
    return GRID * processor.video_processor.factor


def build_processor(name: str = DEFAULT_BACKBONE) -> StreamingProcessor:
    """Return a backbone's processor with frames pinned to 3 x 3 tokens."""
    backbone = find_backbone(name)
    n_pixels = GRID**2 * backbone.pixels_per_token
    size = {"shortest_edge": n_pixels, "longest_edge": n_pixels}
    own = {"image_mean": list(backbone.image_mean), "image_std": list(backbone.image_std)}
    tokenizer = build_tokenizer(backbone)
    return StreamingProcessor(
        Qwen2VLImageProcessor(size=size, patch_size=backbone.patch_size, **own),
        tokenizer,
        LiveCCVideoProcessor(size=size, patch_size=backbone.patch_size),
        chat_template=tokenizer.chat_template,
        default_query=QUERY,
        backbone=name,
    )


def build_model(processor: StreamingProcessor) -> LiveCCForConditionalGeneration:
    """Return a randomly initialized model of 1.4M parameters on the processor's backbone."""
    tokenizer = processor.tokenizer
    rope, own_text, vision = OWN[processor.backbone]
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **rope},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
        **own_text,
    }
    ids = {
        name: tokenizer.convert_tokens_to_ids(token)
        for name, token in (
            ("vision_start_token_id", "<|vision_start|>"),
            ("vision_end_token_id", "<|vision_end|>"),
            ("image_token_id", "<|image_pad|>"),
            ("video_token_id", "<|video_pad|>"),
        )
    }
    config = LiveCCConfig(
        backbone=processor.backbone, text_config=text, vision_config=vision, tie_word_embeddings=False, **ids
    )
    model = LiveCCForConditionalGeneration(config)
    initialise(model)
    model.generation_config.update(
        do_sample=False,
        repetition_penalty=1.0,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def initialise(model: nn.Module) -> None:
    """Initialize every matrix with std 1 / sqrt(inputs); Qwen2-VL's 0.02 is far too small at this width."""
    generator = torch.Generator().manual_seed(SEED)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim == 1:
            nn.init.ones_(parameter)
        else:
            std = 1 / math.sqrt(parameter[0].numel())
            std = 0.3 if "embed_tokens" in name else 0.02 if "lm_head" in name else std
            nn.init.normal_(parameter, std=std, generator=generator)


def labelled_pair(seed: int, size_px: int = FRAME_SIZE_PX) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return two frames half a second apart, uint8 (2, 3, size_px, size_px), and the classes of their cells (9,)."""
    rng = random.Random(f"pair/{seed}")
    scene = simulate(rng.randrange(2**31), 8.0)
    start_s = rng.uniform(0.0, 7.4)
    times_s = [start_s, start_s + FRAME_STEP_S]
    labels = {name: np.zeros(GRID * GRID, dtype=np.int64) for name in N_CLASSES}
    labels["motion"][:] = IGNORE  # supervised only in cells with an object
    for track in scene.tracks:
        if all(track.visible_at(time_s) for time_s in times_s):
            (x0, y0), (x1, y1) = (track.at(time_s)[:2] for time_s in times_s)
            if 0 <= x0 + x1 < 2 and 0 <= y0 + y1 < 2:
                cell = _cell((x0 + x1) / 2, (y0 + y1) / 2)
                labels["colour"][cell] = 1 + COLOURS.index(track.colour_at(times_s[1]))
                labels["shape"][cell] = 1 + SHAPES.index(track.shape)
                labels["motion"][cell] = _motion(x1 - x0, y1 - y0)
    for mark in scene.marks:
        track = scene.tracks[mark.track]
        is_shown = 0 <= times_s[1] - mark.time_s < MARK_S
        if is_shown and mark.kind == "gone":
            cell = _cell(*track.at(mark.time_s)[:2])
            labels["colour"][cell] = 1 + COLOURS.index(track.colour_at(mark.time_s))
            labels["shape"][cell] = 1 + SHAPES.index(track.shape)
            labels["mark"][cell] = 1 + MARKS.index("gone")
        elif is_shown and track.visible_at(times_s[1]):
            labels["mark"][_cell(*track.at(times_s[1])[:2])] = 1 + MARKS.index(mark.kind)
    return like_decoded(draw_frames(scene, times_s, size_px), seed), labels


def _cell(x: float, y: float) -> int:
    row, column = (min(max(int(v * GRID), 0), GRID - 1) for v in (y, x))
    return row * GRID + column


def _motion(dx: float, dy: float) -> int:
    """Return the motion class: 0 at rest, then right, left, down, up."""
    if abs(dx) + abs(dy) < 0.02:
        return 0
    if abs(dx) > abs(dy):
        return 1 if dx > 0 else 2
    return 3 if dy > 0 else 4


def warm_up(
    vision: nn.Module, processor: StreamingProcessor, rank: int, world_size: int, n_steps: int = N_STEPS
) -> None:
    """Train the vision tower and its mergers in place."""
    torch.manual_seed(SEED)
    heads = nn.ModuleDict({name: nn.Linear(128, n) for name, n in N_CLASSES.items()})
    network = nn.ModuleDict({"vision": vision, "heads": heads})
    tables = {id(p) for module in vision.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    matrices = [p for p in vision.parameters() if p.ndim >= 2 and id(p) not in tables]
    rest = [p for p in network.parameters() if all(p is not q for q in matrices)]
    optimizer = MuonAdamW(
        [
            {"params": matrices, "muon": True, "lr": MUON_LEARNING_RATE},
            {"params": rest, "lr": LEARNING_RATE, "weight_decay": 0.01},
        ]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 20) * min(1, (n_steps - step) / (0.4 * n_steps))
    )
    for step in range(n_steps):
        first = (step * world_size + rank) * BATCH
        pairs = [labelled_pair(first + index, frame_px(processor)) for index in range(BATCH)]
        frames = torch.from_numpy(np.concatenate([frames for frames, _ in pairs]))
        patches, grid = processor.video_processor.frames_to_patches(frames, do_resize=False)
        seen = vision(patches, grid_thw=grid)
        # What enters the language model later is added to what entered it first, here as there.
        tokens = sum(getattr(seen, "deepstack_features", None) or (), seen.pooler_output)
        loss = torch.zeros(())
        for name, head in heads.items():
            target = torch.from_numpy(np.concatenate([labels[name] for _, labels in pairs]))
            loss = loss + cross_entropy(head(tokens), target, ignore_index=IGNORE)
        optimizer.zero_grad()
        loss.backward()
        if world_size > 1:
            for gradient in (parameter.grad for parameter in network.parameters() if parameter.grad is not None):
                dist.all_reduce(gradient)
                gradient /= world_size
        optimizer.step()
        schedule.step()
        if rank == 0 and (step % 50 == 0 or step == n_steps - 1):
            print(f"warm-up step {step}: loss {loss.item():.3f}", flush=True)


def main() -> None:
    """Build processor and model, warm up the vision tower, and save a model folder."""
    if len(sys.argv) not in (2, 3):
        sys.exit("usage: warmup.py OUT_FOLDER [BACKBONE]")
    start(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) == 3 else DEFAULT_BACKBONE)


def start(out: Path, backbone: str = DEFAULT_BACKBONE, n_steps: int = N_STEPS) -> None:
    """Write a model folder with a warmed-up vision tower; every process of the launch must call this."""
    torch.set_num_threads(1)
    world_size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    if world_size > 1:
        dist.init_process_group("gloo")
    processor = build_processor(backbone)
    model = build_model(processor)
    warm_up(model.model.visual, processor, rank, world_size, n_steps)
    if rank == 0:
        model.save_pretrained(out)
        processor.save_pretrained(out)
    if world_size > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
