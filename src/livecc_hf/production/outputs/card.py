"""The card of a dataset: its content and sources, how it was made, and what to check before use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..stages.base import Stage
from ..stages.registry import HOW_KEYS

if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

_FUNNEL_KEYS = ("items_in", "items_out", "hours_in", "hours_out")
_SIZES = ("1K", "10K", "100K", "1M", "10M", "100M", "1B")
_DATA_FILES = [{"split": "train", "path": "data/*.parquet"}]
_SPEAKER_FILTERS = ("talking_head", "active_speaker")  # stages that drop clips by the people they show
_UNKNOWN = "unknown"  # name of a license that is not stated


@dataclass(frozen=True)
class DatasetSummary:
    """Counts of a dataset.

    Attributes:
        n_clips, n_words: number of clips and of words.
        n_videos: number of different video paths.
        hours: total length of the clips.
    """

    n_clips: int
    n_videos: int
    n_words: int
    hours: float


@dataclass(frozen=True)
class DatasetAbout:
    """The parts of a card that cannot be derived from the data.

    Attributes:
        name: title of the dataset.
        sources: sources of the videos, a line each.
        language: ISO 639 codes, such as "en"; empty: not stated.
        license: an identifier of the Hub, such as "cc-by-4.0"; "other": see `license_name` and `license_link`.
        license_name: name of an "other" license.
        license_link: URL of an "other" license.
        stages: the stages of the run, in order; the card lists their thresholds.
        funnel: by stage name `items_in`, `items_out`, `hours_in`, `hours_out`; hours may be missing. Items are videos
            up to the input of the clip stage, and clips after it.
        notes: further text for readers of the card, in Markdown.

    Raises:
        ValueError: if a value is invalid.
    """

    name: str
    sources: Sequence[str] = ()
    language: Sequence[str] = ("en",)
    license: str = "other"
    license_name: str | None = _UNKNOWN
    license_link: str | None = None
    stages: Sequence[Stage] = ()
    funnel: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
    notes: str = ""

    def __post_init__(self) -> None:
        if not self.name.strip():
            raise ValueError("the dataset's name is empty: expected a title for its card")
        for text in ("sources", "language"):
            if isinstance(getattr(self, text), str):
                raise ValueError(f"{text} is {getattr(self, text)!r}: expected a list of strings")
        for key, default in (("license_name", _UNKNOWN), ("license_link", None)):
            value = getattr(self, key)
            if self.license != "other" and value not in (None, default):
                raise ValueError(
                    f"{key}={value}: not with license={self.license}, which does not use it; leave it out, or give "
                    "license=other"
                )
        for stage, counts in self.funnel.items():
            _check_counts(stage, counts)


def make_card(
    about: DatasetAbout,
    summary: DatasetSummary,
    *,
    features: list[dict[str, Any]] | None = None,
    has_videos: bool = False,
    has_jsonl: bool = False,
    content_id: str = "",
) -> DatasetCard:
    """Return the card of a dataset folder.

    Args:
        about: statements of the dataset's maker.
        summary: counts of the dataset.
        features: the columns in the YAML form of `datasets`; `None`: those of the Parquet files.
        has_videos: whether the videos are in the folder.
        has_jsonl: whether `conversations.jsonl` is in the folder.
        content_id: digest of the data, by which `datasets` tells cached folders of the same name apart.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    # The Hub takes a license's name and link only for "other".
    own_license = {"license_name": about.license_name, "license_link": about.license_link}
    more: dict[str, Any] = {"dataset_info": {"features": features}} if features else {}
    if about.license == "other":
        more |= {key: value for key, value in own_license.items() if value}
    data = DatasetCardData(
        pretty_name=about.name,
        language=list(about.language) or None,
        license=about.license,
        size_categories=[_size(summary.n_clips)],
        task_categories=["video-text-to-text"],
        tags=["livecc", "video", "live-commentary"],
        configs=[_config(content_id)],
        **more,
    )
    sections = [
        f"# {about.name}",
        _what(summary, about),
        "## Columns\n\n" + _columns(has_videos, has_jsonl),
        "## Sources\n\n" + (_bullets(about.sources) or "Not stated by the dataset's maker."),
        "## How it was made\n\n" + (_made(about.stages) or "Not stated by the dataset's maker."),
        *(["## What each stage kept\n\n" + _funnel(about)] if about.funnel else []),
        "## Before use\n\n" + _checks(about),
        *([about.notes.strip()] if about.notes.strip() else []),
    ]
    return DatasetCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n")


def _config(content_id: str) -> dict[str, Any]:
    config: dict[str, Any] = {"config_name": "default", "data_files": _DATA_FILES}
    return config | ({"description": f"content {content_id}"} if content_id else {})


def _check_counts(stage: str, counts: Mapping[str, float | None]) -> None:
    unknown = set(counts) - set(_FUNNEL_KEYS)
    missing = {"items_in", "items_out"} - set(counts)
    if unknown or missing:
        raise ValueError(
            f"funnel of stage {stage!r} has keys {sorted(counts)}: expected {', '.join(_FUNNEL_KEYS)} (hours may be "
            "missing)"
        )
    for key, value in counts.items():
        is_count = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < math.inf
        if not is_count and not (value is None and key.startswith("hours")):
            raise ValueError(f"funnel of stage {stage!r}: {key} is {value!r}: expected a number of 0 or more")


