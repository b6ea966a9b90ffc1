"""A model comments on held-out clips while it is trained, and training does not notice."""

import logging
import math

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from livecc_hf.data.samples.commentary import encode_commentary
from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration
from livecc_hf.modeling.stream_options import StreamOptions
from livecc_hf.tiny.samples import narration_clip
from livecc_hf.training.live_commentary import (
    GroundTruthClip,
    LiveCommentaryCallback,
    comment,
    commentary_text,
    spread_by,
)

LOGGER = "livecc_hf.training.live_commentary"


def world_clip(seed: int, duration_s: int = 6, **changes) -> GroundTruthClip:
    clip = narration_clip(seed, duration_s)
    keys = {"words": clip.words, "query": clip.query} | changes
    return GroundTruthClip(f"world {seed}", torch.from_numpy(clip.frames), clip.timestamps_s, **keys)


@pytest.fixture(scope="module")
def clip():
    return world_clip(2)


@pytest.fixture(scope="module")
def samples(tiny_processor):
    clips = [narration_clip(seed, 6) for seed in range(10, 14)]
    return [
        encode_commentary(
            tiny_processor,
            torch.from_numpy(clip.frames),
            clip.timestamps_s,
            clip.words,
            clip.query,
            keep_trailing_silence=True,
        ).model_inputs
        for clip in clips
    ]


@pytest.fixture()
def model(tiny_folder):
    """Random weights, with dropout, whose random numbers a stray draw or a lost training mode would change."""
    model = LiveCCForConditionalGeneration.from_pretrained(tiny_folder)
    model.config.text_config.attention_dropout = 0.1
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.1
    return model


def collate(rows: list[dict]) -> dict:
    """One sample a batch."""
    (row,) = rows
    batch = {name: value if name.startswith(("pixel", "video")) else value[None] for name, value in row.items()}
    return batch | {"attention_mask": torch.ones_like(batch["input_ids"])}


def make_trainer(model, samples, folder, trainer_class=Trainer, **changes):
    arguments = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 1,
        "per_device_eval_batch_size": 1,
        "learning_rate": 0.003,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "logging_steps": 1,
        "save_strategy": "no",
        "remove_unused_columns": False,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    } | changes
    return trainer_class(
        model=model,
        args=TrainingArguments(**arguments),
        data_collator=collate,
        train_dataset=samples,
        eval_dataset=samples[:1],
    )


