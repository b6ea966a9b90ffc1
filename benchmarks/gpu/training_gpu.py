"""Measures LoRA steps of a model shaped like LiveCC-7B, with random weights, on a CUDA device.

    python benchmarks/gpu/training_gpu.py [--tokens 8192 24576]

A step is one row of one commentary, about 10% of it supervised: gradient checkpointing, bfloat16, LoRA of rank 16 on
all linear layers of the language model, AdamW, in a plain loop around the call that `LiveCCTrainer` makes. Each
length of a row is measured in a process of its own. Without CUDA it says so and ends with 1; `--small` runs the same
code with a tiny model on any device.

Peak memory is what PyTorch held at most (`max_memory_reserved`), weights included, CUDA's own context not. Model
FLOPs utilisation counts 4N FLOPs a token: 2N forward, 2N backward to the activations, since the base is frozen.
N are the parameters of the language model's layers; the head counts at supervised positions only, as it runs there
only; the vision tower counts 2N for each of its patches, since nothing goes back through it. Attention's products,
recomputation, the adapter and the optimizer count nothing, so the figure is on the low side.

Why the target is an MFU of 0.25 for LoRA at 8,192 tokens, by estimate for an H200: gradient checkpointing computes the
forward pass twice, so matrix products take 6N = 321 TFLOP, 0.49 s at the 650 TFLOP/s that such products reach;
attention 61 TFLOP, 0.13 s; the adapters' element-wise work 0.1 s, that of norms, rotation and SwiGLU 0.085 s, the
vision tower 0.085 s. That is 0.9 s for the 250 TFLOP that count: 0.28 of the peak of 989 TFLOP/s. Even with products
at 790 TFLOP/s and nothing else to do it would be 0.62, and 0.4 leaves 0.63 s for all of it.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import models
from harness import Measured, Run, at_least, benchmark, holds, in_child, rounded

FRAME_PATCHES = 20  # along a side: 280 pixels, 100 tokens a frame pair, as recipes/livecc-7b/sft_lora.yaml
TURN_TEXT_TOKENS, SPOKEN_TOKENS = 15, 13
MIN_MFU = 0.25  # see above for the arithmetic


def model_config(small: bool):
    """Return the config of LiveCC-7B, which is Qwen2-VL-7B's, or that of a tiny model with its vocabulary."""
    shape = models.SHAPES["LiveCC-7B"]
    if small:
        shape = models.SHAPES["small"]._replace(vocabulary=shape.vocabulary, is_tied=False)
    return models.random_config(shape, models.bundled_processor())


def build_model(config, device: str):
    """Return the model with random bfloat16 weights on the device, as `livecc train` prepares it."""
    from livecc_hf.acceleration.vision import use_lean_vision
    from livecc_hf.training.model.packed_attention import use_packed_attention

    model = models.random_bf16_model(config, device)
    use_lean_vision(model.model.visual)
    use_packed_attention(model)
    return model.train()


def row_batch(n_tokens: int, config) -> dict[str, Any]:
    """Return a row of one commentary with as many turns of a frame pair as fit, filled up with other text."""
    import torch

    from livecc_hf.data.batches.collator import CommentaryCollator
    from livecc_hf.data.samples.sample import Sample

    rng, spoken = torch.Generator().manual_seed(0), (SPOKEN_TOKENS, SPOKEN_TOKENS)
    n_turns = n_tokens // (TURN_TEXT_TOKENS + 2 + (FRAME_PATCHES // 2) ** 2 + SPOKEN_TOKENS)
    if not n_turns:
        raise ValueError(f"a row of {n_tokens} tokens holds no turn: give at least 130")
    sample = models.synthetic_commentary(config, rng, [1] * n_turns, FRAME_PATCHES, TURN_TEXT_TOKENS, spoken)
    fill = n_tokens - len(sample["input_ids"])
    text = torch.randint(1000, 150_000, (fill,), generator=rng)
    for name, more in (("input_ids", text), ("labels", torch.full_like(text, -100)), ("mm_token_type_ids", 0 * text)):
        sample[name] = torch.cat([sample[name], more])
    batch = CommentaryCollator(config, config.text_config.pad_token_id)([[Sample(sample)]])
    del batch["n_words"]
    return batch


