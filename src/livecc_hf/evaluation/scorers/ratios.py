"""Figures that are ratios of two sums over rows, kept by row so that two files can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .figures import PERCENT, Figure
from .statistics import ratio_of_sums


@dataclass(frozen=True)
class Ratio:
    """A ratio of two sums over rows.

    Attributes:
        name: as in `Figure`.
        parts: (rows,) what each row adds to the upper sum.
        wholes: (rows,) what it adds to the lower one.
        unit: as in `Figure`; a "%" is the ratio times 100.
    """

    name: str
    parts: np.ndarray
    wholes: np.ndarray
    unit: str = PERCENT

    @property
    def scale(self) -> float:
        """What the ratio is multiplied by."""
        return 100.0 if self.unit == PERCENT else 1.0

    def by_row(self) -> np.ndarray:
        """Return each row's own ratio, scaled, of shape (rows,); 0 where it has none."""
        return self.scale * np.divide(self.parts, self.wholes, out=np.zeros(len(self.parts)), where=self.wholes > 0)


def figure_of(ratio: Ratio, clusters: Sequence[str]) -> Figure:
    """Return a ratio with its standard error, clustered by video."""
    value, se = ratio_of_sums(ratio.parts, ratio.wholes, clusters)
    scaled = [None if number is None else float(ratio.scale * number) for number in (value, se)]
    return Figure(ratio.name, scaled[0], len(clusters), ratio.unit, se=scaled[1])
