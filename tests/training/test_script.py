"""`livecc train`: options, and short runs."""

import json
import logging
import re
import shutil
import subprocess
import sys

import pytest
import torch
from media import write_video
from PIL import Image

from livecc_hf.checkpoints.merge import merge_adapter
from livecc_hf.modeling import StreamingProcessor
from livecc_hf.training.model.loading import load_recipe_processor
from livecc_hf.training.options.recipe import _check_together, parse
from livecc_hf.training.rows import open_samples, shared_query
from livecc_hf.training.saving.checkpoints import RUN_STATE_FILE
from livecc_hf.training.script import main, say_how_to_continue
from livecc_hf.training.setup import build_trainer
from livecc_hf.training.skipping import TooManySkippedError

ENTRY = {"source": "tiny", "task": "list", "length": [1, 3], "samples": 24, "group": 2}


def test_overrides_in_both_spellings(recipe):
    parsed = parse(["--config", recipe(), "learning_rate=0.5", "--max_steps", "7", "--resume"])
    assert (parsed.training.learning_rate, parsed.training.max_steps, parsed.ours.optimizer) == (0.5, 7, "muon")
    assert parsed.ours.resume
    assert parsed.training.max_length is None


@pytest.mark.parametrize(
    "given", ['{"source": "tiny", "samples": 3}', "{source: tiny, samples: 3}", "[{source: tiny, samples: 3}]"]
)
def test_data_can_be_given_as_json_or_as_in_a_recipe(recipe, given):
    assert parse(["--config", recipe(), f"data={given}"]).data == [{"source": "tiny", "samples": 3}]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lerning_rate": 1}, "lerning_rate"),
        ({"optimizer": "sgd"}, "'sgd'.*muon"),
        ({"position_scheme": "reference"}, "reference.*mrope"),
        ({"packing": True}, "max_length"),
        ({"max_frames": 7}, "max_frames is 7.*even"),
        ({"max_skipped": 2}, "max_skipped is 2"),
        ({"held_out": -1}, "held_out is -1"),
        ({"data": ["{"]}, "neither YAML nor JSON"),
        ({"data": ["[3]"]}, "is not a mapping"),
    ],
)
def test_wrong_options_are_errors(recipe, changes, message):
    with pytest.raises(ValueError, match=message):
        parse(["--config", recipe(**changes)])


def test_two_gpus_in_one_process_are_refused_before_anything_is_read(recipe):
    parsed = parse(["--config", recipe(model_name_or_path="no/such/folder")])
    parsed.training._n_gpu = 2  # as with two visible GPUs and a single process
    with pytest.raises(ValueError, match="2 GPUs are visible .* --num_processes 2 .*CUDA_VISIBLE_DEVICES=0"):
        _check_together(parsed.ours, parsed.training, parsed.model)


def test_an_unknown_override_is_an_error(recipe):
    with pytest.raises(ValueError, match="lerning_rate"):
        parse(["--config", recipe(), "lerning_rate=1"])


def test_a_few_steps_reduce_the_loss_and_save_a_loadable_folder(recipe, tmp_path):
    main(["--config", recipe(num_train_epochs=1)])
    from livecc_hf.checkpoints.loading import load_model_and_processor

    model, processor, _ = load_model_and_processor(tmp_path / "out")
    assert model.config.position_scheme == "mrope"
    assert processor.continuation_id is not None


def test_the_loss_goes_down(recipe):
    trainer = build_trainer(parse(["--config", recipe(), "num_train_epochs=1"]))
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0] - 1


def test_a_released_livecc_checkpoint_needs_a_scheme_to_train_in(recipe, published_checkpoint, tmp_path):
    source = shutil.copytree(published_checkpoint, tmp_path / "LiveCC-7B-Base")
    entry = {"source": "tiny", "task": "list", "length": [1, 1], "samples": 4}
    path = recipe(model_name_or_path=str(source), optimizer="trainer", data=[entry])
    with pytest.raises(ValueError, match=r"'reference', which is for inference only.*sequential"):
        build_trainer(parse(["--config", path]))
    trainer = build_trainer(parse(["--config", path, "position_scheme=sequential", "max_steps=1"]))
    trainer.train()
    trainer.save_model(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["position_scheme"], config["message_end_token_id"]) == ("sequential", 1988)


