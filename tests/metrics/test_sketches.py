"""Inner products of sketches are upper bounds of those of the vectors, tight where vectors lie near few directions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightcrl.metrics.sketches import fit_basis, sketch, sketch_width
from samples import randn, units


def near_directions(count: int, dim: int, noise: float, seed: int = 0) -> Tensor:
    """Unit vectors [count, dim] near a space of 12 directions."""
    inside = randn(count, 12, seed=seed, dtype=torch.float64) @ randn(12, dim, seed=100, dtype=torch.float64)
    outside = randn(count, dim, seed=seed + 1, dtype=torch.float64)
    return normalize(normalize(inside, dim=1) + noise * normalize(outside, dim=1), dim=1)


@pytest.mark.parametrize(("dim", "width"), [(255, 0), (256, 64), (384, 96), (500, 112), (512, 128), (768, 128)])
def test_sketches_are_a_quarter_as_wide_and_a_multiple_of_sixteen(dim, width):
    assert sketch_width(dim) == width


@pytest.mark.parametrize("noise", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_products_of_sketches_are_upper_bounds(noise, dtype):
    vectors = near_directions(400, 256, noise).to(dtype)
    queries = torch.cat([near_directions(50, 256, noise, seed=7), units(50, 256), vectors[:5].double()])
    basis = fit_basis(vectors[::3])
    assert basis.shape == (256, 63)
    bounds = sketch(queries, basis) @ sketch(vectors, basis).T
    exact = queries @ vectors.double().T
    assert (bounds >= exact - 1e-12).all()
    # Cauchy and Schwarz: off by at most twice the product of what the basis leaves.
    outside = sketch(queries, basis)[:, -1:] * sketch(vectors, basis)[:, -1]
    assert (bounds - exact <= 2 * outside + 1e-12).all()
    if noise == 0.0:
        assert (bounds - exact)[:50].abs().max() < 1e-5


def test_a_vector_and_its_sketch_have_the_same_length():
    vectors = 0.9 * near_directions(50, 256, 1.0).float()
    lengths = sketch(vectors, fit_basis(vectors)).norm(dim=1)
    assert torch.allclose(lengths, vectors.double().norm(dim=1), atol=1e-12)


def test_no_basis_makes_a_vector_longer():
    """Otherwise the bound would not hold where all of a vector lies in the basis."""
    for vectors in (units(300, 256), near_directions(300, 512, 0.1), torch.eye(256)):
        assert torch.linalg.matrix_norm(fit_basis(vectors).double(), 2) < 1


def test_blocks_change_nothing(monkeypatch):
    vectors = units(30, 256)
    basis = fit_basis(vectors)
    whole = sketch(vectors, basis)
    monkeypatch.setattr("lightcrl.metrics.sketches.BLOCK", 7)
    assert torch.allclose(sketch(vectors, basis), whole, atol=1e-13)
    assert sketch(vectors[:0], basis).shape == (0, 64)
