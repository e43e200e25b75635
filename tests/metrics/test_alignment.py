"""Likeness of spaces and CCA, against float64 references, invariances and known answers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightcrl.errors import ShapeError
from lightcrl.metrics.alignment import (
    chance_knn,
    debiased_cka,
    held_out_correlations,
    mutual_knn,
    neighbours,
    regularised_cca,
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


def test_cca_finds_what_was_planted_and_no_more():
    shared = randn(4000, 2, seed=3, dtype=torch.float64)
    left = torch.cat(
        [shared[:, :1], shared[:, 1:] + randn(4000, 1, seed=4, dtype=torch.float64), X.new_zeros(4000, 0)], 1
    )
    left = torch.cat([left, randn(4000, 2, seed=6, dtype=torch.float64)], 1) @ rotation(4)
    right = torch.cat([shared, randn(4000, 3, seed=7, dtype=torch.float64)], 1) @ rotation(5, seed=8)
    cca = regularised_cca(left, right, 0)
    assert cca.correlations[:2].tolist() == pytest.approx([1, 0.5**0.5], abs=0.02)
    assert cca.correlations[2:].max() < 0.06
    variates = cca.variates(0, left), cca.variates(1, right)
    for side in variates:
        assert torch.allclose(side.T @ side / 4000, torch.eye(4, dtype=side.dtype), atol=1e-8)
    assert torch.allclose(variates[0].T @ variates[1] / 4000, torch.diag(cca.correlations), atol=1e-8)


@pytest.mark.parametrize("ridge", [0.01, 1.0])
def test_cca_is_the_svd_of_the_ridged_whitened_covariance(ridge):
    x, y = X[:, :4], X @ randn(6, 5, seed=9, dtype=torch.float64) + NOISE[:, :5]
    roots = []
    for rows in (x, y):
        centred = (rows - rows.mean(0)).numpy()
        covariance = centred.T @ centred / len(rows)
        values, vectors = np.linalg.eigh(
            covariance + ridge * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        )
        roots.append((centred, vectors @ np.diag(values**-0.5) @ vectors.T))
    (a, left), (b, right) = roots
    expected = np.linalg.svd(left @ (a.T @ b / len(x)) @ right, compute_uv=False)
    assert regularised_cca(x, y, ridge).correlations.tolist() == pytest.approx(expected.tolist())


def test_cca_of_more_features_than_rows_is_that_of_the_span_of_the_rows():
    """Zeros beside the features take the other way through the code; the ridge counts per feature."""
    sides = X[:50], (X + NOISE)[:50]
    wide = [torch.cat([rows, rows.new_zeros(50, 54)], 1) @ rotation(60) for rows in sides]
    narrow, other = regularised_cca(*sides, 0.3), regularised_cca(*wide, 3.0)
    assert other.correlations[:6].tolist() == pytest.approx(narrow.correlations.tolist())
    scores = [
        (cca.variates(0, rows[0]) * cca.correlations) @ cca.variates(1, rows[1]).T
        for cca, rows in ((narrow, sides), (other, wide))
    ]
    assert torch.allclose(*scores, atol=1e-8)


def test_held_out_correlations_are_high_for_what_is_there_and_low_for_what_was_only_fitted():
    shared, noise = randn(400, 1, seed=3), randn(400, 80, seed=4)
    x, y = torch.cat([shared, noise[:, :40]], 1), torch.cat([shared, noise[:, 40:]], 1)
    cca = regularised_cca(x[:200], y[:200], 0)
    found = held_out_correlations(cca, x[200:], y[200:])
    assert found[0] > 0.9
    assert cca.correlations[1:6].mean() > 0.5
    assert found[1:].abs().mean() < 0.15


def test_rows_that_do_not_pair_up_are_refused():
    with pytest.raises(ShapeError, match="one row per pair"):
        regularised_cca(X, X[:3], 1)
    with pytest.raises(ShapeError, match="10 nearest neighbours among 10 rows; expected 1 to 9"):
        mutual_knn(X[:10], X[:10], 10)
