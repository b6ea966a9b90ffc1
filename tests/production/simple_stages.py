"""Small stages that misbehave by a video's title; the engines' tests import them in other processes."""

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from livecc_hf.production.columns import with_column
from livecc_hf.production.stages.base import Stage, StageResult, split
from livecc_hf.production.watchdog import items_done


@dataclass(frozen=True)
class Titles(Stage):
    """Drops videos titled "drop"; raises on a batch with "raise"; kills its process over "kill"; hangs over "hang"."""

    name: ClassVar[str] = "titles"
    batch_rows: ClassVar[int] = 5
    unwanted: str = field(default="drop", metadata={"help": "Title that is dropped."})

    def __call__(self, batch: pa.Table) -> StageResult:
        titles = batch["title"].to_pylist()
        if "raise" in titles:
            raise KeyError("a title that cannot be processed")
        if "kill" in titles:
            os.kill(os.getpid(), signal.SIGKILL)
        if "hang" in titles:
            time.sleep(1e6)
        reasons = np.array(["unwanted" if title == self.unwanted else None for title in titles], object)
        return split(self.name, batch, reasons)


@dataclass(frozen=True)
class Score(Stage):
    """Gives clips a loss equal to their number of words; stands for a stage with a model."""

    name: ClassVar[str] = "score"
    needs_gpu: ClassVar[bool] = True
    max_loss: float = field(default=100.0, metadata={"help": "Greatest loss that is kept."})
    pids: str = field(default="", metadata={"help": "Folder: each process that opens leaves a file there."})
    die_once: str = field(default="", metadata={"help": "File: if it is not there, it is made and the process dies."})
    delay_s: float = field(default=0.0, metadata={"help": "Seconds for each batch."})
    counts: bool = field(default=False, metadata={"help": "Say after each item that it is done, each after the delay."})
    broken: bool = field(default=False, metadata={"help": "Fail on everything."})

    def open(self) -> None:
        if self.pids:
            (Path(self.pids) / str(os.getpid())).touch()

    def __call__(self, batch: pa.Table) -> StageResult:
        if self.die_once and len(batch) and not Path(self.die_once).exists():
            Path(self.die_once).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.broken and len(batch):
            raise ConnectionError("the endpoint http://localhost:1 is down")
        if "hang" in batch["title"].to_pylist():
            time.sleep(1e6)
        for _ in range(len(batch) if self.counts else 1):
            time.sleep(self.delay_s)
            if self.counts:
                items_done()
        loss = pc.cast(pc.list_value_length(batch["words"]), pa.float64())
        values = loss.to_numpy()
        reasons = np.array(["too_high" if value > self.max_loss else None for value in values], object)
        return split(self.name, with_column(batch, "text_loss", loss), reasons, values)


@dataclass(frozen=True)
class Killer(Stage):
    """Kills its process and, in one that was started for a single item, the process that started it."""

    name: ClassVar[str] = "killer"

    def __call__(self, batch: pa.Table) -> StageResult:
        if ":" in multiprocessing.current_process().name:
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("killed")


@dataclass(frozen=True)
class NoModel(Stage):
    """Cannot be opened."""

    name: ClassVar[str] = "no_model"
    needs_gpu: ClassVar[bool] = True

    def open(self) -> None:
        raise ValueError("model /no/such/folder does not exist: expected a local folder or a Hub id")

    def __call__(self, batch: pa.Table) -> StageResult:
        raise AssertionError("never opened")


@dataclass(frozen=True)
class MyScore(Stage):
    """Appends a column of its own, before the others or after them."""

    name: ClassVar[str] = "my_score"
    first: bool = field(default=False, metadata={"help": "Before the others."})

    def __call__(self, batch: pa.Table) -> StageResult:
        scored = batch.add_column(0 if self.first else batch.num_columns, "my_score", pa.array([0.5] * len(batch)))
        return split(self.name, scored, np.full(len(batch), None, object))
