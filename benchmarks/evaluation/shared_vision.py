"""Rows per second of multiple choice: questions that share a clip's vision, against one pass a question.

    python benchmarks/evaluation/shared_vision.py [--device cpu] [--rounds 3] [--output FILE]

Three questions a video, without and with subtitles, as Video-MME has them, on a random model of 130M parameters; both
sides in turn, clip by clip. Medians of the rounds, by the clock and by the process's time on its cores, in which other
work on the machine does not count. Decoding is left out of both: it is done once for the shared side, and six times for
the other. Takes about 5 minutes on 2 cores that do nothing else. Writes benchmarks/results/evaluation.json.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Annotated

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Measured, Run, at_most, benchmark, holds, times_of
from models import CASES, build_model, bundled_processor

from livecc_hf.evaluation.running.shared_vision import SharedVision, candidate_ids

MAX_TIME_RATIO, MAX_DIFFERENCE = 0.4, 1e-4
QUESTIONS = 3
CANDIDATES, LEAD = ("Red", "Blue", "Green", "Yellow"), " "
SUBTITLES = " ".join(f"the {colour} ball rolls to the left and hits a wall" for colour in CANDIDATES * 4)
# On one video: without and then with subtitles, as a run of both modes asks.
TEXTS = [
    f"{before}What is ball number {number}? Red, Blue, Green or Yellow"
    for before in ("", f"{SUBTITLES}\n")
    for number in range(QUESTIONS)
]


def shared(model, processor, frames: torch.Tensor) -> list[dict[str, float]]:
    """Return probabilities of the candidates for each question, with one visual pass."""
    vision = SharedVision(model, processor, frames)
    return [vision.choose(text, "", CANDIDATES, LEAD).probabilities for text in TEXTS]


def separate(model, processor, frames: torch.Tensor) -> list[dict[str, float]]:
    """Return the same with a pass of its own for each question, by the model's plain forward."""
    chosen = candidate_ids(processor.tokenizer, CANDIDATES, LEAD)
    patches, grid = processor.video_processor.frames_to_patches(frames, do_resize=False)
    n_tokens = int(grid.prod()) // processor.video_processor.merge_size**2
    found = []
    for text in TEXTS:
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


@benchmark("evaluation.json", runs_model=True, small={"videos": 1, "frames": 4, "height": 56, "width": 84, "rounds": 1})
def main(
    run: Run,
    rounds: Annotated[int, "of both sides"] = 3,
    videos: Annotated[int, "clips"] = 2,
    frames: Annotated[int, "of a clip"] = 32,
    height: Annotated[int, "of a frame, in pixels"] = 252,
    width: Annotated[int, "of a frame, in pixels"] = 448,
) -> Measured:
    """Run both sides in turn and compare them."""
    processor = bundled_processor()
    model = build_model(CASES["mid-size"], processor, run.device, run.is_small)
    draw = torch.Generator().manual_seed(0)
    shape = frames, 3, height, width
    clips = [torch.randint(0, 255, shape, dtype=torch.uint8, generator=draw) for _ in range(videos)]
    sides = {"shared": shared, "separate": separate}
    for side in sides.values():  # warm both up
        side(model, processor, clips[0][:2])
    clock, cores = ({side: [0.0] * rounds for side in sides} for _ in range(2))
    answers: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for number in range(rounds):
        for clip in clips:  # in turn: what else the machine does then meets both sides
            for name, side in sides.items():
                wall_s, cpu_s, found = times_of(side, model, processor, clip)
                clock[name][number] += wall_s
                cores[name][number] += cpu_s
                answers[name] += found if number == 0 else []
    pairs = list(zip(answers["shared"], answers["separate"], strict=True))
    n_rows = videos * len(TEXTS)
    seconds, worked_s = ({k: statistics.median(v) for k, v in times.items()} for times in (clock, cores))
    report = {
        "rows": n_rows,
        "videos": videos,
        "frames": frames,
        "frame_px": [height, width],
        "questions_a_video": QUESTIONS,
        "subtitle_modes": 2,
        "rows_per_s": {name: n_rows / value for name, value in seconds.items()},
        "time_ratio": seconds["shared"] / seconds["separate"],
        "time_ratio_of_cores": worked_s["shared"] / worked_s["separate"],
        "largest_difference_of_a_probability": max(abs(a[name] - b[name]) for a, b in pairs for name in CANDIDATES),
        "same_answers": all(max(a, key=a.get) == max(b, key=b.get) for a, b in pairs),
        "model": f"random, Qwen2-VL's shape, {model.num_parameters() / 1e6:.0f}M parameters",
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    difference = report["largest_difference_of_a_probability"]
    return report, [
        at_most("time of a shared pass to separate ones", report["time_ratio"], MAX_TIME_RATIO),
        at_most("largest difference of a probability", difference, MAX_DIFFERENCE),
        holds("the same answers", report["same_answers"]),
    ]


if __name__ == "__main__":
    sys.exit(main())
