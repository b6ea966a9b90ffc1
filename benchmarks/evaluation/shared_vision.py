"""Rows per second of multiple choice: questions that share a clip's vision, against one pass a question.

    python benchmarks/evaluation/shared_vision.py [--device cpu] [--videos 2] [--frames 32] [--rounds 3] [--output FILE]

Three questions a video, without and with subtitles, as Video-MME has them, on a random model of 130M parameters; both
sides in turn, clip by clip. Medians of the rounds, by the clock and by the process's time on its cores, in which other
work on the machine does not count. Decoding is left out of both: it is done once for the shared side, and six times for
the other. Takes about 5 minutes on 2 cores that do nothing else. Writes benchmarks/results/evaluation.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import surroundings
from models import CASES, build_model

from livecc_hf.assets import bundled_model_path
from livecc_hf.checkpoints.loading import load_processor
from livecc_hf.evaluation.running.shared_vision import SharedVision

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "benchmarks/results/evaluation.json"
MAX_TIME_RATIO, MAX_DIFFERENCE = 0.4, 1e-4
QUESTIONS = 3
CANDIDATES, LEAD = ("Red", "Blue", "Green", "Yellow"), " "
SUBTITLES = " ".join(f"the {colour} ball rolls to the left and hits a wall" for colour in CANDIDATES * 4)


def texts() -> list[str]:
    """The questions on one video: without and then with subtitles, as a run of both modes asks."""
    questions = [f"What is ball number {number}? Red, Blue, Green or Yellow" for number in range(QUESTIONS)]
    return [f"{before}{question}" for before in ("", f"{SUBTITLES}\n") for question in questions]


def shared(model, processor, frames: torch.Tensor) -> list[dict[str, float]]:
    """Probabilities of the candidates for each question, with one visual pass."""
    vision = SharedVision(model, processor, frames)
    return [vision.choose(text, "", CANDIDATES, LEAD).probabilities for text in texts()]


def separate(model, processor, frames: torch.Tensor) -> list[dict[str, float]]:
    """The same with a pass of its own for each question, by the model's plain forward."""
    from livecc_hf.evaluation.running.shared_vision import candidate_ids

    chosen = candidate_ids(processor.tokenizer, CANDIDATES, LEAD)
    patches, grid = processor.video_processor.frames_to_patches(frames, do_resize=False)
    n_tokens = int(grid.prod()) // processor.video_processor.merge_size**2
    found = []
    for text in texts():
        conversation = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}]
        prompt = processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        prompt = prompt.replace("<|video_pad|>", "<|video_pad|>" * n_tokens)
        ids = processor.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        inputs = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": torch.tensor(processor.create_mm_token_type_ids(ids)),
            "pixel_values_videos": patches,
            "video_grid_thw": grid,
        }
        inputs = {name: value.to(model.device) for name, value in inputs.items()}
        with torch.inference_mode():
            logits = model(**inputs, logits_to_keep=1).logits[0, -1].float()
        found.append(dict(zip(CANDIDATES, torch.softmax(logits[chosen].double(), 0).tolist(), strict=True)))
    return found


def timed(side, model, processor, clip) -> tuple[float, float, list[dict[str, float]]]:
    """Seconds that a side takes for a clip, by the clock and of this process's cores, and what it found."""
    began_s, worked_s = time.perf_counter(), time.process_time()
    found = side(model, processor, clip)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began_s, time.process_time() - worked_s, found


def measure(device: str, n_videos: int, n_frames: int, frame_px: tuple[int, int], rounds: int, is_small: bool) -> dict:
    """Run both sides in turn and compare them."""
    processor = load_processor(bundled_model_path())
    model = build_model(CASES["mid-size"], processor, device, is_small)
    draw = torch.Generator().manual_seed(0)
    clips = [
        torch.randint(0, 255, (n_frames, 3, *frame_px), dtype=torch.uint8, generator=draw) for _ in range(n_videos)
    ]
    clock: dict[str, list[float]] = {"shared": [], "separate": []}
    cores: dict[str, list[float]] = {"shared": [], "separate": []}
    answers: dict[str, list[dict[str, float]]] = {}
    for side in (shared, separate):  # warm both up
        side(model, processor, clips[0][:2])
    for _ in range(rounds):
        sums = {"shared": [0.0, 0.0], "separate": [0.0, 0.0]}
        answers = {"shared": [], "separate": []}
        for clip in clips:  # in turn: what else the machine does then meets both sides
            for side in (shared, separate):
                *seconds, found = timed(side, model, processor, clip)
                sums[side.__name__] = [total + value for total, value in zip(sums[side.__name__], seconds, strict=True)]
                answers[side.__name__] += found
        for name, (by_clock, by_cores) in sums.items():
            clock[name].append(by_clock)
            cores[name].append(by_cores)
    ours, found = answers["shared"], answers["separate"]
    difference = max(abs(a[name] - b[name]) for a, b in zip(ours, found, strict=True) for name in CANDIDATES)
    same = all(max(a, key=a.get) == max(b, key=b.get) for a, b in zip(ours, found, strict=True))
    n_rows = n_videos * len(texts())
    seconds = {name: statistics.median(values) for name, values in clock.items()}
    ratio = seconds["shared"] / seconds["separate"]
    worked = [statistics.median(cores[name]) for name in ("shared", "separate")]
    return {
        "rows": n_rows,
        "videos": n_videos,
        "frames": n_frames,
        "frame_px": list(frame_px),
        "questions_a_video": QUESTIONS,
        "subtitle_modes": 2,
        "rows_per_s": {name: round(n_rows / value, 3) for name, value in seconds.items()},
        "time_ratio": round(ratio, 4),
        "time_ratio_of_cores": round(worked[0] / worked[1], 4),
        "largest_difference_of_a_probability": difference,
        "same_answers": same,
        "targets": {"time_ratio_at_most": MAX_TIME_RATIO, "difference_at_most": MAX_DIFFERENCE},
        "targets_met": ratio <= MAX_TIME_RATIO and difference <= MAX_DIFFERENCE and same,
        "model": "random, Qwen2-VL's shape, 130M parameters",
        "dtype": str(model.dtype).removeprefix("torch."),
        **surroundings(device),
    }


def main(argv: list[str] | None = None) -> dict:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--videos", type=int, default=2)
    parser.add_argument("--frames", type=int, default=32, help="of a clip, an even number")
    parser.add_argument("--frame-px", type=int, nargs=2, default=(252, 448), help="height and width, multiples of 28")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--small", action="store_true", help="a very small model, to try this script")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON file to write")
    given = parser.parse_args(argv)
    result = measure(given.device, given.videos, given.frames, tuple(given.frame_px), given.rounds, given.small)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return result


if __name__ == "__main__":
    main()
