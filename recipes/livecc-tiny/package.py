"""Packages finished runs as the model bundled with the package.

    python recipes/livecc-tiny/package.py RUN_FOLDER [RUN_FOLDER ...] OUT_FOLDER

Takes seconds. The runs' weights are averaged, so each run must have started from the previous one; the mean of the
last two stages comments better than either. Weights are rounded to bfloat16. The modeling code is linked to the
project's own files, so that the folder loads like one from the Hub.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import torch

from livecc_hf.assets import demo_clip_path
from livecc_hf.checkpoints.cards import CardFacts, write_card
from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration
from livecc_hf.modeling.processing_livecc import StreamingProcessor
from livecc_hf.publishing.gallery import complete_card

SUMMARY = """\
A {millions:.1f}M-parameter LiveCC model that comments on a small world of coloured shapes while it watches. It
shows that the whole chain works (data, training, streaming, captions) on any computer; it knows nothing about
real videos."""
TRAINING = {
    "data": "videos of moving coloured shapes with commentary on what happens, generated during training",
    "recipe": "`recipes/livecc-tiny/train.sh`, from random weights",
    "hardware": "2 CPU cores",
    "quality on held-out clips": "`benchmarks/results/tiny_commentary.json`",
}
MODELING = Path(__file__).resolve().parents[2] / "modeling"
SIZE_LIMIT_BYTES = 4_000_000


def card_facts(model: LiveCCForConditionalGeneration) -> CardFacts:
    """Return the content of the bundled model's card."""
    return CardFacts(
        "livecc-tiny",
        SUMMARY.format(millions=model.num_parameters() / 1e6),
        model.config.position_scheme,
        training=TRAINING,
        metadata={"license": "apache-2.0", "language": ["en"]},
        tags=["tiny"],
        is_complete=True,
    )


def make_card(out: Path, model: LiveCCForConditionalGeneration) -> None:
    """Write the folder's card, and the sample clip that the model comments on."""
    write_card(out, card_facts(model))
    complete_card(out, clip=demo_clip_path())


def averaged(runs: list[Path]) -> LiveCCForConditionalGeneration:
    """Return a model with the mean of the runs' weights, in float32."""
    models = [LiveCCForConditionalGeneration.from_pretrained(run, dtype=torch.float32) for run in runs]
    states = [model.state_dict() for model in models]
    mean = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
    models[-1].load_state_dict(mean)
    return models[-1]


def package(runs: list[Path], out: Path) -> None:
    """Write the bundled model's folder.

    Raises:
        ValueError: if the weights are too large to ship.
    """
    model = averaged(runs).to(torch.bfloat16)
    for config in (model.config, model.config.text_config, model.config.vision_config):
        config.dtype = torch.bfloat16
    processor = StreamingProcessor.from_pretrained(runs[-1])
    tokenizer = processor.tokenizer
    model.generation_config.update(
        do_sample=False,
        repetition_penalty=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.generation_config._from_model_config = False
    if out.exists():
        shutil.rmtree(out)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    for code in out.glob("*.py"):
        # A single source: links to the project's own files, which an installed package replaces by copies.
        code.unlink()
        code.symlink_to(os.path.relpath(MODELING / code.name, out))
    weights_bytes = (out / "model.safetensors").stat().st_size
    if weights_bytes > SIZE_LIMIT_BYTES:
        raise ValueError(f"the weights take {weights_bytes} bytes; expected at most {SIZE_LIMIT_BYTES}")
    make_card(out, model)
    print(json.dumps({"folder": str(out), "weights_bytes": weights_bytes}))


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: package.py RUN_FOLDER [RUN_FOLDER ...] OUT_FOLDER")
    package([Path(run) for run in sys.argv[1:-1]], Path(sys.argv[-1]))
