"""Text loss: clips batched by length against one at a time, with the same model on the same clips.

    OMP_NUM_THREADS=1 python benchmarks/text_loss.py --model FOLDER_OR_HUB_ID [--clips 256] [--device cpu]

One at a time is how the reference computes it: a forward pass for each clip, and its loss from the logits of every
position. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch

from livecc_hf.production.stages.text_loss import TextLoss, encode_clips

_TEXT = "the a red blue circle square moves stops left right up slowly then again player ball and now over it is"
_WORDS = _TEXT.split()


def compare_batching(stage: TextLoss, n_clips: int = 256, seed: int = 0, repeats: int = 3) -> dict[str, Any]:
    """Measure the stage against one clip at a time.

    Args:
        stage: with the model to run.
        n_clips: how many clips of `make_clips`.
        seed: of the clips.
        repeats: each way is timed so often, in turn; the fastest counts. On a CPU it is processor time: set
            OMP_NUM_THREADS=1 to compare it with a clock.

    Returns:
        `batched_clips_per_s`, `one_at_a_time_clips_per_s`, `ratio`, `max_difference` of the losses, `n_clips`,
        `n_tokens`, `model_parameters`.
    """
    clips = make_clips(n_clips, seed)
    loaded = stage.loaded
    n_tokens = sum(len(clip.ids) for clip in encode_clips(loaded.tokenizer, *clips, loaded.max_tokens))
    stage.losses(*(column[:4] for column in clips))  # warm up
    # Other work on the machine does not count; a GPU's work is no processor time.
    clock = time.process_time if loaded.model.device.type == "cpu" else time.perf_counter
    batched_s, single_s = [], []
    for _ in range(repeats):
        start = clock()
        batched, _ = stage.losses(*clips)
        batched_s.append(clock() - start)
        start = clock()
        single = one_at_a_time(stage, *clips)
        single_s.append(clock() - start)
    return {
        "n_clips": n_clips,
        "n_tokens": n_tokens,
        "model_parameters": loaded.model.num_parameters(),
        "batched_clips_per_s": round(n_clips / min(batched_s), 2),
        "one_at_a_time_clips_per_s": round(n_clips / min(single_s), 2),
        "ratio": round(min(single_s) / min(batched_s), 2),
        "max_difference": float(np.abs(batched - single).max()),
    }


def one_at_a_time(stage: TextLoss, spoken: list[str], titles: list[str], previous: list[str]) -> np.ndarray:
    """Return the losses as the reference computes them: float64 of shape (clips,)."""
    loaded = stage.loaded
    losses = []
    for clip in zip(spoken, titles, previous, strict=True):
        (encoded,) = encode_clips(loaded.tokenizer, *([text] for text in clip), loaded.max_tokens)
        ids = torch.from_numpy(encoded.ids)[None].to(loaded.model.device)
        with torch.inference_mode():
            logits = loaded.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.float()
            loss = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="none")
        losses.append(loss[encoded.n_prompt - 1 :].mean().item())
    return np.array(losses)


def make_clips(n_clips: int, seed: int) -> tuple[list[str], list[str], list[str]]:
    """Return made-up pre-training clips, each with its words, its title and all earlier words of its video.

    Videos last 0.5 to 10 minutes, at 1 to 4 words a second, and are cut into clips of 30 to 240 s.
    """
    random = np.random.default_rng(seed)
    spoken, titles, previous = [], [], []
    while len(spoken) < n_clips:
        duration_s, words_per_s = random.uniform(30, 600), random.uniform(1, 4)
        words = random.choice(_WORDS, int(duration_s * words_per_s))
        title, at_s = " ".join(random.choice(_WORDS, 6)), 0.0
        while duration_s - at_s >= 30:
            end_s = min(at_s + random.uniform(30, 240), duration_s)
            first, last = int(at_s * words_per_s), int(end_s * words_per_s)
            spoken.append(" ".join(words[first:last]))
            previous.append(" ".join(words[:first]))
            titles.append(title)
            at_s = end_s
    return spoken[:n_clips], titles[:n_clips], previous[:n_clips]


def main() -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=TextLoss.__dataclass_fields__["model"].default)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument(
        "--tokens-per-batch", type=int, default=TextLoss.__dataclass_fields__["tokens_per_batch"].default
    )
    parser.add_argument("--device")
    options = parser.parse_args()
    stage = TextLoss(model=options.model, device=options.device, tokens_per_batch=options.tokens_per_batch)
    print(json.dumps(compare_batching(stage, options.clips), indent=2))


if __name__ == "__main__":
    main()
