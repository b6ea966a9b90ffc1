"""A recipe: the options of `livecc train`, from a file and the command line, checked together."""

from __future__ import annotations

import contextlib
import difflib
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from livecc_hf.assets import bundled_model_path
from livecc_hf.data.formats.clip_spans import MAX_CLIP_S
from livecc_hf.modeling.grammar import FRAMES_PER_SECOND
from livecc_hf.utils.text import one_line

from ..allocator import use_expandable_segments
from .arguments import ALL_OPTIONS, LiveCCArguments
from .recipe_file import WrittenRecipe, read_written
from .trl_options import check_trl_options, is_measured
from .values import check_best_metric, check_values

if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig, TrlParser

BUNDLED = "livecc-tiny"  # a recipe's name for the model bundled with the package
# Options for the training machine; ignored by `inspect`, which may run on another machine.
_MACHINE_OPTIONS = (
    *("use_cpu", "bf16", "fp16", "tf32", "bf16_full_eval", "fp16_full_eval", "torch_compile", "use_liger_kernel"),
    *("optim", "load_in_4bit", "load_in_8bit", "deepspeed", "fsdp", "fsdp_config", "ddp_backend", "parallelism_config"),
    "report_to",
)


@dataclass
class Recipe:
    """All options of a run, read and checked once.

    Attributes:
        ours: options of this package.
        training: TRL's options.
        model: TRL's options of model, adapter and precision.
        data: the entries of the training data, each with a `source` and that source's keys.
        eval_data: the entries of held-out data, in the same form.
        packing: put several samples into a row, up to `training.max_length` tokens.
        notes: messages about the options, to log.
        name: the recipe file's name, such as `recipes/livecc-7b/sft.yaml`; `None` without a file.
    """

    ours: LiveCCArguments
    training: SFTConfig
    model: ModelConfig
    data: list[dict[str, Any]]
    eval_data: list[dict[str, Any]]
    packing: bool = False
    notes: list[str] = field(default_factory=list)
    name: str | None = None

    @property
    def data_seed(self) -> int:
        """The seed for drawing and packing samples."""
        return self.training.seed if self.training.data_seed is None else self.training.data_seed


def parse(argv: Sequence[str]) -> Recipe:
    """Return the recipe given by ``--config FILE`` and overrides (``key=value`` or ``--key value``).

    Raises:
        ValueError: if an option is unknown, or a value is invalid.
        FileNotFoundError: if there is no such recipe.
    """
    written = read_written(argv)
    use_expandable_segments()  # after the recipe's `env`, before the options look for a GPU
    if _is_inspection(written):
        written = written.without(_MACHINE_OPTIONS)
        written.values.update(use_cpu=True, bf16=False)
    ours, training, model = _parse_options(written)
    if model.model_name_or_path == BUNDLED and not Path(BUNDLED).exists():
        model.model_name_or_path = str(bundled_model_path())
    notes = check_trl_options(ours, training, model, written.names)
    check_best_metric(training, written.names)
    training.remove_unused_columns = False
    training.dataset_kwargs = {"skip_prepare_dataset": True}
    training.assistant_only_loss = False  # the labels do this; TRL would look for a mask in the data
    # TRL packs text columns that it tokenised itself; here `BatchLoader` packs.
    packing, training.packing, training.padding_free = training.packing, False, False
    if training.max_length is not None and training.max_length < 1:
        raise ValueError(f"max_length is {training.max_length}: expected at least 1 token; leave it out for no limit")
    if packing and training.max_length is None:
        raise ValueError("packing needs a limit for a row: set max_length to a number of tokens, such as 16384")
    _check_together(ours, training, model)
    data, eval_data = _parse_entries(ours.data, "data"), _parse_entries(ours.eval_data, "eval_data")
    notes += _cut_clips([*data, *eval_data], ours.max_frames)
    return Recipe(ours, training, model, data, eval_data, packing, notes, written.name)


def _cut_clips(entries: Sequence[dict[str, Any]], max_frames: int) -> list[str]:
    """Return a message for each folder whose clips `max_frames` may cut: the end of a clip is then never trained on."""
    max_s = max_frames / FRAMES_PER_SECOND
    longest = [(entry, entry.get("max_clip_s", MAX_CLIP_S)) for entry in entries if entry.get("source") == "folder"]
    return [
        f"{entry.get('path')} is split into clips of up to {clip_s:g} s (max_clip_s), of which max_frames={max_frames} "
        f"keeps {max_s:g} s: set max_clip_s to {max_s:g}, or raise max_frames, to train on all words"
        for entry, clip_s in longest
        if isinstance(clip_s, int | float) and clip_s > max_s
    ]


