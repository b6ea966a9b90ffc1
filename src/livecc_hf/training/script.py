"""Fine-tuning with TRL's `SFTTrainer`: ``livecc train --config recipes/....yaml key=value ...``.

The same module runs under ``torchrun -m livecc_hf.training.script`` and ``accelerate launch``. Options are the
fields of `LiveCCArguments`, TRL's `SFTConfig` and `ModelConfig`.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig, SFTTrainer

    from livecc_hf.modeling.processing_livecc import StreamingProcessor

logger = logging.getLogger(__name__)

OPTIMIZERS = ("trainer", "muon")


@dataclass
class LiveCCArguments:
    """What a recipe says beyond TRL's own options.

    Raises:
        ValueError: if a value is none of those expected.
    """

    data: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Training data: a YAML list of mappings, each with a 'source' and that source's keys; "
            "on the command line, one JSON object each."
        },
    )
    keep_trailing_silence: bool = field(
        default=False, metadata={"help": "Keep silent turns at the end of a clip as training signal."}
    )
    min_pixels: int | None = field(
        default=None, metadata={"help": "Fewest pixels of a frame; default: the processor's limit."}
    )
    max_pixels: int | None = field(
        default=None,
        metadata={"help": "Most pixels of a frame; default: the clip's share of the token budget."},
    )
    position_scheme: str | None = field(
        default=None, metadata={"help": "Overrides the checkpoint's: 'mrope' or 'sequential'."}
    )
    freeze_vision: bool = field(
        default=False, metadata={"help": "Leave the vision tower as it is, its merger included."}
    )
    optimizer: str = field(
        default="trainer",
        metadata={"help": "'trainer' (what --optim says) or 'muon' (Muon on matrices, AdamW on the rest)."},
    )
    muon_learning_rate: float = field(
        default=0.02, metadata={"help": "Learning rate of Muon; learning_rate is that of AdamW."}
    )

    def __post_init__(self):
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is {self.optimizer!r}; expected one of: {', '.join(OPTIMIZERS)}")
        if self.position_scheme not in (None, "mrope", "sequential"):
            raise ValueError(f"position_scheme is {self.position_scheme!r}; training needs 'mrope' or 'sequential'")

    def data_entries(self) -> list[dict[str, Any]]:
        """The data list with command-line entries parsed.

        Raises:
            ValueError: if an entry is neither a mapping nor a JSON object.
        """
        entries = []
        for item in self.data:
            try:
                entry = json.loads(item) if isinstance(item, str) else item
            except json.JSONDecodeError as error:
                raise ValueError(f"data entry {item!r} is not JSON: {error}") from None
            if not isinstance(entry, dict):
                raise ValueError(f"data entry {item!r} is not a mapping with a 'source'")
            entries.append(entry)
        return entries


def parse(argv: Sequence[str]) -> tuple[LiveCCArguments, SFTConfig, ModelConfig]:
    """Reads ``--config FILE`` and overrides, written ``key=value`` or ``--key value``.

    Raises:
        ValueError: if a key is unknown, or a value does not fit.
    """
    from trl import ModelConfig, SFTConfig, TrlParser

    arguments = []
    for item in argv:
        key, equals, value = item.partition("=")
        is_override = equals and key.isidentifier() and (not arguments or arguments[-1] != "--config")
        arguments += [f"--{key}", value] if is_override else [item]
    parser = TrlParser((LiveCCArguments, SFTConfig, ModelConfig))
    parser.prog = "livecc train"
    ours, training, model = parser.parse_args_and_config(arguments)
    training.remove_unused_columns = False
    training.dataset_kwargs = {"skip_prepare_dataset": True, **(training.dataset_kwargs or {})}
    if training.packing:
        raise ValueError("packing is not supported for commentary samples; remove it from the recipe")
    return ours, training, model


def build_trainer(ours: LiveCCArguments, training: SFTConfig, model_config: ModelConfig) -> SFTTrainer:
    """Loads model and processor, builds the dataset, and puts them into TRL's trainer.

    Raises:
        ValueError: if no model is named, or the data list is malformed.
    """
    from transformers import set_seed
    from trl import SFTTrainer, get_peft_config

    from livecc_hf.loading import load_processor

    from . import tiny_source  # noqa: F401  (registers itself)
    from .collator import CommentaryCollator
    from .data import EncodeOptions, build_dataset
    from .optim import MuonAdamW, muon_groups

    if not model_config.model_name_or_path:
        raise ValueError("model_name_or_path is missing; name the folder or Hub id to start from")
    set_seed(training.seed)
    processor = load_processor(model_config.model_name_or_path)
    model = _load_model(ours, model_config, processor)
    dataset = build_dataset(
        ours.data_entries(),
        processor,
        EncodeOptions(ours.keep_trailing_silence, ours.min_pixels, ours.max_pixels),
        training.data_seed if training.data_seed is not None else training.seed,
    )
    optimizer = None
    if ours.optimizer == "muon":
        groups = muon_groups(model, ours.muon_learning_rate, training.learning_rate, training.weight_decay)
        optimizer = MuonAdamW(groups, lr=training.learning_rate)
    return SFTTrainer(
        model=model,
        args=training,
        data_collator=CommentaryCollator(processor.tokenizer.pad_token_id),
        train_dataset=dataset,
        processing_class=processor,
        optimizers=(optimizer, None),
        peft_config=get_peft_config(model_config),
    )


def _load_model(ours: LiveCCArguments, model_config: ModelConfig, processor: StreamingProcessor):
    """Loads the model in the scheme it is to be trained in.

    Raises:
        ValueError: if the checkpoint's scheme is for inference only and the recipe names no other.
    """
    from livecc_hf.loading import read_config
    from livecc_hf.modeling.modeling_livecc import LiveCCForConditionalGeneration

    source = model_config.model_name_or_path
    config, notes = read_config(source, ours.position_scheme)
    if config.position_scheme == "reference":
        raise ValueError(
            f"{source} runs in position scheme 'reference', which is for inference only: set position_scheme to "
            "sequential (how released LiveCC weights were trained) or mrope in the recipe"
        )
    if config.message_end_token_id is None:
        config.message_end_token_id = processor.end_id
    for note in notes:
        logger.warning(note)
    model = LiveCCForConditionalGeneration.from_pretrained(
        source,
        config=config,
        revision=model_config.model_revision,
        dtype=model_config.dtype or "float32",
        attn_implementation=model_config.attn_implementation,
    )
    if ours.freeze_vision:
        model.model.visual.requires_grad_(False)
    return model


def main(argv: Sequence[str] | None = None) -> None:
    """Trains, resumes where ``resume_from_checkpoint`` says so, and saves model and processor."""
    trainer = build_trainer(*parse(sys.argv[1:] if argv is None else argv))
    trainer.train(resume_from_checkpoint=trainer.args.resume_from_checkpoint)
    trainer.save_model(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        logger.info("saved model and processor to %s", trainer.args.output_dir)


if __name__ == "__main__":
    main()
