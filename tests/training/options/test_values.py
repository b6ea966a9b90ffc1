"""Values that the libraries refuse late, or never, are refused by name when the recipe is read."""

import pytest

from livecc_hf.training.options.recipe import parse

LORA = {"use_peft": True, "optimizer": "trainer"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_dir": ""}, "^output_dir is empty: expected a folder"),
        ({"learning_rate": -1.0}, "^learning_rate is -1: expected 0 or more$"),
        ({"per_device_train_batch_size": 0}, "^per_device_train_batch_size is 0: expected 1 or more$"),
        ({"per_device_eval_batch_size": 0}, "^per_device_eval_batch_size is 0"),
        ({"gradient_accumulation_steps": 0}, "^gradient_accumulation_steps is 0"),
        ({"dataloader_num_workers": -1}, "^dataloader_num_workers is -1"),
        ({"num_train_epochs": 0}, "^num_train_epochs is 0, so there is nothing to train"),
        ({"save_strategy": "steps", "save_steps": 0}, "^save_steps is 0: .*save_strategy=no"),
        ({"report_to": "tensorbord"}, r"^report_to is 'tensorbord', which is unknown: did you mean tensorboard\?$"),
        ({"train_parts": ["vison"]}, "^part 'vison' is unknown: expected some of vision"),
        (LORA | {"lora_r": 0}, "^lora_r is 0: expected 1 or more$"),
        (LORA | {"lora_dropout": 1.0}, "^lora_dropout is 1: expected a share"),
    ],
)
def test_a_value_that_cannot_be_trained_with_is_refused(recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        parse(["--config", recipe(**changes)])


def test_values_at_the_limit_and_of_options_without_effect_are_accepted(recipe):
    fine = {"learning_rate": 0.0, "num_train_epochs": 0, "max_steps": 3, "save_strategy": "no", "save_steps": 0}
    assert parse(["--config", recipe(**fine, lora_r=0)]).training.max_steps == 3


def test_a_tracker_that_is_not_installed_is_refused_with_its_name_unless_samples_are_only_looked_at(
    recipe, monkeypatch
):
    monkeypatch.setattr("transformers.integrations.get_available_reporting_integrations", list)
    path = recipe(report_to="trackio")
    with pytest.raises(ValueError, match="report_to is trackio, which is not installed: pip install trackio, or"):
        parse(["--config", path])
    assert parse(["--config", path, "inspect=1"]).ours.inspect == 1


@pytest.mark.parametrize("given", [["train_parts=[vision, merger]"], ["--train_parts", "vision", "merger"]])
def test_a_list_on_the_command_line_is_written_as_in_a_recipe_or_as_words(recipe, given):
    assert parse(["--config", recipe(), *given]).ours.train_parts == ["vision", "merger"]
