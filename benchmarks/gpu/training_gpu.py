"""Measures LoRA and QLoRA steps of a model shaped like LiveCC-7B, with random weights, on a CUDA device.

    python benchmarks/gpu/training_gpu.py [--methods lora qlora] [--tokens 8192 24576] [--attention sdpa]

A step is one row, of one commentary unless `--clips` says otherwise, about 10% of it supervised: gradient
checkpointing, bfloat16, LoRA of rank 16 on all linear layers of the language model, AdamW, in a plain loop around the
call that `LiveCCTrainer` makes. Each combination runs in a process of its own. Without CUDA it says so and ends with 1;
`--small` runs the same code with a tiny model on any device.

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

import argparse
import json
import re
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from harness import at_least, at_most, finish, has_cuda, holds, in_child, keep, parser, slug, surroundings
from models import QWEN2_IDS, SHAPES, random_bf16_model, random_config

METHODS = ("lora", "qlora")
PATCH_VALUES = 1176
FRAME_PATCHES = 20  # along a side: 280 pixels, 100 tokens a frame pair, as recipes/livecc-7b/sft_lora.yaml
TURN_TEXT_TOKENS, SPOKEN_TOKENS = 15, 13
MIN_MFU = 0.25  # see above for the arithmetic
# Most memory of QLoRA, by tokens in a row.
MAX_QLORA_GB = {8192: 14, 24576: 24}
# Dense bfloat16 with float32 accumulation, in TFLOP/s; check against the maker's data sheet before
# publishing a figure. The first name that fits counts.
PEAK_TFLOPS = (
    ("B200", 2250),
    ("H200", 989),
    ("H100 PCIe", 756),
    ("H100 NVL", 835),
    ("H100", 989),
    ("H800", 989),
    ("A100", 312),
    ("A800", 312),
    ("A10G", 70),
    ("A10", 125),
    ("A40", 150),
    ("A6000", 155),
    ("L40S", 362),
    ("L40", 181),
    ("L4", 121),
    ("RTX 6000 Ada", 364),
    ("5090", 209.5),
    ("4090", 165.2),
    ("4080", 97.5),
    ("3090", 71),
    ("T4", 65),
)


def peak_tflops(device: str) -> float | None:
    """Return the peak rate assumed for a device, by its name; `None` if it is not in the table."""
    return next((rate for name, rate in PEAK_TFLOPS if re.search(rf"\b{name}\b", device)), None)


def model_config(small: bool):
    """Return the config of LiveCC-7B, which is Qwen2-VL-7B's, or that of a tiny model with its vocabulary."""
    shape = SHAPES["livecc-7b"]
    if small:
        shape = SHAPES["small"]._replace(vocabulary=shape.vocabulary, is_tied=False)
    return random_config(shape, QWEN2_IDS)


def build_model(config, device: str, attention: str, four_bit: bool):
    """Return the model with random bfloat16 weights on the device, the language model's layers in NF4 if asked for.

    One matrix after the other is drawn on the device and quantised there, so that a card only has to hold the result.
    """
    from torch import nn

    from livecc_hf.acceleration.vision import use_lean_vision
    from livecc_hf.training.model.packed_attention import use_packed_attention

    def replaced(name: str, module: nn.Module) -> nn.Module | None:
        is_layer = isinstance(module, nn.Linear) and name.startswith("model.language_model.layers")
        return quantized(module) if four_bit and is_layer else None

    model = random_bf16_model(config, device, attention, replaced)
    if four_bit:
        # What loading with a quantisation config would set, for peft and the trainer.
        from transformers import BitsAndBytesConfig
        from transformers.quantizers import AutoHfQuantizer

        described = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
        model.is_loaded_in_4bit = model.is_quantized = True
        model.config.quantization_config = described
        model.hf_quantizer = AutoHfQuantizer.from_config(described)
        model.quantization_method = described.quant_method
    use_lean_vision(model.model.visual)
    use_packed_attention(model)
    return model.train()


