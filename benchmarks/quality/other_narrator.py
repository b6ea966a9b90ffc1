"""What LoRA taught livecc-tiny about other verbs, and what it left alone: held-out clips through mp4 files.

    python benchmarks/quality/other_narrator.py [--adapter runs/livecc-tiny/other-narrator] [--clips 100]

The adapter comes from recipes/livecc-tiny/other-narrator.yaml. About 8 minutes on 1 core, 2 GB. Writes
benchmarks/results/other_narrator.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch
from tiny_commentary import BUNDLED, ROOT, hardware

import livecc_hf
from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.evaluation.tiny.commentary import CLIP_S, evaluate
from livecc_hf.evaluation.tiny.scoring import Score
from livecc_hf.tiny.narration import DEFAULT_NARRATOR, NARRATORS

NARRATOR = "other"
ADAPTER = ROOT / "runs/livecc-tiny/other-narrator"
OUTPUT = ROOT / "benchmarks/results/other_narrator.json"
RECALL_TARGET = 0.8
BASE_TOLERANCE = 0.05


def rates(score: Score) -> dict:
    """A score as it is written to the file."""
    return {
        "recall": round(score.recall, 4),
        "precision": round(score.precision, 4),
        "silence": round(score.silence, 4),
        "by_verb": score.by_verb(),
    }


def measure(model_folder: Path, adapter: Path, n_clips: int, first: int) -> dict:
    """Scores the base alone, and the adapted model with the adapter on and off, by both narrators' verbs.

    Raises:
        FileNotFoundError: if there is no adapter in the folder.
    """
    from peft import PeftModel

    if not (adapter / "adapter_config.json").is_file():
        raise FileNotFoundError(
            f"{adapter} holds no adapter_config.json; train one with: livecc train --config "
            "recipes/livecc-tiny/other-narrator.yaml"
        )

    def scores(narrator: str) -> dict:
        return rates(evaluate(model, processor, n_clips, first, narrator=narrator).score)

    model, processor, _ = load_model_and_processor(model_folder, device="cpu")
    base = scores(DEFAULT_NARRATOR)
    adapted = PeftModel.from_pretrained(model, adapter).eval()  # puts its layers into `model` itself
    on = {"new_verbs": scores(NARRATOR), "old_verbs": scores(DEFAULT_NARRATOR)}
    with adapted.disable_adapter():
        off = {"new_verbs": scores(NARRATOR), "old_verbs": scores(DEFAULT_NARRATOR)}
    n_trained = sum(p.numel() for name, p in model.named_parameters() if "lora_" in name or "modules_to_save" in name)
    return {"base": base, "adapter_on": on, "adapter_off": off, "adapter_parameters": n_trained}


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=BUNDLED, help="base model folder; default: the bundled one")
    parser.add_argument("--adapter", type=Path, default=ADAPTER, help="adapter folder")
    parser.add_argument("--clips", type=int, default=100, help="how many held-out clips")
    parser.add_argument("--first", type=int, default=0, help="number of the first held-out clip")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON file to write")
    arguments = parser.parse_args()
    try:
        seen = measure(arguments.model, arguments.adapter, arguments.clips, arguments.first)
    except FileNotFoundError as error:
        sys.exit(f"other_narrator.py: {error}")
    kept = abs(seen["adapter_off"]["old_verbs"]["recall"] - seen["base"]["recall"])
    result = {
        "verbs": NARRATORS[NARRATOR],
        "clips": arguments.clips,
        "first_clip": arguments.first,
        "clip_s": CLIP_S,
        **seen,
        "targets": {"new_recall": RECALL_TARGET, "base_recall_changes_by_at_most": BASE_TOLERANCE},
        "targets_met": seen["adapter_on"]["new_verbs"]["recall"] >= RECALL_TARGET and kept <= BASE_TOLERANCE,
        "hardware": hardware(),
        "dtype": "float32",
        "versions": {"livecc_hf": livecc_hf.__version__, "torch": torch.__version__},
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
