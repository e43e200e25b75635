"""Figures of generated vectors, against SciPy's matrix square root and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from lightcrl.errors import ShapeError
from lightcrl.metrics.generation import diversity, frechet_distance


@pytest.mark.parametrize("rows", [5, 200])
def test_frechet_distance_is_that_of_its_definition(rows):
    """Also with singular covariances, of fewer rows than dimensions."""
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(rows, 8)), 0.5 + rng.normal(size=(300, 8)) @ rng.normal(size=(8, 8))
    first, second = np.cov(left, rowvar=False), np.cov(right, rowvar=False)
    root = sqrtm(first @ second).real
    expected = np.square(left.mean(0) - right.mean(0)).sum() + np.trace(first + second - 2 * root)
    assert frechet_distance(left, right) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(right, left) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(left, left) == pytest.approx(0, abs=1e-6)


def test_unequal_widths_are_refused():
    with pytest.raises(ShapeError, match=r"vectors \[3, 2\] and \[3, 4\]"):
        frechet_distance(np.zeros((3, 2)), np.zeros((3, 4)))


def test_diversity_is_one_minus_the_mean_cosine_of_pairs():
    samples = np.random.default_rng(1).normal(size=(4, 3, 5))
    samples /= np.linalg.norm(samples, axis=2, keepdims=True)
    for number, rows in enumerate(samples):
        pairs = [rows[a] @ rows[b] for a, b in ((0, 1), (0, 2), (1, 2))]
        assert diversity(samples)[number] == pytest.approx(1 - np.mean(pairs))
    assert diversity(samples[:, :1]).tolist() == [0] * 4
