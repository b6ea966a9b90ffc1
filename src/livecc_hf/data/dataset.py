"""Training data: all entries of a recipe's ``data`` list as one map-style collection.

A *source* opens an entry as a *part*, a list of items. An item is small: it decodes or draws its frames only when it is
encoded, so that a resumed run skips earlier items at no cost. The order of a collection is two arrays of integers, so
that millions of items take only megabytes. `register_source` adds a new kind of data.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from .samples.sample import EncodeOptions, Sample

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from datasets import Dataset

    from livecc_hf.modeling.processing_livecc import StreamingProcessor

    from .samples.narration import NarratedClip

Entry = TypeVar("Entry", bound="DataclassInstance")
Source = TypeVar("Source", bound="DataSource")


class Item(Protocol):
    """A clip or conversation that is not decoded yet."""

    def encode(self, processor: StreamingProcessor, options: EncodeOptions) -> Sample:
        """Decode and tokenise the item.

        Raises:
            UnusableSample: if it cannot be trained on.
        """

    def count_tokens(self, processor: StreamingProcessor, options: EncodeOptions) -> int:
        """Return a close upper bound of the sample's tokens, without decoding.

        Raises:
            UnusableSample: if it cannot be trained on, as far as this shows without decoding.
        """

    def clip(self, processor: StreamingProcessor, options: EncodeOptions) -> NarratedClip | None:
        """Return the frames and words of a narrated clip; `None` for other conversations."""


class Part(Protocol):
    """An opened entry, a list of items."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Item:
        """Return an item.

        Raises:
            UnusableSample: if the row is malformed.
        """

    def origin(self, row: int) -> str:
        """Return where an item comes from, for messages."""

    def fingerprint(self) -> str:
        """Return a fingerprint that changes with the content, as far as this shows without reading all of it."""


class DataSource(Protocol):
    """A kind of training data."""

    def open(self, entry: dict[str, Any], seed: int) -> Part:
        """Open an entry of a recipe.

        Raises:
            ValueError: if the entry has unknown keys or values.
            FileNotFoundError: if there is no such dataset.
        """


SOURCES: dict[str, DataSource] = {}


def register_source(name: str) -> Callable[[type[Source]], type[Source]]:
    """Make a `DataSource` class available to recipes under a name.

    Raises:
        ValueError: if the name is taken.
    """

    def register(source: type[Source]) -> type[Source]:
        if name in SOURCES:
            raise ValueError(f"a data source named {name!r} is registered already; choose another name")
        SOURCES[name] = source()
        return source

    return register


def parse_entry(cls: type[Entry], entry: dict[str, Any], name: str) -> Entry:
    """Return a recipe's entry as a source's dataclass.

    Raises:
        ValueError: if a key is unknown or missing.
    """
    known = {item.name for item in fields(cls)}
    if unknown := set(entry) - known:
        raise ValueError(f"unknown keys {sorted(unknown)} in a {name!r} data entry; expected some of {sorted(known)}")
    try:
        return cls(**entry)
    except TypeError as error:
        raise ValueError(f"a {name!r} data entry lacks a key: {error}; got {sorted(entry)}") from None


@dataclass(frozen=True)
class DataPart:
    """An opened entry with its name and weight.

    Attributes:
        name: of the source and of what it opened, for messages.
        entry: the recipe's keys.
        part: the items.
        weight: how many times an epoch has each item; 0.5 draws half of them.
    """

    name: str
    entry: dict[str, Any]
    part: Part
    weight: float


