"""LoRA on livecc-tiny with another narrator's verbs: what it learned and kept, on held-out clips from mp4 files.

    python benchmarks/quality/other_narrator.py [--adapter runs/livecc-tiny/other-narrator] [--clips 100]

The adapter comes from recipes/livecc-tiny/other-narrator.yaml. About 8 minutes on 1 core, 2 GB.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(1, f"{sys.path[0]}/..")
from harness import ROOT, CannotMeasureError, Measured, Run, at_least, at_most, benchmark

from livecc_hf.assets import bundled_model_path
from livecc_hf.checkpoints.adapters import switch_adapter
from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.evaluation.tiny.commentary import CLIP_S, evaluate

NARRATED = {"new_verbs": "other", "old_verbs": "plain"}  # by the narrator who is taken as right
RECALL_TARGET, BASE_TOLERANCE = 0.8, 0.05
BUNDLED = bundled_model_path()


@benchmark("other_narrator.json", "livecc-hf", "torch", "peft", small={"clips": 1})
def main(
    _: Run,
    adapter: Annotated[Path, "adapter folder"] = ROOT / "runs/livecc-tiny/other-narrator",
    clips: Annotated[int, "number of held-out clips"] = 100,
) -> Measured:
    """Score the base alone, and the adapted model with the adapter on and off, by both narrators' verbs."""
    if not (adapter / "adapter_config.json").is_file():
        recipe = "recipes/livecc-tiny/other-narrator.yaml"
        raise CannotMeasureError(f"{adapter} holds no adapter_config.json; train one: livecc train --config {recipe}")

    def scores(of, narrator: str) -> dict[str, Any]:
        return evaluate(of, processor, clips, narrator=narrator).rates()

    base, processor = load_model_and_processor(BUNDLED, device="cpu")[:2]
    seen: dict[str, Any] = {"base": scores(base, NARRATED["old_verbs"])}
    adapted = load_model_and_processor(adapter, device="cpu", base=BUNDLED)[0]
    for name, is_on in (("adapter_on", True), ("adapter_off", False)):
        switch_adapter(adapted, is_on)
        seen[name] = {verbs: scores(adapted, narrator) for verbs, narrator in NARRATED.items()}
    changed = abs(seen["adapter_off"]["old_verbs"]["recall"] - seen["base"]["recall"])
    return {"clips": clips, "clip_s": CLIP_S} | seen, [
        at_least("recall in the new verbs", seen["adapter_on"]["new_verbs"]["recall"], RECALL_TARGET),
        at_most("change of the base's recall", changed, BASE_TOLERANCE),
    ]
