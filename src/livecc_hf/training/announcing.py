"""Says at the beginning of a run how much there is to train, and from where."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from livecc_hf.utils.text import counted

from .rows import rows_per_step

logger = logging.getLogger(__name__)


@dataclass
class AnnouncementCallback(TrainerCallback):
    """Logs the amounts of a run when training begins.

    Args:
        n_samples: samples to train on.
        n_held_out: samples to measure.
        n_rows: rows of the samples to train on.
    """

    n_samples: int
    n_held_out: int
    n_rows: int

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **keywords: Any
    ) -> None:
        """Log one line."""
        if 0 < state.max_steps <= state.global_step:
            logger.info(
                "the run is finished (step %d of %d); for more steps, raise max_steps or num_train_epochs",
                state.global_step,
                state.max_steps,
            )
            return
        packed = "" if self.n_rows == self.n_samples else f" in {counted(self.n_rows, 'row')}"
        held_out = f", {self.n_held_out:,} held out" if self.n_held_out else ""
        resumed = f", continuing after step {state.global_step:,}" if state.global_step else ""
        logger.info(
            "%s%s%s; %s of %s%s",
            counted(self.n_samples, "sample"),
            packed,
            held_out,
            counted(state.max_steps, "step"),
            counted(rows_per_step(args), "row"),
            resumed,
        )
