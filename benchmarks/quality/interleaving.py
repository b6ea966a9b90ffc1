"""Interleaving against captioning: one small model trained on the same clips in three ways, and used live.

    OMP_NUM_THREADS=1 python benchmarks/quality/interleaving.py [--start runs/livecc-tiny/1-lists] [--samples 9600]

All start from livecc-tiny's first stage (made by recipes/livecc-tiny/train.sh) and train on interleaved turns, on whole
clips followed by all their words, or on 4 s windows followed by the words heard in them. About an hour on 1 CPU core,
3 GB; finished training runs are not repeated. Writes benchmarks/results/interleaving.json; docs/interleaving.md has
its table.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import ROOT, CannotMeasureError, Measured, Run, benchmark, times_of

from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.evaluation.tiny.baselines import caption_turns, narrator_turns
from livecc_hf.evaluation.tiny.commentary import CLIP_S, held_out_clips, play, turns_of
from livecc_hf.evaluation.tiny.scoring import WINDOW_S as IN_TIME_S
from livecc_hf.evaluation.tiny.scoring import NarrationScore, score_clip

WINDOW_S = 4
# Keys of the data, and samples for each clip of the curriculum: a window is less than half of a clip, so twice as many
# samples, in batches twice as large, make as many steps and about as many seconds of video.
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "interleaved": ({"task": "narrate"}, 1),
    "captioned": ({"task": "caption"}, 1),
    "window-captioned": ({"task": "caption", "window_s": WINDOW_S}, 2),
}
CURRICULUM = (  # seconds, twelfths of the samples, moods
    ((4, 7), 7, ["busy"]),
    ((8, 14), 3, ["busy", "busy", "calm"]),
    ((14, 20), 2, ["calm", "busy"]),
)
GROUP, BATCH = 16, 8
# Captioning models used live: (model, seconds of each caption, seconds between two captions).
CAPTION_WAYS = (
    ("captioned", CLIP_S, CLIP_S),
    ("captioned", 10, 10),
    ("captioned", WINDOW_S, WINDOW_S),
    ("captioned", WINDOW_S, 1),
    ("window-captioned", WINDOW_S, WINDOW_S),
    ("window-captioned", WINDOW_S, 1),
)
STREAMED = ("interleaved", "captioned")


def recipe(start: Path, out: Path, name: str, n_samples: int) -> dict[str, Any]:
    """Return the training recipe of one of `MODELS`; interleaving.yaml has what all share."""
    if n_samples < 12 * GROUP:
        raise CannotMeasureError(f"--samples {n_samples}: expected at least {12 * GROUP}")
    task, factor = MODELS[name]
    data = []
    for length_s, twelfths, moods in CURRICULUM:
        n = n_samples * twelfths // 12 // GROUP * GROUP * factor
        data.append({"source": "tiny", **task, "length": list(length_s), "samples": n, "group": GROUP, "moods": moods})
    own = {"model_name_or_path": str(start), "output_dir": str(out), "data": data}
    settings = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
    return {**own, "per_device_train_batch_size": BATCH * factor, **settings}


def train(wanted: dict[str, Any]) -> float:
    """Train one model, unless its folder has the same finished run; return the seconds it took."""
    out = Path(wanted["output_dir"])
    done, path = out / "ablation.json", out.with_suffix(".yaml")
    if done.is_file() and (run := json.loads(done.read_text()))["recipe"] == wanted:
        return run["training_s"]
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(wanted, sort_keys=False))
    command = [sys.executable, "-m", "livecc_hf.training.script", "--config", str(path)]
    training_s = round(times_of(lambda: subprocess.run(command, check=True))[0], 1)
    done.write_text(json.dumps({"recipe": wanted, "training_s": training_s}, indent=2) + "\n")
    return training_s


def measure(folders: dict[str, Path], n_clips: int, first: int) -> dict[str, dict[str, float | None]]:
    """Play held-out clips to the models in every way; return the figures of each way."""
    models = {name: load_model_and_processor(folder, device="cpu")[:2] for name, folder in folders.items()}
    ways: dict[str, Callable] = {"the narrator itself": lambda clip: narrator_turns(clip.scene.events)}
    for name in STREAMED:
        ways[f"{name}, streamed"] = lambda clip, name=name: turns_of(
            play(*models[name], clip.chunks, do_sample=False, repetition_penalty=1.0)
        )
    for name, *seconds in CAPTION_WAYS:
        ways["{}, last {} s every {} s".format(name, *seconds)] = lambda clip, name=name, seconds=seconds: (
            caption_turns(*models[name], torch.cat([frames for frames, _ in clip.chunks]), *seconds)
        )
    seen: dict[str, tuple[NarrationScore, NarrationScore, list[float]]]  # in time, at any time, work
    seen = {name: (NarrationScore(), NarrationScore(), []) for name in ways}
    for clip in held_out_clips(n_clips, first):
        for name, way in ways.items():
            model_s, _, turns = times_of(way, clip)
            in_time, any_time, work_s = seen[name]
            in_time.add(score_clip(turns, clip.scene.events))
            any_time.add(score_clip(turns, clip.scene.events, window_s=float("inf")))
            work_s.append(model_s)
    return {name: rates(*scores) for name, scores in seen.items()}


def rates(in_time: NarrationScore, any_time: NarrationScore, work_s: list[float]) -> dict[str, float | None]:
    """Return the figures of a way: its phrases scored with and without a time limit, and its work."""
    delays_s = any_time.delays_s
    found: dict[str, float | None]
    found = {"phrases": in_time.phrases.total(), "model_s_per_video_s": statistics.mean(work_s) / CLIP_S}
    for name, score in (("in_time", in_time), ("any_time", any_time)):
        found |= {f"recall_{name}": score.recall, f"precision_{name}": score.precision}
    for name in ("mean", "median"):
        found[f"delay_{name}_s"] = getattr(statistics, name)(delays_s) if delays_s else None
    return found


def table(result: dict[str, Any]) -> str:
    """Return the Markdown table of docs/interleaving.md."""
    lines = [
        f"| trained, used | recall within {IN_TIME_S:.0f} s | recall, any time | precision within {IN_TIME_S:.0f} s "
        "| precision, any time | delay, median | delay, mean | work per second of video |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in result["ways"].items():
        delays = ["-" if row[key] is None else f"{row[key]:.1f} s" for key in ("delay_median_s", "delay_mean_s")]
        shares = ("recall_in_time", "recall_any_time", "precision_in_time", "precision_any_time")
        cells = [name, *(f"{row[key]:.2f}" for key in shares), *delays, f"{row['model_s_per_video_s']:.3f} s"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@benchmark("interleaving.json", "livecc-hf", "torch", small={"samples": 12 * GROUP, "clips": 1})
def main(
    run: Run,
    start: Annotated[Path, "model folder to start from"] = ROOT / "runs/livecc-tiny/1-lists",
    samples: Annotated[int, "training clips; 9600 take about 13 minutes a model"] = 9600,
    runs: Annotated[Path, "folder of the trained models"] = ROOT / "runs/interleaving",
    clips: Annotated[int, "number of held-out clips"] = 100,
    first: Annotated[int, "number of the first held-out clip"] = 0,
) -> Measured:
    """Train the models that are not trained yet, and measure."""
    if not (start / "config.json").is_file():
        raise CannotMeasureError(f"{start} is not a model folder; recipes/livecc-tiny/train.sh makes it")
    folders = {name: runs / name for name in MODELS}
    report = {"samples": samples, "clips": clips, "first_clip": first, "clip_s": CLIP_S, "dtype": "float32"}
    report["training_s"] = {name: train(recipe(start, folder, name, samples)) for name, folder in folders.items()}
    report["ways"] = measure(folders, clips, first)
    run.tell(table(report))
    return report, []
