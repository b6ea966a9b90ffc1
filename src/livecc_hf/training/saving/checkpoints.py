"""Checks whether a checkpoint is whole, and whether it belongs to the run that resumes from it."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from livecc_hf.utils.atomic import flush, write_text
from livecc_hf.utils.text import one_line

from .run_identity import RunIdentity, name_changes

logger = logging.getLogger(__name__)

RUN_STATE_FILE = "livecc_run.json"
_TRAINER_STATE = "trainer_state.json"
_READ_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".distcp")
_NAME = re.compile(r"checkpoint-(\d+)")


@dataclass(frozen=True)
class RunState:
    """The state of a run. It is the last file written into a checkpoint, so that its presence marks a whole one.

    Attributes:
        step: optimizer steps done.
        fingerprint: of the training data and its order.
        global_batch: rows of a step, over all processes.
        n_tokens: tokens trained on.
        resumable: whether the checkpoint also holds the optimizer and the random state.
        skipped: counts of samples seen and skipped.
        fixed, free: options of the run; see `RunIdentity`.
        files: sizes in bytes, by name, of the files that a resumed run reads.
    """

    step: int
    fingerprint: str
    global_batch: int
    n_tokens: int = 0
    resumable: bool = True
    skipped: dict[str, int] = field(default_factory=dict)
    fixed: dict[str, Any] = field(default_factory=dict)
    free: dict[str, Any] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)

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
        """Return the state of a run with that identity."""
        options = {"fixed": identity.fixed, "free": identity.free}
        return cls(step, identity.fingerprint, global_batch, n_tokens, resumable, skipped, **options)


def write_run_state(checkpoint: str | Path, state: RunState) -> None:
    """Wait until a checkpoint is on the disk, then mark it as whole.

    Raises:
        OSError: if the disk is full, which some file systems report only now.
    """
    checkpoint = Path(checkpoint)
    sizes = {}
    for file in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
        flush(file)
        if file.suffix in _READ_SUFFIXES and file.name != "training_args.bin":
            sizes[str(file.relative_to(checkpoint))] = file.stat().st_size
    write_text(checkpoint / RUN_STATE_FILE, json.dumps(asdict(replace(state, files=sizes))))


def read_run_state(checkpoint: str | Path) -> RunState | None:
    """Return the state of a whole checkpoint, `None` for one that is not.

    Raises:
        DamagedCheckpointError: if it cannot be read.
    """
    file = Path(checkpoint) / RUN_STATE_FILE
    try:
        return RunState(**json.loads(file.read_bytes()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise DamagedCheckpointError(file, one_line(error, 120)) from error


class DamagedCheckpointError(ValueError):
    """A file of a checkpoint is damaged.

    Args:
        file: the file.
        what: the damage.
    """

    def __init__(self, file: str | Path, what: str):
        file = Path(file)
        super().__init__(
            f"{file} is damaged ({what}): delete {file.parent}, then --resume continues from the checkpoint before it, "
            "or starts over if there is none"
        )


def check_files(checkpoint: str | Path, state: RunState | None) -> None:
    """Check that the files of a checkpoint have the recorded sizes.

    Args:
        checkpoint: its folder.
        state: its run state; `None` for a checkpoint of another program.

    Raises:
        DamagedCheckpointError: for the first file that is missing or has another size.
    """
    checkpoint = Path(checkpoint)
    for name, size in (state.files if state is not None else {}).items():
        file = checkpoint / name
        if not file.is_file():
            raise DamagedCheckpointError(file, "it is missing")
        if (found := file.stat().st_size) != size:
            raise DamagedCheckpointError(file, f"it has {found} bytes, but {size} were written")
    file = checkpoint / _TRAINER_STATE
    try:
        json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DamagedCheckpointError(file, one_line(error, 120)) from error


@contextlib.contextmanager
def explain_damage(checkpoint: str | Path, *patterns: str) -> Iterator[None]:
    """Turn the errors of libraries on damaged files into one that says what to do.

    Args:
        checkpoint: its folder.
        patterns: names of the files that the wrapped code reads.

    Raises:
        DamagedCheckpointError: if the wrapped code fails and one of the files is damaged.
    """
    try:
        yield
    except Exception as error:  # each format has its own kinds of error
        for file in (file for pattern in patterns for file in sorted(Path(checkpoint).glob(pattern))):
            if damage := _damage_of(file):
                raise DamagedCheckpointError(file, damage) from error
        raise


def _damage_of(file: Path) -> str | None:
    """Return the damage of a file of tensors; `None` if there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt"):
                return None
        with zipfile.ZipFile(file) as archive:  # as `torch.save` writes it
            name = archive.testzip()
        return name and f"its checksum of {name} is wrong"
    except (SafetensorError, zipfile.BadZipFile, OSError) as error:
        return one_line(error, 120)


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Return the checkpoints of a run, whole or not, by step."""
    found = [(int(match[1]), path) for path in Path(output_dir).glob("*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def last_whole_checkpoint(output_dir: str | Path) -> Path | None:
    """Return the newest whole checkpoint from which the run can be resumed.

    Raises:
        ValueError: if the run has whole checkpoints, but they hold the model only.
    """
    states = {path: read_run_state(path) for path in reversed(list_checkpoints(output_dir))}
    found = next((path for path, state in states.items() if state is not None and state.resumable), None)
    if found is None and any(states.values()):
        raise ValueError(
            f"the checkpoints in {output_dir} hold the model only (save_only_model), so the run cannot be resumed: "
            "start a new one with model_name_or_path set to the newest"
        )
    return found


def remove_partial(output_dir: str | Path) -> None:
    """Delete partial checkpoints of a killed process; whole ones of other programs stay."""
    for path in list_checkpoints(output_dir):
        if read_run_state(path) is None and not _has_trainer_state(path):
            logger.warning("deleted %s, which is incomplete", path)
            shutil.rmtree(path)


def _has_trainer_state(checkpoint: Path) -> bool:
    """Return whether a checkpoint has the file that a trainer writes last."""
    try:
        json.loads((checkpoint / _TRAINER_STATE).read_bytes())
    except (OSError, ValueError):
        return False
    return True


def check_same_run(checkpoint: str | Path, state: RunState, identity: RunIdentity, global_batch: int) -> None:
    """Check that a checkpoint is of the same run: same data, order, batch and fixed options. Log other changes.

    Raises:
        ValueError: naming what differs.
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
    if state.free and (notes := name_changes(state.free, identity.free)):
        logger.warning("changed since %s, applied from now on: %s", Path(checkpoint).name, "; ".join(notes))
