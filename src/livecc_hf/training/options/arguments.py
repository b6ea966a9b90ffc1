"""The options of `livecc train`: what a recipe says, as dataclasses."""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from livecc_hf.assets import bundled_model_path
from livecc_hf.modeling.grammar import MAX_FRAMES

from ...data.samples.sample import EncodeOptions
from .recipe_file import WrittenRecipe, read_written
from .trl_options import check_trl_options

if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig, TrlParser

OPTIMIZERS = ("trainer", "muon")
TRAINING_SCHEMES = ("mrope", "sequential")
ALL_OPTIONS = "--help-all"
BUNDLED = "livecc-tiny"  # the name, in a recipe, of the model that comes with the package
# What a training machine has and the one where samples are looked at may lack.
_MACHINE_OPTIONS = (
    *("use_cpu", "bf16", "fp16", "tf32", "bf16_full_eval", "fp16_full_eval", "torch_compile", "use_liger_kernel"),
    *("optim", "load_in_4bit", "load_in_8bit", "deepspeed", "fsdp", "fsdp_config", "ddp_backend", "parallelism_config"),
)


@dataclass
class LiveCCArguments:
    """What a recipe says beyond TRL's own options.

    Raises:
        ValueError: if a value is none of those expected.
    """

    data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Training data: a YAML list of mappings, each with a 'source', that source's keys, and optionally "
            "a 'weight' (how many times its samples come in an epoch); on the command line, one JSON object each."
        },
    )
    eval_data: list[str] = field(
        default_factory=list, metadata={"help": "Held-out data, in the same form; see also held_out."}
    )
    held_out: int = field(
        default=0, metadata={"help": "Samples drawn from the training data and held out, where eval_data is not given."}
    )
    keep_trailing_silence: bool = field(
        default=False, metadata={"help": "Keep silent turns at the end of a clip as training signal."}
    )
    use_context: bool = field(
        default=True, metadata={"help": "Let the model read a clip's previous text, or its title where there is none."}
    )
    min_pixels: int | None = field(
        default=None, metadata={"help": "Fewest pixels of a frame; default: the processor's limit."}
    )
    max_pixels: int | None = field(
        default=None, metadata={"help": "Most pixels of a frame; default: the clip's share of the token budget."}
    )
    max_frames: int = field(
        default=MAX_FRAMES, metadata={"help": "Most frames of a clip, 2 a second; what comes later is cut."}
    )
    max_skipped: float = field(
        default=0.01,
        metadata={"help": "Largest share of samples that may be unusable before the run stops (from 200 samples on)."},
    )
    position_scheme: str | None = field(
        default=None, metadata={"help": "Overrides the checkpoint's: 'mrope' or 'sequential'."}
    )
    train_parts: list[str] = field(
        default_factory=lambda: ["language_model"],
        metadata={"help": "What is trained, or gets adapters with use_peft: vision, merger, language_model."},
    )
    optimizer: str = field(
        default="trainer",
        metadata={"help": "'trainer' (what --optim says) or 'muon' (Muon on matrices, AdamW on the rest)."},
    )
    muon_learning_rate: float = field(
        default=0.02, metadata={"help": "Learning rate of Muon; learning_rate is that of AdamW."}
    )
    resume: bool = field(
        default=False, metadata={"help": "Go on from the newest whole checkpoint in output_dir, if there is one."}
    )
    inspect: int = field(
        default=0, metadata={"help": "Print this many samples, write their frames to inspect.png, and stop."}
    )
    commentary_clips: int = field(
        default=1, metadata={"help": "Held-out clips that the model comments on at each evaluation; 0: none."}
    )

    hub_base_id: str | None = field(
        default=None, metadata={"help": "With push_to_hub: Hub id of the base, where the run starts from a folder."}
    )
    hub_license: str | None = field(
        default=None, metadata={"help": "With push_to_hub: the card's licence; default: the base's."}
    )
    hub_merged: bool = field(
        default=False, metadata={"help": "With push_to_hub: at the end the adapter merged into its base is pushed."}
    )

    def __post_init__(self):
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.optimizer!r}; expected one of: {', '.join(OPTIMIZERS)}")
        if self.position_scheme not in (None, *TRAINING_SCHEMES):
            raise ValueError(f"position_scheme is {self.position_scheme!r}; training needs 'mrope' or 'sequential'")
        if not 2 <= self.max_frames <= MAX_FRAMES or self.max_frames % 2:
            raise ValueError(f"max_frames is {self.max_frames}; expected an even number from 2 to {MAX_FRAMES}")
        if not 0 <= self.max_skipped <= 1:
            raise ValueError(f"max_skipped is {self.max_skipped}; expected a share from 0 to 1, such as 0.01")
        for name in ("held_out", "inspect", "commentary_clips"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 or more")

    def encode_options(self, max_tokens: int | None) -> EncodeOptions:
        """Returns how samples are encoded; `max_tokens` is the limit of a row."""
        return EncodeOptions(
            self.keep_trailing_silence,
            self.use_context,
            self.min_pixels,
            self.max_pixels,
            self.max_frames,
            max_tokens,
        )


def parse_entries(items: Sequence[Any], name: str = "data") -> list[dict[str, Any]]:
    """Returns a data list with command-line entries parsed.

    Raises:
        ValueError: if an entry is neither a mapping nor a JSON object.
    """
    entries = []
    for item in items:
        try:
            entry = json.loads(item) if isinstance(item, str) else item
        except json.JSONDecodeError as error:
            raise ValueError(f"{name} entry {item!r} is not JSON: {error}") from None
        if not isinstance(entry, dict):
            raise ValueError(f"{name} entry {item!r} is not a mapping with a 'source'")
        entries.append(entry)
    return entries


@dataclass
class Recipe:
    """Everything a run is told.

    Attributes:
        ours: options of this package.
        training: TRL's options.
        model: which model, with which adapter and precision.
        packing: put several samples into a row, up to `training.max_length` tokens.
        notes: what the user should know about the options.
        name: of the recipe's file, such as `recipes/livecc-7b/sft.yaml`.
    """

    ours: LiveCCArguments
    training: SFTConfig
    model: ModelConfig
    packing: bool = False
    notes: list[str] = field(default_factory=list)
    name: str | None = None

    @property
    def data_seed(self) -> int:
        """The seed of what is drawn and packed."""
        return self.training.seed if self.training.data_seed is None else self.training.data_seed


def _check_together(ours: LiveCCArguments, training: SFTConfig, model: ModelConfig) -> None:
    """Refuses options that do not go with commentary, or with each other.

    Raises:
        ValueError: for the first such pair.
    """
    from ..model.liger import check_liger
    from ..saving.pushing import check_hub_options

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
    is_measured = training.eval_strategy != "no" or training.eval_on_start
    if is_measured and not (ours.eval_data or ours.held_out):
        raise ValueError("eval_strategy or eval_on_start is on, but nothing is held out: give eval_data or held_out")


def parse(argv: Sequence[str]) -> Recipe:
    """Reads ``--config FILE`` and overrides, written ``key=value`` or ``--key value``.

    Raises:
        ValueError: if a key is unknown, or a value does not fit.
        FileNotFoundError: if there is no such recipe.
    """
    written = read_written(argv)
    if _is_inspection(written):
        written = written.without(_MACHINE_OPTIONS)
        written.values.update(use_cpu=True, bf16=False)
    ours, training, model = _parse_options(written)
    if model.model_name_or_path == BUNDLED and not Path(BUNDLED).exists():
        model.model_name_or_path = str(bundled_model_path())
    notes = check_trl_options(ours, training, model, written.names)
    training.remove_unused_columns = False
    training.dataset_kwargs = {"skip_prepare_dataset": True}
    training.assistant_only_loss = False  # is what happens; TRL would look for it in the data
    # TRL packs text columns it has tokenised itself; ours are packed by `BatchLoader`.
    packing, training.packing, training.padding_free = training.packing, False, False
    if packing and training.max_length is None:
        raise ValueError("packing needs a limit for a row: set max_length to a number of tokens, such as 16384")
    _check_together(ours, training, model)
    parse_entries(ours.data), parse_entries(ours.eval_data, "eval_data")
    return Recipe(ours, training, model, packing, notes, written.name)


def _is_inspection(written: WrittenRecipe) -> bool:
    """Returns whether samples are to be printed and nothing is trained."""
    count = written.values.get("inspect", 0)
    if "--inspect" in written.words:
        count = "".join(written.words[written.words.index("--inspect") + 1 :][:1])
    return str(count).isdigit() and int(count) > 0


def _parse_options(written: WrittenRecipe) -> tuple[LiveCCArguments, SFTConfig, ModelConfig]:
    """Returns the options' dataclasses.

    Raises:
        ValueError: if a key is unknown, or a value does not fit.
    """
    from trl import ModelConfig, SFTConfig, TrlParser

    class Parser(TrlParser):
        def error(self, message: str) -> NoReturn:  # the usage of 200 options would hide it
            raise ValueError(f"{message} (see livecc train --help)")

    options = (LiveCCArguments, SFTConfig, ModelConfig)
    parser = Parser(options, allow_abbrev=False)
    parser.prog = "livecc train"
    parser.set_defaults_with_config(max_length=None)  # TRL cuts at 1024 tokens unless told otherwise
    parser.set_defaults_with_config(**written.values)
    words = ["--help" if word == ALL_OPTIONS else word for word in written.words]
    _, rest = parser.parse_known_args(words)  # what is unknown is said before values are looked at
    known = {item.name for cls in options for item in fields(cls)}
    unknown = [key for key in written.values if key not in known]
    unknown += [word.removeprefix("--").partition("=")[0] for word in rest if word.startswith("--")]
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f": did you mean {near[0]}?" if near else "; see livecc train --help"
        raise ValueError(f"unknown {'option' if len(unknown) == 1 else 'options'} {', '.join(unknown)}{hint}")
    if rest:
        raise ValueError(f"{rest[0]!r} belongs to no option: options are written key=value, a recipe --config FILE")
    return _made(parser, words)


def _made(parser: TrlParser, words: Sequence[str]) -> tuple[LiveCCArguments, SFTConfig, ModelConfig]:
    """Returns the options' dataclasses, which check their values as they are made.

    Raises:
        ValueError: if a value does not fit, also this machine.
    """
    with warnings.catch_warnings():  # of options that transformers renames, which nobody has set
        warnings.filterwarnings("ignore", message=".*gradient_checkpointing", category=FutureWarning)
        try:
            return tuple(parser.parse_args_into_dataclasses(words, look_for_args_file=False))
        except ValueError as error:
            if "bf16" not in str(error) or "use_cpu" not in str(error):
                raise
            raise ValueError(
                "bf16=true needs a GPU that knows bfloat16, and there is none here: use_cpu=true bf16=false trains on "
                "the processor; inspect=4 needs no GPU"
            ) from error
