"""Canonical correlations of several sets by their covariances, and of two sets by their rows: pure functions.

All functions whiten every set and decompose the whitened cross-covariances:

| | whitening | decomposition |
|---|---|---|
| `canonical_variates` of three and more | eigenvectors with nonzero variance | `eigh`, [sum F, sum F] |
| of these with few rows | Cholesky, or as above where that is singular | `eigh`, [sum N, sum N] |
| of two | Cholesky, or as above where that is singular | `svd`, [F, F], a fifth of the time |
| `regularised_cca` of two | Cholesky, or the span of fewer rows than features | `svd`, [F, F] |

For two sets they agree to 1e-10 in float64, up to the signs of the variates. Methods are solved by the first, whose
bits for three sets and more must not change, unless their rows are few.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from lightcrl.errors import ShapeError

# Directions with less than this share of the largest variance are rounding errors.
RANK_TOLERANCE = 1e-10


class Moments:
    """Means and covariance of pairs of vectors, accumulated batch by batch."""

    def __init__(self, left: int, right: int) -> None:
        """Start with no pairs of vectors of `left` and `right` features."""
        self.count = 0
        self._left = torch.zeros(left, dtype=torch.float64)
        self._right = torch.zeros(right, dtype=torch.float64)
        self._product = torch.zeros(left, right, dtype=torch.float64)

    def add(self, left: Tensor, right: Tensor) -> None:
        """Accumulate pairs [N, L] and [N, R]."""
        left, right = left.double(), right.double()
        self.count += len(left)
        self._left = self._left.to(left.device) + left.sum(0)
        self._right = self._right.to(left.device) + right.sum(0)
        self._product = self._product.to(left.device) + left.T @ right

    @property
    def mean(self) -> Tensor:
        """The mean of the left vectors, [L]."""
        return self._left / max(1, self.count)

    @property
    def right_mean(self) -> Tensor:
        """The mean of the right vectors, [R]."""
        return self._right / max(1, self.count)

    @property
    def covariance(self) -> Tensor:
        """The covariance [L, R]; zeros without pairs."""
        count = max(1, self.count)
        return self._product / count - torch.outer(self._left, self._right) / count**2


def canonical_variates(
    own: Mapping[str, Tensor],
    cross: Mapping[tuple[str, str], Tensor],
    dim: int,
    rows: Mapping[str, int] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the maps A_m with the most correlated variates, and their correlations.

        sum_{b != a} C_ab A_b = (M - 1) rho C_aa A_a

    for M sets: SUMCOR in the terminology of Kettenring (Biometrika 1971), and canonical correlation analysis for two.

    Args:
        own: covariance C_aa [F_a, F_a] of a set, including its regularisation, by name.
        cross: covariance C_ab [F_a, F_b] by pair of names, once for each pair.
        dim: number of variates.
        rows: number of rows by name, which bounds the ranks of the cross-covariances; unknown by default.

    Returns:
        Correlations rho [k], descending, k at most `dim`, and maps [F_m, k] by name. Variates have variance 1 for
        two sets, and on average over the sets for more.
    """
    names = list(own)
    if len(names) == 2 and cross:
        return _two_sets(own, cross, dim)
    ranks = [min(len(own[name]), rows[name], sum(rows.values()) - rows[name]) for name in names] if rows else []
    # Above a third it would still pay, but `recipes/world.toml` would no longer have the bits that it had.
    few = bool(rows) and 3 * sum(ranks) < sum(map(len, own.values()))
    roots = {name: (_triangular_root if few else _inverse_root)(covariance) for name, covariance in own.items()}

    def block(a: str, b: str) -> Tensor:
        if (b, a) in cross:
            return block(b, a).T
        zeros = own[a].new_zeros(roots[a].shape[1], roots[b].shape[1])
        return roots[a].T @ cross[a, b] @ roots[b] if (a, b) in cross else zeros

    def whitened() -> Tensor:
        return torch.cat([torch.cat([block(a, b) for b in names], 1) for a in names])

    matrix = whitened()
    if few:
        sides = torch.split(matrix, [root.shape[1] for root in roots.values()])
        spans = map(_span, sides, ranks)
        roots = {name: root @ span for (name, root), span in zip(roots.items(), spans, strict=True)}
        matrix = whitened()
    values, vectors = torch.linalg.eigh(matrix)
    parts = (vectors.flip(1)[:, :dim] * len(names) ** 0.5).split([roots[name].shape[1] for name in names])
    maps = {name: roots[name] @ part for name, part in zip(names, parts, strict=True)}
    return values.flip(0)[:dim] / max(1, len(names) - 1), maps


