"""Runs one stage of livecc-tiny's recipe on one backbone, with a share of its samples; backbones.sh runs every stage.

    OMP_NUM_THREADS=1 torchrun --standalone --nproc-per-node 2 recipes/livecc-tiny/backbone_stage.py \
      VARIANT STAGE RUN_FOLDER [--share 0.333] [--max-steps N]

A variant is a backbone, or `qwen3_vl_untimed`: Qwen3-VL without its own timestamp before each frame pair, so
that only LiveCC's `Time=3.0-4.0s` gives the time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from livecc_hf.modeling import backbone_qwen3_vl
from livecc_hf.modeling.processing_livecc import StreamingProcessor

RECIPES = Path(__file__).parent
sys.path.insert(0, str(RECIPES))
STAGES = ("0-warmup", "1-lists", "2-narration", "3-polish", "4-mean")
VARIANTS = {
    "qwen2_vl": "qwen2_vl",
    "qwen2_5_vl": "qwen2_5_vl",
    "qwen3_vl": "qwen3_vl",
    "qwen3_vl_untimed": "qwen3_vl",
}
SHARE = 1 / 3
SAVE_STEPS = 100


class UntimedQwen3VLBackbone(backbone_qwen3_vl.Qwen3VLBackbone):
    """Qwen3-VL with frame pairs in blocks of their own, but no text before them."""

    def vision_labels(self, n_patches: int, start_s: float = 0.0, patch_s: float = 1.0) -> list[str]:
        """Return an empty text for each frame pair."""
        return [""] * n_patches


def use_variant(variant: str) -> str:
    """Register a variant's backbone in this process, and return the backbone's name.

    Raises:
        ValueError: if the variant is unknown.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant is {variant!r}: expected one of {', '.join(VARIANTS)}")
    is_untimed = variant == "qwen3_vl_untimed"
    backbone_qwen3_vl.BACKBONE = (UntimedQwen3VLBackbone if is_untimed else backbone_qwen3_vl.Qwen3VLBackbone)()
    return VARIANTS[variant]


def stage_data(stage: str, share: float, frame_px: int) -> list[dict[str, Any]]:
    """Return the data entries of a stage's recipe, scaled to a share of the samples and another frame size.

    Samples are rounded to whole groups, at least one.

    Raises:
        ValueError: if the share is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}: expected a number above 0, at most 1")
    entries = yaml.safe_load((RECIPES / f"{stage}.yaml").read_text())["data"]
    for entry in entries:
        n_groups = max(round(entry["samples"] * share / entry["group"]), 1)
        entry |= {"samples": n_groups * entry["group"], "frame_px": frame_px}
    return entries


def train_stage(stage: str, run: Path, share: float, max_steps: int | None) -> None:
    """Train a stage from the previous one, or resume it."""
    from warmup import frame_px

    from livecc_hf.training.script import main as train

    before = run / STAGES[STAGES.index(stage) - 1]
    entries = stage_data(stage, share, frame_px(StreamingProcessor.from_pretrained(before)))
    changes = [f"model_name_or_path={before}", f"output_dir={run / stage}", f"data={json.dumps(entries)}"]
    if stage == "2-narration":
        changes.append(f"save_steps={SAVE_STEPS}")
    if max_steps is not None:
        changes.append(f"max_steps={max_steps}")
    train(["--config", str(RECIPES / f"{stage}.yaml"), *changes, "--resume"])


def write_mean(run: Path) -> None:
    """Write a model with the mean weights of the last two stages, as livecc-tiny is made."""
    from package import averaged

    averaged([run / "2-narration", run / "3-polish"]).save_pretrained(run / "4-mean")
    StreamingProcessor.from_pretrained(run / "3-polish").save_pretrained(run / "4-mean")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the stage named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("run", type=Path, help="folder of the variant's stages")
    parser.add_argument("--share", type=float, default=SHARE, help="share of the recipe's samples; default: a third")
    parser.add_argument("--max-steps", type=int, help="stop after this many steps, for a trial")
    given = parser.parse_args(argv)
    torch.set_num_threads(1)
    backbone = use_variant(given.variant)
    if given.stage == "0-warmup":
        from warmup import N_STEPS, start

        start(given.run / given.stage, backbone, given.max_steps or N_STEPS)
    elif given.stage == "4-mean":
        write_mean(given.run)
    else:
        train_stage(given.stage, given.run, given.share, given.max_steps)


if __name__ == "__main__":
    main()
