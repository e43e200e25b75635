"""Canonical correlations against their definition, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightcrl.errors import ShapeError
from lightcrl.metrics.cca import Moments, canonical_variates, held_out_correlations, regularised_cca
from samples import randn

X = randn(120, 6, seed=1, dtype=torch.float64)
NOISE = randn(120, 6, seed=2, dtype=torch.float64)


def rotation(dim: int, seed: int = 5) -> torch.Tensor:
    return torch.linalg.qr(randn(dim, dim, seed=seed, dtype=torch.float64))[0]


def sets(count: int = 400, widths: tuple[int, ...] = (5, 7, 4), seed: int = 0) -> dict[str, torch.Tensor]:
    """Features [count, F] by name that have three things in common."""
    thing = randn(count, 3, seed=seed, dtype=torch.float64)
    return {
        "abc"[n]: thing @ randn(3, width, seed=n + 1, dtype=torch.float64)
        + 0.7 * randn(count, width, seed=n + 9, dtype=torch.float64)
        for n, width in enumerate(widths)
    }


def covariances(features, ridge=0.0):
    centred = {name: values - values.mean(0) for name, values in features.items()}
    count = len(next(iter(centred.values())))
    own = {n: v.T @ v / count + ridge * torch.eye(v.shape[1], dtype=v.dtype) for n, v in centred.items()}
    names = sorted(centred)
    cross = {(a, b): centred[a].T @ centred[b] / count for i, a in enumerate(names) for b in names[i + 1 :]}
    return own, cross


def test_moments_are_numpys_covariance_however_they_come():
    left, right = randn(50, 3, seed=1), randn(50, 2, seed=2)
    moments = Moments(3, 2)
    for start, stop in ((0, 7), (7, 8), (8, 50)):
        moments.add(left[start:stop], right[start:stop])
    both = np.cov(left.double().numpy().T, right.double().numpy().T, bias=True)
    np.testing.assert_allclose(moments.covariance, both[:3, 3:], atol=1e-12)
    np.testing.assert_allclose(moments.mean, left.double().numpy().mean(0), atol=1e-12)
    assert Moments(2, 2).covariance.tolist() == [[0, 0], [0, 0]]


def test_two_sets_are_canonical_correlation_analysis():
    """The singular values of the product of orthonormal bases are the correlations (Bjoerck and Golub, 1973)."""
    features = sets(widths=(5, 7))
    correlations, maps = canonical_variates(*covariances(features), dim=5)
    bases = [np.linalg.qr((values - values.mean(0)).numpy())[0] for values in features.values()]
    np.testing.assert_allclose(correlations, np.linalg.svd(bases[0].T @ bases[1])[1], atol=1e-10)
    variates = {name: (features[name] - features[name].mean(0)) @ maps[name] for name in features}
    wanted = torch.eye(5, dtype=torch.float64)
    for name in features:
        torch.testing.assert_close(variates[name].T @ variates[name] / 400, wanted, atol=1e-9, rtol=0)
    torch.testing.assert_close(variates["a"].T @ variates["b"] / 400, correlations.diag(), atol=1e-9, rtol=0)


def test_three_sets_solve_the_generalised_eigenproblem():
    features = sets()
    own, cross = covariances(features, ridge=0.1)
    correlations, maps = canonical_variates(own, cross, dim=4)
    for a in features:
        others = sum((cross[a, b] if (a, b) in cross else cross[b, a].T) @ maps[b] for b in features if b != a)
        torch.testing.assert_close(others, 2 * own[a] @ maps[a] * correlations, atol=1e-9, rtol=0)
    assert (correlations.diff() <= 0).all()
    variances = torch.stack([(maps[name].T @ own[name] @ maps[name]).diagonal() for name in features])
    torch.testing.assert_close(variances.mean(0), torch.ones(4, dtype=torch.float64), atol=1e-9, rtol=0)


def test_a_direction_that_does_not_vary_is_left_out():
    features = sets(widths=(5, 7))
    features["a"] = torch.cat([features["a"], features["a"][:, :2], torch.ones(400, 1, dtype=torch.float64)], 1)
    correlations, maps = canonical_variates(*covariances(features), dim=5)
    plain, _ = canonical_variates(*covariances(sets(widths=(5, 7))), dim=5)
    torch.testing.assert_close(correlations, plain, atol=1e-8, rtol=0)
    assert all(found.isfinite().all() for found in maps.values())


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("third", [False, True])
def test_few_rows_give_the_eigenproblem_of_all_features_in_less_time(third, constant):
    """Two sets are also compared: with a third of no covariance to them, which halves their correlations."""
    features = sets(count=9, widths=(50, 40, 30) if third else (50, 40))
    if constant:
        features["a"][:, 7] = 0.1
    own, cross = covariances(features)
    own = {name: c + c.diagonal().diag() * 40 / 9 for name, c in own.items()}
    correlations, maps = canonical_variates(own, cross, dim=6, rows=dict.fromkeys(own, 9))
    alone = {} if third else {"c": torch.eye(1, dtype=torch.float64)}
    wanted, others = canonical_variates(own | alone, cross, dim=6)
    torch.testing.assert_close(correlations, wanted * (1 if third else 2), atol=1e-10, rtol=0)
    for name, found in maps.items():
        signs = (found * others[name]).sum(0).sign()
        torch.testing.assert_close(found * signs * (1 if third else 1.5**0.5), others[name], atol=1e-9, rtol=0)
    assert not constant or maps["a"][7].abs().max() < 1e-7


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


@pytest.mark.parametrize("ridge", [0.0, 0.05, 1.0])
def test_the_two_ways_to_two_sets_agree(ridge):
    features = sets(widths=(5, 7))
    by_rows = regularised_cca(features["a"], features["b"], ridge)
    own, cross = covariances(features)
    own = {name: c + ridge * c.diagonal().mean() * torch.eye(len(c), dtype=c.dtype) for name, c in own.items()}
    correlations, maps = canonical_variates(own, cross, dim=5)
    torch.testing.assert_close(by_rows.correlations, correlations, atol=1e-10, rtol=0)
    for found, wanted in zip(by_rows.maps, maps.values(), strict=True):
        signs = (found * wanted).sum(0).sign()
        torch.testing.assert_close(found * signs, wanted, atol=1e-10, rtol=1e-10)


def test_rows_of_unequal_number_are_refused():
    with pytest.raises(ShapeError, match="one row per pair"):
        regularised_cca(X, X[:3], 1)
