"""Multiple choice: questions that share a clip's vision, against one pass per question.

    python benchmarks/evaluation/shared_vision.py [--device cpu] [--rounds 3] [--output FILE]

Three questions a video, without and with subtitles as in Video-MME, on a random model of 130M parameters. The sides
alternate; times are medians over the rounds. Neither includes decoding, which happens once for the shared
side and six times for the other. About 5 minutes on 2 idle cores.
"""

import sys
from statistics import median
from typing import Annotated, Any

import torch

sys.path.insert(1, f"{sys.path[0]}/..")
from harness import Measured, Run, at_most, benchmark, holds, times_of
from models import CASES, build_model, random_frames

from livecc_hf.evaluation.running.shared_vision import SharedVision, candidate_ids

MAX_TIME_RATIO, MAX_DIFFERENCE = 0.4, 1e-4
CANDIDATES, LEAD = ("Red", "Blue", "Green", "Yellow"), " "
SUBTITLES = " ".join(f"the {colour} ball rolls to the left and hits a wall" for colour in CANDIDATES * 4)
# On one video: first without, then with subtitles, as a run of both modes asks.
TEXTS = [
    f"{before}What is ball number {number}? Red, Blue, Green or Yellow"
    for before in ("", f"{SUBTITLES}\n")
    for number in range(3)
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


@benchmark("evaluation.json", runs_model=True, small={"videos": 1, "frames": 4, "frame_px": (56, 84), "rounds": 1})
def main(
    run: Run,
    rounds: Annotated[int, "of both sides"] = 3,
    videos: Annotated[int, "number of clips"] = 2,
    frames: Annotated[int, "frames of a clip"] = 32,
    frame_px: Annotated[tuple[int, ...], "height and width of a frame"] = (252, 448),
) -> Measured:
    """Run both sides alternately and compare them."""
    model, processor = build_model(CASES["mid-size"], run)
    clips = random_frames(videos * frames, *frame_px).split(frames)
    sides = {"shared": shared, "separate": separate}
    for side in sides.values():  # warm up
        side(model, processor, clips[0][:2])
    times_s: dict[str, list[float]] = {name: [] for name in sides}  # of each round
    for _ in range(rounds):
        took = {name: [times_of(side, model, processor, clip) for clip in clips] for name, side in sides.items()}
        for name, of_clips in took.items():
            times_s[name].append(sum(wall_s for wall_s, *_ in of_clips))
    answers = ([choice for *_, found in took[name] for choice in found] for name in sides)
    pairs = list(zip(*answers, strict=True))
    n_rows, seconds = len(pairs), {name: median(of_rounds) for name, of_rounds in times_s.items()}
    report: dict[str, Any] = {
        "rows": n_rows,
        "videos": videos,
        "frames": frames,
        "frame_px": frame_px,
        "rows_per_s": {name: n_rows / of_side for name, of_side in seconds.items()},
        "time_ratio": seconds["shared"] / seconds["separate"],
        "largest_difference_of_a_probability": max(abs(a[name] - b[name]) for a, b in pairs for name in CANDIDATES),
        "same_answers": all(max(a, key=a.__getitem__) == max(b, key=b.__getitem__) for a, b in pairs),
        "parameters": model.num_parameters(),
    }
    return report, [
        at_most("time of a shared pass to separate ones", report["time_ratio"], MAX_TIME_RATIO),
        at_most("largest difference of a probability", report["largest_difference_of_a_probability"], MAX_DIFFERENCE),
        holds("the same answers", report["same_answers"]),
    ]
