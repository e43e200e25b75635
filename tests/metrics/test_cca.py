"""Canonical correlations against their definition, in float64."""

from __future__ import annotations

import numpy as np
import torch

from lightcrl.metrics.cca import Moments, canonical_variates
from samples import randn


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