def lora(model):
    """Return peft's config of the LoRA recipes."""
    from livecc_hf.training.model.parts import lora_config

    options = {"lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.0, "lora_target_modules": None}
    options |= {"lora_target_parameters": None, "lora_modules_to_save": None, "lora_task_type": "CAUSAL_LM"}
    return lora_config(model, SimpleNamespace(**options, use_rslora=False, use_dora=False))


def supervised_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch as `LiveCCTrainer.compute_loss` gives it to the model: labels at supervised positions only."""
    from torch.nn.functional import pad

    inputs = dict(batch)
    targets = pad(inputs.pop("labels")[:, 1:], (0, 1), value=-100)
    kept = targets != -100
    compact = targets[kept][None]
    return inputs | {"labels": compact, "shift_labels": compact, "kept_positions": kept, "use_cache": False}


def train(model, batch: dict[str, Any], n_steps: int, device: str) -> tuple[list[float], list[float]]:
    """Train and return the seconds and the loss of each step."""
    import torch
    from peft import get_peft_model

    from livecc_hf.training.model.packed_attention import packed_batch, sample_lengths

    model = get_peft_model(model, lora(model))
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)
    inputs = {name: value.to(device) if hasattr(value, "to") else value for name, value in batch.items()}
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


def counted_parameters(model) -> dict[str, int]:
    """Return N of the parts: the language model's layers, the head, and the vision tower."""
    parts = {"language_layers": model.model.language_model.layers, "head": model.lm_head, "vision": model.model.visual}
    return {name: sum(parameter.numel() for parameter in part.parameters()) for name, part in parts.items()}


def run_one(n_tokens: int, n_steps: int, device: str, is_small: bool) -> dict[str, Any]:
    """Measure rows of a length in this process."""
    import torch

    torch.manual_seed(0)
    config = model_config(is_small)
    model, batch = build_model(config, device), row_batch(n_tokens, config)
    counts = counted_parameters(model)
    memory_gb: dict[str, float | None] = dict.fromkeys(("weights_gb", "peak_reserved_gb", "peak_allocated_gb"))
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        memory_gb["weights_gb"] = torch.cuda.memory_allocated() / 1e9
    times, losses = train(model, batch, 2 + n_steps, device)
    if device != "cpu":
        memory_gb["peak_reserved_gb"] = torch.cuda.max_memory_reserved() / 1e9
        memory_gb["peak_allocated_gb"] = torch.cuda.max_memory_allocated() / 1e9
    seconds, n_patches = median(times[2:]), len(batch["pixel_values_videos"])
    n_supervised = int((batch["labels"] != -100).sum())
    language = 4 * counts["language_layers"] * n_tokens
    flops = language + 4 * counts["head"] * n_supervised + 2 * counts["vision"] * n_patches
    peak = models.peak_tflops(torch.cuda.get_device_name()) if device != "cpu" else None
    return {
        "method": "lora",
        "tokens": n_tokens,
        "supervised_tokens": n_supervised,
        "patches": n_patches,
        "step_s": seconds,
        "tokens_per_s": n_tokens / seconds,
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
    tokens: Annotated[list[int], "tokens in a row"] = (8192, 24_576),
    steps: Annotated[int, "measured steps, after two first ones"] = 5,
) -> Measured:
    """Measure each length in a process of its own; an error becomes its result, so that the others still run."""
    results: list[dict[str, Any]] = []
    asked = []
    for n_tokens in tokens:
        environment = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
        try:
            result = in_child(run_one, n_tokens, steps, run.device, run.is_small, environment=environment)
        except Exception as error:
            result = {"method": "lora", "tokens": n_tokens, "error": f"{type(error).__name__}: {error}"}
        results.append(result)
        run.keep({"results": results})
        shown = ("step_s", "tokens_per_s", "peak_reserved_gb", "mfu", "error")
        print(f"{n_tokens} tokens: {rounded({name: result[name] for name in shown if name in result})}", flush=True)
        asked.append(holds(f"lora, {n_tokens} tokens: runs", "error" not in result))
        if n_tokens == 8192 and result.get("mfu") is not None:
            asked.append(at_least("lora, 8192 tokens: MFU", result["mfu"], MIN_MFU))
    return {"results": results}, asked


if __name__ == "__main__":
    sys.exit(main())
