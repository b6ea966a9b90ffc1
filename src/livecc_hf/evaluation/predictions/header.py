"""The first line of a file of predictions or verdicts: what made the others."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from livecc_hf import __version__

from .rows import ROW_TYPES

MARK, FORMAT = "livecc_hf_evaluation", 1
# What may differ between two runs that go on in one file.
_FREE = ("version", "n_rows", "limit", "device")


@dataclass(frozen=True)
class Header:
    """What a file's rows are, and what made them. `None`: not known, as of files that others published.

    Attributes:
        layout: "choice", "commentary" or "verdict".
        suite: the benchmark, as `livecc evaluate list` names it.
        protocol: how the question was put and the answer read.
        model: folder or Hub id of the model.
        model_revision: the commit on the Hub, or a hash of the folder's configuration and sizes.
        processor: folder or Hub id of the processor.
        dataset: where the questions came from: a Hub id, or a file's name.
        dataset_revision: the commit on the Hub, or the file's SHA-256.
        prompt_hash: of all prompts' texts.
        frames: how frames were chosen, such as `{"fps": 2, "max_frames": 480}`.
        pixels: the limits of a frame.
        generation: settings of generation, or of the judge.
        n_rows: rows of the benchmark as it was read.
        limit: asked for the first so many rows only.
        opponent: of verdicts: whose texts the model's were compared with.
        judge: of verdicts: the judging model.
        device: what it ran on.
        version: of this package.
    """

    layout: str
    suite: str | None = None
    protocol: str | None = None
    model: str | None = None
    model_revision: str | None = None
    processor: str | None = None
    dataset: str | None = None
    dataset_revision: str | None = None
    prompt_hash: str | None = None
    frames: dict[str, Any] = field(default_factory=dict)
    pixels: dict[str, Any] = field(default_factory=dict)
    generation: dict[str, Any] = field(default_factory=dict)
    n_rows: int | None = None
    limit: int | None = None
    opponent: str | None = None
    judge: str | None = None
    device: str | None = None
    version: str = __version__

    def to_json(self) -> dict[str, Any]:
        """Return the line as JSON holds it."""
        return {MARK: FORMAT} | asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Header:
        """Return the header that a line holds.

        Raises:
            ValueError: if it is of another format.
        """
        if value.get(MARK) != FORMAT:
            raise ValueError(f"format {value.get(MARK)!r}: expected {FORMAT}; written by another version of livecc-hf?")
        if value.get("layout") not in ROW_TYPES:
            raise ValueError(f"layout {value.get('layout')!r}: expected one of {', '.join(ROW_TYPES)}")
        known = {item.name for item in fields(cls)}
        return cls(**{name: item for name, item in value.items() if name in known})

    def check_same(self, other: Header, path: object) -> None:
        """Check that rows of `other` may be added to a file with this header.

        Raises:
            ValueError: if they were made in another way; names what differs.
        """
        there, ours = asdict(self), asdict(other)
        changed = [name for name in there if name not in _FREE and there[name] != ours[name]]
        if changed:
            lines = "; ".join(f"{name}: {there[name]!r} there, {ours[name]!r} now" for name in changed[:4])
            raise ValueError(f"{path} holds results of another run ({lines}): choose another place for the new ones")


def is_header(value: Any) -> bool:
    """Return whether a line is a header of ours."""
    return isinstance(value, dict) and MARK in value
