"""Recipes for a random livecc-tiny."""

import pytest
import yaml

BASE = {
    "keep_trailing_silence": True,
    "optimizer": "muon",
    "train_parts": ["vision", "merger", "language_model"],
    "learning_rate": 0.003,
    "per_device_train_batch_size": 4,
    "train_sampling_strategy": "sequential",
    "activation_checkpointing": False,
    "bf16": False,
    "use_cpu": True,
    "report_to": "none",
    "logging_steps": 1,
    "save_strategy": "no",
    "disable_tqdm": True,
}


@pytest.fixture()
def recipe(tiny_folder, tmp_path):
    """A function that writes a recipe with some keys changed and returns its path."""

    def write(**changes) -> str:
        entry = {"source": "tiny", "task": "list", "length": [1, 1], "samples": 48}
        keys = {"model_name_or_path": str(tiny_folder), "output_dir": str(tmp_path / "out"), "data": [entry]}
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(BASE | keys | changes))
        return str(path)

    return write