def quantized(linear):
    """Return a linear layer in NF4 with nested constants, on the layer's device."""
    import bitsandbytes as bnb
    import torch

    device = linear.weight.device
    options = {"compute_dtype": torch.bfloat16, "compress_statistics": True, "quant_type": "nf4", "device": "meta"}
    layer = bnb.nn.Linear4bit(linear.in_features, linear.out_features, linear.bias is not None, **options)
    layer.weight = bnb.nn.Params4bit(
        linear.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4", module=layer
    )
    layer.bias = linear.bias
    linear.weight = None
    return layer.to(device)  # quantises


def row_sample(n_tokens: int, config):
    """Return a commentary of random words and pixels with as many turns of a frame pair as fit."""
    import torch

    from livecc_hf.data.samples.sample import Sample

    n_video = (FRAME_PATCHES // 2) ** 2
    turn = torch.randint(0, 150_000, (TURN_TEXT_TOKENS + 1 + n_video + 1 + SPOKEN_TOKENS,))
    video = slice(TURN_TEXT_TOKENS + 1, TURN_TEXT_TOKENS + 1 + n_video)
    turn[video], turn[video.start - 1], turn[video.stop] = (
        config.video_token_id,
        config.vision_start_token_id,
        config.vision_end_token_id,
    )
    n_turns = n_tokens // len(turn)
    if not n_turns:
        raise ValueError(f"a row of {n_tokens} tokens holds no turn: give at least {len(turn)}")
    labels = turn.clone()
    labels[: video.stop + 1] = -100
    input_ids = torch.randint(0, 150_000, (n_tokens,))  # text after the last turn fills the row
    all_labels = torch.full((n_tokens,), -100)
    input_ids[: n_turns * len(turn)] = turn.repeat(n_turns)
    all_labels[: n_turns * len(turn)] = labels.repeat(n_turns)
    inputs = {
        "input_ids": input_ids,
        "labels": all_labels,
        "mm_token_type_ids": (input_ids == config.video_token_id).long() * 2,
        "pixel_values_videos": torch.randn(n_turns * FRAME_PATCHES**2, PATCH_VALUES),
        "video_grid_thw": torch.tensor([[1, FRAME_PATCHES, FRAME_PATCHES]] * n_turns),
    }
    return Sample(inputs)


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
    labels = inputs.pop("labels")
    targets = pad(labels[:, 1:], (0, 1), value=-100)
    kept = targets != -100
    compact = targets[kept][None]
    return inputs | {"labels": compact, "shift_labels": compact, "kept_positions": kept, "use_cache": False}


def train(model, batch: dict[str, Any], n_steps: int, device: str) -> tuple[list[float], list[float]]:
    """Train and return the seconds and the loss of each step."""
    import torch
    from peft import get_peft_model

    from livecc_hf.training.model.packed_attention import packed_batch, sample_lengths

    four_bit = getattr(model, "is_loaded_in_4bit", False)
    model = get_peft_model(model, lora(model))
    model.enable_input_require_grads()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if four_bit:  # as TRL does
        for parameter in trained:
            parameter.data = parameter.data.to(torch.bfloat16)
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

    def count(module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    return {
        "language_layers": count(model.model.language_model.layers),
        "head": count(model.lm_head),
        "vision": count(model.model.visual),
    }


def run_one(method: str, n_tokens: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure one combination in this process."""
    import torch

    from livecc_hf.data.batches.collator import CommentaryCollator

    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = model_config(arguments.small)
    counts = counted_parameters(meta_model(config))
    model = build_model(config, device, arguments.attention, four_bit=method == "qlora")
    row = [row_sample(n_tokens // arguments.clips, config) for _ in range(arguments.clips)]
    batch = CommentaryCollator(config, config.text_config.pad_token_id)([row])
    n_tokens = batch["input_ids"].numel()
    del batch["n_words"]
    on_device = device == "cuda"
    weights = 0
    if on_device:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        weights = torch.cuda.memory_allocated()
    times, losses = train(model, batch, 2 + arguments.steps, device)
    seconds = statistics.median(times[2:])
    n_supervised = int((batch["labels"] != -100).sum())
    flops = 4 * (counts["language_layers"] * n_tokens + counts["head"] * n_supervised)
    flops += 2 * counts["vision"] * len(batch["pixel_values_videos"])
    name = torch.cuda.get_device_name() if on_device else "cpu"
    peak = peak_tflops(name)
    return {
        "method": method,
        "tokens": n_tokens,
        "clips": arguments.clips,
        "supervised_tokens": n_supervised,
        "patches": len(batch["pixel_values_videos"]),
        "step_s": round(seconds, 4),
        "tokens_per_s": round(n_tokens / seconds, 1),
        "peak_reserved_gb": round(torch.cuda.max_memory_reserved() / 1e9, 2) if on_device else None,
        "peak_allocated_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if on_device else None,
        "weights_gb": round(weights / 1e9, 2) if on_device else None,
        "model_tflop_per_step": round(flops / 1e12, 4),
        "language_tflop_per_step": round(4 * counts["language_layers"] * n_tokens / 1e12, 4),
        "mfu": round(flops / seconds / (peak * 1e12), 4) if peak else None,
        "counted_parameters": counts,
        "losses": losses,
    }


def meta_model(config):
    """Return the model without weights, for counting: quantised ones hide how many they are."""
    import torch

    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration

    with torch.device("meta"):
        return LiveCCForConditionalGeneration(config)


def targets(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what must hold for a result and whether it does."""
    method, n_tokens = result["method"], result["tokens"]
    found = [holds(f"{method}, {n_tokens} tokens: runs", "error" not in result)]
    if method == "qlora" and n_tokens in MAX_QLORA_GB and result.get("peak_reserved_gb") is not None:
        what = f"qlora, {n_tokens} tokens: GB of memory"
        found.append(at_most(what, result["peak_reserved_gb"], MAX_QLORA_GB[n_tokens]))
    if method == "lora" and n_tokens == 8192 and result.get("mfu") is not None:
        found.append(at_least("lora, 8192 tokens: MFU", result["mfu"], MIN_MFU))
    return found


def run_child(method: str, n_tokens: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one combination in a process of its own; an error becomes its result, so that the others still run."""
    options = ["--one", "--methods", method, "--tokens", str(n_tokens), "--attention", arguments.attention]
    options += ["--steps", str(arguments.steps), "--clips", str(arguments.clips)]
    options += ["--small"] if arguments.small else []
    try:
        return in_child(__file__, *options, environment={"PYTORCH_ALLOC_CONF": "expandable_segments:True"})
    except RuntimeError as error:
        return {"method": method, "tokens": n_tokens, "error": str(error)}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    made.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    made.add_argument("--tokens", nargs="+", type=int, help="tokens in a row (default: 8192 24576)")
    made.add_argument("--steps", type=int, default=5, help="measured steps, after two first ones")
    made.add_argument("--clips", type=int, default=1, help="commentaries packed into the row")
    made.add_argument("--attention", default="sdpa", help="attn_implementation")
    made.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = made.parse_args()
    arguments.tokens = arguments.tokens or ([300] if arguments.small else [8192, 24_576])
    return arguments


def main() -> int:
    """Measure, print and write; 1 if a target is missed or a combination fails."""
    arguments = parse_arguments()
    import torch

    if not has_cuda(arguments):
        return 1
    if arguments.one:
        found = run_one(arguments.methods[0], arguments.tokens[0], arguments)
        arguments.output.write_text(json.dumps(found))
        return 0
    around = surroundings("cuda" if torch.cuda.is_available() else "cpu", "peft", "accelerate", "bitsandbytes")
    report = {
        **around,
        "assumed_peak_bf16_tflops": peak_tflops(around["device"]),
        "attention": arguments.attention,
        "results": (results := []),
    }
    for method in arguments.methods:
        for n_tokens in arguments.tokens:
            results.append(result := run_child(method, n_tokens, arguments))
            keep(arguments, report)
            if "error" in result:
                print(f"{method}, {n_tokens} tokens failed: {result['error'].splitlines()[-1]}", flush=True)
                continue
            names = ("step_s", "tokens_per_s", "peak_reserved_gb", "mfu")
            shown = ", ".join(f"{name} {result[name]}" for name in names)
            print(f"{method}, {n_tokens} tokens: {shown}", flush=True)
    asked = [target for result in results for target in targets(result)]
    return finish(arguments, report, asked, f"training_gpu-{slug(around['device'])}.json")


if __name__ == "__main__":
    sys.exit(main())
