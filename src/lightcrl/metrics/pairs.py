"""Figures of scored pairs: how well a score tells right pairs from wrong ones that resemble them."""

from __future__ import annotations

import numpy as np


def pair_accuracy(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return for each query the share of its (right, wrong) pairs in which the right item scores higher.

    Equal scores count half. Queries without a right or without a wrong item are NaN.

    >>> pair_accuracy(np.array([[3.0, 1.0, 3.0]]), np.array([[True, False, False]]))
    array([0.75])

    Args:
        scores: scores [Q, N].
        right: true for right items [Q, N].
    """
    order = scores[:, :, None] - scores[:, None, :]
    pairs = right[:, :, None] & ~right[:, None, :]
    won = ((order > 0) + 0.5 * (order == 0)) * pairs
    counts = pairs.sum((1, 2))
    return np.where(counts > 0, won.sum((1, 2)) / np.maximum(counts, 1), np.nan)


def average_precision(scores: np.ndarray, right: np.ndarray) -> float:
    """Return the average precision of all scores together, equal scores as one threshold.

    The sum over thresholds of precision times the gain in recall, as in scikit-learn; NaN without a right pair.

    >>> average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]))
    0.8333333333333333

    Args:
        scores: scores, of any shape.
        right: true for right pairs, of the same shape.
    """
    values, labels = scores.ravel(), right.ravel()
    if not labels.any():
        return float("nan")
    order = np.argsort(-values, kind="stable")
    values, labels = values[order], labels[order]
    last = np.append(np.diff(values) != 0, True)
    hits = np.cumsum(labels)[last]
    precision = hits / (np.flatnonzero(last) + 1)
    gain = np.diff(hits, prepend=0) / hits[-1]
    return float((precision * gain).sum())
