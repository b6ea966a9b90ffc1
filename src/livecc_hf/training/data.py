"""Training data: sources of narrated clips behind one map-style dataset.

A source turns one entry of a recipe's ``data`` list into rows, and a row into a `NarratedClip`. Rows are
small and serialisable, clips are read or drawn when the trainer asks for them, so that a resumed run
skips what it has seen without decoding it. New kinds of data are added with `register_source`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

if TYPE_CHECKING:
    from datasets import Dataset

    from livecc_hf.modeling.processing_livecc import StreamingProcessor


@dataclass(frozen=True)
class NarratedClip:
    """One clip with the words spoken in it.

    Args:
        frames: uint8 (T, 3, H, W) at 2 frames a second.
        frame_times_s: T presentation times in seconds.
        words: ``(start_s, end_s, word)`` in the order spoken, on the clock of the frames.
        query: the request; the processor's default if None.
        title: the video's title.
        previous: what was said before the clip.
    """

    frames: torch.Tensor
    frame_times_s: Sequence[float]
    words: Sequence[Sequence]
    query: str | None = None
    title: str | None = None
    previous: str | None = None


class Source(Protocol):
    """One kind of training data."""

    def rows(self, entry: dict[str, Any], seed: int) -> list[dict[str, Any]]:
        """Lists the clips that a recipe's entry asks for, as JSON-serialisable dictionaries.

        Raises:
            ValueError: if the entry has unknown keys or values.
        """

    def load(self, row: dict[str, Any]) -> NarratedClip:
        """Reads or draws the clip of a row."""


SOURCES: dict[str, Source] = {}


def register_source(name: str) -> Callable[[type], type]:
    """Makes a `Source` class available to recipes under a name.

    Raises:
        ValueError: if the name is taken.
    """

    def register(source: type) -> type:
        if name in SOURCES:
            raise ValueError(f"a data source named {name!r} is registered already; choose another name")
        SOURCES[name] = source()
        return source

    return register


@dataclass(frozen=True)
class EncodeOptions:
    """How clips become samples.

    Args:
        keep_trailing_silence: keep silent turns at a clip's end.
        min_pixels: fewest pixels of a frame; the processor's limit if None.
        max_pixels: most pixels of a frame; the clip's share of the token budget if None.
    """

    keep_trailing_silence: bool = False
    min_pixels: int | None = None
    max_pixels: int | None = None


def build_dataset(
    entries: Sequence[dict[str, Any]],
    processor: StreamingProcessor,
    options: EncodeOptions | None = None,
    seed: int = 0,
) -> Dataset:
    """Builds the dataset of a recipe.

    Args:
        entries: one dictionary per part, in order: ``source`` names a registered source, the other keys
            are that source's.
        processor: turns clips into samples.
        options: how it does so.
        seed: sources that draw at random start from it.

    Returns:
        a map-style dataset whose items hold `input_ids`, `labels`, `mm_token_type_ids` of shape (L,),
        `pixel_values_videos` (patches, 1176) and `video_grid_thw` (turns, 3).

    Raises:
        ValueError: if there is no entry, a source is unknown, or an entry is malformed.
    """
    from datasets import Dataset

    if not entries:
        raise ValueError("the recipe's data list is empty; give at least one entry with a source")
    names, rows = [], []
    for index, entry in enumerate(entries):
        entry = dict(entry)
        name = entry.pop("source", None)
        if name not in SOURCES:
            known = ", ".join(sorted(SOURCES))
            raise ValueError(f"data entry {index} has source {name!r}; expected one of: {known}")
        part = SOURCES[name].rows(entry, seed * 1000 + index)
        names += [name] * len(part)
        rows += [json.dumps(row) for row in part]
    dataset = Dataset.from_dict({"source": names, "row": rows})
    return dataset.with_transform(_Encoder(processor, options or EncodeOptions()))


class _Encoder:
    """The transform that a dataset applies to the rows it is asked for."""

    def __init__(self, processor: StreamingProcessor, options: EncodeOptions):
        self.processor = processor
        self.options = options

    def __call__(self, batch: dict[str, list]) -> dict[str, list]:
        samples = [
            self._encode(SOURCES[name].load(json.loads(row)))
            for name, row in zip(batch["source"], batch["row"], strict=True)
        ]
        return {key: [sample[key] for sample in samples] for key in samples[0]}

    def _encode(self, clip: NarratedClip) -> dict[str, torch.Tensor]:
        limits = {"min_pixels": self.options.min_pixels, "max_pixels": self.options.max_pixels}
        sample = self.processor.encode_commentary(
            clip.frames,
            clip.frame_times_s,
            clip.words,
            query=clip.query,
            title=clip.title,
            previous=clip.previous,
            keep_trailing_silence=self.options.keep_trailing_silence,
            **{name: value for name, value in limits.items() if value is not None},
        )
        return sample.model_inputs
