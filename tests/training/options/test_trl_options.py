"""Options of TRL: each has an effect, or is refused, or said to have none."""

from dataclasses import fields

import pytest
from transformers import TrainingArguments

from livecc_hf.training.options.recipe import parse
from livecc_hf.training.options.trl_options import _OF_FOUR_BITS, _OF_LORA, IDLE, REFUSED
from livecc_hf.training.script import main

WITH_EFFECT = {
    *("max_length", "packing", "pad_to_multiple_of", "assistant_only_loss", "loss_type", "activation_offloading"),
    *("model_name_or_path", "model_revision", "dtype", "attn_implementation"),
    *("use_peft", "load_in_4bit", "load_in_8bit"),
}


def test_every_option_of_trl_is_known():
    from trl import ModelConfig, SFTConfig

    trainers = {item.name for item in fields(TrainingArguments)}
    of_trl = {item.name for cls in (SFTConfig, ModelConfig) for item in fields(cls)} - trainers
    kinds = [WITH_EFFECT, set(REFUSED), set(IDLE), {*_OF_LORA, *_OF_FOUR_BITS}]
    assert of_trl - set().union(*kinds) == set()
    assert sum(len(kind & of_trl) for kind in kinds) == len(of_trl), "some are of two kinds"


@pytest.mark.parametrize(
    "change",
    [
        {"completion_only_loss": False},
        {"truncation_mode": "keep_end"},
        {"chat_template_path": "some/folder"},
        {"eos_token": "<|endoftext|>"},
        {"pad_token": "<|endoftext|>"},
        {"model_init_kwargs": {"dtype": "bfloat16"}},
        {"router_aux_loss_coef": 0.1},
        {"label_smoothing_factor": 0.1},
        {"length_column_name": "n"},
    ],
)
def test_unsupported_options_are_refused(recipe, change):
    (name,) = change
    with pytest.raises(ValueError, match=rf"^{name}=.*not available"):
        parse(["--config", recipe(**change)])


def test_all_unsupported_options_are_in_one_line(recipe):
    with pytest.raises(ValueError, match=r"^completion_only_loss=False .*, eos_token='x' .*remove it$"):
        parse(["--config", recipe(completion_only_loss=False), "eos_token=x"])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("dataset_text_field=text", "dataset_text_field"),
        ("dataset_num_proc=4", "dataset_num_proc"),
        ("shuffle_dataset=true", "shuffle_dataset"),
        ("packing_strategy=wrapped", "packing_strategy"),
        ("padding_free=true", "padding_free"),
        ("eval_packing=true", "eval_packing"),
        ("trust_remote_code=true", "trust_remote_code"),
        ("eval_accumulation_steps=2", "eval_accumulation_steps"),
        ("bf16_full_eval=true", "bf16_full_eval"),
        ("lora_r=4", "lora_r (use_peft is off)"),
        ("use_bnb_nested_quant=true", "use_bnb_nested_quant (load_in_4bit is off)"),
        ("adam_beta2=0.95", "adam_beta2 (optimizer is muon)"),
        ("do_predict=true", "do_predict"),
        ('eval_data={"source": "tiny", "samples": 3}', "eval_data (eval_strategy is no)"),
        ("commentary_clips=2", "commentary_clips (eval_strategy is no)"),
        ("load_best_model_at_end=true", "load_best_model_at_end (eval_strategy is no)"),
        ("eval_steps=5", "eval_steps (eval_strategy is not steps)"),
        ("save_steps=5", "save_steps (save_strategy is not steps)"),
    ],
)
def test_options_without_effect_are_reported_in_one_line(recipe, given, told):
    notes = parse(["--config", recipe(), given]).notes
    assert len(notes) == 1
    assert notes[0].startswith(f"options without effect here: {told}")
    assert "\n" not in notes[0]


def test_held_out_samples_and_checkpoints_that_another_option_rules_out_are_reported(recipe):
    entry = 'eval_data={"source": "tiny", "samples": 3}'
    measured = parse(["--config", recipe(eval_strategy="epoch", held_out=2), entry])
    assert measured.notes == ["options without effect here: held_out (eval_data is given)"]
    given = parse(["--config", recipe(), "--resume", "resume_from_checkpoint=somewhere"])
    assert given.notes == ["options without effect here: resume (resume_from_checkpoint is given)"]
    lost = parse(["--config", recipe(held_out=2)])
    assert lost.notes == ["held_out is 2 and eval_strategy no: these samples are not trained on or measured"]
    assert not parse(["--config", recipe(held_out=2, eval_on_start=True)]).notes


def test_a_folder_whose_clips_are_longer_than_max_frames_is_reported(recipe):
    folder = {"source": "folder", "path": "mine"}
    path = recipe(data=[folder, folder | {"max_clip_s": 60}], max_frames=120)
    assert parse(["--config", path]).notes == [
        "mine is split into clips of up to 240 s (max_clip_s), of which max_frames=120 keeps 60 s: set max_clip_s to "
        "60, or raise max_frames, to train on all words"
    ]
    assert not parse(["--config", path, "max_frames=480"]).notes


def test_values_that_match_the_behaviour_are_not_reported(recipe):
    same = ["completion_only_loss=true", "packing_strategy=bfd", "padding_free=false", "do_train=true"]
    parsed = parse(["--config", recipe(), *same, "--no_remove_unused_columns"])
    assert parsed.notes == []
    assert not parse(["--config", recipe()]).notes


def test_a_run_reports_them_and_continues(recipe, caplog):
    given = ["shuffle_dataset=true", "assistant_only_loss=true", "max_steps=1"]
    main(["--config", recipe(), *given])
    assert caplog.text.count("options without effect here: shuffle_dataset") == 1