def _size(n_clips: int) -> str:
    """Return the Hub's size category for a number of rows."""
    bound, below = 1000, None
    for size in _SIZES:
        if n_clips < bound:
            return f"n<{size}" if below is None else f"{below}<n<{size}"
        bound, below = bound * 10, size
    return f"{below}<n<10B"


def _what(summary: DatasetSummary, about: DatasetAbout) -> str:
    mean_s = 3600 * summary.hours / max(summary.n_clips, 1)
    speed = summary.n_words / max(3600 * summary.hours, 1e-9)
    return (
        f"{summary.n_clips:,} narrated clips of {summary.n_videos:,} videos: {summary.hours:,.2f} hours, "
        f"{summary.n_words:,} timed words, {mean_s:.1f} s and {speed:.2f} words per second on average. "
        f"Language: {', '.join(about.language) or 'not stated'}. Made with livecc-hf for training live commentary: "
        "every word has the time at which it was spoken."
    )


def _columns(has_videos: bool, has_jsonl: bool) -> str:
    where = (
        "relative to this folder"
        if has_videos
        else "on the machine that made this dataset; the videos are not part of it"
    )
    jsonl = (
        "\n`conversations.jsonl` has the same clips as conversations, one per line, in the format of Live-CC-5M; its "
        "last line lists the byte offsets of the others.\n"
        if has_jsonl
        else ""
    )
    return f"""| column | content |
|---|---|
| `video` | path of the video, {where} |
| `video_start`, `video_end` | the clip in seconds, as a player shows; it ends 0.5 s after its last word |
| `words` | list of `start`, `end` (seconds, as above) and `word`, in spoken order |
| `query` | a viewer's request that this commentary answers; null if none was written |
| `title`, `category` | title and category of the video |
| `previous` | what was said in the video before the clip |
| `language_score` | result of the stage `language` for the whole video; null if it was not run |
| `text_loss`, `p_talking_head`, `speaker_ratio` | results of other stages; null if they were not run |
{jsonl}
Train on it with `livecc train` and `data: [{{source: dataset, path: THIS_FOLDER_OR_REPO}}]`. `datasets` resolves a
relative path against the working directory, so prepend the root to decode videos with it:

```python
from datasets import Video, load_dataset

root = "hf://datasets/USER/REPO/"  # or the folder's absolute path, with a slash
clips = load_dataset("USER/REPO", split="train").cast_column("video", Video(decode=False))
paths = [root + (video["path"] if isinstance(video, dict) else video) for video in clips["video"]]
clips = clips.remove_columns("video").add_column("video", paths).cast_column("video", Video())
```"""


def _made(stages: Sequence[Stage]) -> str:
    parts = []
    for number, stage in enumerate(stages, 1):
        doc = (type(stage).__doc__ or "").strip().split("\n")[0]
        parts.append(f"{number}. **{stage.name}**: {doc}")
        parts += [
            f"   - `{item.name}` = `{_shown(getattr(stage, item.name))!r}`: {item.metadata['help']}"
            for item in fields(stage)
            if item.metadata.get("help") and item.name not in HOW_KEYS
        ]
    return "\n".join(parts)


def _shown(value: Any) -> Any:
    """Return an option's value for the public: of a path on this machine, such as of a model, only the last name."""
    is_path = isinstance(value, str) and (Path(value).is_absolute() or value.startswith("~"))
    return Path(value).name if is_path else value


def _funnel(about: DatasetAbout) -> str:
    makers = {stage.name for stage in about.stages if stage.makes_clips}
    lines = ["| stage | items in | items out | kept | hours in | hours out |", "|---|--:|--:|--:|--:|--:|"]
    for stage, counts in about.funnel.items():
        items_in, items_out = (counts[key] or 0 for key in ("items_in", "items_out"))
        share = f"{100 * items_out / items_in:.1f} %" if items_in and stage not in makers else ""
        hours = [counts.get(key) for key in ("hours_in", "hours_out")]
        shown = ["" if value is None else f"{value:,.2f}" for value in hours]
        lines.append(f"| {stage} | {items_in:,} | {items_out:,} | {share} | {shown[0]} | {shown[1]} |")
    return "\n".join([*lines, "", "Items are videos up to the input of the stage that cuts clips, and clips after it."])


def _checks(about: DatasetAbout) -> str:
    license_text = about.license_name if about.license == "other" and about.license_name else about.license
    filters = [stage.name for stage in about.stages if stage.name in _SPEAKER_FILTERS]
    faces = "No filter of faces was used."
    if filters:
        faces = (
            f"Clips that mostly show who speaks were removed ({', '.join(filters)}); this does not anonymise anyone."
        )
    return f"""- **Copyright.** The licence stated here ({license_text}) is the choice of this dataset's maker for the
  collection. Each video, its sound and its words belong to their authors: check the terms of every source, and whether
  your use is legal in your country. Remove videos if their owners ask for it.
- **Faces and voices.** The videos show and name people who may not know of this dataset. {faces}
  Faces and voices are personal data in many countries; do not use the dataset to identify people or clone voices.
- **Words are automatic.** Captions and speech recognition make mistakes, also in names and numbers, and the words of
  captions without word times were spread evenly over their line. The words may be wrong, biased or offensive: nobody
  has read all of them.
- **Language and topics** are those of the sources and not representative; look at the columns before you rely on
  them."""


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
