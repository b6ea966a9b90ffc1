"""The stage `category`: keeps the kinds of videos whose speech tends to describe what is seen."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .base import Stage, StageResult, split

# By id: the videoCategories of the YouTube Data API that can be assigned to videos.
YOUTUBE_CATEGORIES = {
    "1": "Film & Animation",
    "2": "Autos & Vehicles",
    "10": "Music",
    "15": "Pets & Animals",
    "17": "Sports",
    "19": "Travel & Events",
    "20": "Gaming",
    "22": "People & Blogs",
    "23": "Comedy",
    "24": "Entertainment",
    "25": "News & Politics",
    "26": "Howto & Style",
    "27": "Education",
    "28": "Science & Technology",
    "29": "Nonprofits & Activism",
}
PAPER_CATEGORIES = (
    "Howto & Style",
    "Sports",
    "Education",
    "Autos & Vehicles",
    "Science & Technology",
    "Gaming",
    "News & Politics",
)


@dataclass(frozen=True)
class Category(Stage):
    """Keeps the videos or clips of the listed categories.

    Names are compared without case and punctuation, and with `&` as `and`. YouTube's category numbers stand for their
    names.

    Dropped: `no_category`, `other_category` (detail: the category).

    The default is the seven categories of the LiveCC paper's SFT data (arXiv 2504.16030, Live-WhisperX-526K).
    """

    name: ClassVar[str] = "category"

    keep: tuple[str, ...] = field(
        default=PAPER_CATEGORIES,
        metadata={"help": "Categories to keep, by name or by YouTube's number. (paper: seven, for SFT)"},
    )

    def __post_init__(self):
        keep = (self.keep,) if isinstance(self.keep, str) else tuple(str(name) for name in self.keep)
        object.__setattr__(self, "keep", keep)  # recipes give lists
        if not keep or not all(canonical_category(name) for name in keep):
            raise ValueError(f"keep is {self.keep!r}: expected names of categories, such as {PAPER_CATEGORIES[0]!r}")

    def __call__(self, batch: pa.Table) -> StageResult:
        """Filter a batch in `VIDEO_SCHEMA` or `CLIP_SCHEMA`."""
        kept = {canonical_category(name) for name in self.keep}
        found = pc.fill_null(batch["category"].combine_chunks(), "").dictionary_encode()
        names = found.dictionary.to_pylist()
        canonical = [canonical_category(name) for name in names]
        reason_of = [None if name in kept else "other_category" if name else "no_category" for name in canonical]
        indices = found.indices.to_numpy()
        reasons = np.array(reason_of, dtype=object)[indices]
        details = [None if reason_of[i] is None else names[i] or None for i in indices]
        return split(self.name, batch, reasons, details=details)


def canonical_category(name: str) -> str:
    """Return a name for comparison, without case and punctuation; the same for "Howto & Style" and "26"."""
    name = YOUTUBE_CATEGORIES.get(name.strip(), name)
    words = re.sub(r"[^\w]+", " ", name.lower().replace("&amp;", " and ").replace("&", " and ")).split()
    text = " ".join(words)
    return re.sub(r"^how to\b", "howto", text)
