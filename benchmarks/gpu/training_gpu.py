"""Measures LoRA steps of a model with LiveCC-7B's shape and random weights on a CUDA device.

    python benchmarks/gpu/training_gpu.py [--tokens 8192 24576]

A step is one row of one commentary, about 10% of it supervised: gradient checkpointing, bfloat16, LoRA of rank 16 on
all linear layers of the language model, AdamW. It is a plain loop around the model call of `LiveCCTrainer`, so that it
runs where TRL is missing. Each row length runs in its own process. Without CUDA it exits with 1; `--small` runs the
same code with a tiny model on any device.

Peak memory is PyTorch's `max_memory_reserved`: weights included, the CUDA context not. Model FLOPs utilisation (MFU)
counts 4N FLOPs a token: 2N forward and 2N backward to the activations, since the base is frozen. N are the parameters
of the language model's layers. The head counts at supervised positions only, where it runs; the vision tower counts 2N
a patch, since no gradient goes through it. Attention's products, recomputation, adapter and optimizer are not counted,
so the figure is low.

Estimate for an H200 behind the target, an MFU of 0.25 at 8,192 tokens: checkpointing computes the forward pass twice,
so matrix products take 6N = 321 TFLOP, 0.49 s at 650 TFLOP/s; attention 61 TFLOP, 0.13 s; the adapters' element-wise
work 0.1 s, norms, rotary embedding and SwiGLU 0.085 s, the vision tower 0.085 s. That is 0.9 s for the 250 TFLOP that
count: 0.28 of the peak of 989 TFLOP/s. Products at 790 TFLOP/s and nothing else would give 0.62, and an MFU of 0.4
leaves 0.63 s for everything.
"""

import sys
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Annotated, Any

import torch
from torch.nn.functional import pad

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import Measured, Run, at_least, benchmark, holds, in_child, rounded
from models import SHAPES, random_bf16_model, synthetic_commentary

from livecc_hf.acceleration.vision import use_lean_vision
from livecc_hf.checkpoints.shapes import shape_config, shape_processor
from livecc_hf.data.batches.collator import CommentaryCollator
from livecc_hf.data.samples.sample import Sample
from livecc_hf.training.estimates import peak_tflops
from livecc_hf.training.model.packed_attention import packed_batch, sample_lengths, use_packed_attention
from livecc_hf.training.model.parts import lora_config

FRAME_PATCHES = 20  # along a side: 280 pixels, 100 tokens a frame pair, as recipes/livecc-7b/sft_lora.yaml
TURN_TEXT_TOKENS, SPOKEN_TOKENS = 15, 13
MIN_MFU = 0.25  # estimated above
N_FIRST_STEPS = 2  # slower than the others


def model_config(small: bool, processor):
    """Return LiveCC-7B's config, or a tiny model's with the same vocabulary."""
    shape = SHAPES["livecc-7b"]
    if small:
        shape = SHAPES["small"]._replace(vocabulary=shape.vocabulary, is_tied=False)
    return shape_config(shape, processor)


def row_sample(n_tokens: int, config) -> Sample:
    """Return a commentary with as many turns of a frame pair as fit into a row, filled with text to its end.

    Raises:
        ValueError: if not a single turn fits.
    """
    rng, spoken = torch.Generator().manual_seed(0), (SPOKEN_TOKENS, SPOKEN_TOKENS)
    n_turns = n_tokens // (TURN_TEXT_TOKENS + 2 + (FRAME_PATCHES // 2) ** 2 + SPOKEN_TOKENS)
    if not n_turns:
        raise ValueError(f"a row of {n_tokens} tokens is too short for a turn: expected at least 130")
    inputs = synthetic_commentary(config, rng, [1] * n_turns, FRAME_PATCHES, TURN_TEXT_TOKENS, spoken)
    text = torch.randint(1000, 150_000, (n_tokens - len(inputs["input_ids"]),), generator=rng)
    for name, more in (("input_ids", text), ("labels", torch.full_like(text, -100)), ("mm_token_type_ids", 0 * text)):
        inputs[name] = torch.cat([inputs[name], more])
    return Sample(inputs)


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
    from peft import get_peft_model

    options: dict[str, Any] = {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "lora_target_modules": None}
    options |= {"lora_target_parameters": None, "lora_modules_to_save": None, "lora_task_type": "CAUSAL_LM"}
    lora = lora_config(model, SimpleNamespace(**options, use_rslora=False, use_dora=False))
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
    processor, on_cuda = shape_processor(), device != "cpu"
    config = model_config(is_small, processor)
    model, sample = random_bf16_model(config, device), row_sample(n_tokens, config)
    parts = {"language_layers": model.model.language_model.layers, "head": model.lm_head, "vision": model.model.visual}
    counts = {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}
    memory_gb: dict[str, float | None] = dict.fromkeys(("weights_gb", "peak_reserved_gb", "peak_allocated_gb"))
    if on_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        memory_gb["weights_gb"] = torch.cuda.memory_allocated() / 1e9
    times, losses = train(model, sample, N_FIRST_STEPS + n_steps, device)
    if on_cuda:
        memory_gb["peak_reserved_gb"] = torch.cuda.max_memory_reserved() / 1e9
        memory_gb["peak_allocated_gb"] = torch.cuda.max_memory_allocated() / 1e9
    inputs = sample.model_inputs
    seconds, n_patches = median(times[N_FIRST_STEPS:]), len(inputs["pixel_values_videos"])
    n_supervised = int((inputs["labels"] != -100).sum())
    language = 4 * counts["language_layers"] * n_tokens
    flops = language + 4 * counts["head"] * n_supervised + 2 * counts["vision"] * n_patches
    peak = peak_tflops(torch.cuda.get_device_name()) if on_cuda else None
    rates = {"step_s": seconds, "tokens_per_s": n_tokens / seconds}
    sizes = {"method": "lora", "tokens": n_tokens, "supervised_tokens": n_supervised, "patches": n_patches}
    return {
        **sizes,
        **rates,
        **memory_gb,
        "model_tflop_per_step": flops / 1e12,
        "language_tflop_per_step": language / 1e12,
        "assumed_peak_bf16_tflops": peak,
        "mfu": flops / seconds / (peak * 1e12) if peak else None,
        "counted_parameters": counts,
        "losses": losses,
    }


@benchmark("training_gpu.json", "peft", "accelerate", on_cuda=True, small={"tokens": [300]})
def main(
    run: Run,
    tokens: Annotated[tuple[int, ...], "tokens in a row"] = (8192, 24_576),
    steps: Annotated[int, "measured steps, after two first ones"] = 5,
) -> Measured:
    """Measure each row length; an error becomes its result, so that the others still run."""
    results: list[dict[str, Any]] = []
    asked = []
    for n_tokens in tokens:
        environment = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
        try:
            result = in_child(run_one, n_tokens, steps, run.device, run.is_small, environment=environment)
        except Exception as error:
            result = {"method": "lora", "tokens": n_tokens, "error": f"{type(error).__name__}: {error}"}
        results.append(result)
        shown = {
            name: result[name]
            for name in ("step_s", "tokens_per_s", "peak_reserved_gb", "mfu", "error")
            if name in result
        }
        run.tell(f"{n_tokens} tokens: {rounded(shown)}", {"results": results})
        asked.append(holds(f"lora, {n_tokens} tokens: runs", "error" not in result))
        if n_tokens == 8192 and result.get("mfu") is not None:
            asked.append(at_least("lora, 8192 tokens: MFU", result["mfu"], MIN_MFU))
    return {"results": results}, asked
