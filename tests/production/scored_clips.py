"""Clips for tests of the stage text_loss, and their losses one at a time."""

import time

import numpy as np
import torch

from livecc_hf.production.stages.text_loss import TextLoss, encode_clips

_TEXT = "the a red blue circle square moves stops left right up slowly then again player ball and now over it is"
_WORDS = _TEXT.split()


def times_faster(stage: TextLoss, n_clips: int, repeats: int) -> float:
    """Return the speedup of batches over single clips: the fastest of several runs, in CPU time."""
    clips = make_clips(n_clips, seed=0)
    ways = (lambda: stage.losses(*clips), lambda: one_at_a_time(stage, *clips))
    stage.losses(*(column[:4] for column in clips))  # warm up
    seconds = [float("inf")] * 2
    for _ in range(repeats):
        for i, run in enumerate(ways):
            began_s = time.process_time()
            run()
            seconds[i] = min(seconds[i], time.process_time() - began_s)
    return seconds[1] / seconds[0]


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
