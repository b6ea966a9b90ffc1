"""Prints estimates of the memory and time of the recipes for large models; nothing is run or measured.

    python benchmarks/training/estimates.py

Takes a minute on one core. `livecc_hf.training.estimates` computes them; docs/training.md explains the arithmetic.
"""

from pathlib import Path

import yaml

from livecc_hf.training.estimates import count_model, memory_gb, published_model, row_seconds

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
# recipe -> the card whose time is estimated, and how many FSDP2 shards over
RUNS = {
    "livecc-7b/sft_lora": ("RTX 4090", 1),
    "livecc-7b/sft_qlora": ("RTX 4080", 1),
    "qwen2-vl-2b/sft": ("H100", 1),
    "qwen2-vl-2b/sft_lora": ("RTX 4070", 1),
    "qwen2.5-vl-7b/sft": ("H100", 8),
    "qwen2.5-vl-7b/sft_lora": ("RTX 4090", 1),
    "qwen2.5-vl-7b/sft_qlora": ("RTX 4080", 1),
    "qwen3-vl-4b/sft": ("H100", 8),
    "qwen3-vl-4b/sft_lora": ("RTX 4090", 1),
    "qwen3-vl-4b/sft_qlora": ("RTX 4080", 1),
    "qwen3-vl-2b/sft": ("H100", 1),
    "qwen3-vl-2b/sft_lora": ("RTX 4070", 1),
}


def main() -> None:
    """Print a line for each recipe."""
    for key, (card, gpus) in RUNS.items():
        recipe = yaml.safe_load((RECIPES / f"{key}.yaml").read_text())
        model = published_model(Path(recipe["model_name_or_path"]).name.removesuffix("-Instruct"))
        n, parts = count_model(model), memory_gb(recipe, model, gpus)
        sizes = [f"{value / 1e9:.2f}" for value in (n.layers, n.embeddings, n.vision)]
        listed = " + ".join(f"{part} {value:.1f}" for part, value in parts.items())
        print(f"{key}: 10⁹ parameters: layers {sizes[0]}, embeddings and head {sizes[1]}, vision {sizes[2]}")
        print(
            f"  {sum(parts.values()):.0f} GB = {listed}; a row {row_seconds(recipe, model, card):.1f} s on one {card}"
        )


if __name__ == "__main__":
    main()
