"""Estimates of memory and time equal the numbers in docs/training.md and the recipes' headers."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from livecc_hf.checkpoints.shapes import PUBLISHED_SHAPES, Shape, shape_config, shape_processor
from livecc_hf.modeling import LiveCCForConditionalGeneration
from livecc_hf.training import estimates

ROOT = Path(__file__).parents[2]
N_NARRATIONS = 526_000  # clips in Live-WhisperX-526K
PAGE = " ".join((ROOT / "docs/training.md").read_text().split())


def recipe_of(name):
    return yaml.safe_load((ROOT / f"recipes/{name}.yaml").read_text())


def test_parameter_counts_equal_the_page():
    billions = {
        name: [f"{n / 1e9:.2f}" for n in (counts.layers, counts.embeddings, counts.vision)]
        for name in PUBLISHED_SHAPES
        for counts in [estimates.count_model(estimates.published_model(name))]
    }
    for name, words in (
        ("LiveCC-7B", "7B has {}·10⁹ in the decoder's layers, {}·10⁹ in embeddings and head, {}·10⁹ in the vision"),
        ("Qwen2-VL-2B", "2B has {}, {} (embeddings and head are one) and {}."),
        ("Qwen3-VL-4B", "Qwen3-VL-4B has {}, {} and {},"),
        ("Qwen3-VL-2B", "its 2B {}, {} and {};"),
    ):
        assert words.format(*billions[name]) in PAGE


def test_counts_are_those_of_the_modules():
    shape = Shape(1000, 64, 128, 2, 4, 2, False, 1, 32, vision_heads=4)
    with torch.device("meta"):
        model = LiveCCForConditionalGeneration(shape_config(shape, shape_processor()))
    counts = estimates.count_model(model)
    assert counts.head == 64 * 1000 and counts.embeddings == 2 * 64 * 1000
    attention = 64 * 64 + 64 + 2 * (64 * 32 + 32) + 64 * 64  # query, key, value and output
    assert counts.layers == 2 * (attention + 3 * 64 * 128 + 2 * 64)
    assert counts.adapter == 2 * (2 * 128 + 2 * (64 + 32) + 3 * (64 + 128))
    total = sum(parameter.numel() for parameter in model.parameters())
    assert counts.layers + counts.embeddings + counts.vision + 64 == total  # and the last norm


def test_a_working_set_grows_with_the_tokens_and_is_smaller_with_frozen_weights():
    shape = Shape(1000, 64, 128, 2, 4, 2, False, 1, 32, vision_heads=4)
    with torch.device("meta"):
        model = LiveCCForConditionalGeneration(shape_config(shape, shape_processor()))
    one, two = (estimates.working_set_bytes(model, n, rank=4) for n in (256, 512))
    assert one > 256 * 64 * 2
    assert two == pytest.approx(2 * one, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "model", "gpus", "total"),
    [
        ("livecc-7b/sft_lora", "LiveCC-7B", 1, r"7B LoRA, 8k \| [^|]*= (\d+) GB"),
        ("livecc-7b/sft_qlora", "LiveCC-7B", 1, r"7B QLoRA, 8k \| [^|]*= (\d+) GB"),
        ("qwen2-vl-2b/sft", "Qwen2-VL-2B", 1, r"2B full, 32k, one GPU \| [^|]*= (\d+) GB"),
        ("qwen2.5-vl-7b/sft", "Qwen2.5-VL-7B", 8, r"7B full, 32k, FSDP2 on 8 \| [^|]*= (\d+) GB"),
    ],
)
def test_memory_equals_the_page(recipe, model, gpus, total):
    parts = estimates.memory_gb(recipe_of(recipe), estimates.published_model(model), gpus)
    assert sum(parts.values()) == pytest.approx(int(re.search(total, PAGE)[1]), abs=0.7)


@pytest.mark.parametrize(
    ("recipe", "model", "gpus"),
    [
        ("livecc-7b/pretrain", "LiveCC-7B", 8),
        ("livecc-7b/sft", "LiveCC-7B", 8),
        ("livecc-7b/sft_lora", "LiveCC-7B", 1),
        ("livecc-7b/sft_qlora", "LiveCC-7B", 1),
        ("own-videos/lora", "LiveCC-7B", 1),
        ("qwen2-vl-2b/sft", "Qwen2-VL-2B", 1),
        ("qwen2-vl-2b/sft_lora", "Qwen2-VL-2B", 1),
        ("qwen2.5-vl-7b/sft", "Qwen2.5-VL-7B", 8),
        ("qwen2.5-vl-7b/sft_lora", "Qwen2.5-VL-7B", 1),
        ("qwen2.5-vl-7b/sft_qlora", "Qwen2.5-VL-7B", 1),
        ("qwen3-vl-2b/sft", "Qwen3-VL-2B", 1),
        ("qwen3-vl-2b/sft_lora", "Qwen3-VL-2B", 1),
        ("qwen3-vl-4b/sft", "Qwen3-VL-4B", 8),
        ("qwen3-vl-4b/sft_lora", "Qwen3-VL-4B", 1),
        ("qwen3-vl-4b/sft_qlora", "Qwen3-VL-4B", 1),
    ],
)
def test_memory_in_recipes_equals_the_estimate(recipe, model, gpus):
    header = (ROOT / f"recipes/{recipe}.yaml").read_text()
    said = re.findall(r"(?:Memory:|and DeepSpeed,) (\d+) GB", header)[
        -1
    ]  # the estimate is for FSDP2, not for DeepSpeed
    assert round(sum(estimates.memory_gb(recipe_of(recipe), estimates.published_model(model), gpus).values())) == int(
        said
    )


@pytest.mark.parametrize(
    ("row", "model", "rank", "n_tokens"),
    [
        ("7B, LoRA, 8,192 tokens", "LiveCC-7B", 16, (8192,)),
        ("7B, LoRA, 24,576 tokens", "LiveCC-7B", 16, (24576,)),
        ("7B, full, 32,768 tokens", "LiveCC-7B", 0, (32768,)),
        ("2B, LoRA, 8,192 / 16,384 tokens", "Qwen2-VL-2B", 32, (8192, 16384)),
        ("2B, full, 32,768 tokens", "Qwen2-VL-2B", 0, (32768,)),
        ("Qwen3-VL-4B, LoRA, 8,192 / 16,384 tokens", "Qwen3-VL-4B", 32, (8192, 16384)),
        ("Qwen3-VL-4B, full, 32,768 tokens", "Qwen3-VL-4B", 0, (32768,)),
        ("Qwen3-VL-2B, LoRA, 8,192 / 16,384 tokens", "Qwen3-VL-2B", 32, (8192, 16384)),
        ("Qwen3-VL-2B, full, 32,768 tokens", "Qwen3-VL-2B", 0, (32768,)),
    ],
)
def test_activations_equal_the_page(row, model, rank, n_tokens):
    shape = estimates.published_model(model)
    counts = estimates.count_model(shape)
    kept = [counts.n_layers * n * counts.width * 2 / 1e9 for n in n_tokens]
    whole = [size + estimates.working_set_bytes(shape, n, rank) / 1e9 for size, n in zip(kept, n_tokens)]
    kept, whole = (" / ".join(f"{size:.1f}" for size in sizes) for sizes in (kept, whole))
    assert f"| {row} | {kept} GB | {whole} GB" in PAGE


def row_seconds(recipe, model, card):
    return estimates.row_seconds(recipe_of(recipe), estimates.published_model(model), card)


@pytest.mark.parametrize(
    ("run", "recipe", "model", "card"),
    [
        ("7B full, 28k tokens", "livecc-7b/sft", "LiveCC-7B", "H100"),
        ("7B LoRA, 8k", "livecc-7b/sft_lora", "LiveCC-7B", "RTX 4090"),
        ("7B QLoRA, 8k", "livecc-7b/sft_qlora", "LiveCC-7B", "RTX 4080"),
        ("2B full, 28k", "qwen2-vl-2b/sft", "Qwen2-VL-2B", "H100"),
        ("2B LoRA, 8k", "qwen2-vl-2b/sft_lora", "Qwen2-VL-2B", "RTX 4070"),
        ("Qwen3-VL-4B full, 28k", "qwen3-vl-4b/sft", "Qwen3-VL-4B", "H100"),
        ("Qwen3-VL-4B LoRA, 16k", "qwen3-vl-4b/sft_lora", "Qwen3-VL-4B", "RTX 4090"),
        ("Qwen3-VL-4B QLoRA, 8k", "qwen3-vl-4b/sft_qlora", "Qwen3-VL-4B", "RTX 4080"),
        ("Qwen3-VL-2B full, 28k", "qwen3-vl-2b/sft", "Qwen3-VL-2B", "H100"),
        ("Qwen3-VL-2B LoRA, 8k", "qwen3-vl-2b/sft_lora", "Qwen3-VL-2B", "RTX 4070"),
    ],
)
def test_times_equal_the_page(run, recipe, model, card):
    shown = re.search(rf"\| {re.escape(run)} \|[^|]*\| [^|]*?([\d.]+) s on an {card}", PAGE)[1]
    n_decimals = len(shown.partition(".")[2])
    assert f"{row_seconds(recipe, model, card):.{n_decimals}f}" == shown


@pytest.mark.parametrize(
    ("recipe", "model"),
    [
        ("livecc-7b/sft_lora", "LiveCC-7B"),
        ("livecc-7b/sft_qlora", "LiveCC-7B"),
        ("qwen2.5-vl-7b/sft_lora", "Qwen2.5-VL-7B"),
        ("qwen2.5-vl-7b/sft_qlora", "Qwen2.5-VL-7B"),
        ("qwen2-vl-2b/sft_lora", "Qwen2-VL-2B"),
        ("qwen3-vl-4b/sft_lora", "Qwen3-VL-4B"),
        ("qwen3-vl-4b/sft_qlora", "Qwen3-VL-4B"),
        ("qwen3-vl-2b/sft_lora", "Qwen3-VL-2B"),
    ],
)
def test_hours_in_adapter_recipes_follow_from_the_time_of_a_row(recipe, model):
    header = (ROOT / f"recipes/{recipe}.yaml").read_text()
    hours, card, clips = re.search(r"Time: (\d+) hours on an (RTX \d+) for the ([\d,]+) clips", header).groups()
    n_clips = int(clips.replace(",", ""))
    assert n_clips == pytest.approx(N_NARRATIONS * recipe_of(recipe)["data"][0]["weight"], rel=0.01)
    assert round(n_clips * row_seconds(recipe, model, card) / 3600) == int(hours)


@pytest.mark.parametrize(
    ("recipe", "model"),
    [
        ("livecc-7b/sft", "LiveCC-7B"),
        ("qwen2.5-vl-7b/sft", "Qwen2.5-VL-7B"),
        ("qwen2-vl-2b/sft", "Qwen2-VL-2B"),
        ("qwen3-vl-4b/sft", "Qwen3-VL-4B"),
        ("qwen3-vl-2b/sft", "Qwen3-VL-2B"),
    ],
)
def test_hours_in_full_recipes_follow_from_the_time_of_a_row(recipe, model):
    hours = re.search(r"up to ([\d,]+) H100 hours", (ROOT / f"recipes/{recipe}.yaml").read_text())[1]
    found = N_NARRATIONS * row_seconds(recipe, model, "H100") / 3600
    assert round(found, -1) == int(hours.replace(",", ""))


def test_hours_for_own_videos_follow_from_the_time_of_a_row():
    seconds = row_seconds("own-videos/lora", "LiveCC-7B", "RTX 4090")  # a row holds a minute of video
    header = (ROOT / "recipes/own-videos/lora.yaml").read_text()
    assert f"Time: {seconds:.1f} seconds for a minute of video" in header
    assert f"3 epochs: {10 * 60 * 3 * seconds / 3600:.1f} hours" in header


def test_unknown_models_and_cards_are_errors():
    with pytest.raises(ValueError, match=r"'LLaVA' has no known shape: expected one of LiveCC-7B"):
        estimates.published_model("LLaVA")
    model = estimates.published_model("Qwen2-VL-2B")
    with pytest.raises(ValueError, match=r"'Abacus' has no known rate"):
        estimates.row_seconds(recipe_of("qwen2-vl-2b/sft"), model, "Abacus")


@pytest.mark.parametrize(
    ("device", "rate"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("Unheard-of 7", None),
    ],
)
def test_peak_rates_are_found_by_name(device, rate):
    assert estimates.peak_tflops(device) == rate
