"""Checks that a checkpoint is complete and belongs to the run that resumes from it."""

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
    """The state of a run, written as the last file of a checkpoint, so that its presence marks a complete one.

    Attributes:
        step: optimizer steps done.
        fingerprint: identifies the training data, its order and what is trained; see `RunIdentity`.
        global_batch: rows in an optimizer step, over all processes.
        n_tokens: tokens trained on.
        resumable: whether the checkpoint also holds the optimizer and the random state.
        skipped: counts of samples seen and skipped.
        fixed, free: options of the run; see `RunIdentity`.
        files: sizes in bytes, by name, of the files that a resumed run reads.
        rows: hash of the packed rows; see `RunIdentity`.
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
    rows: str = ""

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
        """Return the state of a run with the given identity."""
        options = {"fixed": identity.fixed, "free": identity.free}
        return cls(
            step, identity.fingerprint, global_batch, n_tokens, resumable, skipped, **options, rows=identity.rows
        )


def write_run_state(checkpoint: str | Path, state: RunState) -> None:
    """Flush a checkpoint to disk, then mark it as complete.

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
    """Return a complete checkpoint's state; `None` for an incomplete one.

    Raises:
        DamagedCheckpointError: if its state file cannot be parsed.
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
        what: a description of the damage.
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
        state: its run state; `None` if another program wrote the checkpoint.

    Raises:
        DamagedCheckpointError: for the first file that is missing, has another size or cannot be parsed.
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
    """Turn any library's error about a damaged file into one that tells the user what to do.

    Args:
        checkpoint: its folder.
        patterns: glob patterns of the files that the wrapped code reads.

    Raises:
        DamagedCheckpointError: if the wrapped code fails and one of the files is damaged.
    """
    try:
        yield
    except Exception as error:  # each file format raises its own error types
        for file in (file for pattern in patterns for file in sorted(Path(checkpoint).glob(pattern))):
            if damage := _damage_of(file):
                raise DamagedCheckpointError(file, damage) from error
        raise


def _damage_of(file: Path) -> str | None:
    """Return a description of a tensor file's damage; `None` if it is intact."""
    from safetensors import SafetensorError, safe_open

    try:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt"):
                return None
        with zipfile.ZipFile(file) as archive:  # `torch.save` writes zip archives
            name = archive.testzip()
        return name and f"its checksum of {name} is wrong"
    except (SafetensorError, zipfile.BadZipFile, OSError) as error:
        return one_line(error, 120)


def list_checkpoints(output_dir: str | Path) -> list[Path]:
    """Return all checkpoint folders of a run, complete or not, ordered by step."""
    found = [(int(match[1]), path) for path in Path(output_dir).glob("*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def last_whole_checkpoint(output_dir: str | Path) -> Path | None:
    """Return the newest complete checkpoint from which the run can be resumed; `None` if there is none.

    Raises:
        ValueError: if the run's complete checkpoints all hold the model only.
        DamagedCheckpointError: if a state file cannot be parsed.
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
    """Delete incomplete checkpoints of a killed process; complete ones of other programs stay."""
    for path in list_checkpoints(output_dir):
        if read_run_state(path) is None and not _has_trainer_state(path):
            logger.warning("deleted %s, which is incomplete", path)
            shutil.rmtree(path)


def _has_trainer_state(checkpoint: Path) -> bool:
    """Return whether a checkpoint has a valid `trainer_state.json`, which the trainer writes last."""
    try:
        json.loads((checkpoint / _TRAINER_STATE).read_bytes())
    except (OSError, ValueError):
        return False
    return True


def check_other_model(output_dir: str | Path, is_adapter: bool) -> None:
    """Check that an output folder does not hold a model of the other kind, with which the saved one would be loaded.

    Args:
        output_dir: the run's output folder.
        is_adapter: whether the run saves an adapter; otherwise it saves a whole model.

    Raises:
        ValueError: if it holds a whole model and the run trains an adapter, or the reverse.
    """
    found = sorted(Path(output_dir).glob("model*.safetensors" if is_adapter else "adapter_*"))
    if found:
        there, ours = ("a whole model", "an adapter") if is_adapter else ("an adapter", "a whole model")
        raise ValueError(
            f"output_dir {output_dir} holds {there} ({found[0].name}), and this run would save {ours} there, so that "
            "both would be loaded together: give another output_dir, or remove the model there"
        )


def check_same_run(checkpoint: str | Path, state: RunState, identity: RunIdentity, global_batch: int) -> None:
    """Check that a checkpoint has this run's data, order, batch and fixed options; log other changes.

    Raises:
        ValueError: naming the differences.
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
    if state.rows and state.rows != identity.rows:
        raise ValueError(
            f"{checkpoint} was trained on samples packed into other rows, since other media could be read then: "
            "restore them, or start a new run with model_name_or_path set to it and another output_dir"
        )
    if state.global_batch != global_batch:
        raise ValueError(
            f"{checkpoint} was trained with {state.global_batch} rows a step, this run has {global_batch}: adjust "
            "per_device_train_batch_size, gradient_accumulation_steps or the number of processes to the same product"
        )
    if state.free and (notes := name_changes(state.free, identity.free)):
        logger.warning("changed since %s, applied from now on: %s", Path(checkpoint).name, "; ".join(notes))
