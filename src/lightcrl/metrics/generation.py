"""Figures of generated vectors beside true ones: pure functions."""

from __future__ import annotations

import numpy as np

from lightcrl.errors import ShapeError


def frechet_distance(left: np.ndarray, right: np.ndarray) -> float:
    """Return the Fréchet distance of the normal distributions with the means and covariances of two sets of vectors.

        |m₁ - m₂|² + tr(S₁ + S₂ - 2 (S₁ S₂)^½)     (Heusel et al., arXiv 1706.08500)

    Args:
        left: vectors [N, d].
        right: vectors [M, d].

    Raises:
        ShapeError: the widths differ, or a set has fewer than two vectors.

    >>> frechet_distance(np.array([[0.0], [2.0]]), np.array([[3.0], [5.0]]))
    9.0
    """
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[1] or min(len(left), len(right)) < 2:
        raise ShapeError(
            f"vectors {list(left.shape)} and {list(right.shape)}; expected [N, d] and [M, d] with N and M from 2."
        )
    left, right = left.astype(np.float64), right.astype(np.float64)
    first, second = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (left, right))
    values, axes = np.linalg.eigh(first)
    root = (axes * np.sqrt(values.clip(0))) @ axes.T
    # The eigenvalues of S₁ S₂ are those of the symmetric S₁^½ S₂ S₁^½.
    shared = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    distance = np.square(left.mean(0) - right.mean(0)).sum() + np.trace(first) + np.trace(second) - 2 * shared
    return float(max(distance, 0.0))


def diversity(samples: np.ndarray) -> np.ndarray:
    """Return one minus the mean cosine of all pairs of an item's K samples, [N]; 0 for a single sample.

    Args:
        samples: unit vectors [N, K, d].

    >>> diversity(np.array([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]])).tolist()
    [1.0, 0.0]
    """
    count = samples.shape[1]
    if count < 2:
        return np.zeros(len(samples))
    squared = np.square(samples.sum(1)).sum(1)
    return np.asarray(1 - (squared - count) / (count * (count - 1)))
