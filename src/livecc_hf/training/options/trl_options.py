"""Refuses options of TRL and transformers that do not apply to commentary, and reports those without effect."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig

    from .arguments import LiveCCArguments

# Refused options: the accepted values, and why others are refused.
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "completion_only_loss": ((None, True), "the loss is always on answers only"),
    "truncation_mode": (("keep_start",), "clips lose turns at their end"),
    "chat_template_path": ((None,), "the model's grammar is its own chat template"),
    "eos_token": ((None,), "the model's grammar says what ends a message"),
    "pad_token": ((None,), "the processor's is used"),
    "model_init_kwargs": ((None,), "the model's options have names of their own, such as dtype"),
    "router_aux_loss_coef": ((None, 0.0), "the model has no experts"),
    "label_smoothing_factor": ((0.0,), "it needs the logits of every token, which are not computed"),
    "label_names": ((None,), "the labels are the answers' tokens"),
    "auto_find_batch_size": ((False,), "rows a step would change unnoticed; lower per_device_train_batch_size"),
    "length_column_name": (("length",), "tokens are counted by this package"),
}
# Options without effect: the values that match the actual behaviour, and the reason.
IDLE: dict[str, tuple[tuple[Any, ...], str]] = {
    "trust_remote_code": ((False,), "the model's code is this package's"),
    "dataset_text_field": ((), "data says where the words are"),
    "dataset_kwargs": (({"skip_prepare_dataset": True},), "data is read by this package"),
    "dataset_num_proc": ((), "see dataloader_num_workers"),
    "shuffle_dataset": ((), "see train_sampling_strategy"),
    "packing_strategy": (("bfd",), "packing is best-fit and never cuts a sample"),
    "padding_free": ((False,), "see packing"),
    "eval_packing": ((False,), "held-out samples are not packed"),
    "remove_unused_columns": ((False,), "no column is removed"),
    "use_cache": ((False,), "training keeps no cache"),
    "do_train": ((True,), "this command only trains"),
    "do_predict": ((False,), "this command only trains"),
    "prediction_loss_only": ((True,), "only the loss of held-out data is measured"),
    "include_for_metrics": (([],), "only the loss of held-out data is measured"),
    "batch_eval_metrics": ((False,), "only the loss of held-out data is measured"),
    "eval_do_concat_batches": ((), "only the loss of held-out data is measured"),
    "eval_use_gather_object": ((), "only the loss of held-out data is measured"),
    "eval_accumulation_steps": ((), "only the loss of held-out data is measured"),
    "bf16_full_eval": ((False,), "held-out data is measured in the precision of training"),
    "fp16_full_eval": ((False,), "held-out data is measured in the precision of training"),
}
# Options that take effect only together with another one.
_OF_LORA = (
    *("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules", "lora_target_parameters", "lora_modules_to_save"),
    *("lora_task_type", "use_rslora", "use_dora"),
)
_OF_FOUR_BITS = ("bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage")
_OF_PUSH = ("hub_model_id", "hub_strategy", "hub_private_repo", "hub_revision", "hub_always_push")
_OF_BEST = ("load_best_model_at_end", "metric_for_best_model", "greater_is_better")
_OF_ADAMW = ("optim", "optim_args", "optim_target_modules", "adam_beta1", "adam_beta2", "adam_epsilon")


def check_trl_options(
    ours: LiveCCArguments, training: SFTConfig, model: ModelConfig, given: Collection[str]
) -> list[str]:
    """Refuse options that do not apply; return messages about options without effect, if any.

    Args:
        ours: options of this package.
        training: TRL's options, as given.
        model: TRL's model options.
        given: names of the options in the recipe or on the command line.

    Raises:
        ValueError: naming every option that is refused.
    """
    wrong = [
        f"{name}={getattr(training, name)!r} ({why})"
        for name, (fine, why) in REFUSED.items()
        if not _is_one_of(getattr(training, name), fine)
    ]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: not available when training on commentary, remove it")
    idle = [
        f"{name} ({why})"
        for name, (fine, why) in IDLE.items()
        if name in given and not _is_one_of(getattr(training, name), fine)
    ]
    for names, is_off, why in (
        (_OF_LORA, not model.use_peft, "use_peft is off"),
        (_OF_FOUR_BITS, not model.load_in_4bit, "load_in_4bit is off"),
        (("muon_learning_rate",), ours.optimizer != "muon", "optimizer is not muon"),
        (_OF_ADAMW, ours.optimizer == "muon", "optimizer is muon"),
        (_OF_PUSH, not training.push_to_hub, "push_to_hub is off"),
        (("do_eval",), training.do_eval and training.eval_strategy == "no", "eval_strategy is no"),
        (("eval_data", "commentary_clips", *_OF_BEST), not is_measured(training), "eval_strategy is no"),
        (("held_out",), bool(ours.eval_data and ours.held_out), "eval_data is given"),
        (("eval_steps",), training.eval_strategy != "steps", "eval_strategy is not steps"),
        (("save_steps",), training.save_strategy != "steps", "save_strategy is not steps"),
        (("resume",), bool(ours.resume and training.resume_from_checkpoint), "resume_from_checkpoint is given"),
    ):
        idle += [f"{name} ({why})" for name in names if is_off and name in given]
    notes = [f"options without effect here: {', '.join(idle)}"] if idle else []
    if ours.held_out and not ours.eval_data and not is_measured(training):
        notes.append(f"held_out is {ours.held_out} and eval_strategy no: these samples are not trained on or measured")
    return notes


def is_measured(training: SFTConfig) -> bool:
    """Return whether held-out data is measured."""
    return training.eval_strategy != "no" or training.eval_on_start


def _is_one_of(value: Any, fine: tuple[Any, ...]) -> bool:
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in fine)
