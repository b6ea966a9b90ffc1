"""Training data: combines all entries of a recipe's ``data`` list into one map-style collection.

A *source* opens an entry as a *part*, which is a list of items. An item decodes or draws its frames only when it is
encoded, so that a resumed run skips earlier items at no cost. The collection stores its order as two integer arrays, so
that millions of items take only megabytes. Use `register_source` to add a new kind of data.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, get_type_hints

import numpy as np

from ..utils.type_hints import fits
from .samples.sample import EncodeOptions, Sample

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

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
        """Return a tight upper bound of the sample's tokens, without decoding.

        Raises:
            UnusableSample: if it cannot be trained on, and this is known without decoding.
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
        """Return a fingerprint that changes with the content; it need not read all of it."""


class DataSource(Protocol):
    """A kind of training data."""

    def open(self, entry: dict[str, Any], seed: int) -> Part:
        """Open an entry of a recipe.

        Raises:
            ValueError: if the entry has unknown keys or invalid values.
            FileNotFoundError: if the dataset does not exist.
        """


SOURCES: dict[str, DataSource] = {}


def register_source(name: str) -> Callable[[type[Source]], type[Source]]:
    """Make a `DataSource` class available to recipes under a name.

    Raises:
        ValueError: if the name is taken.
    """

    def register(source: type[Source]) -> type[Source]:
        if name in SOURCES:
            raise ValueError(f"a data source named {name!r} is already registered: choose another name")
        SOURCES[name] = source()
        return source

    return register


def parse_entry(cls: type[Entry], entry: dict[str, Any], name: str) -> Entry:
    """Convert a recipe's entry to a source's dataclass.

    Args:
        cls: the dataclass, with a field for each key.
        entry: keys and values of the entry, without `source` and `weight`.
        name: name of the source, for error messages.

    Raises:
        ValueError: if a key is unknown or missing, or a value is invalid.
    """
    known = [item.name for item in fields(cls)]
    if unknown := sorted(str(key) for key in entry if key not in known):
        raise ValueError(f"unknown keys {unknown} in a {name!r} data entry: expected some of {sorted(known)}")
    required = [item.name for item in fields(cls) if item.default is MISSING and item.default_factory is MISSING]
    if missing := [key for key in required if key not in entry]:
        raise ValueError(f"a {name!r} data entry lacks the keys {missing}: got {sorted(entry)}")
    for key, hint in _type_hints(cls).items():
        if key in entry and not fits(entry[key], hint):
            kind = hint.__name__ if isinstance(hint, type) else hint
            raise ValueError(f"{key} is {entry[key]!r} in a {name!r} data entry: expected {kind}")
    return cls(**entry)


def _type_hints(cls: type) -> dict[str, Any]:
    try:
        return get_type_hints(cls)
    except NameError:  # a name that the source's module imports for type checking only
        return {}


@dataclass(frozen=True)
class DataPart:
    """An opened entry with its name and weight.

    Attributes:
        name: the source and the path that it opened, for messages.
        entry: the entry's keys, without `source` and `weight`.
        part: the items.
        weight: how many times each item occurs in an epoch; 0.5 draws half of the items.
    """

    name: str
    entry: dict[str, Any]
    part: Part
    weight: float


