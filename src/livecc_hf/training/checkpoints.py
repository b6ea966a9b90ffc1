"""Which checkpoints are whole, and whether one belongs to the run that wants to go on from it."""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .run_identity import RunIdentity, name_changes

logger = logging.getLogger(__name__)

RUN_STATE_FILE = "livecc_run.json"
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class RunState:
    """Written last into a checkpoint: where it is, the checkpoint is whole.

    Attributes:
        step: optimizer steps done.
        fingerprint: of the training data and its order.
        global_batch: rows a step takes over all processes.
        n_tokens: tokens trained on.
        resumable: whether optimizer and random state are in it, too.
        skipped: counts of samples seen and skipped.
        fixed, free: options of the run; see `RunIdentity`.
    """

    step: int
    fingerprint: str
    global_batch: int
    n_tokens: int = 0
    resumable: bool = True
    skipped: dict[str, int] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        identity: RunIdentity,
        step: int,
        global_batch: int,
        n_tokens: int,
        resumable: bool,
        skipped: dict[str, int],
    ) -> RunState:
        """Returns the state of a run with that identity."""
        options = {"fixed": identity.fixed, "free": identity.free}
        return cls(step, identity.fingerprint, global_batch, n_tokens, resumable, skipped, **options)


def write_run_state(checkpoint: str | Path, state: RunState) -> None:
    """Marks a checkpoint as whole."""
    file = Path(checkpoint) / RUN_STATE_FILE
    partial = file.with_suffix(".tmp")
    partial.write_text(json.dumps(asdict(state)))
    partial.replace(file)


def read_run_state(checkpoint: str | Path) -> RunState | None:
    """Returns the state of a whole checkpoint, `None` for one that is not."""
    try:
        return RunState(**json.loads((Path(checkpoint) / RUN_STATE_FILE).read_text()))
    except FileNotFoundError:
        return None


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Returns the checkpoints of a run, whole or not, by step."""
    found = [(int(match[1]), path) for path in Path(output_dir).glob("*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def last_whole_checkpoint(output_dir: str | Path) -> Path | None:
    """Returns the newest checkpoint that was written to its end and can be resumed.

    Raises:
        ValueError: if the run has checkpoints and none of them holds more than the model.
    """
    states = {path: read_run_state(path) for path in reversed(list_checkpoints(output_dir))}
    found = next((path for path, state in states.items() if state is not None and state.resumable), None)
    if found is None and any(states.values()):
        raise ValueError(
            f"the checkpoints in {output_dir} hold the model only (save_only_model): a run cannot go on from them; "
            "start a new one with model_name_or_path set to the newest"
        )
    return found


def remove_partial(output_dir: str | Path) -> None:
    """Deletes checkpoints that a killed process left half written; what is whole but not ours is left alone."""
    for path in list_checkpoints(output_dir):
        if read_run_state(path) is None and not _has_trainer_state(path):
            logger.warning("%s was not written to its end: deleted", path)
            shutil.rmtree(path)


def _has_trainer_state(checkpoint: Path) -> bool:
    """Returns whether the last file that a trainer writes into a checkpoint is there."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text())
    except (OSError, ValueError):
        return False
    return True


def check_same_run(checkpoint: str | Path, state: RunState, identity: RunIdentity, global_batch: int) -> None:
    """Refuses to go on with other data or another batch: it would not be the same run. Says what else has changed.

    Raises:
        ValueError: naming what has changed: options, the data, their order or the global batch.
    """
    changed = name_changes(state.fixed, identity.fixed) if state.fixed else []
    if changed:
        raise ValueError(
            f"{checkpoint} was trained with other options: {'; '.join(changed)}. Restore them, or start a new run with "
            f"model_name_or_path={checkpoint} and another output_dir"
        )
    if state.fingerprint != identity.fingerprint:
        raise ValueError(
            f"{checkpoint} was trained on other data, or on the same in another order (its fingerprint is "
            f"{state.fingerprint}, this recipe's {identity.fingerprint}): restore the recipe's data, seed and limits, "
            "or start a new run with model_name_or_path set to it and another output_dir"
        )
    if state.global_batch != global_batch:
        raise ValueError(
            f"{checkpoint} was trained with {state.global_batch} rows a step, this run has {global_batch}: adjust "
            "per_device_train_batch_size, gradient_accumulation_steps or the number of processes to the same product"
        )
    if state.free and (told := name_changes(state.free, identity.free)):
        logger.warning("changed since %s, and from now on as given: %s", Path(checkpoint).name, "; ".join(told))