def test_a_recipe_that_overrides_the_scheme_says_so(recipe, caplog):
    said = "the recipe's position_scheme 'sequential' overrides 'mrope', the scheme of"
    for given in ("inspect=1", "max_steps=1"):
        caplog.clear()
        main(["--config", recipe(), "position_scheme=mrope", given])
        assert said not in caplog.text
        main(["--config", recipe(), "position_scheme=sequential", given])
        assert caplog.text.count(said) == 1


def test_vision_can_be_frozen(recipe):
    trainer = build_trainer(parse(["--config", recipe(), "train_parts=language_model", "max_steps=1"]))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed
    assert not any("visual" in name for name in changed)


def test_a_number_of_samples_can_be_held_out_and_is_measured(recipe, caplog):
    path = recipe(held_out=6, eval_strategy="steps", eval_steps=2, max_steps=2, commentary_clips=0)
    trainer = build_trainer(parse(["--config", path]))
    assert len(trainer.train_dataset) == 42
    trainer.train()
    measured = next(entry for entry in trainer.state.log_history if "eval_loss" in entry)
    n_words = sum(trainer._held_out_loader.data.sample(index).n_words for index in range(6))
    n_tokens = sum(
        int((trainer._held_out_loader.data.sample(index).model_inputs["labels"] != -100).sum()) for index in range(6)
    )
    ratio = measured["eval_loss_per_word"] / measured["eval_loss"]
    assert ratio == pytest.approx(n_tokens / n_words, rel=1e-4)


def test_held_out_clips_of_the_tiny_world_are_not_those_of_the_training(recipe):
    parsed = parse(["--config", recipe(data=[ENTRY, ENTRY], eval_data=[ENTRY], eval_strategy="epoch")])
    processor, _, _ = load_recipe_processor(parsed)
    train, held_out = open_samples(parsed, processor)
    seeds, others = ({data.item(index).seed for index in range(len(data))} for data in (train, held_out))
    assert (len(seeds), len(others)) == (48, 24) and seeds.isdisjoint(others)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_name_or_path": ""}, "model_name_or_path is missing"),
        ({"model_name_or_path": "nowhere/at/all"}, "does not exist"),
        ({"data": []}, "data list is empty"),
        ({"data": [{"source": "jsonl", "path": "nowhere.jsonl"}]}, "nowhere.jsonl does not exist"),
        ({"data": [{"source": "folder", "path": "nowhere"}]}, "nowhere is not a folder"),
        ({"data": [{"source": "dataset", "path": "nowhere.parquet"}]}, "nowhere.parquet .*cannot be opened"),
        ({"max_length": 20}, "max_length is 20.*first turn"),
        ({"eval_strategy": "steps"}, "nothing is held out"),
        ({"eval_on_start": True}, "nothing is held out"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"train_sampling_strategy": "group_by_length"}, "batch_rebalance"),
        ({"use_peft": True}, "muon.*use_peft"),
        ({"use_liger_kernel": True}, "CUDA"),
        ({"held_out": 48}, "held_out is 48.*48 samples.*set held_out to 4, at most 47, or to 0 with eval_strategy=no"),
        ({"train_parts": ["ears"]}, "ears"),
        ({"metric_for_best_model": "eval_nope"}, "metric_for_best_model is nope, .*expected loss, loss_per_word"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size.*per_device_train_batch_size"),
        (
            {"dataloader_drop_last": True, "per_device_train_batch_size": 49},
            "48 rows, fewer than the 49 of a batch.*dataloader_drop_last",
        ),
        ({"load_in_4bit": True}, "use_peft"),
    ],
)
def test_impossible_options_fail_before_anything_is_loaded(recipe, changes, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        main(["--config", recipe(**changes)])


def test_a_recipe_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.yaml"):
        main(["--config", str(tmp_path / "nowhere.yaml")])


@pytest.mark.parametrize(
    "quantised", [{}, {"load_in_4bit": True, "use_bnb_nested_quant": True}, {"load_in_8bit": True}]
)
def test_an_adapter_run_ends_in_a_folder_that_streams(recipe, tmp_path, quantised):
    changes = {"use_peft": True, "lora_r": 4, "optimizer": "trainer", "train_parts": ["language_model"], "max_steps": 2}
    main(["--config", recipe(**changes, **quantised)])
    from livecc_hf.checkpoints.loading import load_model_and_processor

    model, processor, info = load_model_and_processor(tmp_path / "out")
    assert "adapter on base" in info.notes[0]
    stream = model.start_stream(processor, max_new_tokens=2)
    assert len(stream.push(torch.zeros(6, 3, 84, 84, dtype=torch.uint8))) == 1


def test_the_same_seed_gives_the_same_batches(recipe):
    def batches(*changes: str) -> list[torch.Tensor]:
        path = recipe(packing=True, max_length=300, train_sampling_strategy="random", data=[ENTRY], optimizer="trainer")
        trainer = build_trainer(parse(["--config", path, *changes]))
        return [batch["input_ids"] for batch in trainer.get_train_dataloader()]

    first, again, other = batches(), batches(), batches("data_seed=7")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(first, other, strict=False))