def _two_sets(
    own: Mapping[str, Tensor], cross: Mapping[tuple[str, str], Tensor], dim: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return `canonical_variates` of two sets: the singular values and vectors of their whitened cross-covariance."""
    ((names, covariance),) = cross.items()
    roots = [_triangular_root(own[name]) for name in names]
    left, correlations, right = torch.linalg.svd(roots[0].T @ covariance @ roots[1], full_matrices=False)
    sides = (left[:, :dim], right.mT[:, :dim])
    return correlations[:dim], {name: root @ side for name, root, side in zip(names, roots, sides, strict=True)}


def _span(matrix: Tensor, rank: int) -> Tensor:
    """Return an orthonormal basis [F, k] of the columns of a matrix [F, N] of at most this rank, from random ones."""
    draws = torch.randn(matrix.shape[1], rank + 8, generator=torch.Generator().manual_seed(0), dtype=matrix.dtype)
    return torch.linalg.qr(matrix @ draws.to(matrix.device))[0]


def _triangular_root(covariance: Tensor) -> Tensor:
    """Return `_inverse_root` up to a rotation, in a third of the time where no direction of it is left out."""
    variances = covariance.diagonal()
    varies = variances > 0.01 * RANK_TOLERANCE * variances.max()
    factor, failed = torch.linalg.cholesky_ex(covariance[varies][:, varies])
    inverse = torch.linalg.solve_triangular(factor.T, torch.eye(len(factor)).to(factor), upper=True)
    # The least eigenvalue is at least 1 / |inverse|^2, the greatest at most |covariance|.
    if failed or RANK_TOLERANCE * covariance.norm() * inverse.square().sum() > 1:
        return _inverse_root(covariance)
    root = covariance.new_zeros(len(covariance), len(factor))
    root[varies] = inverse
    return root


def _inverse_root(covariance: Tensor) -> Tensor:
    """Return W [F, r] with W^T C W = 1 on the r directions with nonzero variance."""
    values, vectors = torch.linalg.eigh(covariance)
    real = values > RANK_TOLERANCE * values.max().clamp(min=1e-300)
    return vectors[:, real] / values[real].sqrt()


@dataclass(frozen=True)
class CCA:
    """Two maps into one space of canonical variates.

    Attributes:
        means: means of the fitted rows, [D_x] and [D_y].
        maps: maps to the canonical variates, [D_x, d] and [D_y, d].
        correlations: canonical correlations on those rows, [d], greatest first; at most 1, and lower with more ridge.
    """

    means: tuple[Tensor, Tensor]
    maps: tuple[Tensor, Tensor]
    correlations: Tensor

    def variates(self, side: int, rows: Tensor) -> Tensor:
        """Return canonical variates [N, d] of rows [N, D] of the left (0) or right (1) space."""
        return (rows - self.means[side]) @ self.maps[side]


def regularised_cca(x: Tensor, y: Tensor, ridge: float, dim: int | None = None) -> CCA:
    """Return the canonical correlation analysis of paired rows with ridge, by the SVD of the whitened cross-covariance.

    `(Cxx + r tr(Cxx)/D_x I)^-1/2 Cxy (Cyy + ...)^-1/2 = U diag(rho) V'`. The ridge r is in units of the mean variance
    of a feature, so scaling a side has no effect. Spaces with more dimensions than rows are first reduced to the span
    of the rows, which has no effect either and takes N^3, not D^3.

    Args:
        x: rows [N, D_x].
        y: rows [N, D_y], each the partner of the row of `x` at the same place.
        ridge: r, above 0 if a side has more features than rows.
        dim: d, at most min(D_x, D_y, N), which is the default.

    Raises:
        ShapeError: the numbers of rows differ, or are less than two.
    """
    check_pairs(x, y)
    sides = [_whiten(rows - rows.mean(0), ridge) for rows in (x, y)]
    (left, left_map), (right, right_map) = sides
    u, correlations, v = torch.linalg.svd(left.T @ right / len(x), full_matrices=False)
    kept = slice(dim)
    maps = (left_map @ u[:, kept], right_map @ v.mT[:, kept])
    return CCA((x.mean(0), y.mean(0)), maps, correlations[kept].clamp(max=1))


def _whiten(rows: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Return centred rows [N, D] with (ridged) unit covariance, [N, r], and the map [D, r] to them."""
    count, width = rows.shape
    if width > count:
        values, vectors = torch.linalg.eigh(rows @ rows.T / count)
        # Centred rows span at most N - 1 dimensions; the rest is rounding.
        kept = values > values[-1:].clamp(min=0) * 1e-7 if len(values) else values > 0
        spread = values[kept].sqrt()
        scores = vectors[:, kept] * spread * count**0.5
        basis = rows.T @ (vectors[:, kept] / (spread * count**0.5))
        shrink = (values[kept] + ridge * values.clamp(min=0).sum() / width).rsqrt()
        return scores * shrink, basis * shrink
    covariance = rows.T @ rows / count
    covariance.diagonal().add_(ridge * covariance.diagonal().mean() + torch.finfo(rows.dtype).tiny)
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if failed:
        # Duplicated features: rounding must not decide.
        covariance.diagonal().add_(1e-6 * covariance.diagonal().mean())
        factor = torch.linalg.cholesky(covariance)
    inverse = torch.linalg.solve_triangular(factor, torch.eye(width, dtype=rows.dtype), upper=False).T
    return rows @ inverse, inverse


def held_out_correlations(cca: CCA, x: Tensor, y: Tensor) -> Tensor:
    """Return the correlations [d] of the canonical variates on held-out rows: about 0 if `cca` is overfitted."""
    check_pairs(x, y)
    left, right = (variates - variates.mean(0) for variates in (cca.variates(0, x), cca.variates(1, y)))
    scale = (left.square().sum(0) * right.square().sum(0)).sqrt()
    return (left * right).sum(0) / scale.clamp(min=torch.finfo(x.dtype).tiny)


def check_pairs(x: Tensor, y: Tensor, least: int = 2) -> None:
    """Check that two matrices have one row per pair.

    Raises:
        ShapeError: they are not matrices, or the numbers of rows differ or are less than `least`.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < least:
        raise ShapeError(
            f"rows of shape {list(x.shape)} and {list(y.shape)}; expected two matrices with one row per pair, at least "
            f"{least}."
        )
