"""Scores: figures, each with its number of rows, standard error and floor."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

PERCENT = "%"


@dataclass(frozen=True)
class Figure:
    """One number of a score.

    Attributes:
        name: such as "overall", or "task=EPM" for a part of the rows.
        value: in `unit`; `None` if it is withheld, because rows are missing.
        n: number of rows, including those without an answer.
        unit: "%", "s", "words/s" or "" for a bare number.
        n_correct: rows that count in full; `None` if rows may count in part.
        n_invalid: rows whose answer cannot be parsed.
        n_missing: rows without an answer, as for a missing video.
        se: standard error, clustered by video; `None`: fewer than two videos.
        floor: value of the best constant answer.
        floor_answer: that answer.
    """

    name: str
    value: float | None
    n: int
    unit: str = PERCENT
    n_correct: int | None = None
    n_invalid: int = 0
    n_missing: int = 0
    se: float | None = None
    floor: float | None = None
    floor_answer: str | None = None


@dataclass
class Score:
    """All figures of one file of predictions or verdicts.

    Attributes:
        suite: the benchmark.
        protocol: in which answers were made and parsed.
        model: that made them.
        source: the file or folder.
        figures: in the order to show.
        n_headline: how many of `figures` are the headline.
        n_expected: rows of the whole benchmark; `None`: not known.
        is_complete: whether each row of the benchmark has been tried.
        notes: lines for a reader of the figures.
        series: data of charts, by name.
        details: the header of the file.
    """

    suite: str
    protocol: str | None
    model: str | None
    source: str
    figures: list[Figure]
    n_headline: int = 1
    n_expected: int | None = None
    is_complete: bool = True
    notes: list[str] = field(default_factory=list)
    series: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def subject(self) -> str:
        """The model, for verdicts also its opponent; the file's name if the model is unknown."""
        opponent = self.details.get("opponent")
        model = self.model or Path(self.source).name  # without folders of the machine: the page is shown to others
        return f"{model} against {opponent}" if opponent else model

    def figure(self, name: str) -> Figure:
        """Return the figure of that name.

        Raises:
            KeyError: if there is none.
        """
        for item in self.figures:
            if item.name == name:
                return item
        raise KeyError(f"no figure {name!r}: there are {', '.join(item.name for item in self.figures)}")

    def to_json(self) -> dict[str, Any]:
        """Return the score as JSON holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Score:
        """Return the score that `to_json` wrote."""
        return cls(**value | {"figures": [Figure(**item) for item in value["figures"]]})


def incomplete_note(source: str, n_tried: int, n_expected: int) -> str:
    """Return a line on how much of a benchmark a file holds."""
    return f"{source}: {n_tried:,} rows of {n_expected:,} have been tried: the set is incomplete"


def incomplete_headline(figure: Figure, n_tried: int, n_expected: int, shown: bool) -> Figure:
    """Return a headline with N in its name, without its value unless `shown`."""
    name = f"{figure.name} (N = {n_tried} of {n_expected})"
    return replace(figure, name=name) if shown else replace(figure, name=name, value=None, se=None)
