"""How alike two spaces are, and the best linear map between them in closed form: pure functions of paired rows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightcrl.errors import ShapeError


@dataclass(frozen=True)
class CCA:
    """Two maps into one space of canonical variates.

    Attributes:
        means: of the rows that it was fitted on, [D_x] and [D_y].
        maps: to the canonical variates, [D_x, d] and [D_y, d].
        correlations: [d] canonical correlations on those rows, greatest first; at most 1, and lower with more ridge.
    """

    means: tuple[Tensor, Tensor]
    maps: tuple[Tensor, Tensor]
    correlations: Tensor

    def variates(self, side: int, rows: Tensor) -> Tensor:
        """Canonical variates [N, d] of rows [N, D] of the left (0) or right (1) space."""
        return (rows - self.means[side]) @ self.maps[side]


def regularised_cca(x: Tensor, y: Tensor, ridge: float, dim: int | None = None) -> CCA:
    """Canonical correlation analysis of paired rows with ridge, by the SVD of the whitened cross-covariance.

    `(Cxx + r tr(Cxx)/D_x I)^-1/2 Cxy (Cyy + ...)^-1/2 = U diag(rho) V'`. The ridge r counts in units of the mean
    variance of a feature, so that scaling a side changes nothing. Spaces wider than there are rows are first turned
    into the span of the rows, which changes nothing either and takes N^3, not D^3.

    Args:
        x: rows [N, D_x].
        y: rows [N, D_y], each the partner of the row of `x` in its place.
        ridge: r, above 0 where a side has more features than rows.
        dim: d, at most min(D_x, D_y, N), which is the default.

    Raises:
        ShapeError: the sides have unequal numbers of rows, or fewer than two.
    """
    _check_pairs(x, y)
    sides = [_whiten(rows - rows.mean(0), ridge) for rows in (x, y)]
    (left, left_map), (right, right_map) = sides
    u, correlations, v = torch.linalg.svd(left.T @ right / len(x), full_matrices=False)
    kept = slice(dim)
    maps = (left_map @ u[:, kept], right_map @ v.mT[:, kept])
    return CCA((x.mean(0), y.mean(0)), maps, correlations[kept].clamp(max=1))


def _whiten(rows: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Centred rows [N, D] with (ridged) unit covariance [N, r], and the map [D, r] that makes them so."""
    count, width = rows.shape
    if width > count:
        values, vectors = torch.linalg.eigh(rows @ rows.T / count)
        # Centred rows span at most N - 1 dimensions; what is left is rounding.
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
        # Features that repeat each other: let rounding not decide.
        covariance.diagonal().add_(1e-6 * covariance.diagonal().mean())
        factor = torch.linalg.cholesky(covariance)
    inverse = torch.linalg.solve_triangular(factor, torch.eye(width, dtype=rows.dtype), upper=False).T
    return rows @ inverse, inverse


def held_out_correlations(cca: CCA, x: Tensor, y: Tensor) -> Tensor:
    """[d] correlations of the canonical variates on rows that `cca` was not fitted on: about 0 where it overfitted."""
    _check_pairs(x, y)
    left, right = (variates - variates.mean(0) for variates in (cca.variates(0, x), cca.variates(1, y)))
    scale = (left.square().sum(0) * right.square().sum(0)).sqrt()
    return (left * right).sum(0) / scale.clamp(min=torch.finfo(x.dtype).tiny)


def neighbours(rows: Tensor, k: int) -> Tensor:
    """[N, N] bool: which other rows are among a row's `k` nearest, by cosine of the centred rows.

    Raises:
        ShapeError: no more than `k` rows.
    """
    if not 0 < k < len(rows):
        raise ShapeError(f"{k} nearest neighbours among {len(rows)} rows; expected 1 to {len(rows) - 1}.")
    unit = normalize(rows - rows.mean(0), dim=-1)
    near = (unit @ unit.T).fill_diagonal_(-torch.inf).topk(k).indices
    return torch.zeros(len(rows), len(rows), dtype=torch.bool).scatter_(
        1, near, torch.ones_like(near, dtype=torch.bool)
    )


def mutual_knn(x: Tensor, y: Tensor, k: int) -> float:
    """Share of each row's `k` nearest other rows that are the same in both spaces.

    The mean over rows of |N_x(i) & N_y(i)| / k (Huh et al. 2024, "The Platonic Representation Hypothesis"). 1 for
    spaces that agree, `chance_knn` in expectation for independent ones.

    >>> mutual_knn(torch.tensor([[0.0], [1], [5], [6]]), torch.tensor([[0.0], [3], [40], [41]]), k=1)
    1.0

    Raises:
        ShapeError: unequal numbers of rows, or no more than `k`.
    """
    _check_pairs(x, y)
    return float((neighbours(x, k) & neighbours(y, k)).sum()) / (k * len(x))


def chance_knn(count: int, k: int) -> float:
    """What `mutual_knn` gives independent spaces of `count` rows in expectation: k / (count - 1)."""
    return k / (count - 1)


def u_centred(rows: Tensor) -> Tensor:
    """[N, N] float64: the linear kernel of the rows, U-centred, so that the inner product of two of these is N (N - 3)
    times the unbiased HSIC (Song et al. 2012; Szekely and Rizzo 2014, definition 2).

    Raises:
        ShapeError: fewer than four rows.
    """
    _check_pairs(rows, rows, least=4)
    count = len(rows)
    centred = rows.double() - rows.double().mean(0)
    kernel = (centred @ centred.T).fill_diagonal_(0)
    sums = kernel.sum(0)
    kernel = kernel - (sums[:, None] + sums) / (count - 2) + sums.sum() / ((count - 1) * (count - 2))
    return kernel.fill_diagonal_(0)


def debiased_cka(x: Tensor, y: Tensor) -> float:
    """Linear centred kernel alignment with the unbiased HSIC: 1 for a rotation, about 0 for independent rows.

    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) (Kornblith et al. 2019). Without the correction, spaces wider than there
    are rows would look alike whatever they hold.

    Raises:
        ShapeError: unequal numbers of rows, or fewer than four.
    """
    _check_pairs(x, y, least=4)
    left, right = u_centred(x), u_centred(y)
    scale = float(left.norm() * right.norm())
    return float((left * right).sum()) / scale if scale > 0 else 0.0


def _check_pairs(x: Tensor, y: Tensor, least: int = 2) -> None:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < least:
        raise ShapeError(
            f"rows of shape {list(x.shape)} and {list(y.shape)}; expected two matrices with one row per pair, at least "
            f"{least}."
        )
