"""Measures how well tiny models of each backbone, trained by the same recipe, comment on held-out clips.

    recipes/livecc-tiny/backbones.sh                                        # trains them, then runs this
    python benchmarks/quality/backbone_recall.py [--runs FOLDER] [--clips 100] [--output FILE]

About 3 minutes a model on one core. Writes benchmarks/results/backbones.json. The counts of a model are cached next to
it, in evaluation.json. `qwen3_vl_untimed` is Qwen3-VL without its own time text.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "recipes/livecc-tiny"))
from backbone_stage import STAGES, VARIANTS, stage_data, use_variant
from harness import ROOT, CannotMeasureError, Measured, Run, at_least, benchmark

from livecc_hf.assets import bundled_model_path
from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.evaluation.tiny.commentary import CLIP_S, evaluate

FIRST_CLIP = 10_000  # no model was selected on these
BASE, MOST_BELOW = "qwen2_vl", 0.05
LEAST_BASE = 0.5  # models that learned nothing would be equal too
COUNTED = ("qwen2_5_vl", "qwen3_vl")
ABLATIONS = {"qwen3_vl_untimed": "qwen3_vl"}  # and the variant each is compared with


def measure(variant: str, folder: Path, n_clips: int) -> dict[str, Any]:
    """Run a model on the clips; return its figures, with the counts of each clip."""
    use_variant(variant)
    model, processor, _ = load_model_and_processor(str(folder), device="cpu")
    began_s = time.perf_counter()
    seen = evaluate(model, processor, n_clips, FIRST_CLIP)
    figures, counts = seen.figures(), [score.counts() for score in seen.by_clip]
    return {
        "parameters": model.num_parameters(),
        "events": seen.score.events.total(),
        "recall": seen.score.recall,
        "recall_se": figures["event recall"].se,
        "precision": seen.score.precision,
        "precision_se": figures["event precision"].se,
        "silence": seen.score.silence,
        "evaluation_s": time.perf_counter() - began_s,
        "by_clip": [[count.events, count.told] for count in counts],
    }


def recorded(variant: str, run: Path, n_clips: int) -> dict[str, Any]:
    """Return a trained model's figures, cached if they are for as many clips."""
    path = run / "evaluation.json"
    if path.is_file() and len((found := json.loads(path.read_text()))["by_clip"]) == n_clips:
        return found
    found = measure(variant, run / STAGES[-1], n_clips)
    path.write_text(json.dumps(found))
    return found


def difference(by_clip: list[list[int]], base_by_clip: list[list[int]]) -> tuple[float, float]:
    """Return the difference of two models' recall on the same clips, and its standard error.

    Args:
        by_clip: (clips, 2), events of each clip, and how many of them the model told.
        base_by_clip: the same for the other model.
    """
    n_clips, n_events = len(by_clip), sum(events for events, _ in by_clip)
    more = [told - base for (_, told), (_, base) in zip(by_clip, base_by_clip, strict=True)]
    gap = sum(more) / n_events
    squares = sum((d - gap * events) ** 2 for d, (events, _) in zip(more, by_clip, strict=True))
    return gap, math.sqrt(squares * n_clips / max(n_clips - 1, 1)) / n_events


def training_of(run: Path) -> dict[str, Any]:
    """Return the samples of a variant's training, their share, and the seconds of each finished stage."""
    share = float((run / "share").read_text())
    lines = [line.split() for line in (run / "seconds").read_text().splitlines()]
    done = {stage: int(what) for stage, what in lines if what != "begun"}
    return {
        "share": share,
        "samples": {stage: sum(e["samples"] for e in stage_data(stage, share, 84)) for stage in STAGES[1:4]},
        "stage_s": done,
        "training_s": sum(done.values()),
        "interruptions": sum(what == "begun" for _, what in lines) - len(done),  # without their seconds
    }


@benchmark("backbones.json", "livecc-hf", "torch", "transformers", "trl", small={"clips": 2})
def main(
    run: Run,
    runs: Annotated[Path, "folder that backbones.sh wrote"] = ROOT / "runs/livecc-tiny-backbones",
    clips: Annotated[int, "number of held-out clips"] = 100,
) -> Measured:
    """Measure every finished variant."""
    models: dict[str, dict[str, Any]] = {}
    found = {"clips": clips, "first_clip": FIRST_CLIP, "clip_s": CLIP_S, "dtype": "float32", "models": models}
    if run.is_small:
        models[BASE] = measure(BASE, bundled_model_path(), clips)
    else:
        for variant in VARIANTS:
            trained = runs / variant
            if (trained / STAGES[-1] / "processor_config.json").is_file():
                models[variant] = recorded(variant, trained, clips) | {"training": training_of(trained)}
                run.keep(found)
    if BASE not in models:
        raise CannotMeasureError(f"{runs} holds no finished {BASE}: run recipes/livecc-tiny/backbones.sh")
    base = models[BASE]["by_clip"]
    for name, model in models.items():
        model["recall_difference"], model["recall_difference_se"] = difference(model["by_clip"], base)
        if (whole := ABLATIONS.get(name)) in models:
            gap, error = difference(model["by_clip"], models[whole]["by_clip"])
            model["ablation"] = {"of": whole, "recall_difference": gap, "recall_difference_se": error}
    for model in models.values():
        del model["by_clip"]
    targets = [at_least(f"{BASE}: recall", models[BASE]["recall"], LEAST_BASE)]
    targets += [
        at_least(f"{name}: recall less {BASE}'s", models[name]["recall_difference"], -MOST_BELOW)
        for name in COUNTED
        if name in models
    ]
    return found, targets


if __name__ == "__main__":
    sys.exit(main())