class TrainingData:
    """All items of a recipe, by index.

    Args:
        parts: the opened entries, in order.
        processor: used to encode items.
        options: options for encoding items.
        seed: seed for drawing items by a fractional weight.

    Raises:
        ValueError: if there are no items.
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
            raise ValueError(f"the dataset is empty ({names or 'no data entry'}): give at least one sample")

    def __len__(self) -> int:
        return len(self.row_of)

    def item(self, index: int) -> Item:
        """Return an item.

        Raises:
            UnusableSample: if the item's row is malformed.
        """
        return self.parts[self.part_of[index]].part[int(self.row_of[index])]

    def sample(self, index: int) -> Sample:
        """Decode and encode an item.

        Raises:
            UnusableSample: if it cannot be trained on.
        """
        return self.item(index).encode(self.processor, self.options)

    def count_tokens(self, index: int) -> int:
        """Return a tight upper bound of a sample's tokens, without decoding.

        Raises:
            UnusableSample: if it cannot be trained on, and this is known without decoding.
        """
        return self.item(index).count_tokens(self.processor, self.options)

    def origin(self, index: int) -> str:
        """Return where an item comes from, for messages."""
        return self.parts[self.part_of[index]].part.origin(int(self.row_of[index]))

    def select(self, indices: Sequence[int] | np.ndarray) -> TrainingData:
        """Return a collection of the items at these indices."""
        chosen = copy(self)
        chosen.row_of, chosen.part_of = self.row_of[indices], self.part_of[indices]
        return chosen

    def with_processor(self, processor: StreamingProcessor) -> TrainingData:
        """Return a collection of the same items that encodes them with another processor."""
        other = copy(self)
        other.processor = processor
        return other

    def fingerprint(self) -> str:
        """Return a hash of the items, their order and content, and the encoding options."""
        digest = hashlib.sha256(self.row_of.data)
        digest.update(self.part_of.data)
        described = [
            [part.name, part.entry, len(part.part), part.weight, part.part.fingerprint()] for part in self.parts
        ]
        digest.update(json.dumps([described, repr(self.options)], sort_keys=True, default=str).encode())
        return digest.hexdigest()[:16]


def open_data(
    entries: Sequence[dict[str, Any]],
    processor: StreamingProcessor,
    options: EncodeOptions | None = None,
    seed: int = 0,
    n_before: int = 0,
) -> TrainingData:
    """Open the data list of a recipe.

    Args:
        entries: a dictionary for each part, in order. ``source`` names a registered source, ``weight`` is the number of
            times that its items occur in an epoch (default 1), and the other keys depend on the source.
        processor: used to encode items.
        options: options for encoding items; `None` for the defaults.
        seed: seed for sources that draw at random, and for fractional weights.
        n_before: entries of other data with the same seed, such as the training data; these draw other items.

    Raises:
        ValueError: if there are no entries or no items, a source is unknown, or an entry is malformed.
        FileNotFoundError: if a dataset does not exist.
    """
    if not entries:
        raise ValueError("the recipe's data list is empty: give at least one entry with a source")
    parts = []
    for index, entry in enumerate(entries):
        entry = dict(entry)
        name, weight = entry.pop("source", None), entry.pop("weight", 1)
        if not isinstance(name, str) or name not in SOURCES:
            known = ", ".join(sorted(SOURCES))
            said = f"source {name!r}" if "source" in entries[index] else f"no source, only {', '.join(map(str, entry))}"
            raise ValueError(f"data entry {index} has {said}: expected a source, one of {known}")
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise ValueError(f"data entry {index} has weight {weight!r}: expected a number above 0, such as 0.5 or 2")
        label = " ".join(str(value) for value in (name, entry.get("path")) if value)
        parts.append(DataPart(label, entry, SOURCES[name].open(entry, seed * 1000 + n_before + index), float(weight)))
    return TrainingData(parts, processor, options or EncodeOptions(), seed)


def _weighted_rows(part: DataPart, seed: int) -> np.ndarray:
    """Return a part's row indices: all `floor(weight)` times, then a random draw of the rest."""
    n_rows = len(part.part)
    dtype = np.int32 if n_rows < 2**31 else np.int64
    whole, share = divmod(part.weight, 1)
    rows = [np.arange(n_rows, dtype=dtype)] * int(whole)
    n_drawn = round(share * n_rows)
    if n_drawn:
        rows.append(np.sort(np.random.default_rng(seed).permutation(n_rows)[:n_drawn]).astype(dtype))
    return np.concatenate(rows) if rows else np.empty(0, dtype)
