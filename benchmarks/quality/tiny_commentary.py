"""Quality and speed of livecc-tiny on held-out clips, from mp4 files through decoder and stream.

    python benchmarks/quality/tiny_commentary.py [--model FOLDER] [--clips 500] [--output FILE] [--predictions FILE]

About 12 minutes on 2 cores. No model was selected on the default clips. --predictions writes the commentaries next to
the narrator's words, as `livecc evaluate score` and `report` read.
"""

import sys
from pathlib import Path
from typing import Annotated

sys.path.insert(1, f"{sys.path[0]}/..")
from harness import ROOT, Measured, Run, at_least, at_most, benchmark

from livecc_hf.assets import bundled_model_path
from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.evaluation.predictions import Header
from livecc_hf.evaluation.predictions.file import write_rows
from livecc_hf.evaluation.tiny.commentary import CLIP_S, evaluate

# Targets of the bundled model; the first 100 clips, on which it was selected, give up to 0.02 more.
LEAST = {"recall": 0.90, "precision": 0.90, "silence": 0.98}
MOST_BLANKED_RECALL = 0.05
BUNDLED = bundled_model_path()


@benchmark("tiny_commentary.json", "livecc-hf", "torch", small={"clips": 1})
def main(
    _: Run,
    model: Annotated[Path, "model folder"] = BUNDLED,
    clips: Annotated[int, "number of held-out clips"] = 500,
    first: Annotated[int, "number of the first held-out clip"] = 10_000,
    predictions: Annotated[Path | None, "JSON Lines file to write the commentaries to"] = None,
) -> Measured:
    """Score the model, and once more with blank frames."""
    seen = evaluate(*load_model_and_processor(model, device="cpu")[:2], clips, first, blank_too=True)
    score, path = seen.score, model.resolve()
    if predictions:
        header = Header("commentary", suite="livecc-tiny", protocol="live", model=path.name, n_rows=clips)
        write_rows(predictions, header, seen.rows)
    name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    found = {"model": name, "clips": clips, "first_clip": first, "clip_s": CLIP_S, "dtype": "float32"}
    found |= {"events": score.events.total(), "by_verb": score.by_verb(), "blanked_recall": seen.blanked.recall}
    found |= {**seen.rates(), "quiet_turns": score.quiet_turns}
    found |= {name: getattr(seen, name) for name in ("real_time_factor", "decoding_s", "model_s")}
    targets = [at_least(name, getattr(score, name), limit) for name, limit in LEAST.items()]
    return found, [*targets, at_most("recall with blank frames", seen.blanked.recall, MOST_BLANKED_RECALL)]
