"""Interleaving against captioning: one small model trained on the same clips in three ways, and used live.

    OMP_NUM_THREADS=1 python benchmarks/quality/interleaving.py [--start runs/livecc-tiny/1-lists] [--samples 9600]

All start from livecc-tiny's first stage (made by recipes/livecc-tiny/train.sh) and train on interleaved turns, on whole
clips followed by all their words, or on 4 s windows followed by the words heard in them. About an hour on 1 CPU core,
3 GB.
"""

import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import yaml

sys.path.insert(1, f"{sys.path[0]}/..")
from harness import ROOT, CannotMeasureError, Measured, Run, benchmark, times_of

from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.evaluation.tiny.baselines import caption_turns, narrator_turns
from livecc_hf.evaluation.tiny.commentary import CLIP_S, Evaluation, held_out_clips, play, turns_of
from livecc_hf.evaluation.tiny.scoring import WINDOW_S as IN_TIME_S
from livecc_hf.evaluation.tiny.scoring import score_clip

WINDOW_S = 4
LIMITS_S = {"in_time": IN_TIME_S, "any_time": float("inf")}  # from an event to its phrase
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
# Captioning models used live: seconds of each caption, and seconds between two captions.
CAPTION_WAYS = {
    "captioned": ((CLIP_S, CLIP_S), (10, 10), (WINDOW_S, WINDOW_S), (WINDOW_S, 1)),
    "window-captioned": ((WINDOW_S, WINDOW_S), (WINDOW_S, 1)),
}


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


def train(wanted: dict[str, Any]) -> None:
    """Train one model, unless its folder has the same finished run."""
    out = Path(wanted["output_dir"])
    path, text = out.with_suffix(".yaml"), yaml.safe_dump(wanted, sort_keys=False)
    if (out / "config.json").is_file() and path.is_file() and path.read_text() == text:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    subprocess.run([sys.executable, "-m", "livecc_hf.training.script", "--config", str(path)], check=True)


def measure(folders: dict[str, Path], n_clips: int) -> dict[str, dict[str, float | None]]:
    """Play held-out clips to the models in every way; return the figures of each way."""
    models = {name: load_model_and_processor(folder, device="cpu")[:2] for name, folder in folders.items()}
    ways: dict[str, Callable] = {"the narrator itself": lambda clip: narrator_turns(clip.scene.events)}
    for name in ("interleaved", "captioned"):
        ways[f"{name}, streamed"] = lambda clip, name=name: turns_of(
            play(*models[name], clip.chunks, do_sample=False, repetition_penalty=1.0)
        )
    for name, of_model in CAPTION_WAYS.items():
        for seconds in of_model:
            ways["{}, last {} s every {} s".format(name, *seconds)] = lambda clip, name=name, seconds=seconds: (
                caption_turns(*models[name], torch.cat([frames for frames, _ in clip.chunks]), *seconds)
            )
    seen = {name: {limit: Evaluation() for limit in LIMITS_S} for name in ways}
    work_s = dict.fromkeys(ways, 0.0)
    for clip in held_out_clips(n_clips):
        for name, way in ways.items():
            _, model_s, turns = times_of(way, clip)  # of CPU time
            work_s[name] += model_s
            for limit, window_s in LIMITS_S.items():
                seen[name][limit].add(score_clip(turns, clip.scene.events, window_s=window_s))
    found: dict[str, dict[str, float | None]] = {}
    for name, of_way in seen.items():
        any_time = of_way["any_time"].score
        found[name] = {"phrases": any_time.phrases.total(), "model_s_per_video_s": work_s[name] / n_clips / CLIP_S}
        for limit, evaluation in of_way.items():
            found[name] |= {f"{rate}_{limit}": value for rate, value in evaluation.rates().items()}
        for kind in (statistics.mean, statistics.median):
            found[name][f"delay_{kind.__name__}_s"] = kind(any_time.delays_s) if any_time.delays_s else None
    return found


@benchmark("interleaving.json", "livecc-hf", "torch", small={"samples": 12 * GROUP, "clips": 1})
def main(
    _: Run,
    start: Annotated[Path, "model folder to start from"] = ROOT / "runs/livecc-tiny/1-lists",
    samples: Annotated[int, "training clips; 9600 take about 13 minutes a model"] = 9600,
    runs: Annotated[Path, "folder of the trained models"] = ROOT / "runs/interleaving",
    clips: Annotated[int, "number of held-out clips"] = 100,
) -> Measured:
    """Train the models that are not trained yet, and measure."""
    if not (start / "config.json").is_file():
        raise CannotMeasureError(f"{start} is not a model folder; recipes/livecc-tiny/train.sh makes it")
    folders = {name: runs / name for name in MODELS}
    for name, folder in folders.items():
        train(recipe(start, folder, name, samples))
    return {"samples": samples, "clips": clips, "clip_s": CLIP_S, "ways": measure(folders, clips)}, []