def test_an_adapter_is_not_where_training_starts(recipe, tmp_path):
    main(["--config", recipe(use_peft=True, optimizer="trainer", train_parts=["language_model"], max_steps=1)])
    with pytest.raises(ValueError, match="is an adapter, not a whole model: merge it first"):
        main(["--config", recipe(model_name_or_path=str(tmp_path / "out"), output_dir=str(tmp_path / "next"))])


def test_what_comes_twice_is_held_out_twice(recipe):
    path = recipe(data=[ENTRY | {"weight": 2}], held_out=5, optimizer="trainer")
    data = open_samples(parse(["--config", path]), load_recipe_processor(parse(["--config", path]))[0])
    train, held_out = ({samples.origin(index) for index in range(len(samples))} for samples in data)
    assert (len(train), len(held_out)) == (19, 5)
    assert not train & held_out
    assert len(data[0]) == 38


def test_the_card_of_an_adapter_says_how_to_merge(recipe, tmp_path):
    changes = {"use_peft": True, "optimizer": "trainer", "train_parts": ["language_model"], "max_steps": 2}
    data = [{"source": "tiny", "length": [4, 6], "samples": 8}]
    measured = {"held_out": 2, "eval_strategy": "steps", "eval_steps": 1}
    main(["--config", recipe(**changes, data=data, save_strategy="steps", save_steps=1, **measured)])
    for folder in ("out", "out/checkpoint-2"):
        assert "livecc merge" in (tmp_path / folder / "README.md").read_text()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| steps | 2 (" in card and "| trained | LoRA, rank " in card and "; language_model |" in card
    assert re.search(r"\| loss per spoken word, held out \| \d\S* \(step 2\) \|", card)
    assert f"torch {torch.__version__.partition('+')[0]}" in card and "1 × CPU" in card and str(tmp_path) not in card
    assert "| steps | 1 (" in (tmp_path / "out" / "checkpoint-1" / "README.md").read_text()
    merged = (merge_adapter(tmp_path / "out", tmp_path / "merged") / "README.md").read_text()
    assert "| steps | 2 (" in merged and "merged into" in merged and "livecc merge" not in merged


def test_held_out_samples_that_cannot_be_used_are_said(recipe, tmp_path, caplog):
    write_chats(tmp_path / "held.jsonl", [[user("no.png"), ANSWER]] * 2)
    held = {"source": "jsonl", "path": str(tmp_path / "held.jsonl")}
    changes = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 2}
    with pytest.raises(ValueError, match="none of the held-out samples"):
        main(["--config", recipe(eval_data=[held], **changes)])
    assert "held-out held.jsonl:1 cannot be used (missing_file)" in caplog.text
    write_chats(tmp_path / "held.jsonl", [[user("no.png"), ANSWER], [user(), ANSWER]])
    main(["--config", recipe(eval_data=[held], **changes)])