def losses(trainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def test_every_evaluation_is_commented_and_training_does_not_notice(
    model, samples, tiny_processor, tiny_folder, clip, tmp_path, caplog
):
    caplog.set_level(logging.INFO, LOGGER)
    with_it = make_trainer(model, samples, tmp_path / "a")
    with_it.add_callback(LiveCommentaryCallback([clip], tiny_processor, trainer=with_it))
    with_it.train()
    blocks = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert [block.split(",")[0] for block in blocks] == ["step 2", "step 4"]
    assert all('held-out clip "world 2"' in block and len(block.split("\n")) == 5 for block in blocks)

    without = LiveCCForConditionalGeneration.from_pretrained(tiny_folder)
    for module in without.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.1
    without = make_trainer(without, samples, tmp_path / "b")
    without.train()
    assert losses(with_it) == losses(without)
    assert len(losses(without)) == 4 and all(math.isfinite(loss) for loss in losses(without))
    ours, theirs = with_it.model.state_dict(), without.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_no_random_number_is_drawn_and_every_module_keeps_its_mode(model, tiny_processor, clip):
    model.train()
    model.model.visual.eval()
    modes = [module.training for module in model.modules()]
    before, deltas = torch.get_rng_state(), model.model.rope_deltas
    callback = LiveCommentaryCallback([clip], tiny_processor, options=StreamOptions(do_sample=True, max_new_tokens=4))
    state = TrainerState(is_world_process_zero=True)
    callback.on_evaluate(TrainingArguments(report_to="none", use_cpu=True), state, TrainerControl(), model=model)
    assert torch.equal(torch.get_rng_state(), before)
    assert [module.training for module in model.modules()] == modes
    assert model.model.rope_deltas is deltas
    assert all(parameter.grad is None for parameter in model.parameters())


def test_it_says_what_a_stream_outside_training_says(model, tiny_processor):
    clip = world_clip(4, previous="Red ball enters.")
    options = StreamOptions(do_sample=False, max_new_tokens=6)
    turns = comment(model.train(), tiny_processor, clip, options)
    segments = model.eval().stream_generate(
        tiny_processor, clip.frames, query=clip.query, previous=clip.previous, do_sample=False, max_new_tokens=6
    )
    assert [(turn.start_s, turn.end_s, turn.model) for turn in turns] == [
        (segment.start_s, segment.end_s, segment.text) for segment in segments
    ]
    spoken = [word for _, end_s, word in clip.words if end_s <= clip.frame_times_s[-1]]
    assert " ".join(turn.said for turn in turns if turn.said) == " ".join(spoken)
    assert spoken


def test_an_odd_clip_and_a_long_one(model, tiny_processor, clip, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    odd = GroundTruthClip("odd", clip.frames[:9], clip.frame_times_s[:9], clip.words)
    assert [(turn.start_s, turn.end_s) for turn in comment(model, tiny_processor, odd)] == [(0, 3), (3, 4), (4, 5)]
    callback = LiveCommentaryCallback([odd], tiny_processor, max_turns=2)
    state = TrainerState(is_world_process_zero=True, global_step=7)
    callback.on_evaluate(TrainingArguments(report_to="none", use_cpu=True), state, TrainerControl(), model=model)
    assert "... 1 more turns are not commented" in caplog.text


def test_every_n_steps_instead_of_at_evaluations(model, samples, tiny_processor, clip, tmp_path, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    trainer = make_trainer(model, samples, tmp_path, max_steps=3, eval_steps=3)
    trainer.add_callback(LiveCommentaryCallback([clip], tiny_processor, every_steps=2, trainer=trainer))
    trainer.train()
    assert [record.getMessage().split(",")[0] for record in caplog.records if record.name == LOGGER] == ["step 2"]


def test_lora_checkpointing_and_bfloat16_under_trl(samples, tiny_folder, tiny_processor, clip, tmp_path, caplog):
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    caplog.set_level(logging.INFO, LOGGER)
    from datasets import Dataset

    dataset = Dataset.from_dict({"n": list(range(len(samples)))})
    dataset = dataset.with_transform(lambda rows: {k: [samples[n][k] for n in rows["n"]] for k in samples[0]})
    args = SFTConfig(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=1,
        learning_rate=0.01,
        eval_strategy="steps",
        eval_steps=1,
        per_device_eval_batch_size=1,
        save_strategy="no",
        bf16=True,
        gradient_checkpointing=True,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    trainer = SFTTrainer(
        model=LiveCCForConditionalGeneration.from_pretrained(tiny_folder),
        args=args,
        data_collator=collate,
        train_dataset=dataset,
        eval_dataset=dataset.select(range(1)),
        processing_class=tiny_processor,
        peft_config=LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|v_proj)", init_lora_weights=False),
    )
    options = StreamOptions(max_new_tokens=6)
    trainer.add_callback(LiveCommentaryCallback([clip], tiny_processor, options=options, trainer=trainer))
    trainer.train()
    blocks = [record.getMessage() for record in caplog.records if record.name == LOGGER]
    assert [block.split(",")[0] for block in blocks] == ["step 1", "step 2"]

    # The streamed model had the adapter in its layers, in bfloat16.
    options = StreamOptions(max_new_tokens=6, do_sample=False, seed=0)
    base = trainer.model.get_base_model()
    said = commentary_text(2, clip.name, comment(base, tiny_processor, clip, options, args=args))
    assert blocks[1] == said
    with trainer.model.disable_adapter():
        off = commentary_text(2, clip.name, comment(base, tiny_processor, clip, options, args=args))
    assert off != said


def test_a_failure_is_one_warning_and_training_goes_on(model, samples, tiny_processor, clip, tmp_path, caplog):
    bad = GroundTruthClip("bad", clip.frames.float(), clip.frame_times_s, clip.words)
    trainer = make_trainer(model, samples, tmp_path)
    trainer.add_callback(LiveCommentaryCallback([bad], tiny_processor, trainer=trainer))
    trainer.train()
    assert trainer.state.global_step == 4
    warnings = [r.getMessage() for r in caplog.records if r.name == LOGGER and r.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "step 2" in warnings[0] and "frames are torch.float32: expected torch.uint8" in warnings[0]


def test_an_interrupt_is_not_swallowed(model, tiny_processor, clip):
    def interrupt(*_):
        raise KeyboardInterrupt

    model.train().lm_head.register_forward_hook(interrupt)
    callback = LiveCommentaryCallback([clip], tiny_processor)
    state = TrainerState(is_world_process_zero=True)
    with pytest.raises(KeyboardInterrupt):
        callback.on_evaluate(TrainingArguments(report_to="none", use_cpu=True), state, TrainerControl(), model=model)
    assert model.training and model.lm_head.training


def test_other_processes_do_nothing(model, tiny_processor, clip, caplog):
    caplog.set_level(logging.INFO, LOGGER)
    callback = LiveCommentaryCallback([clip], tiny_processor)
    state = TrainerState(is_world_process_zero=False)
    callback.on_evaluate(TrainingArguments(report_to="none", use_cpu=True), state, TrainerControl(), model=model)
    assert not caplog.records


@pytest.fixture()
def process_group(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_under_ddp_the_inner_model_speaks_and_under_fsdp_none_does(model, tiny_processor, clip, process_group, caplog):
    from torch.distributed.fsdp import fully_shard

    caplog.set_level(logging.INFO, LOGGER)
    callback = LiveCommentaryCallback([clip], tiny_processor)
    args, state = TrainingArguments(report_to="none", use_cpu=True), TrainerState(is_world_process_zero=True)
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    assert spread_by(wrapped) is None
    callback.on_evaluate(args, state, TrainerControl(), model=wrapped)
    assert "said:" in caplog.records[-1].getMessage()
    caplog.clear()
    mesh = torch.distributed.init_device_mesh("cpu", (1,))
    for layer in model.model.language_model.layers:
        fully_shard(layer, mesh=mesh)
    for _ in range(2):
        callback.on_evaluate(args, state, TrainerControl(), model=model)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "FSDP shards the model" in record.getMessage()


def test_a_model_that_cannot_stream_is_named(tiny_processor, clip, caplog):
    callback = LiveCommentaryCallback([clip], tiny_processor)
    args, state = TrainingArguments(report_to="none", use_cpu=True), TrainerState(is_world_process_zero=True)
    callback.on_evaluate(args, state, TrainerControl(), model=torch.nn.Linear(2, 2))
    assert "the model is a Linear: expected a LiveCCForConditionalGeneration" in caplog.text


def test_tensorboard_gets_the_text(model, samples, tiny_processor, clip, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = make_trainer(model, samples, tmp_path / "out", report_to="tensorboard")
    trainer.add_callback(LiveCommentaryCallback([clip], tiny_processor, trainer=trainer))
    trainer.train()
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    events = EventAccumulator(str(folder)).Reload().Tensors("live_commentary/world 2/text_summary")
    assert [event.step for event in events] == [2, 4]
    assert b'held-out clip "world 2"' in events[0].tensor_proto.string_val[0]


def test_wandb_gets_the_text(model, samples, tiny_processor, clip, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    trainer = make_trainer(model, samples, tmp_path / "out", report_to="wandb")
    trainer.add_callback(LiveCommentaryCallback([clip], tiny_processor, trainer=trainer))
    trainer.train()
    pages = [path.read_text() for path in tmp_path.rglob("media/html/**/*.html")]
    assert len(pages) == 2
    assert all("held-out clip" in page for page in pages)


def test_a_failing_tracker_is_one_warning(model, samples, tiny_processor, clip, tmp_path, caplog):
    class FullDisk:
        def add_text(self, *_):
            raise OSError("No space left on device")

    class Tracker(TrainerCallback):
        tb_writer = FullDisk()

    trainer = make_trainer(model, samples, tmp_path)
    trainer.add_callback(Tracker())
    trainer.add_callback(LiveCommentaryCallback([clip], tiny_processor, trainer=trainer))
    trainer.train()
    warnings = [r.getMessage() for r in caplog.records if r.name == LOGGER and r.levelno == logging.WARNING]
    assert len(warnings) == 1 and "Tracker did not take the live commentary: No space left" in warnings[0]


def test_wrong_input_is_refused(tiny_processor, clip):
    with pytest.raises(ValueError, match="no held-out clips"):
        LiveCommentaryCallback([], tiny_processor)
    with pytest.raises(ValueError, match="every_steps=0: expected at least 1"):
        LiveCommentaryCallback([clip], tiny_processor, every_steps=0)
    with pytest.raises(ValueError, match="'short' has 12 frames and 3 frame times"):
        GroundTruthClip("short", clip.frames, clip.frame_times_s[:3], clip.words)


def test_timing_goes_into_the_trackers(model, samples, tiny_processor, clip, tmp_path):
    trainer = make_trainer(model, samples, tmp_path)
    trainer.add_callback(LiveCommentaryCallback([clip], tiny_processor, trainer=trainer))
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "eval_live_always_speak_f1" in entry]
    assert [entry["step"] for entry in logged] == [2, 4]
    assert all(0 <= entry["eval_live_speak_f1"] <= 1 for entry in logged)
