"""The processes that share a run of an evaluation."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelerate import PartialState


def process_state() -> PartialState:
    """Return accelerate's state of this process: its rank, the number of processes, and its device."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available())  # else accelerate sees a single process on CPUs


def rank_and_count() -> tuple[int, int]:
    """Return this process's rank, and the number of processes that share the run."""
    if not _is_shared():
        return 0, 1
    state = process_state()
    return state.process_index, state.num_processes


def wait_for_all() -> None:
    """Wait until all processes that share the run have called this."""
    if _is_shared():
        process_state().wait_for_everyone()


def _is_shared() -> bool:
    """Return whether a launcher started several processes; a single one does not need accelerate."""
    return int(os.environ.get("WORLD_SIZE") or 1) > 1