def test_a_run_without_usable_samples_fails(recipe, tmp_path):
    write_chats(tmp_path / "all.jsonl", [[user("no.png"), ANSWER]] * 8)
    path = recipe(data=[{"source": "jsonl", "path": str(tmp_path / "all.jsonl")}], num_train_epochs=1)
    for _ in range(2):  # each run clears the list
        with pytest.raises(TooManySkippedError, match="none of the 8 samples .*8 missing_file"):
            main(["--config", path])
    assert len((tmp_path / "out" / "skipped.jsonl").read_text().splitlines()) == 8
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_packing_skips_what_no_row_can_hold(recipe, tmp_path):
    long = [user(), {"role": "assistant", "content": "Red ball moves. " * 200}]
    write_chats(tmp_path / "long.jsonl", [[user(), ANSWER], long])
    entry = {"source": "jsonl", "path": str(tmp_path / "long.jsonl")}
    main(["--config", recipe(data=[ENTRY, entry], packing=True, max_length=300, max_steps=10, max_skipped=1)])
    lines = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert {(line["origin"], line["reason"]) for line in lines} == {("long.jsonl:2", "too_many_tokens")}


def test_a_row_never_grows_past_its_limit(recipe, tmp_path):
    """Where a file that was missing when tokens were counted is there in training."""
    Image.new("RGB", (84, 84)).save(tmp_path / "later.png")
    write_chats(tmp_path / "late.jsonl", [[user("late.png"), ANSWER]] * 6)
    entry = {"source": "jsonl", "path": str(tmp_path / "late.jsonl")}
    path = recipe(data=[entry], packing=True, max_length=100, max_skipped=1)
    trainer = build_trainer(parse(["--config", path]))
    assert len(trainer.train_dataset) == 1  # all samples are planned as placeholders
    (tmp_path / "later.png").rename(tmp_path / "late.png")
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["input_ids"].shape[1] <= 100
    assert [item.reason for item in batch["bookkeeping"]["skipped"]] == ["too_many_tokens"] * 4
    assert len(build_trainer(parse(["--config", path])).train_dataset) == 3  # counted again


def test_a_model_only_checkpoint_is_not_resumed(recipe, tmp_path):
    path = recipe(max_steps=2, save_strategy="steps", save_steps=1, save_only_model=True)
    main(["--config", path])
    for extra in ("--resume", f"resume_from_checkpoint={tmp_path / 'out' / 'checkpoint-1'}"):
        with pytest.raises(ValueError, match="save_only_model"):
            main(["--config", path, extra])
    assert (tmp_path / "out" / "checkpoint-1").exists()


ANSWER = {"role": "assistant", "content": "Red ball."}


def user(image: str | None = None) -> dict:
    shown = [] if image is None else [{"type": "image", "image": image}]
    return {"role": "user", "content": [*shown, {"type": "text", "text": "What is it?"}]}


def write_chats(path, chats: list) -> None:
    path.write_text("".join(json.dumps(chat) + "\n" for chat in chats))


def test_a_run_says_at_its_start_how_much_there_is_and_whether_it_is_finished(recipe, caplog):
    path = recipe(held_out=6, max_steps=2, save_strategy="steps", save_steps=1)
    main(["--config", path])
    assert "42 samples, 6 held out; 2 steps of 4 rows" in caplog.text
    main(["--config", path, "--resume"])
    assert "the run is finished (step 2 of 2); for more steps, raise max_steps" in caplog.text
    main(["--config", path, "--resume", "max_steps=3"])
    assert "3 steps of 4 rows, continuing after step 2" in caplog.text


