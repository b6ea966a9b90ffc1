"""The small procedural world as a training source: clips are drawn from seeds when asked for.

Training seeds are never negative; negative ones are held out for evaluation.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from livecc_hf.tiny.samples import MOODS, list_clip, narration_clip

from .data import NarratedClip, register_source

SEEDS_PER_ENTRY = 100_000


@dataclass(frozen=True)
class TinyEntry:
    """One part of a curriculum.

    Raises:
        ValueError: if a value is out of range.
    """

    samples: int = field(metadata={"help": "How many samples."})
    task: str = field(default="narrate", metadata={"help": "'list' (name objects) or 'narrate'."})
    length: tuple[int, int] = field(
        default=(16, 28), metadata={"help": "Fewest and most seconds ('narrate') or turns ('list')."}
    )
    group: int = field(default=16, metadata={"help": "Samples in a row of one length, so a batch has no padding."})
    moods: tuple[str, ...] = field(
        default=("calm",), metadata={"help": "Kinds of scenes to narrate, in turn; see `MOODS`."}
    )

    def __post_init__(self):
        if self.task not in ("list", "narrate"):
            raise ValueError(f"task is {self.task!r}; expected 'list' or 'narrate'")
        shortest = 4 if self.task == "narrate" else 1
        low, high = self.length
        if not shortest <= low <= high:
            raise ValueError(
                f"length is {list(self.length)}; expected [low, high] with low >= {shortest} for {self.task!r}"
            )
        if unknown := set(self.moods) - set(MOODS):
            raise ValueError(f"moods holds {sorted(unknown)}; expected some of: {', '.join(MOODS)}")
        if not 1 <= self.samples <= SEEDS_PER_ENTRY:
            raise ValueError(f"samples is {self.samples}; expected 1 to {SEEDS_PER_ENTRY}")


@register_source("tiny")
class TinySource:
    """Rows are tasks, seeds and lengths; see `TinyEntry` for the keys of a recipe's entry."""

    def rows(self, entry: dict[str, Any], seed: int) -> list[dict[str, Any]]:
        """Lists the entry's clips; ``seed`` selects the block of seeds they come from."""
        known = {item.name for item in fields(TinyEntry)}
        if unknown := set(entry) - known:
            raise ValueError(f"unknown keys {sorted(unknown)} in a 'tiny' data entry; expected some of {sorted(known)}")
        first = seed * SEEDS_PER_ENTRY
        part = TinyEntry(**entry)
        rng = random.Random(first)
        rows, length = [], part.length[0]
        for index in range(part.samples):
            if index % part.group == 0:
                length = rng.randint(*part.length)
            mood = part.moods[index % len(part.moods)]
            rows.append({"task": part.task, "seed": first + index, "length": length, "mood": mood})
        return rows

    def load(self, row: dict[str, Any]) -> NarratedClip:
        """Draws the clip of a row."""
        seed, length = row["seed"], row["length"]
        if row["task"] == "list":
            clip = list_clip(seed, length, first_frames=2 if length == 1 else 6)
        else:
            clip = narration_clip(seed, length, row["mood"])
        frames = torch.from_numpy(clip.frames)
        return NarratedClip(frames, clip.timestamps_s, clip.words, query=clip.query)