def _check_together(ours: LiveCCArguments, training: SFTConfig, model: ModelConfig) -> None:
    """Check that the options are compatible.

    Raises:
        ValueError: for the first conflict.
    """
    from ..model.liger import check_liger
    from ..model.parts import check_parts
    from ..saving.pushing import check_hub_options

    check_values(training, model)
    check_parts(ours.train_parts)
    if training.n_gpu > 1:
        raise ValueError(
            f"{training.n_gpu} GPUs are visible to one process, which trains on one: start a process for each "
            f"(accelerate launch --num_processes {training.n_gpu} -m livecc_hf.training.script ...), or make only one "
            "visible (CUDA_VISIBLE_DEVICES=0 livecc train ...)"
        )
    accelerator = training.accelerator_config
    if accelerator.split_batches or accelerator.dispatch_batches:
        raise ValueError(
            "accelerator_config has split_batches or dispatch_batches on, but each process must read its own batches: "
            "remove it"
        )
    if ours.optimizer == "muon" and model.use_peft:
        raise ValueError("optimizer is muon, which trains whole matrices, but use_peft is on: set optimizer to trainer")
    if training.train_sampling_strategy == "group_by_length":
        raise ValueError(
            "train_sampling_strategy is group_by_length, whose order cannot be resumed: use batch_rebalance, or packing"
        )
    if training.use_liger_kernel:
        check_liger()
    check_hub_options(ours, training, model)
    if is_measured(training) and not (ours.eval_data or ours.held_out):
        raise ValueError("eval_strategy or eval_on_start is on, but nothing is held out: give eval_data or held_out")


def _parse_entries(items: Sequence[Any], name: str) -> list[dict[str, Any]]:
    """Return the entries of a data list; strings from the command line are parsed as one entry or a list of entries.

    Raises:
        ValueError: if an entry is neither YAML nor JSON, or not a mapping.
    """
    import yaml

    entries: list[dict[str, Any]] = []
    for item in items:
        try:
            entry = yaml.safe_load(item) if isinstance(item, str) else item
        except yaml.YAMLError as error:
            raise ValueError(f"{name} entry {item!r} is neither YAML nor JSON: {one_line(error)}") from None
        for each in entry if isinstance(entry, list) else [entry]:
            if not isinstance(each, dict):
                raise ValueError(
                    f"{name} entry {item!r} is not a mapping with a 'source', such as "
                    "{source: folder, path: my-videos}"
                )
            entries.append(each)
    return entries


def _is_inspection(written: WrittenRecipe) -> bool:
    """Return whether the recipe only prints samples, without training."""
    count = written.values.get("inspect", 0)
    for at, word in enumerate(written.words):
        name, equals, value = word.partition("=")
        if name == "--inspect":
            count = value if equals else "".join(written.words[at + 1 : at + 2])
    return str(count).isdigit() and int(count) > 0


def _parse_options(written: WrittenRecipe) -> tuple[LiveCCArguments, SFTConfig, ModelConfig]:
    """Return the dataclasses of all options.

    Raises:
        ValueError: if an option is unknown, or a value is invalid.
    """
    from trl import ModelConfig, SFTConfig, TrlParser

    class Parser(TrlParser):
        def error(self, message: str) -> NoReturn:  # argparse would print the usage of 200 options first
            raise ValueError(f"{message} (see livecc train --help)")

    options = (LiveCCArguments, SFTConfig, ModelConfig)
    parser = Parser(options, allow_abbrev=False)
    parser.prog = "livecc train"
    parser.set_defaults_with_config(max_length=None)  # TRL's default cuts at 1024 tokens
    parser.set_defaults_with_config(**written.values)
    words = ["--help" if word == ALL_OPTIONS else word for word in written.words]
    words = _expand_lists(words, {name for it in parser._actions if it.nargs == "+" for name in it.option_strings})
    _, rest = parser.parse_known_args(words)  # report unknown options before invalid values
    known = {item.name for cls in options for item in fields(cls)}
    unknown = [key for key in written.values if key not in known]
    unknown += [word.removeprefix("--").partition("=")[0] for word in rest if word.startswith("--")]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f": did you mean {near[0]}?" if near else "; see livecc train --help"
        raise ValueError(f"unknown {'option' if len(unknown) == 1 else 'options'} {', '.join(unknown)}{hint}")
    if rest:
        raise ValueError(f"{rest[0]!r} belongs to no option: options are written key=value, a recipe --config FILE")
    return _parse_words(parser, words)


def _expand_lists(words: Sequence[str], options: Collection[str]) -> list[str]:
    """Replace lists that are written as in a recipe, such as `--train_parts "[vision, merger]"`, by their items."""
    import yaml

    expanded: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        items: Any = None
        if before in options and word.startswith("["):
            with contextlib.suppress(yaml.YAMLError):
                items = yaml.safe_load(word)
        is_plain = isinstance(items, list) and all(isinstance(item, str | int | float) for item in items)
        expanded += [str(item) for item in items] if is_plain else [word]
    return expanded


def _parse_words(parser: TrlParser, words: Sequence[str]) -> tuple[LiveCCArguments, SFTConfig, ModelConfig]:
    """Parse command line words into the dataclasses, which check their values.

    Raises:
        ValueError: if a value is invalid, or this machine does not support it.
    """
    with warnings.catch_warnings():  # about renamed transformers options at their defaults
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
        try:
            ours, training, model = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
            return ours, training, model
        except ValueError as error:
            if "bf16" not in str(error) or "use_cpu" not in str(error):
                raise
            raise ValueError(
                "bf16=true needs a GPU with bfloat16, and there is none here: use_cpu=true bf16=false trains on "
                "the CPU; inspect=4 needs no GPU"
            ) from error
