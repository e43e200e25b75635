"""Canonical correlations of two or more sets of features from their covariances: pure functions in float64."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# Directions with less than this share of the largest variance are noise of rounding.
RANK_TOLERANCE = 1e-10


class Moments:
    """Means and covariance of pairs of vectors, summed up batch by batch."""

    def __init__(self, left: int, right: int) -> None:
        """Of vectors of `left` and `right` features."""
        self.count = 0
        self._left = torch.zeros(left, dtype=torch.float64)
        self._right = torch.zeros(right, dtype=torch.float64)
        self._product = torch.zeros(left, right, dtype=torch.float64)

    def add(self, left: Tensor, right: Tensor) -> None:
        """Take in pairs [N, L] and [N, R]."""
        left, right = left.double(), right.double()
        self.count += len(left)
        self._left = self._left.to(left.device) + left.sum(0)
        self._right = self._right.to(left.device) + right.sum(0)
        self._product = self._product.to(left.device) + left.T @ right

    @property
    def mean(self) -> Tensor:
        """[L], the mean of the left."""
        return self._left / max(1, self.count)

    @property
    def covariance(self) -> Tensor:
        """[L, R]; zeros where there were no pairs."""
        count = max(1, self.count)
        return self._product / count - torch.outer(self._left, self._right) / count**2


def canonical_variates(
    own: Mapping[str, Tensor], cross: Mapping[tuple[str, str], Tensor], dim: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Maps A_m whose variates correlate most, and how much they do.

        sum_{b != a} C_ab A_b = (M - 1) rho C_aa A_a

    for M sets: SUMCOR in the terms of Kettenring (Biometrika 1971), and canonical correlation analysis for two.

    Args:
        own: by name, the covariance C_aa [F_a, F_a] of a set, its regularisation included.
        cross: by pair of names, once for each pair, the covariance C_ab [F_a, F_b].
        dim: variates wanted.

    Returns:
        Correlations rho [k], descending, k at most `dim`, and by name the maps [F_m, k]. Variates have variance 1 for
        two sets, and on average over the sets for more.
    """
    names = list(own)
    roots = {name: _inverse_root(covariance) for name, covariance in own.items()}

    def block(a: str, b: str) -> Tensor:
        if (b, a) in cross:
            return block(b, a).T
        zeros = own[a].new_zeros(roots[a].shape[1], roots[b].shape[1])
        return roots[a].T @ cross[a, b] @ roots[b] if (a, b) in cross else zeros

    matrix = torch.cat([torch.cat([block(a, b) for b in names], 1) for a in names])
    values, vectors = torch.linalg.eigh(matrix)
    parts = (vectors.flip(1)[:, :dim] * len(names) ** 0.5).split([roots[name].shape[1] for name in names])
    maps = {name: roots[name] @ part for name, part in zip(names, parts, strict=True)}
    return values.flip(0)[:dim] / max(1, len(names) - 1), maps


def _inverse_root(covariance: Tensor) -> Tensor:
    """W [F, r] with W^T C W = 1 on the r directions that vary at all."""
    values, vectors = torch.linalg.eigh(covariance)
    real = values > RANK_TOLERANCE * values.max().clamp(min=1e-300)
    return vectors[:, real] / values[real].sqrt()
