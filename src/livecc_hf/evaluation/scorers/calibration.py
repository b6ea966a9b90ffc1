"""Calibration: whether a model is correct as often as its probabilities predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..predictions.rows import ChoiceRow

N_BINS = 10


def calibration(graded: Sequence[tuple[ChoiceRow, bool]], n_bins: int = N_BINS) -> dict[str, Any] | None:
    """Return the calibration curve of the rows that have probabilities; `None` if no row has any.

    Args:
        graded: pairs of a row and whether its answer is correct.
        n_bins: number of bins, of equal width from 0 to 1.

    Returns:
        `bins`: for each non-empty bin its confidence (mean probability of the chosen answer), accuracy and `n`;
        `expected_calibration_error`: mean over rows of |confidence - accuracy| of the row's bin; `mean_margin`: mean
        difference between the highest and the second-highest probability; `n`: number of rows.
    """
    chosen = [(row.probabilities, is_correct) for row, is_correct in graded if row.probabilities]
    if not chosen:
        return None
    ranked = [sorted(probabilities.values(), reverse=True) for probabilities, _ in chosen]
    confidence = np.array([values[0] for values in ranked])
    margin = np.array([values[0] - (values[1] if len(values) > 1 else 0.0) for values in ranked])
    correct = np.array([is_correct for _, is_correct in chosen], dtype=float)
    numbers = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    bins, error = [], 0.0
    for number in np.unique(numbers):
        in_bin = numbers == number
        mean_confidence, accuracy = float(confidence[in_bin].mean()), float(correct[in_bin].mean())
        bins.append({"confidence": mean_confidence, "accuracy": accuracy, "n": int(in_bin.sum())})
        error += in_bin.sum() / len(chosen) * abs(mean_confidence - accuracy)
    return {
        "bins": bins,
        "expected_calibration_error": float(error),
        "mean_margin": float(margin.mean()),
        "n": len(chosen),
    }
