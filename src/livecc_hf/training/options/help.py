"""The text of `livecc train --help`: the options most runs need, since TRL's parser lists all 200."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import fields

from .arguments import ALL_OPTIONS, LiveCCArguments

WIDTH = 80
_TOP = """\
usage: livecc train --recipe NAME|--config FILE [--resume] [KEY=VALUE ...]

Fine-tune a model. A recipe is a YAML file of options; options after it, as
KEY=VALUE or --KEY VALUE, override those in the file.

  livecc train --recipe own-videos/lora inspect=4    print 4 training samples
  livecc train --recipe own-videos/lora              train

`--recipe` without a name lists those that come with the package."""
# Options of TRL and transformers that recipes set; one entry may name several.
COMMON = {
    "Model and memory": {
        "model_name_or_path": "folder or Hub id to start from",
        "dtype, bf16": "precision of the weights, and mixed precision",
        "use_peft, lora_r": "train an adapter (LoRA) of this rank",
        "load_in_4bit": "quantise the base model under the adapter",
        "activation_checkpointing": "recompute activations to save memory",
        "use_cpu": "train without a GPU",
    },
    "Steps": {
        "output_dir": "folder for checkpoints and the model",
        "num_train_epochs, max_steps": "how long",
        "learning_rate": "with lr_scheduler_type, warmup_steps, weight_decay",
        "per_device_train_batch_size": "rows per device and forward pass",
        "gradient_accumulation_steps": "forward passes per optimizer step",
        "max_length, packing": "maximum tokens of a row; several samples in a row",
        "dataloader_num_workers": "processes that decode video",
        "seed": "seed of all random choices",
    },
    "Evaluation and checkpoints": {
        "eval_strategy, eval_steps": "no, steps or epoch: when held-out data is measured",
        "save_strategy, save_steps": "no, steps or epoch: when a checkpoint is saved",
        "push_to_hub": "upload checkpoints and model to hub_model_id, USER/NAME",
        "save_total_limit": "number of checkpoints to keep",
        "logging_steps, report_to": "how often, and tensorboard, wandb or trackio",
    },
}
_END = f"""\
livecc train {ALL_OPTIONS} lists all options, with those of TRL's SFTConfig and
ModelConfig; docs/training.md says what they mean for commentary, memory, time."""


def short_help() -> str:
    """Return the help text, at most two screens of 40 lines and 80 columns."""
    ours = {item.name: str(item.metadata["help"]) for item in fields(LiveCCArguments)}
    blocks = [_TOP, _block("Data and commentary (this package's own)", ours)]
    blocks += [_block(title, options) for title, options in COMMON.items()]
    return "\n".join([*blocks, "", _END])


def _block(title: str, options: Mapping[str, str]) -> str:
    column = max(map(len, options)) + 4
    lines = ["", f"{title}:"]
    for names, text in options.items():
        lines += textwrap.wrap(f"  {names:<{column - 2}}{text}", WIDTH, subsequent_indent=" " * column)
    return "\n".join(lines)
