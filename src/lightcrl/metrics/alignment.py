"""Alignment of two spaces: pure functions of paired rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightcrl.errors import ShapeError
from lightcrl.metrics.cca import check_pairs


def neighbours(rows: Tensor, k: int) -> Tensor:
    """Return a mask [N, N] of the `k` nearest other rows of each row, by cosine of the centred rows.

    Raises:
        ShapeError: there are no more than `k` rows.
    """
    if not 0 < k < len(rows):
        raise ShapeError(f"{k} nearest neighbours among {len(rows)} rows; expected 1 to {len(rows) - 1}.")
    unit = normalize(rows - rows.mean(0), dim=-1)
    near = (unit @ unit.T).fill_diagonal_(-torch.inf).topk(k).indices
    return torch.zeros(len(rows), len(rows), dtype=torch.bool).scatter_(
        1, near, torch.ones_like(near, dtype=torch.bool)
    )


def mutual_knn(x: Tensor, y: Tensor, k: int) -> float:
    """Return the mean share of each row's `k` nearest other rows that are the same in both spaces.

    This is the mean over rows of |N_x(i) & N_y(i)| / k (Huh et al. 2024, "The Platonic Representation Hypothesis"): 1
    for spaces that agree, `chance_knn` in expectation for independent spaces.

    >>> mutual_knn(torch.tensor([[0.0], [1], [5], [6]]), torch.tensor([[0.0], [3], [40], [41]]), k=1)
    1.0

    Raises:
        ShapeError: the numbers of rows differ, or are no more than `k`.
    """
    check_pairs(x, y)
    return float((neighbours(x, k) & neighbours(y, k)).sum()) / (k * len(x))


def chance_knn(count: int, k: int) -> float:
    """Return the expected `mutual_knn` of independent spaces of `count` rows: k / (count - 1)."""
    return k / (count - 1)


def u_centred(rows: Tensor) -> Tensor:
    """Return the U-centred linear kernel of the rows, [N, N] float64.

    The inner product of two such kernels is N (N - 3) times the unbiased HSIC (Song et al. 2012; Szekely and Rizzo
    2014, definition 2).

    Raises:
        ShapeError: there are fewer than four rows.
    """
    check_pairs(rows, rows, least=4)
    count = len(rows)
    centred = rows.double() - rows.double().mean(0)
    kernel = (centred @ centred.T).fill_diagonal_(0)
    sums = kernel.sum(0)
    kernel = kernel - (sums[:, None] + sums) / (count - 2) + sums.sum() / ((count - 1) * (count - 2))
    return kernel.fill_diagonal_(0)


def debiased_cka(x: Tensor, y: Tensor) -> float:
    """Return the linear centred kernel alignment with the unbiased HSIC: 1 for a rotation, about 0 for independence.

    HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) (Kornblith et al. 2019). Without the correction, any spaces with more
    dimensions than rows would appear aligned.

    Raises:
        ShapeError: the numbers of rows differ, or are less than four.
    """
    check_pairs(x, y, least=4)
    left, right = u_centred(x), u_centred(y)
    scale = float(left.norm() * right.norm())
    return float((left * right).sum()) / scale if scale > 0 else 0.0
