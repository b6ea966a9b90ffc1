"""Measures LoRA steps of a model with LiveCC-7B's shape and random weights on a CUDA device.

    python benchmarks/gpu/training_gpu.py [--tokens 8192 24576]

A step is one row of one commentary, about 10% of it supervised: gradient checkpointing, bfloat16, LoRA of rank 16 on
all linear layers of the language model, AdamW. It is a plain loop around the model call of `LiveCCTrainer`, so that it
runs where TRL is missing. Each row length runs in its own process.

Peak memory is PyTorch's `max_memory_reserved`: weights included, the CUDA context not. Model FLOPs utilisation (MFU)
counts 4N FLOPs a token, forward and backward to the activations, since the base is frozen; N are the parameters of the
language model's layers, and of the head at supervised positions. The vision tower counts 2N a patch, since no gradient
goes through it. Attention's products, recomputation, adapter and optimizer are not counted, so the figure is low.

Estimate for an H200 behind the target, an MFU of 0.25 at 8,192 tokens: matrix products with recomputation take 6N = 321
TFLOP, 0.49 s at 650 TFLOP/s; attention 0.13 s; adapters 0.1 s; norms, rotary embedding and SwiGLU 0.085 s; the vision
tower 0.085 s. That is 0.9 s for the 250 TFLOP that count: 0.28 of the peak of 989 TFLOP/s.
"""

import sys
import time
from statistics import median
from typing import Annotated, Any

import torch
from torch.nn.functional import pad

sys.path.insert(1, f"{sys.path[0]}/..")
from harness import Measured, Run, at_least, benchmark, holds, in_child, rounded
from models import SHAPES, random_bf16_model, synthetic_commentary

from livecc_hf.acceleration.vision import use_lean_vision
from livecc_hf.checkpoints.shapes import shape_config, shape_processor
from livecc_hf.data.batches.collator import CommentaryCollator
from livecc_hf.data.samples.sample import Sample
from livecc_hf.training.estimates import peak_tflops
from livecc_hf.training.model.packed_attention import packed_batch, sample_lengths, use_packed_attention

FRAME_PATCHES = 20  # along a side: 280 pixels, 100 tokens a frame pair, as recipes/livecc-7b/sft_lora.yaml
TURN_TEXT_TOKENS, SPOKEN_TOKENS = 15, 13
MIN_MFU = 0.25  # estimated above
N_FIRST_STEPS = 2  # slower than the others


def model_config(small: bool, processor):
    """Return LiveCC-7B's config, or a tiny model's with the same vocabulary."""
    tiny = SHAPES["small"]._replace(vocabulary=SHAPES["livecc-7b"].vocabulary, is_tied=False)
    return shape_config(tiny if small else SHAPES["livecc-7b"], processor)


def row_sample(n_tokens: int, config) -> Sample:
    """Return a commentary with as many turns of a frame pair as fit into a row.

    Raises:
        ValueError: if not a single turn fits.
    """
    rng, spoken = torch.Generator().manual_seed(0), (SPOKEN_TOKENS, SPOKEN_TOKENS)
    n_turns = n_tokens // (TURN_TEXT_TOKENS + 2 + (FRAME_PATCHES // 2) ** 2 + SPOKEN_TOKENS)
    if not n_turns:
        raise ValueError(f"a row of {n_tokens} tokens is too short for a turn: expected at least 130")
    return Sample(synthetic_commentary(config, rng, [1] * n_turns, FRAME_PATCHES, TURN_TEXT_TOKENS, spoken))


def row_batch(sample: Sample, config) -> dict[str, Any]:
    """Return a batch of one row."""
    batch = CommentaryCollator(config, config.text_config.pad_token_id)([[sample]])
    del batch["n_words"]
    return batch


def supervised_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch as `LiveCCTrainer.compute_loss` passes it to the model: labels at supervised positions only."""
    inputs = dict(batch)
    targets = pad(inputs.pop("labels")[:, 1:], (0, 1), value=-100)
    kept = targets != -100
    compact = targets[kept][None]
    return inputs | {"labels": compact, "shift_labels": compact, "kept_positions": kept, "use_cache": False}


def train(model, sample: Sample, n_steps: int, device: str) -> tuple[list[float], list[float]]:
    """Train with LoRA, as the recipes do; return the seconds and the loss of each step."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig("CAUSAL_LM", r=16, lora_alpha=32, target_modules=r".*language_model\.layers\..*_proj")
    use_lean_vision(model.model.visual)
    use_packed_attention(model)
    batch = row_batch(sample, model.config)
    model = get_peft_model(model.train(), lora)
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    inputs = {name: value.to(device) for name, value in batch.items()}
    inputs = supervised_inputs(inputs) | sample_lengths(model, inputs)
    times, losses = [], []
    for _ in range(n_steps):
        start = time.perf_counter()
        with packed_batch(inputs), torch.autocast(torch.device(device).type, torch.bfloat16):
            loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())  # waits for the device
        times.append(time.perf_counter() - start)
    return times, losses


def run_one(n_tokens: int, n_steps: int, device: str, is_small: bool) -> dict[str, Any]:
    """Measure rows of one length in this process."""
    torch.manual_seed(0)
    config = model_config(is_small, shape_processor())
    model, sample = random_bf16_model(config, device), row_sample(n_tokens, config)
    parts = (model.model.language_model.layers, model.lm_head, model.model.visual)
    layers, head, vision = (sum(parameter.numel() for parameter in part.parameters()) for part in parts)
    times, losses = train(model, sample, N_FIRST_STEPS + n_steps, device)
    inputs, seconds = sample.model_inputs, median(times[N_FIRST_STEPS:])
    n_supervised = int((inputs["labels"] != -100).sum())
    flops = 4 * layers * sample.n_tokens + 4 * head * n_supervised + 2 * vision * len(inputs["pixel_values_videos"])
    found = {"tokens": sample.n_tokens, "supervised_tokens": n_supervised, "step_s": seconds, "losses": losses}
    found |= {"tokens_per_s": sample.n_tokens / seconds, "model_tflop_per_step": flops / 1e12}
    if device != "cpu":
        peak = peak_tflops(torch.cuda.get_device_name())
        found["peak_reserved_gb"] = torch.cuda.max_memory_reserved() / 1e9
        found |= {"assumed_peak_bf16_tflops": peak, "mfu": flops / seconds / (peak * 1e12) if peak else None}
    return found


@benchmark("training_gpu.json", "peft", "accelerate", on_cuda=True, small={"tokens": [300]})
def main(
    run: Run,
    tokens: Annotated[tuple[int, ...], "tokens in a row"] = (8192, 24_576),
    steps: Annotated[int, "measured steps, after two first ones"] = 5,
) -> Measured:
    """Measure each row length; an error becomes its result, so that the others still run."""
    results: dict[int, dict[str, Any]] = {}
    environment, asked = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}, []
    for n_tokens in tokens:
        try:
            found = in_child(run_one, n_tokens, steps, run.device, run.is_small, environment=environment)
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        results[n_tokens] = found
        run.tell(f"{n_tokens} tokens: {rounded(found)}", {"results": results})
        asked.append(holds(f"lora, {n_tokens} tokens: runs", "error" not in found))
        if n_tokens == 8192 and found.get("mfu") is not None:
            asked.append(at_least("lora, 8192 tokens: MFU", found["mfu"], MIN_MFU))
    return {"results": results}, asked
