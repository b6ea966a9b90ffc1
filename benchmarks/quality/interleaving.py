"""Interleaving against captioning: one small model, the same clips, three ways to train, and what each says live.

    OMP_NUM_THREADS=1 python benchmarks/quality/interleaving.py [--start runs/livecc-tiny/1-lists] [--samples 9600]

All start from livecc-tiny's first stage (recipes/livecc-tiny/train.sh makes it). One is trained on interleaved
turns, one on the whole clip followed by all of its words, one on 4 s windows of the clips followed by the words heard
in them. About an hour on 1 CPU core, 3 GB; a training run that is finished is not repeated. Writes
benchmarks/results/interleaving.json, whose table is in docs/interleaving.md.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import ROOT, CannotMeasureError, Measured, Run, benchmark, times_of

from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.data.sources.tiny import caption_prompt_ids
from livecc_hf.evaluation.tiny.commentary import CLIP_S, held_out_clips, play, turns_of
from livecc_hf.evaluation.tiny.scoring import WINDOW_S as IN_TIME_S
from livecc_hf.evaluation.tiny.scoring import NarrationScore, SpokenTurn, score_clip
from livecc_hf.modeling.grammar import FRAME_STEP_S, assign_words, split_turns
from livecc_hf.tiny.narration import narrate

WINDOW_S = 4
# What differs in the data, and samples for each clip of the curriculum: a window is less than half of a clip, so twice
# as many, in batches twice as large, make as many steps and about as many seconds of video.
MODELS = {
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
GREEDY = {"do_sample": False, "repetition_penalty": 1.0}
CAPTION_TOKENS = 128
# Captioning models used live: (which, seconds it looks at, seconds between two captions).
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
    """Return the training recipe of one of `MODELS`; only what is said there differs."""
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
    """Train one model, unless its folder holds the same run already; return the seconds that took."""
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


@torch.no_grad()
def caption(model, processor, frames: torch.Tensor) -> str:
    """Return what a model says about some frames, uint8 (T, 3, H, W), as one answer."""
    patches, grid = processor.video_processor.frames_to_patches(frames)
    ids = torch.tensor([caption_prompt_ids(processor, len(frames), len(patches), None)])
    answer = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mm_token_type_ids=torch.tensor(processor.create_mm_token_type_ids(ids.tolist())),
        pixel_values_videos=patches,
        video_grid_thw=grid,
        max_new_tokens=CAPTION_TOKENS,
        eos_token_id=processor.end_id,
        pad_token_id=processor.tokenizer.pad_token_id,
        **GREEDY,
    )
    return processor.decode_turn(answer[0, ids.shape[1] :].tolist())


def caption_turns(model, processor, frames: torch.Tensor, window_s: int, every_s: int) -> list[SpokenTurn]:
    """Use a captioning model live: every so often, it captions the last seconds.

    Args:
        model: the model.
        processor: its processor.
        frames: a clip at 2 frames a second, uint8 (T, 3, H, W).
        window_s: how many seconds it looks at.
        every_s: seconds between two captions; where windows overlap, a sentence counts as spoken only if the caption
            before did not hold it.
    """
    window, step = (round(seconds / FRAME_STEP_S) for seconds in (window_s, every_s))
    turns, before = [], Counter()
    for end in range(window, len(frames) + 1, step):
        sentences = caption(model, processor, frames[end - window : end]).split(". ")
        sentences = [sentence.rstrip(".") for sentence in sentences if sentence]
        told = Counter(before) if window > step else Counter()
        fresh = []
        for sentence in sentences:
            if told[sentence]:
                told[sentence] -= 1
            else:
                fresh.append(sentence + ".")
        before = Counter(sentences)
        turns.append(SpokenTurn((end - 1) * FRAME_STEP_S, " ".join(fresh)))
    return turns


def narrator_turns(events: list) -> list[SpokenTurn]:
    """Return what the narrator itself says, heard in turns as a stream's words are: the best that a model can learn."""
    ends_s = [span.end_s - FRAME_STEP_S for span in split_turns(round(CLIP_S / FRAME_STEP_S))]
    spoken = assign_words(narrate(events, CLIP_S), ends_s)[0]
    return [SpokenTurn(seen_s, " ".join(turn)) for seen_s, turn in zip(ends_s, spoken, strict=True)]


def measure(folders: dict[str, Path], n_clips: int, first: int) -> dict[str, dict]:
    """Play held-out clips to the models in every way; by name of the way."""
    models = {name: load_model_and_processor(folder, device="cpu")[:2] for name, folder in folders.items()}
    ways = {"the narrator itself": lambda clip: narrator_turns(clip.scene.events)}
    for name in STREAMED:
        ways[f"{name}, streamed"] = lambda clip, name=name: turns_of(play(*models[name], clip.chunks, **GREEDY))
    for name, *seconds in CAPTION_WAYS:
        ways["{}, last {} s every {} s".format(name, *seconds)] = lambda clip, name=name, seconds=seconds: (
            caption_turns(*models[name], torch.cat([frames for frames, _ in clip.chunks]), *seconds)
        )
    seen = {name: (NarrationScore(), NarrationScore(), []) for name in ways}  # in time, at any time, work
    for clip in held_out_clips(n_clips, first):
        for name, way in ways.items():
            model_s, _, turns = times_of(way, clip)
            in_time, any_time, work_s = seen[name]
            in_time.add(score_clip(turns, clip.scene.events))
            any_time.add(score_clip(turns, clip.scene.events, window_s=float("inf")))
            work_s.append(model_s)
    return {name: rates(*scores) for name, scores in seen.items()}


def rates(in_time: NarrationScore, any_time: NarrationScore, work_s: list[float]) -> dict[str, float | None]:
    """Return what is written of a way: its phrases scored with and without a time limit, and its work."""
    delays_s = any_time.delays_s
    return {
        "recall_in_time": in_time.recall,
        "precision_in_time": in_time.precision,
        "recall_any_time": any_time.recall,
        "precision_any_time": any_time.precision,
        "delay_mean_s": statistics.mean(delays_s) if delays_s else None,
        "delay_median_s": statistics.median(delays_s) if delays_s else None,
        "phrases": in_time.phrases.total(),
        "model_s_per_video_s": statistics.mean(work_s) / CLIP_S,
    }


def table(result: dict) -> str:
    """Return the measurements as the Markdown table of docs/interleaving.md."""
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
    _: Run,
    start: Annotated[Path, "model folder that all start from"] = ROOT / "runs/livecc-tiny/1-lists",
    samples: Annotated[int, "training clips; 9600 take about 13 minutes a model"] = 9600,
    runs: Annotated[Path, "where the models go"] = ROOT / "runs/interleaving",
    clips: Annotated[int, "how many held-out clips"] = 100,
    first: Annotated[int, "number of the first held-out clip"] = 0,
) -> Measured:
    """Train what is not trained yet, and measure."""
    if not (start / "config.json").is_file():
        raise CannotMeasureError(f"{start} is not a model folder; recipes/livecc-tiny/train.sh makes it")
    folders = {name: runs / name for name in MODELS}
    report = {
        "samples": samples,
        "training_s": {name: train(recipe(start, folder, name, samples)) for name, folder in folders.items()},
        "clips": clips,
        "first_clip": first,
        "clip_s": CLIP_S,
        "ways": measure(folders, clips, first),
        "dtype": "float32",
    }
    print(table(report))
    return report, []


if __name__ == "__main__":
    sys.exit(main())
