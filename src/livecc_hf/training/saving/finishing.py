"""Completes a run's saved folders: adds a model card with the run's facts, and an adapter's other files."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from livecc_hf.checkpoints.adapters import save_adapter_files
from livecc_hf.checkpoints.cards import CARD_FILE, CardFacts, short_name, update_training, write_card

from ..options.recipe import Recipe
from ..rows import rows_per_step, shared_query

if TYPE_CHECKING:
    from livecc_hf.modeling.configuration_livecc import LiveCCConfig
    from livecc_hf.modeling.processing_livecc import StreamingProcessor

    from ..trainer import LiveCCTrainer

_LOSSES = (
    ("eval_loss_per_word", "loss per spoken word, held out"),
    ("eval_loss", "loss per token, held out"),
    ("loss_per_word", "loss per spoken word, trained on"),
    ("loss", "loss per token, trained on"),
)
_PACKAGES = ("livecc-hf", "transformers", "torch", "trl", "peft")


class AdapterFinisher:
    """Adds the other files to an adapter's folder: config with the position scheme, processor, code, card.

    Attributes:
        trainer: provides the run's facts for the card; if `None`, the card only has the recipe's.
    """

    def __init__(self, config: LiveCCConfig, processor: StreamingProcessor, recipe: Recipe):
        self.config = config
        self.processor = processor
        self.recipe = recipe
        self.model = recipe.model
        self.trainer: LiveCCTrainer | None = None

    def __call__(self, folder: str | Path) -> None:
        """Complete a folder that already holds saved weights."""
        base = self.model.model_name_or_path
        save_adapter_files(folder, self.config, self.processor, base, self.model.model_revision, **self.about())

    def about(self) -> dict[str, Any]:
        """Return the `CardFacts` fields about the run."""
        training = recipe_facts(self.recipe, self.config.position_scheme)
        if self.trainer is not None:
            training |= run_facts(self.trainer)
        return {"training": training, "datasets": hub_datasets(self.recipe)}


class ModelFinisher(AdapterFinisher):
    """Adds a card to the folder of a fully trained model, or updates the run's facts in an existing card."""

    def __call__(self, folder: str | Path) -> None:
        """Complete a folder that already holds saved weights."""
        if (Path(folder) / CARD_FILE).exists():
            update_training(folder, self.about()["training"])
            return
        source = self.model.model_name_or_path
        name = short_name(source)
        facts = CardFacts(
            f"{name}, for live commentary",
            f"Fine-tuned from `{name}` by livecc-hf.",
            self.config.position_scheme,
            self.config.backbone,
            source=source,
            relation="finetune",
            source_revision=self.model.model_revision,
            **self.about(),
        )
        write_card(folder, facts)


def hub_datasets(recipe: Recipe) -> list[str]:
    """Return the distinct Hub dataset ids in a recipe's data."""
    ids = []
    for entry in recipe.data:
        path = str(entry.get("path", ""))
        if path.startswith("hf://datasets/"):
            ids.append("/".join(path.removeprefix("hf://datasets/").split("/")[:2]).partition("@")[0])
        elif entry.get("source") == "dataset" and path.count("/") == 1 and not Path(path).exists() and "*" not in path:
            ids.append(path)
    return [*dict.fromkeys(name for name in ids if not name.startswith((".", "~", os.sep)))]


def recipe_facts(recipe: Recipe, position_scheme: str) -> dict[str, Any]:
    """Return the facts about a run in its recipe, without local folders."""
    training, model = recipe.training, recipe.model
    of_hub = hub_datasets(recipe)
    data = []
    for entry in recipe.data:
        path = str(entry.get("path", ""))
        named = next((name for name in of_hub if name in path), Path(path).name)
        data.append(f"{entry.get('source')} {named}".strip())
    method = "full"
    if model.use_peft:
        method = f"{'QLoRA' if model.load_in_4bit else 'LoRA'}, rank {model.lora_r}, alpha {model.lora_alpha}"
        method += f", {', '.join(model.lora_modules_to_save)} in full" if model.lora_modules_to_save else ""
    rate = f"{training.learning_rate:g}"
    if recipe.ours.optimizer == "muon":
        rate = f"{recipe.ours.muon_learning_rate:g} (Muon), {rate} (AdamW)"
    named_recipe = {} if recipe.name is None else {"recipe": recipe.name}
    return {
        **named_recipe,
        "data": "; ".join(data),
        **({} if (query := shared_query(recipe.data)) is None else {"query": query}),
        "trained": f"{method}; {', '.join(recipe.ours.train_parts or ()) or 'default parts'}",
        "position scheme": position_scheme,
        "rows a step": f"{rows_per_step(training)}{' (packed)' if recipe.packing else ''}",
        "learning rate": f"{rate}, {getattr(training.lr_scheduler_type, 'value', '')}".rstrip(", "),
        "seed": training.seed,
    }


def run_facts(trainer: LiveCCTrainer) -> dict[str, Any]:
    """Return the facts about a run up to the step of its weights: steps, last losses, hardware and versions."""
    import torch

    state, step, facts = trainer.state, trainer.weights_step, {}
    logs = [log for log in state.log_history if log.get("step", step + 1) <= step]
    epochs = (state.epoch if step == state.global_step else logs[-1]["epoch"] if logs else 0) or 0
    facts["steps"] = f"{step} ({epochs:.3g} epochs)"
    if hours := trainer.hours_shown:
        facts["video shown"] = f"{hours:.3g} h"
    for key, name in _LOSSES:
        values = [(log["step"], log[key]) for log in logs if key in log]
        if values:
            facts[name] = f"{values[-1][1]:.4g} (step {values[-1][0]})"
    count = trainer.args.world_size
    device = f"CPU ({platform.machine()})"
    if trainer.args.device.type == "cuda":
        device = torch.cuda.get_device_name(trainer.args.device)
    facts["hardware"] = f"{count} × {device}"
    facts["versions"] = ", ".join(f"{name} {found}" for name in _PACKAGES if (found := _version(name)))
    return facts


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
