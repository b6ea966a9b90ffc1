"""Scores: figures, each with its number of rows, standard error and floor."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

PERCENT = "%"


class FigureCells(NamedTuple):
    """The numbers of a figure as text, for a table."""

    value: str
    se: str
    n: str
    floor: str


@dataclass(frozen=True)
class Figure:
    """One number of a score.

    Attributes:
        name: such as "overall", or "task=EPM" for a part of the rows.
        value: the number, in `unit`; `None` if it is undefined, or withheld because the set is incomplete.
        n: number of rows, including those without an answer.
        unit: "%", "s", "words/s", or "" for a plain number.
        n_correct: rows that count as 1; `None` if rows can count as a fraction.
        n_invalid: rows whose answer cannot be parsed.
        n_missing: rows without an answer, for example because the video is missing.
        se: standard error, clustered by video; `None` with fewer than two videos.
        floor: the value that the best constant answer gets.
        floor_answer: the best constant answer.
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

    def cells(self) -> FigureCells:
        """Return the figure's numbers as text: an undefined value is "-", an unknown error or floor is empty."""
        unit = f" {self.unit}" if self.unit else ""
        if self.value is not None:
            value = f"{self.value:.2f}{unit}"
        else:
            value = "withheld: incomplete" if _INCOMPLETE in self.name else "-"
        correct = f" ({self.n_correct:,})" if self.n_correct is not None and self.unit == PERCENT else ""
        return FigureCells(
            value,
            se="" if self.se is None else f"{self.se:.2f}",
            n=f"{self.n:,}{correct}",
            floor="" if self.floor is None else f"{self.floor:.2f}{unit} ({self.floor_answer})",
        )


_INCOMPLETE = " (N = "  # in the name of an incomplete set's headline


@dataclass
class Score:
    """All figures of one file of predictions or verdicts.

    Attributes:
        suite: the benchmark.
        protocol: the protocol by which answers were made and parsed.
        model: the evaluated model.
        source: the file or folder.
        figures: the figures, in the order to show.
        n_headline: how many figures, from the first, are headlines.
        n_expected: rows of the whole benchmark; `None` if unknown.
        is_complete: whether every row of the benchmark has been tried.
        notes: remarks for readers of the figures, one line each.
        series: chart data, by name.
        details: the file's header.
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
        """The model (the file's name if unknown) and, for verdicts, its opponent."""
        opponent = self.details.get("opponent")
        model = self.model or Path(self.source).name  # no local folders, since reports are shared
        return f"{model} against {opponent}" if opponent else model

    def figure(self, name: str) -> Figure:
        """Return the figure of that name.

        Raises:
            KeyError: if there is no such figure.
        """
        for item in self.figures:
            if item.name == name:
                return item
        raise KeyError(f"no figure {name!r}: there are {', '.join(item.name for item in self.figures)}")

    def to_json(self) -> dict[str, Any]:
        """Return the score as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Score:
        """Return the score that `to_json` turned into a JSON object."""
        return cls(**value | {"figures": [Figure(**item) for item in value["figures"]]})


def incomplete_note(source: str, n_tried: int, n_expected: int) -> str:
    """Return the note that a file does not hold the whole benchmark."""
    return f"{source}: {n_tried:,} rows of {n_expected:,} have been tried: the set is incomplete"


def incomplete_headline(figure: Figure, n_tried: int, n_expected: int, shown: bool) -> Figure:
    """Return the headline of an incomplete set: with N in its name, and withheld unless `shown`."""
    name = f"{figure.name}{_INCOMPLETE}{n_tried} of {n_expected})"
    return replace(figure, name=name) if shown else replace(figure, name=name, value=None, se=None)
