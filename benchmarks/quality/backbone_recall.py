"""Measures how well tiny models of each backbone, trained by the same recipe, comment on held-out clips.

    recipes/livecc-tiny/backbones.sh                                        # trains them, then runs this
    python benchmarks/quality/backbone_recall.py [--runs FOLDER] [--clips 100] [--output FILE]

About 3 minutes a model on one core. `qwen3_vl_untimed` is Qwen3-VL without its own time text.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np

sys.path.insert(1, f"{sys.path[0]}/..")
sys.path.insert(1, f"{sys.path[0]}/../../recipes/livecc-tiny")
from backbone_stage import STAGES, VARIANTS, use_variant
from harness import ROOT, CannotMeasureError, Measured, Run, at_least, benchmark

from livecc_hf.assets import bundled_model_path
from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.evaluation.scorers.statistics import difference_of_ratios
from livecc_hf.evaluation.tiny.commentary import CLIP_S, evaluate

FIRST_CLIP = 10_000  # no model was selected on these
BASE, MOST_BELOW = "qwen2_vl", 0.05
LEAST_BASE = 0.5  # models that learned nothing would be equal too
COUNTED = ("qwen2_5_vl", "qwen3_vl")
ABLATIONS = {"qwen3_vl_untimed": "qwen3_vl"}  # and the variant each is compared with
Counts = tuple[np.ndarray, np.ndarray]  # of each clip: the events that the model told, and all


def measure(variant: str, folder: Path, n_clips: int) -> tuple[dict[str, Any], Counts]:
    """Run a model on the clips; return its figures and the counts of each clip."""
    use_variant(variant)
    model, processor, _ = load_model_and_processor(str(folder), device="cpu")
    seen = evaluate(model, processor, n_clips, FIRST_CLIP)
    found = {"parameters": model.num_parameters(), "events": seen.score.events.total(), **seen.rates()}
    counts = [score.counts() for score in seen.by_clip]
    return found, (np.array([count.told for count in counts]), np.array([count.events for count in counts]))


def difference(counts: Counts, base: Counts) -> dict[str, float | None]:
    """Return the difference of two models' recall on the same clips, and its standard error."""
    gap, error = difference_of_ratios(base, counts, clusters=range(len(counts[0])))
    return {"recall_difference": gap, "recall_difference_se": error}


def training_s(run: Path) -> int:
    """Return the seconds of a run's finished stages."""
    lines = [line.split() for line in (run / "seconds").read_text().splitlines()]
    return sum({stage: int(what) for stage, what in lines if what != "begun"}.values())


@benchmark("backbones.json", "livecc-hf", "torch", "transformers", "trl", small={"clips": 2})
def main(
    run: Run,
    runs: Annotated[Path, "folder that backbones.sh wrote"] = ROOT / "runs/livecc-tiny-backbones",
    clips: Annotated[int, "number of held-out clips"] = 100,
) -> Measured:
    """Measure every finished variant."""
    folders = {BASE: bundled_model_path()} if run.is_small else {name: runs / name / STAGES[-1] for name in VARIANTS}
    folders = {name: folder for name, folder in folders.items() if (folder / "processor_config.json").is_file()}
    if BASE not in folders:
        raise CannotMeasureError(f"{runs} holds no finished {BASE}: run recipes/livecc-tiny/backbones.sh")
    models: dict[str, dict[str, Any]] = {}
    seen: dict[str, Counts] = {}
    found = {"clips": clips, "first_clip": FIRST_CLIP, "clip_s": CLIP_S, "dtype": "float32", "models": models}
    for name, folder in folders.items():
        models[name], seen[name] = measure(name, folder, clips)
        models[name] |= difference(seen[name], seen[BASE])
        if (whole := ABLATIONS.get(name)) in seen:
            models[name]["ablation"] = {"of": whole} | difference(seen[name], seen[whole])
        if not run.is_small:
            models[name]["training_s"] = training_s(folder.parent)
        run.tell(f"{name}: recall {models[name]['recall']:.3f}", found)
    targets = [at_least(f"{BASE}: recall", models[BASE]["recall"], LEAST_BASE)]
    for name in filter(models.get, COUNTED):
        targets.append(at_least(f"{name}: recall less {BASE}'s", models[name]["recall_difference"], -MOST_BELOW))
    return found, targets
