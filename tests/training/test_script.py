"""`livecc train`: options, a short run, and an exact resume."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from livecc_hf.training.script import build_trainer, main, parse

RECIPES = sorted((Path(__file__).parents[2] / "recipes").rglob("*.yaml"))

BASE = {
    "keep_trailing_silence": True,
    "optimizer": "muon",
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


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_parses_and_says_how_to_run_it(path):
    ours, training, model = parse(["--config", str(path)])
    assert ours.data_entries()
    assert model.model_name_or_path
    assert training.remove_unused_columns is False
    header = path.read_text().split("\n\n")[0]
    assert path.name in header or "train.sh" in header
    for word in ("core", "minute", "GB"):
        assert word in header


def test_there_are_recipes():
    assert RECIPES


def test_overrides_in_both_spellings(recipe):
    ours, training, _ = parse(["--config", recipe(), "learning_rate=0.5", "--max_steps", "7"])
    assert (training.learning_rate, training.max_steps, ours.optimizer) == (0.5, 7, "muon")


def test_data_can_be_given_as_json(recipe):
    ours, _, _ = parse(["--config", recipe(), 'data={"source": "tiny", "samples": 3}'])
    assert ours.data_entries() == [{"source": "tiny", "samples": 3}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lerning_rate": 1}, "lerning_rate"),
        ({"optimizer": "sgd"}, "'sgd'.*muon"),
        ({"position_scheme": "reference"}, "reference.*mrope"),
        ({"packing": True}, "packing"),
    ],
)
def test_wrong_options_are_errors(recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        parse(["--config", recipe(**changes)])


def test_an_unknown_override_is_an_error(recipe):
    with pytest.raises(ValueError, match="lerning_rate"):
        parse(["--config", recipe(), "lerning_rate=1"])


def test_a_few_steps_reduce_the_loss_and_save_a_loadable_folder(recipe, tmp_path):
    main(["--config", recipe(num_train_epochs=1)])
    from livecc_hf.loading import load_model_and_processor

    model, processor, _ = load_model_and_processor(tmp_path / "out")
    assert model.config.position_scheme == "mrope"
    assert processor.continuation_id is not None


def test_the_loss_goes_down(recipe):
    trainer = build_trainer(*parse(["--config", recipe(), "num_train_epochs=1"]))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 1


def test_a_released_livecc_checkpoint_needs_a_scheme_to_train_in(recipe, published_checkpoint, tmp_path):
    source = shutil.copytree(published_checkpoint, tmp_path / "LiveCC-7B-Base")
    entry = {"source": "tiny", "task": "list", "length": [1, 1], "samples": 4}
    path = recipe(model_name_or_path=str(source), optimizer="trainer", data=[entry])
    with pytest.raises(ValueError, match=r"'reference', which is for inference only.*sequential"):
        build_trainer(*parse(["--config", path]))
    trainer = build_trainer(*parse(["--config", path, "position_scheme=sequential", "max_steps=1"]))
    trainer.train()
    trainer.save_model(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["position_scheme"], config["message_end_token_id"]) == ("sequential", 1988)


def test_vision_can_be_frozen(recipe):
    trainer = build_trainer(*parse(["--config", recipe(), "freeze_vision=true", "max_steps=1"]))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert not any("visual" in name for name in changed)


@pytest.mark.parametrize("optimizer", ["muon", "trainer"])
def test_resume_of_a_full_fine_tune_is_exact(recipe, tmp_path, optimizer):
    keys = {"optimizer": optimizer, "max_steps": 6, "lr_scheduler_type": "linear"}
    path = recipe(**keys, save_strategy="steps", save_steps=3, output_dir=str(tmp_path / "whole"))
    main(["--config", path])
    main(
        [
            *("--config", path, f"output_dir={tmp_path / 'resumed'}"),
            f"resume_from_checkpoint={tmp_path / 'whole/checkpoint-3'}",
        ]
    )
    whole, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
