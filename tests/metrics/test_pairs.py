"""Pair accuracy and average precision, on values worked out by hand and by scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from lazily import Lazily
from lightcrl.metrics.pairs import average_precision, pair_accuracy

reference = Lazily("sklearn.metrics")


def test_pair_accuracy_counts_each_right_and_wrong_pair_of_a_query():
    scores = np.array([[3.0, 2.0, 1.0, 2.0], [1.0, 1.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    right = np.array([[False, True, False, True], [True, False, False, False], [True, True, True, True]])
    np.testing.assert_allclose(pair_accuracy(scores, right), [2 / 4, (0.5 + 1 + 1) / 3, np.nan])


def test_average_precision_is_scikit_learns():
    rng = np.random.default_rng(0)
    scores, right = rng.integers(0, 12, (30, 5)) / 7, rng.random((30, 5)) < 0.3
    assert average_precision(scores, right) == pytest.approx(
        reference.average_precision_score(right.ravel(), scores.ravel())
    )
    assert np.isnan(average_precision(scores, np.zeros_like(right)))
