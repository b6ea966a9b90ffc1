"""Whether a model is right as often as its probabilities say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..predictions.rows import ChoiceRow

N_BINS = 10


def calibration(graded: Sequence[tuple[ChoiceRow, bool]], n_bins: int = N_BINS) -> dict[str, Any] | None:
    """Return the calibration curve of answers that have probabilities; `None` where none has.

    Args:
        graded: rows, and whether their answers are right.
        n_bins: bins of equal width from 0 to 1.

    Returns:
        `bins`: confidence (mean probability of the chosen answer), accuracy and n of each bin that is not empty;
        `expected_calibration_error`: mean over rows of |confidence - accuracy| of their bin; `mean_margin`: of the
        first probability over the second; `n`.
    """
    chosen = [(row.probabilities, right) for row, right in graded if row.probabilities]
    if not chosen:
        return None
    ranked = [sorted(probabilities.values(), reverse=True) for probabilities, _ in chosen]
    confidence = np.array([values[0] for values in ranked])
    margin = np.array([values[0] - (values[1] if len(values) > 1 else 0.0) for values in ranked])
    correct = np.array([right for _, right in chosen], dtype=float)
    numbers = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    bins, error = [], 0.0
    for number in np.unique(numbers):
        here = numbers == number
        mean_confidence, accuracy = float(confidence[here].mean()), float(correct[here].mean())
        bins.append({"confidence": mean_confidence, "accuracy": accuracy, "n": int(here.sum())})
        error += here.sum() / len(chosen) * abs(mean_confidence - accuracy)
    return {
        "bins": bins,
        "expected_calibration_error": float(error),
        "mean_margin": float(margin.mean()),
        "n": len(chosen),
    }
