"""Turns row numbers into batches: decodes, encodes and collates in the data loader's processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch.utils.data import get_worker_info

from ...utils.processes import end_with_parent
from ..dataset import TrainingData
from ..samples.pixels import PIXELS, normalise_pixels, with_raw_pixels
from ..samples.placeholder import placeholder_sample, with_vision
from ..samples.sample import Sample
from ..unusable import UnusableSample
from .collator import CommentaryCollator

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset

    from .packing import Packs

BOOKKEEPING = "bookkeeping"


@dataclass(frozen=True)
class SkippedSample:
    """A sample that was replaced by a row without a supervised token.

    Attributes:
        index: its number in the training data.
        origin: where it comes from, for messages.
        reason: one of `livecc_hf.data.unusable.REASONS`.
        message: what is wrong.
    """

    index: int
    origin: str
    reason: str
    message: str


class BatchLoader:
    """The trainer's data collator: takes items with row numbers and returns the batch.

    Patches stay uint8 between processes; `normalise_pixels` runs on the device.

    Samples are decoded here and not in the dataset, so that a resumed run does not decode the steps that it skips. A
    row without a usable sample becomes one without a supervised token, so that all processes take the same steps.

    Args:
        data: the samples.
        packs: the samples of each row.
        collator: makes the batch.
    """

    def __init__(self, data: TrainingData, packs: Packs, collator: CommentaryCollator):
        self.video_processor = data.processor.video_processor
        self.data = data.with_processor(with_raw_pixels(data.processor))
        self.packs = packs
        self.collator = collator
        self.placeholder = placeholder_sample(self.data.processor)

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the batch of `CommentaryCollator`, with counts under `BOOKKEEPING`."""
        if get_worker_info() is not None:
            end_with_parent()  # a decoder that hangs would outlive a run that is killed
        skipped: list[SkippedSample] = []
        n_samples = 0
        batch_rows = []
        for item in items:
            numbers = [int(index) for index in self.packs[item["row"]]]
            n_samples += len(numbers)
            batch_rows.append(self._row(numbers, skipped) or [self.placeholder])
        batch: dict[str, Any] = self.collator(self._with_one_dtype(batch_rows))
        batch[BOOKKEEPING] = {"n_samples": n_samples, "skipped": skipped, "n_words": batch.pop("n_words")}
        return batch

    def dataset(self, lengths: Sequence[int] | np.ndarray | None = None) -> Dataset:
        """Return the map-style dataset of row numbers for this loader.

        Args:
            lengths: tokens of each row, if known, by which the trainer can group rows.
        """
        import numpy as np
        import pyarrow as pa
        from datasets import Dataset

        columns = {"row": np.arange(len(self.packs), dtype=np.int32)}
        return Dataset(pa.table(columns | ({} if lengths is None else {"length": np.asarray(lengths)})))

    def _with_one_dtype(self, rows: list[list[Sample]]) -> list[list[Sample]]:
        """Return the samples with pixels of one dtype: uint8, unless a source gives floats."""
        inputs = [sample.model_inputs for row in rows for sample in row]
        if len({found[name].dtype for found in inputs for name in PIXELS if name in found}) < 2:
            return rows
        return [[self._normalise(sample) for sample in row] for row in rows]

    def _normalise(self, sample: Sample) -> Sample:
        return replace(sample, model_inputs=normalise_pixels(sample.model_inputs, self.video_processor))

    def _row(self, numbers: Sequence[int], skipped: list[SkippedSample]) -> list[Sample]:
        """Return a row's samples; a sample longer than planned that no longer fits is skipped."""
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
        except OSError as error:  # a path too long, a file that may not be read, a disk that fails
            reason, message = "unreadable_media", str(error)
        skipped.append(SkippedSample(index, self.data.origin(index), reason, message))
        return None