def test_an_output_folder_that_cannot_be_written_is_refused_before_weights_are_read(recipe, tmp_path):
    (tmp_path / "a file").write_text("")
    for out in ("a file", "a file/run"):
        with pytest.raises(ValueError, match=f"{tmp_path / out} cannot be made a folder .*choose another place"):
            main(["--config", recipe(output_dir=str(tmp_path / out), model_name_or_path="no/such")])


def test_importing_the_script_silences_the_message_on_optional_kernels_before_peft_prints_it():
    code = "import livecc_hf.training, logging; print(logging.getLogger('bitsandbytes').level == logging.ERROR)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"


def test_a_folders_query_becomes_the_default_of_the_saved_model_and_a_fact_of_its_card(recipe, tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    write_video(videos / "a.mp4", n_frames=30, fps=10, size_px=(56, 56))
    (videos / "a.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nHello there.\n")
    entry = {"source": "folder", "path": str(videos), "query": "Comment on this race."}
    main(["--config", recipe(data=[entry], max_steps=1)])
    processor = StreamingProcessor.from_pretrained(tmp_path / "out")
    assert processor.default_query == "Comment on this race."
    assert "| query | Comment on this race. |" in (tmp_path / "out" / "README.md").read_text()


def test_a_default_query_needs_one_query_of_all_data():
    race, other = ({"source": "folder", "path": "a", "query": text} for text in ("Race.", "Other."))
    assert shared_query([race, race]) == "Race."
    assert shared_query([race, other]) is shared_query([race, {"source": "folder", "path": "a"}]) is None
    assert shared_query([race, {"source": "jsonl", "path": "b", "query": "Race."}]) is None


def test_the_best_model_by_the_loss_per_word_has_the_lowest(recipe, tmp_path):
    steps = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    best = {"load_best_model_at_end": True, "metric_for_best_model": "loss_per_word", "learning_rate": 1.0}
    path = recipe(**steps, **best, held_out=4, commentary_clips=0, optimizer="trainer", lr_scheduler_type="constant")
    main(["--config", path])
    state = json.loads((tmp_path / "out/checkpoint-3/trainer_state.json").read_text())
    measured = [log["eval_loss_per_word"] for log in state["log_history"] if "eval_loss_per_word" in log]
    assert len(set(measured)) == 3
    assert state["best_metric"] == min(measured)
    assert parse(["--config", path]).training.greater_is_better is False
    assert (
        parse(["--config", path, "metric_for_best_model=eval_mean_token_accuracy"]).training.greater_is_better is True
    )
    assert parse(["--config", path, "greater_is_better=true"]).training.greater_is_better is True


@pytest.mark.parametrize(("dtype", "adapter", "is_said"), [("bfloat16", 0, 1), ("float32", 0, 0), ("bfloat16", 1, 0)])
def test_a_full_run_that_would_update_weights_in_16_bits_says_so(recipe, caplog, dtype, adapter, is_said):
    changes = {"dtype": dtype, "bf16": True, "use_peft": bool(adapter), "train_parts": ["language_model"]}
    build_trainer(parse(["--config", recipe(**changes, optimizer="trainer")]))
    assert caplog.text.count("the weights are updated in bfloat16, which is too coarse") == is_said


def test_an_interrupted_run_says_which_checkpoint_is_kept(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    (tmp_path / "checkpoint-6").mkdir()  # incomplete
    for expected in ("no checkpoint was saved yet", "checkpoint-4 is kept: continue with --resume"):
        with pytest.raises(KeyboardInterrupt), say_how_to_continue(tmp_path):
            raise KeyboardInterrupt
        assert caplog.messages[-1] == expected
        (tmp_path / "checkpoint-4").mkdir(exist_ok=True)
        (tmp_path / "checkpoint-4" / RUN_STATE_FILE).write_text("{}")
