"""What LoRA taught livecc-tiny about other verbs, and what it left alone: held-out clips through mp4 files.

    python benchmarks/quality/other_narrator.py [--adapter runs/livecc-tiny/other-narrator] [--clips 100]

The adapter comes from recipes/livecc-tiny/other-narrator.yaml. About 8 minutes on 1 core, 2 GB. Writes
benchmarks/results/other_narrator.json.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import ROOT, at_least, at_most, finish, machine, parser

from livecc_hf.assets import bundled_model_path
from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.evaluation.tiny.commentary import CLIP_S, evaluate
from livecc_hf.evaluation.tiny.scoring import NarrationScore
from livecc_hf.tiny.narration import DEFAULT_NARRATOR, NARRATORS

NARRATOR = "other"
ADAPTER = ROOT / "runs/livecc-tiny/other-narrator"
RECALL_TARGET = 0.8
BASE_TOLERANCE = 0.05


def rates(score: NarrationScore) -> dict[str, Any]:
    """Return a score as it is written."""
    shares = {name: getattr(score, name) for name in ("recall", "precision", "silence")}
    return {**shares, "by_verb": score.by_verb()}


def measure(model_folder: Path, adapter: Path, n_clips: int, first: int) -> dict:
    """Score the base alone, and the adapted model with the adapter on and off, by both narrators' verbs.

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


def targets(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what must hold and whether it does."""
    changed = abs(found["adapter_off"]["old_verbs"]["recall"] - found["base"]["recall"])
    return [
        at_least("recall in the new verbs", found["adapter_on"]["new_verbs"]["recall"], RECALL_TARGET),
        at_most("change of the base's recall", changed, BASE_TOLERANCE),
    ]


def main() -> int:
    """Measure and write."""
    made = parser(__doc__)
    made.add_argument("--model", type=Path, default=bundled_model_path(), help="base model; default: the bundled one")
    made.add_argument("--adapter", type=Path, default=ADAPTER, help="adapter folder")
    made.add_argument("--clips", type=int, help="how many held-out clips; default: 100")
    made.add_argument("--first", type=int, default=0, help="number of the first held-out clip")
    arguments = made.parse_args()
    n_clips = arguments.clips or (1 if arguments.small else 100)
    try:
        seen = measure(arguments.model, arguments.adapter, n_clips, arguments.first)
    except FileNotFoundError as error:
        sys.exit(f"other_narrator.py: {error}")
    clips = {"clips": n_clips, "first_clip": arguments.first, "clip_s": CLIP_S, "dtype": "float32"}
    report = {"verbs": NARRATORS[NARRATOR], **clips, **seen, **machine("livecc-hf", "torch", "peft")}
    return finish(arguments, report, targets(seen), "other_narrator.json")


if __name__ == "__main__":
    sys.exit(main())
