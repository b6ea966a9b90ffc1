"""The options of `livecc train` beyond those of TRL, as a dataclass."""

from __future__ import annotations

from dataclasses import dataclass, field

from livecc_hf.data.samples.sample import EncodeOptions
from livecc_hf.modeling.grammar import MAX_FRAMES

OPTIMIZERS = ("trainer", "muon")
TRAINING_SCHEMES = ("mrope", "sequential")
ALL_OPTIONS = "--help-all"


@dataclass
class LiveCCArguments:
    """The options of a recipe beyond TRL's own.

    Raises:
        ValueError: if a value is invalid.
    """

    data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Training data: a YAML list of mappings, each with a 'source', that source's keys, and optionally "
            "a 'weight' (how often an epoch repeats its samples); on the command line, one JSON object each."
        },
    )
    eval_data: list[str] = field(
        default_factory=list, metadata={"help": "Held-out data, in the same form as data; see also held_out."}
    )
    held_out: int = field(
        default=0, metadata={"help": "Samples drawn from the training data and held out, if eval_data is not given."}
    )
    keep_trailing_silence: bool = field(
        default=False, metadata={"help": "Train on the silent turns at the end of a clip, too."}
    )
    use_context: bool = field(
        default=True, metadata={"help": "Let the model read a clip's previous text, or its title if there is none."}
    )
    min_pixels: int | None = field(
        default=None, metadata={"help": "Minimum pixels of a frame; default: the processor's limit."}
    )
    max_pixels: int | None = field(
        default=None, metadata={"help": "Maximum pixels of a frame; default: the clip's share of the token budget."}
    )
    max_frames: int = field(
        default=MAX_FRAMES, metadata={"help": "Maximum frames of a clip, at 2 a second; later ones are cut."}
    )
    max_skipped: float = field(
        default=0.01,
        metadata={"help": "Stop if a larger share of samples is unusable (checked from 200 samples on)."},
    )
    position_scheme: str | None = field(
        default=None, metadata={"help": "'mrope' or 'sequential'; overrides the checkpoint's."}
    )
    train_parts: list[str] = field(
        default_factory=lambda: ["language_model"],
        metadata={"help": "Parts that train, or get adapters with use_peft: vision, merger, language_model."},
    )
    optimizer: str = field(
        default="trainer",
        metadata={"help": "'trainer' (uses optim) or 'muon' (Muon on matrices, AdamW on the rest)."},
    )
    muon_learning_rate: float = field(
        default=0.02, metadata={"help": "Muon's learning rate; learning_rate is AdamW's."}
    )
    resume: bool = field(
        default=False, metadata={"help": "Continue from the newest whole checkpoint in output_dir, if there is one."}
    )
    inspect: int = field(
        default=0, metadata={"help": "Print this many samples, write their frames to inspect.png, and stop."}
    )
    commentary_clips: int = field(
        default=1, metadata={"help": "Held-out clips that the model comments on at each evaluation; 0: none."}
    )

    hub_base_id: str | None = field(
        default=None, metadata={"help": "With push_to_hub: Hub id of the base, if the run starts from a folder."}
    )
    hub_license: str | None = field(
        default=None, metadata={"help": "With push_to_hub: the card's licence; default: the base's."}
    )
    hub_merged: bool = field(
        default=False, metadata={"help": "With push_to_hub: push the adapter merged into its base at the end."}
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
        self.encode_options(None)  # checks the limits of frames

    def encode_options(self, max_tokens: int | None) -> EncodeOptions:
        """Return the options for encoding samples; `max_tokens` is the token limit of a row."""
        return EncodeOptions(
            self.keep_trailing_silence,
            self.use_context,
            self.min_pixels,
            self.max_pixels,
            self.max_frames,
            max_tokens,
        )
