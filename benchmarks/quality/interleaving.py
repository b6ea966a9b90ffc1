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
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import ROOT, finish, machine, parser, times_of

from livecc_hf.checkpoints.loading import load_model_and_processor
from livecc_hf.data.sources.tiny import caption_prompt_ids
from livecc_hf.evaluation.tiny.commentary import CLIP_S, held_out_clips, play, turns_of
from livecc_hf.evaluation.tiny.scoring import WINDOW_S as IN_TIME_S
from livecc_hf.evaluation.tiny.scoring import NarrationScore, SpokenTurn, score_clip
from livecc_hf.modeling.grammar import FRAME_STEP_S, assign_words, split_turns
from livecc_hf.tiny.narration import narrate

START = ROOT / "runs/livecc-tiny/1-lists"
RUNS = ROOT / "runs/interleaving"
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
SETTINGS = {
    "keep_trailing_silence": True,
    "optimizer": "muon",
    "muon_learning_rate": 0.02,
    "learning_rate": 0.005,
    "weight_decay": 0.0,
    "lr_scheduler_type": "polynomial",
    "lr_scheduler_kwargs": {"power": 1.2, "lr_end": 0.0},
    "warmup_steps": 20,
    "max_grad_norm": 1.0,
    "num_train_epochs": 1,
    "train_sampling_strategy": "sequential",
    "seed": 0,
    "dtype": "float32",
    "train_parts": ["vision", "merger", "language_model"],
    "bf16": False,
    "use_cpu": True,
    "activation_checkpointing": False,
    "logging_steps": 25,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
}
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


@dataclass
class Measured:
    """One way to comment live: the same phrases scored with and without a time limit, and the time it took."""

    in_time: NarrationScore = field(default_factory=NarrationScore)
    any_time: NarrationScore = field(default_factory=NarrationScore)
    model_s: float = 0.0
    video_s: float = 0.0

    def add(self, turns: list[SpokenTurn], events: list, model_s: float) -> None:
        """Score one clip."""
        self.in_time.add(score_clip(turns, events))
        self.any_time.add(score_clip(turns, events, window_s=float("inf")))
        self.model_s += model_s
        self.video_s += CLIP_S

    def rates(self) -> dict:
        """Return the numbers that are written to the file."""
        delays_s = self.any_time.delays_s
        return {
            "recall_in_time": self.in_time.recall,
            "precision_in_time": self.in_time.precision,
            "recall_any_time": self.any_time.recall,
            "precision_any_time": self.any_time.precision,
            "delay_mean_s": statistics.mean(delays_s) if delays_s else None,
            "delay_median_s": statistics.median(delays_s) if delays_s else None,
            "phrases": self.in_time.phrases.total(),
            "model_s_per_video_s": self.model_s / self.video_s,
        }


def recipe(start: Path, out: Path, name: str, n_samples: int) -> dict:
    """Return the training recipe of one of `MODELS`; only what is said there differs.

    Raises:
        ValueError: if there are too few samples for the curriculum.
    """
    if n_samples < 12 * GROUP:
        raise ValueError(f"--samples {n_samples}: expected at least {12 * GROUP}")
    task, factor = MODELS[name]
    data = []
    for length_s, twelfths, moods in CURRICULUM:
        n = n_samples * twelfths // 12 // GROUP * GROUP * factor
        data.append({"source": "tiny", **task, "length": list(length_s), "samples": n, "group": GROUP, "moods": moods})
    start_and_end = {"model_name_or_path": str(start), "output_dir": str(out)}
    return {**start_and_end, "data": data, "per_device_train_batch_size": BATCH * factor, **SETTINGS}


def train(start: Path, out: Path, name: str, n_samples: int) -> dict:
    """Train one model, unless its folder holds the same run already; return its recipe and seconds."""
    done = out / "ablation.json"
    wanted = recipe(start, out, name, n_samples)
    if done.is_file():
        run = json.loads(done.read_text())
        if run["recipe"] == wanted:
            return run
    out.mkdir(parents=True, exist_ok=True)
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(wanted, sort_keys=False))
    started_s = time.perf_counter()
    subprocess.run([sys.executable, "-m", "livecc_hf.training.script", "--config", str(path)], check=True)
    run = {"recipe": wanted, "training_s": round(time.perf_counter() - started_s, 1)}
    done.write_text(json.dumps(run, indent=2) + "\n")
    return run


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
    words = narrate(events, CLIP_S)
    ends_s = [span.end_s - FRAME_STEP_S for span in split_turns(round(CLIP_S / FRAME_STEP_S))]
    return [
        SpokenTurn(seen_s, " ".join(turn)) for seen_s, turn in zip(ends_s, assign_words(words, ends_s)[0], strict=True)
    ]


def measure(folders: dict[str, Path], n_clips: int, first: int) -> dict[str, dict]:
    """Play held-out clips to the models in every way; by name of the way."""
    models = {name: load_model_and_processor(folder, device="cpu")[:2] for name, folder in folders.items()}
    ways = {"the narrator itself": lambda clip: narrator_turns(clip.scene.events)}
    ways |= {
        f"{name}, streamed": lambda clip, name=name: turns_of(play(*models[name], clip.chunks, **GREEDY))
        for name in STREAMED
    }
    for name, window_s, every_s in CAPTION_WAYS:
        ways[f"{name}, last {window_s} s every {every_s} s"] = (
            lambda clip, name=name, window_s=window_s, every_s=every_s: caption_turns(
                *models[name], torch.cat([frames for frames, _ in clip.chunks]), window_s, every_s
            )
        )
    seen = {name: Measured() for name in ways}
    for clip in held_out_clips(n_clips, first):
        for name, way in ways.items():
            took_s, _, turns = times_of(way, clip)
            seen[name].add(turns, clip.scene.events, took_s)
    return {name: measured.rates() for name, measured in seen.items()}


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


def main() -> int:
    """Train what is not trained yet, measure, and write."""
    made = parser(__doc__)
    made.add_argument("--start", type=Path, default=START, help="model folder that all start from")
    made.add_argument("--samples", type=int, help="training clips; the default, 9600, takes about 13 minutes a model")
    made.add_argument("--runs", type=Path, default=RUNS, help="where the models go")
    made.add_argument("--clips", type=int, help="how many held-out clips; default: 100")
    made.add_argument("--first", type=int, default=0, help="number of the first held-out clip")
    arguments = made.parse_args()
    if not (arguments.start / "config.json").is_file():
        sys.exit(f"interleaving.py: {arguments.start} is no model folder; recipes/livecc-tiny/train.sh makes it")
    n_samples = arguments.samples or (12 * GROUP if arguments.small else 9600)
    n_clips = arguments.clips or (1 if arguments.small else 100)
    folders = {name: arguments.runs / name for name in MODELS}
    training = {name: train(arguments.start, folders[name], name, n_samples) for name in MODELS}
    report = {
        "samples": n_samples,
        "training_s": {name: run["training_s"] for name, run in training.items()},
        "clips": n_clips,
        "first_clip": arguments.first,
        "clip_s": CLIP_S,
        "ways": measure(folders, n_clips, arguments.first),
        "dtype": "float32",
        **machine("livecc-hf", "torch"),
    }
    print(table(report))
    return finish(arguments, report, file="interleaving.json")


if __name__ == "__main__":
    sys.exit(main())
