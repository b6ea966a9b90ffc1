"""Means, ratios and their standard errors, clustered by video. Formulas: docs/evaluation.md."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np


def clustered_se(influences: np.ndarray, clusters: Sequence[Hashable]) -> float | None:
    """Return the clustered standard error of an estimate, from the influence of each row on it.

    For G clusters: sqrt(G / (G - 1) * sum over clusters of (sum of the cluster's influences)^2) (Liang and Zeger,
    1986). For a plain mean, the influence of a row with value x is (x - mean) / N.

    Args:
        influences: (rows,), with sum 0.
        clusters: the cluster of each row.

    Returns:
        The standard error; `None` if there are fewer than two clusters.
    """
    numbers = _cluster_numbers(clusters)
    n_clusters = int(numbers.max(initial=-1)) + 1
    if n_clusters < 2:
        return None
    sums = np.bincount(numbers, weights=influences, minlength=n_clusters)
    return math.sqrt(n_clusters / (n_clusters - 1) * float(np.square(sums).sum()))


def weighted_mean(
    values: np.ndarray, weights: np.ndarray, parts: np.ndarray, clusters: Sequence[Hashable]
) -> tuple[float, float | None]:
    """Return a mean of means, and its clustered standard error.

    Args:
        values: (rows,).
        weights: (rows,), with sum 1; equal within a part.
        parts: (rows,), the number of the part whose mean a row belongs to; all 0 for a plain mean.
        clusters: the cluster of each row.
    """
    n_parts = int(parts.max(initial=-1)) + 1
    counts = np.bincount(parts, minlength=n_parts)
    means = np.bincount(parts, weights=values, minlength=n_parts) / np.maximum(counts, 1)
    return float((weights * values).sum()), clustered_se(weights * (values - means[parts]), clusters)


def ratio_of_sums(
    parts: np.ndarray, wholes: np.ndarray, clusters: Sequence[Hashable]
) -> tuple[float, float | None] | tuple[None, None]:
    """Return sum(parts) / sum(wholes) and its clustered standard error; `None` for both if sum(wholes) is 0.

    Args:
        parts: (rows,), such as words.
        wholes: (rows,), such as seconds.
        clusters: the cluster of each row.
    """
    total = float(wholes.sum())
    if total == 0:
        return None, None
    ratio = float(parts.sum()) / total
    return ratio, clustered_se((parts - ratio * wholes) / total, clusters)


def difference_of_ratios(
    a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray], clusters: Sequence[Hashable]
) -> tuple[float, float | None] | tuple[None, None]:
    """Return b's ratio of sums minus a's over the same rows, and the difference's clustered standard error.

    A row's influence on the difference is its influence on b's ratio minus that on a's. Both values are `None` if one
    of the ratios is undefined.

    Args:
        a: parts and wholes, each (rows,), as in `ratio_of_sums`.
        b: parts and wholes of the same rows.
        clusters: the cluster of each row.
    """
    totals = [float(wholes.sum()) for _, wholes in (a, b)]
    if 0 in totals:
        return None, None
    ratios = [float(parts.sum()) / total for (parts, _), total in zip((a, b), totals, strict=True)]
    influences = [
        (parts - ratio * wholes) / total for (parts, wholes), ratio, total in zip((a, b), ratios, totals, strict=True)
    ]
    return ratios[1] - ratios[0], clustered_se(influences[1] - influences[0], clusters)


def mean_at(
    values: np.ndarray, x: np.ndarray, at: float, clusters: Sequence[Hashable]
) -> tuple[float, float | None] | tuple[None, None]:
    """Return the value at `x = at` of the line fitted through (x, values), and its clustered standard error.

    The line is fitted by least squares, and the error is a sandwich estimate. Both values are `None` with fewer than
    three rows, or if all x are equal.

    Args:
        values: (rows,).
        x: (rows,).
        at: where to evaluate the line.
        clusters: the cluster of each row.
    """
    design = np.stack([np.ones_like(x), x - at], axis=1)
    if len(x) < 3 or np.linalg.matrix_rank(design) < 2:
        return None, None
    bread = np.linalg.inv(design.T @ design)
    coefficients = bread @ design.T @ values
    residuals = values - design @ coefficients
    influences = (design * residuals[:, None]) @ bread[:, 0]
    return float(coefficients[0]), clustered_se(influences, clusters)


def two_sided_p(difference: float, se: float | None) -> float | None:
    """Return the two-sided p-value of a difference under a normal distribution; `None` without a standard error."""
    if se is None:
        return None
    if se == 0:
        return 1.0 if difference == 0 else 0.0
    return math.erfc(abs(difference) / se / math.sqrt(2))


def _cluster_numbers(clusters: Sequence[Hashable]) -> np.ndarray:
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(cluster, len(known)) for cluster in clusters], dtype=np.int64)
