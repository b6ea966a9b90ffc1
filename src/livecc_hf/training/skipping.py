"""Counts unusable samples over all processes, logs their reasons to a file, and limits their share."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from livecc_hf.data.batches.loader import SkippedSample
from livecc_hf.utils.atomic import write_text

logger = logging.getLogger(__name__)

SKIPPED_FILE = "skipped.jsonl"
COUNTED_FROM = 200  # the limit is not checked below this number of samples


class TooManySkippedError(ValueError):
    """More samples than allowed could not be used."""


class SkipLedger:
    """Counts skipped samples and lists them in the output folder.

    Args:
        folder: where `skipped.jsonl` is written.
        max_skipped: the largest share of samples that may be skipped, checked from `COUNTED_FROM` samples on.
        n_in_epoch: samples of an epoch, after which at least one must have been usable; `None`: checked at the end.
    """

    def __init__(self, folder: str | Path, max_skipped: float, n_in_epoch: int | None = None):
        self.file = Path(folder) / SKIPPED_FILE
        self.max_skipped = max_skipped
        self.n_in_epoch = n_in_epoch
        self.n_samples = 0
        self.n_skipped = 0
        self._said: set[int] = set()

    def write(self, skipped: Sequence[SkippedSample], step: int) -> None:
        """Append this process's skipped samples of a step to the list."""
        if not skipped:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps({"step": step, **asdict(item)}) + "\n" for item in skipped)
        with self.file.open("a", encoding="utf-8") as file:  # a single write, so that processes do not interleave lines
            file.write(lines)
        for item in skipped:
            if item.index in self._said:  # in an earlier epoch
                continue
            self._said.add(item.index)
            logger.warning("skipped %s (%s): %s", item.origin, item.reason, item.message)

    def count(self, n_samples: int, n_skipped: int) -> None:
        """Add the counts of all processes in one step.

        Raises:
            TooManySkippedError: if the share of skipped samples is above the limit.
        """
        self.n_samples += n_samples
        self.n_skipped += n_skipped
        if self.n_samples >= COUNTED_FROM and self.n_skipped > self.max_skipped * self.n_samples:
            raise TooManySkippedError(
                f"{self.n_skipped} of {self.n_samples} samples could not be used, more than max_skipped="
                f"{self.max_skipped:g} allows ({self._reasons()}); see {self.file}, fix the data or raise max_skipped"
            )
        if self.n_in_epoch is not None and self.n_samples >= self.n_in_epoch:
            self._check_some_usable()

    def check_end(self) -> None:
        """Check at the end of a run that at least one sample could be used, and log how many could not.

        Raises:
            TooManySkippedError: if every sample was skipped.
        """
        self._check_some_usable()
        if self.n_skipped:
            logger.warning(
                "%d of %d samples read could not be used (%s); see %s",
                self.n_skipped,
                self.n_samples,
                self._reasons(),
                self.file,
            )

    def _check_some_usable(self) -> None:
        if self.n_samples and self.n_skipped == self.n_samples:
            raise TooManySkippedError(
                f"none of the {self.n_samples} samples could be used ({self._reasons()}), so nothing was learned; see "
                f"{self.file}, and look at samples with --inspect 4"
            )

    def state(self) -> dict[str, int]:
        """Return the counts to store in a checkpoint."""
        return {"n_samples": self.n_samples, "n_skipped": self.n_skipped}

    def restore(self, state: dict[str, int]) -> None:
        """Restore the counts from a checkpoint."""
        self.n_samples, self.n_skipped = state["n_samples"], state["n_skipped"]

    def forget_after(self, step: int) -> None:
        """Remove samples skipped after `step` from the list, since a resumed run will skip them again."""
        if not self.file.exists():
            return
        kept = [line for line in self._lines() if json.loads(line)["step"] <= step]
        write_text(self.file, "".join(f"{line}\n" for line in kept))

    def _lines(self) -> list[str]:
        """Return the complete lines of the list; a line truncated by a killed process is ignored."""
        lines = []
        for line in self.file.read_text(encoding="utf-8").splitlines():
            try:
                json.loads(line)
            except ValueError:
                continue
            lines.append(line)
        return lines

    def _reasons(self) -> str:
        counts = Counter(json.loads(line)["reason"] for line in self._lines()) if self.file.exists() else {}
        return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
