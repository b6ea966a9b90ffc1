"""Figures that are ratios of two sums over rows; the summands are kept, so that two files can be compared."""

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
        name: name as in `Figure`.
        parts: (rows,), the summands of the numerator.
        wholes: (rows,), the summands of the denominator.
        unit: unit as in `Figure`; with "%", the ratio is multiplied by 100.
    """

    name: str
    parts: np.ndarray
    wholes: np.ndarray
    unit: str = PERCENT

    @property
    def scale(self) -> float:
        """The factor from the ratio to its value in `unit`."""
        return 100.0 if self.unit == PERCENT else 1.0

    def by_row(self) -> np.ndarray:
        """Return the ratio of each row in `unit`, of shape (rows,); 0 if the row's denominator is 0."""
        return self.scale * np.divide(self.parts, self.wholes, out=np.zeros(len(self.parts)), where=self.wholes > 0)


def ratio_figure(ratio: Ratio, clusters: Sequence[str]) -> Figure:
    """Return a ratio as a figure with its clustered standard error."""
    value, se = ratio_of_sums(ratio.parts, ratio.wholes, clusters)
    scaled = [None if number is None else float(ratio.scale * number) for number in (value, se)]
    return Figure(ratio.name, scaled[0], len(clusters), ratio.unit, se=scaled[1])
