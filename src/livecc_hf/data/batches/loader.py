"""Turns row indices into batches: decodes, encodes and collates samples in the data loader's workers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch.utils.data import get_worker_info

from ...utils.disk import is_disk_full
from ...utils.processes import end_with_parent
from ..dataset import TrainingData
from ..samples.pixels import PIXELS, normalise_pixels, with_raw_pixels
from ..samples.placeholder import placeholder_sample, with_vision
from ..samples.sample import Sample
from ..unusable import UnusableSample
from .collator import CommentaryCollator
from .worker_errors import WorkerError

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from .packing import Packs

BOOKKEEPING = "bookkeeping"


@dataclass(frozen=True)
class SkippedSample:
    """A sample that was skipped because it cannot be trained on.

    Attributes:
        index: its index in the training data.
        origin: where it comes from, for messages.
        reason: one of `livecc_hf.data.unusable.REASONS`.
        message: what is wrong.
    """

    index: int
    origin: str
    reason: str
    message: str


class BatchLoader:
    """The trainer's data collator, which turns items with row indices into a batch.

    Samples are decoded here rather than in the dataset, so that a resumed run does not decode the steps that it skips.
    A row without usable samples is replaced by one without supervised tokens, so that all ranks take the same steps.
    Patches stay uint8 between processes; the trainer calls `normalise_pixels` on the device.

    Args:
        data: the samples.
        packs: the samples of each row.
        collator: collates the rows.
    """

    def __init__(self, data: TrainingData, packs: Packs, collator: CommentaryCollator):
        self.video_processor = data.processor.video_processor
        self.data = data.with_processor(with_raw_pixels(data.processor))
        self.packs = packs
        self.collator = collator
        self.placeholder = placeholder_sample(self.data.processor)

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any] | WorkerError:
        """Return the batch of `CommentaryCollator`, with counts under `BOOKKEEPING`; in a worker, return any error."""
        if get_worker_info() is None:
            return self._batch(items)
        end_with_parent()  # otherwise a worker with a hanging decoder would outlive a killed run
        try:
            return self._batch(items)
        except Exception as error:
            return WorkerError(error)

    def _batch(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        skipped: list[SkippedSample] = []
        n_samples = 0
        batch_rows = []
        for item in items:
            numbers = [int(index) for index in self.packs[item["row"]]]
            n_samples += len(numbers)
            batch_rows.append(self._row(numbers, skipped) or [self.placeholder])
        batch: dict[str, Any] = self.collator(self._with_one_dtype(batch_rows))
        n_shown = sum(sample.n_steps_shown for row in batch_rows for sample in row)
        batch[BOOKKEEPING] = {"n_samples": n_samples, "skipped": skipped, "n_shown": n_shown}
        batch[BOOKKEEPING]["n_words"] = batch.pop("n_words")
        return batch

    def dataset(self, lengths: Sequence[int] | np.ndarray | None = None) -> Dataset:
        """Return the map-style dataset of row indices for this loader.

        Args:
            lengths: tokens of each row, if known, so that the trainer can group rows of similar length.
        """
        import numpy as np
        import pyarrow as pa
        from datasets import Dataset

        columns = {"row": np.arange(len(self.packs), dtype=np.int32)}
        return Dataset(pa.table(columns | ({} if lengths is None else {"length": np.asarray(lengths)})))

    def _with_one_dtype(self, rows: list[list[Sample]]) -> list[list[Sample]]:
        """Return the samples with patches of one dtype: uint8, or float32 if any source gives floats."""
        inputs = [sample.model_inputs for row in rows for sample in row]
        if len({found[name].dtype for found in inputs for name in PIXELS if name in found}) < 2:
            return rows
        return [[self._normalise(sample) for sample in row] for row in rows]

    def _normalise(self, sample: Sample) -> Sample:
        return replace(sample, model_inputs=normalise_pixels(sample.model_inputs, self.video_processor))

    def _row(self, numbers: Sequence[int], skipped: list[SkippedSample]) -> list[Sample]:
        """Return a row's samples, skipping those that are unusable or no longer fit."""
        samples: list[Sample] = []
        room = self.data.options.max_tokens
        for index in numbers:
            sample = self._load(index, skipped)
            if sample is None:
                continue
            if samples and room is not None and sample.n_tokens > room:
                reason = (
                    f"it has {sample.n_tokens} tokens, and its packed row has room for {room}: its media have changed"
                )
                skipped.append(SkippedSample(index, self.data.origin(index), "too_many_tokens", reason))
                continue
            samples.append(sample)
            room = None if room is None else room - sample.n_tokens
        return samples

    def _load(self, index: int, skipped: list[SkippedSample]) -> Sample | None:
        try:
            return with_vision(self.data.sample(index), self.data.processor)
        except UnusableSample as error:
            reason, message = error.reason, str(error)
        except OSError as error:  # for example a path that is too long, missing permissions, or a failing disk
            if is_disk_full(error):  # while downloading to the cache: not the sample's fault
                raise
            reason, message = "unreadable_media", str(error)
        skipped.append(SkippedSample(index, self.data.origin(index), reason, message))
        return None
