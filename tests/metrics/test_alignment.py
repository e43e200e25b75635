"""Likeness of spaces, against float64 references, invariances and known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightcrl.errors import ShapeError
from lightcrl.metrics.alignment import (
    chance_knn,
    debiased_cka,
    mutual_knn,
    neighbours,
    u_centred,
)
from samples import randn


def rotation(dim: int, seed: int = 5) -> torch.Tensor:
    return torch.linalg.qr(randn(dim, dim, seed=seed, dtype=torch.float64))[0]


X = randn(120, 6, seed=1, dtype=torch.float64)
NOISE = randn(120, 6, seed=2, dtype=torch.float64)


def test_cka_of_a_rotated_scaled_and_shifted_space_is_one():
    assert debiased_cka(X, 3 * X @ rotation(6) + 7) == pytest.approx(1, abs=1e-9)


def test_cka_of_independent_spaces_is_about_zero_however_wide_they_are():
    found = [debiased_cka(randn(40, 400, seed=n), randn(40, 400, seed=100 + n)) for n in range(20)]
    assert abs(np.mean(found)) < 0.03
    assert max(map(abs, found)) < 0.15


def test_cka_is_the_unbiased_hsic_written_out():
    """Song et al. 2012, equation 5, term by term."""
    kernels = []
    for rows in (X[:30], (X + NOISE)[:30]):
        centred = (rows - rows.mean(0)).numpy()
        kernels.append(centred @ centred.T)
    for kernel in kernels:
        np.fill_diagonal(kernel, 0)

    def hsic(k, l):  # noqa: E741
        n, one = len(k), np.ones(len(k))
        middle = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        return (np.trace(k @ l) + middle - 2 / (n - 2) * one @ k @ l @ one) / (n * (n - 3))

    k, l = kernels  # noqa: E741
    assert debiased_cka(X[:30], (X + NOISE)[:30]) == pytest.approx(hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l)))
    inner = float((u_centred(X[:30]) * u_centred((X + NOISE)[:30])).sum())
    assert inner / (30 * 27) == pytest.approx(hsic(k, l))


def test_neighbours_are_those_of_a_loop():
    rows = (X - X.mean(0)).numpy()
    for place, row in enumerate(rows):
        cosines = rows @ row / np.linalg.norm(rows, axis=1) / np.linalg.norm(row)
        cosines[place] = -2
        assert set(np.flatnonzero(neighbours(X, 5)[place])) == set(np.argsort(-cosines)[:5])


def test_mutual_neighbours_of_the_same_space_are_all_and_of_independent_ones_chance():
    assert mutual_knn(X, X @ rotation(6), 10) == 1.0
    found = np.mean([mutual_knn(randn(120, 6, seed=n), randn(120, 6, seed=50 + n), 10) for n in range(20)])
    assert chance_knn(120, 10) == pytest.approx(10 / 119)
    assert found == pytest.approx(10 / 119, abs=0.01)


def test_rows_that_do_not_pair_up_are_refused():
    with pytest.raises(ShapeError, match="one row per pair"):
        mutual_knn(X, X[:3], 1)
    with pytest.raises(ShapeError, match="10 nearest neighbours among 10 rows; expected 1 to 9"):
        mutual_knn(X[:10], X[:10], 10)