class TrainingData:
    """All items of a recipe, by number.

    Args:
        parts: the opened entries, in order.
        processor: encodes items.
        options: of the encoding.
        seed: for drawing items by a fractional weight.

    Raises:
        ValueError: if there is no item.
    """

    def __init__(self, parts: Sequence[DataPart], processor: StreamingProcessor, options: EncodeOptions, seed: int = 0):
        self.parts = list(parts)
        self.processor = processor
        self.options = options
        rows = [_weighted_rows(part, seed * 1000 + index) for index, part in enumerate(self.parts)]
        self.row_of = np.concatenate(rows) if rows else np.empty(0, np.int32)
        self.part_of = np.repeat(np.arange(len(rows), dtype=np.int16), [len(part) for part in rows])
        if not len(self):
            names = ", ".join(part.name for part in self.parts)
            raise ValueError(f"the dataset is empty ({names or 'no data entry'}); give at least one sample")

    def __len__(self) -> int:
        return len(self.row_of)

    def item(self, index: int) -> Item:
        """Return an item.

        Raises:
            UnusableSample: if its row is malformed.
        """
        return self.parts[self.part_of[index]].part[int(self.row_of[index])]

    def sample(self, index: int) -> Sample:
        """Decode and encode an item.

        Raises:
            UnusableSample: if it cannot be trained on.
        """
        return self.item(index).encode(self.processor, self.options)

    def count_tokens(self, index: int) -> int:
        """Return an upper bound of a sample's tokens, without decoding.

        Raises:
            UnusableSample: if it cannot be trained on, as far as this shows without decoding.
        """
        return self.item(index).count_tokens(self.processor, self.options)

    def origin(self, index: int) -> str:
        """Return where an item comes from, for messages."""
        return self.parts[self.part_of[index]].part.origin(int(self.row_of[index]))

    def select(self, indices: Sequence[int] | np.ndarray) -> TrainingData:
        """Return a collection of the items with these numbers."""
        chosen = object.__new__(TrainingData)
        chosen.__dict__.update(self.__dict__)
        chosen.row_of, chosen.part_of = self.row_of[indices], self.part_of[indices]
        return chosen

    def with_processor(self, processor: StreamingProcessor) -> TrainingData:
        """Return the same items, encoded by another processor."""
        other = object.__new__(TrainingData)
        other.__dict__.update(self.__dict__)
        other.processor = processor
        return other

    def fingerprint(self) -> str:
        """Return a hash of the items, their order, their content, and the options of encoding."""
        digest = hashlib.sha256(self.row_of.data)
        digest.update(self.part_of.data)
        described = [
            [part.name, part.entry, len(part.part), part.weight, part.part.fingerprint()] for part in self.parts
        ]
        digest.update(json.dumps([described, repr(self.options)], sort_keys=True, default=str).encode())
        return digest.hexdigest()[:16]

    def as_dataset(self) -> Dataset:
        """Return a map-style dataset that decodes an item when it is read.

        Items have the keys of `Sample.model_inputs`; in a slice of mixed kinds, keys that a sample lacks are `None`.
        """
        from datasets import Dataset

        dataset = Dataset.from_dict({"index": np.arange(len(self))})
        return dataset.with_transform(_AsModelInputs(self))


class _AsModelInputs:
    """The transform of `TrainingData.as_dataset`: encodes the items of a slice."""

    def __init__(self, data: TrainingData):
        self.data = data

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        samples = [self.data.sample(int(index)).model_inputs for index in batch["index"]]
        keys = dict.fromkeys(key for sample in samples for key in sample)
        return {key: [sample.get(key) for sample in samples] for key in keys}


def open_data(
    entries: Sequence[dict[str, Any]],
    processor: StreamingProcessor,
    options: EncodeOptions | None = None,
    seed: int = 0,
) -> TrainingData:
    """Open the data list of a recipe.

    Args:
        entries: a dictionary for each part, in order: ``source`` is a registered source, ``weight`` the number of times
            an epoch has its items (default 1), the other keys are the source's.
        processor: encodes items.
        options: of the encoding.
        seed: for sources that draw at random.

    Raises:
        ValueError: if there is no entry, a source is unknown, an entry is malformed, or there is no item.
        FileNotFoundError: if a dataset is missing.
    """
    if not entries:
        raise ValueError("the recipe's data list is empty; give at least one entry with a source")
    parts = []
    for index, entry in enumerate(entries):
        entry = dict(entry)
        name, weight = entry.pop("source", None), entry.pop("weight", 1)
        if name not in SOURCES:
            known = ", ".join(sorted(SOURCES))
            raise ValueError(f"data entry {index} has source {name!r}; expected one of: {known}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise ValueError(f"data entry {index} has weight {weight!r}; expected a number above 0, such as 0.5 or 2")
        label = " ".join(str(value) for value in (name, entry.get("path")) if value)
        parts.append(DataPart(label, entry, SOURCES[name].open(entry, seed * 1000 + index), float(weight)))
    return TrainingData(parts, processor, options or EncodeOptions(), seed)


def _weighted_rows(part: DataPart, seed: int) -> np.ndarray:
    """Return a part's row numbers: every row `floor(weight)` times, then a random share of them, in order."""
    n_rows = len(part.part)
    dtype = np.int32 if n_rows < 2**31 else np.int64
    whole, share = divmod(part.weight, 1)
    rows = [np.arange(n_rows, dtype=dtype)] * int(whole)
    n_drawn = round(share * n_rows)
    if n_drawn:
        rows.append(np.sort(np.random.default_rng(seed).permutation(n_rows)[:n_drawn]).astype(dtype))
    return np.concatenate(rows) if rows else np.empty(0, dtype)
