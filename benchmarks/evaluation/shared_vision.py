"""Multiple choice, rows per second: questions that share a clip's vision, against one pass per question.

    python benchmarks/evaluation/shared_vision.py [--device cpu] [--rounds 3] [--output FILE]

Three questions a video, without and with subtitles as in Video-MME, on a random model of 130M parameters. Both sides
alternate, clip by clip; figures are medians over the rounds, of wall time and of CPU time, which other work on the
machine affects less. Neither includes decoding, which happens once for the shared side and six times for the other.
About 5 minutes on 2 idle cores. Writes benchmarks/results/evaluation.json.
"""

import sys
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Measured, Run, at_most, benchmark, holds, times_of
from models import CASES, build_model, random_frames

from livecc_hf.checkpoints.shapes import shape_processor
from livecc_hf.evaluation.running.shared_vision import SharedVision, candidate_ids

MAX_TIME_RATIO, MAX_DIFFERENCE = 0.4, 1e-4
QUESTIONS = 3
CANDIDATES, LEAD = ("Red", "Blue", "Green", "Yellow"), " "
SUBTITLES = " ".join(f"the {colour} ball rolls to the left and hits a wall" for colour in CANDIDATES * 4)
# On one video: first without, then with subtitles, as a run of both modes asks.
TEXTS = [
    f"{before}What is ball number {number}? Red, Blue, Green or Yellow"
    for before in ("", f"{SUBTITLES}\n")
    for number in range(QUESTIONS)
]


def shared(model, processor, frames) -> list[dict[str, float]]:
    """Return the candidates' probabilities for each question, from one visual pass."""
    vision = SharedVision(model, processor, frames)
    choices = [vision.choose(text, "", CANDIDATES, LEAD) for text in TEXTS]
    return [choice.probabilities for choice in choices if choice is not None]


def separate(model, processor, frames: torch.Tensor) -> list[dict[str, float]]:
    """Return the same from a processor call and a forward pass for each question."""
    chosen = candidate_ids(processor.tokenizer, CANDIDATES, LEAD)
    found = []
    for text in TEXTS:
        conversation = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": text}]}]
        prompt = processor.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
        inputs = processor(text=[prompt], videos=[frames], do_resize=False, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            logits = model(**inputs, logits_to_keep=1).logits[0, -1].float()
        found.append(dict(zip(CANDIDATES, torch.softmax(logits[chosen].double(), 0).tolist(), strict=True)))
    return found


@benchmark("evaluation.json", runs_model=True, small={"videos": 1, "frames": 4, "height": 56, "width": 84, "rounds": 1})
def main(
    run: Run,
    rounds: Annotated[int, "of both sides"] = 3,
    videos: Annotated[int, "number of clips"] = 2,
    frames: Annotated[int, "frames of a clip"] = 32,
    height: Annotated[int, "of a frame, in pixels"] = 252,
    width: Annotated[int, "of a frame, in pixels"] = 448,
) -> Measured:
    """Run both sides alternately and compare them."""
    processor = shape_processor()
    model = build_model(CASES["mid-size"], processor, run.device, run.is_small)
    clips = random_frames(videos * frames, height, width).split(frames)
    sides = {"shared": shared, "separate": separate}
    for side in sides.values():  # warm up
        side(model, processor, clips[0][:2])
    wall_s, cpu_s = ({side: [0.0] * rounds for side in sides} for _ in range(2))
    answers: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for number in range(rounds):
        for clip in clips:
            for name, side in sides.items():
                took_s, worked_s, found = times_of(side, model, processor, clip)
                wall_s[name][number] += took_s
                cpu_s[name][number] += worked_s
                answers[name] += found if number == 0 else []
    pairs = list(zip(answers["shared"], answers["separate"], strict=True))
    difference = max(abs(a[name] - b[name]) for a, b in pairs for name in CANDIDATES)
    report: dict[str, Any] = {
        "rows": videos * len(TEXTS),
        "videos": videos,
        "frames": frames,
        "frame_px": [height, width],
    }
    report |= {
        "questions_a_video": QUESTIONS,
        "subtitle_modes": 2,
        "rows_per_s": {name: videos * len(TEXTS) / median(times) for name, times in wall_s.items()},
        "time_ratio": median(wall_s["shared"]) / median(wall_s["separate"]),
        "time_ratio_of_cores": median(cpu_s["shared"]) / median(cpu_s["separate"]),
        "largest_difference_of_a_probability": difference,
        "same_answers": all(max(a, key=a.__getitem__) == max(b, key=b.__getitem__) for a, b in pairs),
        "model": f"random, Qwen2-VL's shape, {model.num_parameters() / 1e6:.0f}M parameters",
        "dtype": str(model.dtype).removeprefix("torch."),
    }
    return report, [
        at_most("time of a shared pass to separate ones", report["time_ratio"], MAX_TIME_RATIO),
        at_most("largest difference of a probability", difference, MAX_DIFFERENCE),
        holds("the same answers", report["same_answers"]),
    ]
