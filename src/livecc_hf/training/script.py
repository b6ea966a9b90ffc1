"""Fine-tuning with TRL's `SFTTrainer`: ``livecc train --config recipes/....yaml key=value ...``.

The same module runs under ``torchrun -m livecc_hf.training.script`` and ``accelerate launch``. Options are the
fields of `LiveCCArguments`, TRL's `SFTConfig` and `ModelConfig`.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from livecc_hf.publishing.push import require_token
from livecc_hf.utils.disk import DiskFullError, is_disk_full
from livecc_hf.utils.output_folder import make_output_folder
from livecc_hf.utils.quiet import quiet_renamed_options
from livecc_hf.utils.text import one_line

from .inspection.recipe_samples import inspect_recipe
from .memory import explain_memory_errors
from .options.recipe import Recipe, parse
from .saving.checkpoints import (
    RUN_STATE_FILE,
    check_files,
    check_other_model,
    check_same_run,
    last_whole_checkpoint,
    list_checkpoints,
    read_run_state,
    remove_partial,
)
from .setup import build_trainer

logger = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> None:
    """Train and save model and processor, or print samples if the recipe sets ``inspect``."""
    quiet_renamed_options()
    recipe = parse(sys.argv[1:] if argv is None else argv)
    show_log(recipe.training.process_index == 0)
    for note in recipe.notes:
        logger.info(note)
    with explain_full_disk(recipe):
        if recipe.ours.inspect:
            print(inspect_recipe(recipe))
        else:
            train(recipe)


def train(recipe: Recipe) -> None:
    """Train a recipe, from its start or from a checkpoint, and save model and processor.

    Raises:
        ValueError: if the recipe or the checkpoint is invalid, or they do not match.
        FileNotFoundError: if a dataset is missing.
    """
    check_other_model(recipe.training.output_dir, recipe.model.use_peft)
    checkpoint = start_from(recipe)
    if recipe.training.push_to_hub:
        require_token(recipe.training.hub_token)
    make_output_folder(Path(recipe.training.output_dir))
    trainer = build_trainer(recipe)
    if checkpoint is None:
        trainer.forget_earlier_run()
    elif (state := read_run_state(checkpoint)) is not None:
        check_same_run(checkpoint, state, trainer.identity, trainer.global_batch)
        trainer.restore(state)
    else:
        logger.warning("%s has no %s: cannot check that it was trained on this data", checkpoint, RUN_STATE_FILE)
    with explain_memory_errors(recipe), say_how_to_continue(recipe.training.output_dir):
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    if trainer.ledger is not None:
        trainer.ledger.check_end()
    trainer.save_model(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        logger.info("saved model and processor to %s", trainer.args.output_dir)


@contextlib.contextmanager
def say_how_to_continue(out: str | Path) -> Iterator[None]:
    """Log which checkpoint is kept if the wrapped training is interrupted with Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt:
        kept = _whole_checkpoints(out)
        logger.info("%s", f"{kept[-1]} is kept: continue with --resume" if kept else "no checkpoint was saved yet")
        raise


def _whole_checkpoints(out: str | Path) -> list[str]:
    return [path.name for path in list_checkpoints(out) if (path / RUN_STATE_FILE).is_file()]


@contextlib.contextmanager
def explain_full_disk(recipe: Recipe) -> Iterator[None]:
    """Turn any library's error about a full disk into one that names the checkpoint that is kept.

    Raises:
        DiskFullError: if the wrapped code fails because the disk is full.
    """
    try:
        yield
    except Exception as error:
        if not is_disk_full(error):
            raise
        out = recipe.training.output_dir
        whole = _whole_checkpoints(out)
        kept = f"{whole[-1]} is kept: free some space and continue with --resume" if whole else "free some space"
        place = getattr(error, "filename2", None) or getattr(error, "filename", None) or out
        said = getattr(error, "strerror", None) or one_line(error, 100)
        raise DiskFullError(f"the disk of {place} is full ({said}): {kept}") from error


def show_log(is_main_process: bool) -> None:
    """Print this package's log to standard error: everything in the main process, warnings in the others."""
    package_logger = logging.getLogger("livecc_hf")
    package_logger.setLevel(logging.INFO if is_main_process else logging.WARNING)
    if not package_logger.handlers and not logging.getLogger().handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s" if not is_main_process else "%(message)s"))
        package_logger.addHandler(handler)


def start_from(recipe: Recipe) -> Path | None:
    """Return the checkpoint to resume from, or `None` to start from the beginning.

    Raises:
        ValueError: if the output folder holds a run and the recipe does not resume it, or `resume_from_checkpoint`
            is incomplete or holds the model only.
        DamagedCheckpointError: if a file of the checkpoint is damaged.
    """
    training = recipe.training
    if training.resume_from_checkpoint:
        checkpoint = Path(training.resume_from_checkpoint)
        if not (checkpoint / "trainer_state.json").is_file():
            raise ValueError(
                f"resume_from_checkpoint={checkpoint} is not a whole checkpoint: it holds no trainer_state.json; use "
                "--resume for the newest whole one in output_dir"
            )
        state = read_run_state(checkpoint)
        check_files(checkpoint, state)
        if state is not None and not state.resumable:
            raise ValueError(
                f"resume_from_checkpoint={checkpoint} holds the model only (save_only_model): start a new run with "
                "model_name_or_path set to it"
            )
        return checkpoint
    if not recipe.ours.resume:
        if found := list_checkpoints(training.output_dir):
            raise ValueError(
                f"output_dir {training.output_dir} holds a run already ({found[-1].name}): continue it with --resume "
                "or give another output_dir"
            )
        return None
    newest = last_whole_checkpoint(training.output_dir)
    with training.main_process_first(desc="removing partial checkpoints"):
        if training.should_save:
            remove_partial(training.output_dir)
    if newest is None:
        logger.warning("nothing to resume in %s: starting from the beginning", training.output_dir)
    else:
        check_files(newest, read_run_state(newest))
    return newest


if __name__ == "__main__":
    main()
