"""The header, which is the first line of a file of predictions or verdicts and records how its rows were made."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from livecc_hf import __version__
from livecc_hf.utils.type_hints import check_fields

from .rows import ROW_TYPES

MARK, FORMAT = "livecc_hf_evaluation", 1
# Fields that may differ between runs that write to one file.
_FREE = ("version", "n_rows", "limit", "device")


@dataclass(frozen=True)
class Header:
    """The type of a file's rows, and how they were made. A field is `None` if unknown, as for published files.

    Attributes:
        layout: type of the rows: "choice", "commentary" or "verdict".
        suite: the benchmark, as `livecc evaluate list` names it.
        protocol: the protocol by which questions were asked and answers are parsed.
        model: Hub id of the model, or the name of its folder.
        model_revision: commit on the Hub, or a hash of the folder's configs and weights.
        processor: Hub id of the processor, or the name of its folder.
        dataset: source of the questions: a Hub id or a file name.
        dataset_revision: commit on the Hub, or a hash of the file.
        prompt_hash: hash of the protocol's prompts.
        frames: how frames were sampled, such as `{"fps": 2, "max_frames": 480}`.
        pixels: limits on the pixels of a frame.
        generation: generation settings of the model, or of the judge.
        n_rows: rows of the benchmark when it was read.
        limit: number of rows to which the run was limited.
        opponent: for verdicts, the model that the evaluated model was compared with.
        judge: for verdicts, the judging model.
        device: the device that the model ran on.
        version: version of this package.
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
        """Return the header as a JSON object."""
        return {MARK: FORMAT} | asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Header:
        """Return the header in a JSON object.

        Raises:
            ValueError: if the object has another format version, an unknown layout, or a value of a wrong type.
        """
        if value.get(MARK) != FORMAT:
            raise ValueError(f"format {value.get(MARK)!r}: expected {FORMAT}; written by another version of livecc-hf?")
        if value.get("layout") not in ROW_TYPES:
            raise ValueError(f"layout {value.get('layout')!r}: expected one of {', '.join(ROW_TYPES)}")
        known = {item.name for item in fields(cls)}
        header = cls(**{name: item for name, item in value.items() if name in known})
        check_fields(header)
        return header

    def check_same(self, other: Header, path: object) -> None:
        """Check that rows made as `other` says may be added to a file with this header.

        Args:
            other: header of the new rows.
            path: the file, for the error message.

        Raises:
            ValueError: if the headers differ in how rows are made; the message names the fields.
        """
        old, new = asdict(self), asdict(other)
        changed = [name for name in old if name not in _FREE and old[name] != new[name]]
        if changed:
            lines = "; ".join(f"{name}: {old[name]!r} there, {new[name]!r} now" for name in changed[:4])
            raise ValueError(f"{path} holds the results of a different run ({lines}): choose another output path")


def is_header(value: Any) -> bool:
    """Return whether a JSON value is a header of this package's files."""
    return isinstance(value, dict) and MARK in value
