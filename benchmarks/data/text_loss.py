"""Text loss: clips batched by length against one at a time, with the same model on the same clips.

    OMP_NUM_THREADS=1 python benchmarks/data/text_loss.py [--model FOLDER_OR_HUB_ID] [--clips 48] [--device cpu]

One at a time is how the reference computes it: a forward pass for each clip, and its loss from the logits of every
position. Without --model it is a tiny model with random weights and the default model's vocabulary. Prints JSON.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import ROOT, finish, parser

from livecc_hf.production.stages.text_loss import TextLoss, encode_clips

_TOKENIZER = ROOT / "tests/data/reference/checkpoint"
_VOCABULARY = 151_936  # Qwen2-1.5B-Instruct's
_TEXT = "the a red blue circle square moves stops left right up slowly then again player ball and now over it is"
_WORDS = _TEXT.split()


def compare_batching(stage: TextLoss, n_clips: int = 48, seed: int = 0, repeats: int = 3) -> dict[str, Any]:
    """Measure the stage against one clip at a time.

    Args:
        stage: with the model to run.
        n_clips: how many clips of `make_clips`.
        seed: of the clips.
        repeats: each way is timed so often, in turn; the fastest counts. On a CPU it is processor time: set
            OMP_NUM_THREADS=1 to compare it with a clock.

    Returns:
        `batched_clips_per_s`, `one_at_a_time_clips_per_s`, `ratio` of the two, and `max_difference` of the losses.
        What the gain consists of: `unbatched_clips_per_s`, the stage with batches of one clip,
        `gain_by_answer_logits`, which that gains over one at a time since it projects the vocabulary only at the
        words' tokens, and `gain_by_batching`, which batches by length gain over that. `n_clips`, `n_tokens`,
        `vocabulary`, `model_parameters`.
    """
    clips = make_clips(n_clips, seed)
    loaded = stage.loaded
    n_tokens = sum(len(clip.ids) for clip in encode_clips(loaded.tokenizer, *clips, loaded.max_tokens))
    stage.losses(*(column[:4] for column in clips))  # warm up
    # Other work on the machine does not count; a GPU's work is no processor time.
    clock = time.process_time if loaded.model.device.type == "cpu" else time.perf_counter
    unbatched = dataclasses.replace(stage, tokens_per_batch=1)
    unbatched.open()
    ways = {
        "batched": lambda: stage.losses(*clips)[0],
        "unbatched": lambda: unbatched.losses(*clips)[0],
        "one_at_a_time": lambda: one_at_a_time(stage, *clips),
    }
    losses, seconds = {}, dict.fromkeys(ways, float("inf"))
    for _ in range(repeats):
        for name, run in ways.items():
            start = clock()
            losses[name] = run()
            seconds[name] = min(seconds[name], clock() - start)
    return {
        "n_clips": n_clips,
        "n_tokens": n_tokens,
        "vocabulary": loaded.model.config.get_text_config().vocab_size,
        "model_parameters": loaded.model.num_parameters(),
        **{f"{name}_clips_per_s": n_clips / took_s for name, took_s in seconds.items()},
        "ratio": seconds["one_at_a_time"] / seconds["batched"],
        "gain_by_answer_logits": seconds["one_at_a_time"] / seconds["unbatched"],
        "gain_by_batching": seconds["unbatched"] / seconds["batched"],
        "max_difference": float(np.abs(losses["batched"] - losses["one_at_a_time"]).max()),
    }


def write_tiny_model(folder: Path, vocabulary: int = _VOCABULARY) -> str:
    """Write a causal language model with random weights; return its folder.

    Args:
        folder: its place.
        vocabulary: how many tokens it tells apart; default: as many as Qwen2; the tokenizer has 2000.
    """
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(_TOKENIZER)
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.2,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


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


def main() -> int:
    """Compare and print."""
    made = parser(__doc__)
    made.add_argument("--model")
    made.add_argument("--clips", type=int, default=48)
    made.add_argument("--tokens-per-batch", type=int, default=TextLoss.tokens_per_batch)
    made.add_argument("--device")
    arguments = made.parse_args()
    n_clips, vocabulary = (4, 2000) if arguments.small else (arguments.clips, _VOCABULARY)
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model or write_tiny_model(Path(folder), vocabulary)
        stage = TextLoss(model=model, device=arguments.device, tokens_per_batch=arguments.tokens_per_batch)
        return finish(arguments, compare_batching(stage, n_clips))


if __name__ == "__main__":
    sys.exit(main())
