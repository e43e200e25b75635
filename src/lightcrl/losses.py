"""Contrastive losses: pure functions of two sets of embeddings and their groups.

Neither loss holds the matrix of all pairs. A piece of its rows is computed, reduced and discarded, and computed again
in the backward pass, at the cost of one more product. Memory is linear in the batch; a matrix of a single piece is
kept.

All items of a group are positives of each other. A row without a positive on the other side is not an anchor, but
remains a negative of others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

from lightcrl.errors import TrainingError
from lightcrl.registry import Table

NO_POSITIVE = "no item has a positive on the other side; expected at least one group with both."


class Loss(Protocol):
    """The signature of every member of `LOSSES`."""

    def __call__(
        self, left: Tensor, right: Tensor, left_groups: Tensor, right_groups: Tensor, scale: Tensor, bias: Tensor
    ) -> Tensor:
        """Return a scalar from unit vectors [N, d] and [M, d], group numbers [N] and [M], logit scale and bias."""
        ...


def info_nce(
    left: Tensor,
    right: Tensor,
    left_groups: Tensor,
    right_groups: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    label_smoothing: float = 0.0,
    left_share: float = 0.5,
) -> Tensor:
    """InfoNCE in both directions, with all items of a group as positives.

        l_i = -1/|P_i| sum_{j in P_i} log softmax_j(s <left_i, right_j>),  P_i = {j: same group as i}

    averaged over the anchors of each side, then over both sides, with equal weights by default. With a single item per
    group on each side this is the loss of CLIP (arXiv 2103.00020, figure 3); with several it is the "out" form of
    SupCon (arXiv 2004.11362, equation 2).

    Args:
        left: unit vectors [N, d].
        right: unit vectors [M, d].
        left_groups: group numbers [N].
        right_groups: group numbers [M].
        scale: logit scale s, scalar.
        bias: ignored; InfoNCE does not depend on it.
        label_smoothing: share of each anchor's target that is spread over all items, instead of its positives.
        left_share: weight of the left's anchors (left to right), lambda in equation 4 of ConVIRT (arXiv 2010.00747);
            the anchors on the right have weight 1 - lambda.

    Returns:
        The scalar loss.

    Raises:
        TrainingError: no item of one side has a positive on the other.

    >>> same = torch.eye(2)
    >>> info_nce(same, same, torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor(100.0)).item() < 1e-6
    True
    """
    left_groups, right_groups, _ = _numbered(left_groups, right_groups)
    rows, columns = row_and_column_logsumexp(left, right, scale)
    left_loss = _cross_entropy(rows, left, left_groups, right, right_groups, scale, label_smoothing)
    right_loss = _cross_entropy(columns, right, right_groups, left, left_groups, scale, label_smoothing)
    return left_share * left_loss + (1 - left_share) * right_loss


def sigmoid(
    left: Tensor, right: Tensor, left_groups: Tensor, right_groups: Tensor, scale: Tensor, bias: Tensor
) -> Tensor:
    """Pairwise sigmoid loss of SigLIP (arXiv 2303.15343, section 3.2), group-aware.

        -1/N sum_{i,j} log sigmoid(y_ij (s <left_i, right_j> + b)),  y_ij = +1 in one group, else -1

    N is the number of rows on the left.

    Args:
        left: unit vectors [N, d].
        right: unit vectors [M, d].
        left_groups: group numbers [N].
        right_groups: group numbers [M].
        scale: logit scale s, scalar.
        bias: logit bias b, scalar.

    Returns:
        The scalar loss.

    Raises:
        TrainingError: no item of one side has a positive on the other.
    """
    left_groups, right_groups, size = _numbered(left_groups, right_groups)
    counts = torch.bincount(left_groups, minlength=size) * torch.bincount(right_groups, minlength=size)
    if not counts.any():
        raise TrainingError(NO_POSITIVE)
    # -log sigmoid(z) = log(1 + exp z) - z, and the sum of a group's logits is the logit of its summed vectors.
    positive = scale * (_sums(left, left_groups, size) * _sums(right, right_groups, size)).sum() + bias * counts.sum()
    return (softplus_sum(left, right, scale, bias) - positive) / len(left)


LOSSES: Table[Loss] = Table("loss", {"info_nce": "lightcrl.losses:info_nce", "sigmoid": "lightcrl.losses:sigmoid"})

# Initial logit scale and bias, and the scale's upper bound: CLIP's 1/0.07 and 100; SigLIP's 10 and -10.
LOGIT_SCALE_START = {"info_nce": 1 / 0.07, "sigmoid": 10.0}
LOGIT_BIAS_START = {"sigmoid": -10.0}


def over_pairs(
    loss: Loss,
    embeddings: Mapping[str, Tensor],
    groups: Mapping[str, Tensor],
    scale: Tensor,
    bias: Tensor,
) -> Tensor:
    """Return the mean of `loss` over every pair of modalities with a common group.

    Args:
        loss: a member of `LOSSES`.
        embeddings: unit vectors [N_m, d] by modality; modalities may differ in N_m.
        groups: group numbers [N_m] by modality.
        scale: logit scale, scalar.
        bias: logit bias, scalar.

    Returns:
        The scalar loss.

    Raises:
        TrainingError: no two modalities share a group.
    """
    values = [
        loss(embeddings[a], embeddings[b], groups[a], groups[b], scale, bias)
        for a, b in combinations(sorted(embeddings), 2)
        if torch.isin(groups[a], groups[b]).any()
    ]
    if not values:
        raise TrainingError("no two modalities share a group in this batch; expected groups with two items or more.")
    return torch.stack(values).mean()


def _cross_entropy(
    normaliser: Tensor,
    anchors: Tensor,
    anchor_groups: Tensor,
    others: Tensor,
    other_groups: Tensor,
    scale: Tensor,
    smoothing: float,
) -> Tensor:
    """Return the mean, over anchors with a positive, of the mean negative log-probability of their smoothed targets.

    A mean of logits is the logit of a mean, so the whole matrix enters only through `normaliser`, the log of each
    anchor's sum of exponentials. Groups are numbered from 0.
    """
    size = int(torch.cat([anchor_groups, other_groups]).max()) + 1
    sums = _sums(others, other_groups, size)
    count = torch.bincount(other_groups, minlength=size)[anchor_groups]
    if not count.any():
        raise TrainingError(NO_POSITIVE)
    targets = (1 - smoothing) * sums[anchor_groups] / count.clamp(min=1).unsqueeze(1) + smoothing * others.mean(0)
    per_anchor = normaliser - scale * (anchors * targets).sum(1)
    return per_anchor[count > 0].mean()


def _numbered(left_groups: Tensor, right_groups: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return the group numbers of both sides counted from 0, and the number of groups."""
    distinct, numbers = torch.unique(torch.cat([left_groups, right_groups]), return_inverse=True)
    return numbers[: len(left_groups)], numbers[len(left_groups) :], len(distinct)


def _sums(vectors: Tensor, groups: Tensor, size: int) -> Tensor:
    """Return the sum of each group's vectors, [size, d]."""
    return vectors.new_zeros(size, vectors.shape[1]).index_add(0, groups, vectors)


# Number of logits per piece: 32 MiB in float32.
PIECE = 1 << 23


def row_and_column_logsumexp(left: Tensor, right: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return log sum_j exp(s <left_i, right_j>) for every i, and log sum_i for every j.

    Args:
        left: vectors [N, d].
        right: vectors [M, d].
        scale: s, scalar.

    Returns:
        Tensors [N] and [M].
    """
    sums: tuple[Tensor, Tensor] = _LogSumExp.apply(left, right, scale)  # type: ignore[no-untyped-call]
    return sums


def softplus_sum(left: Tensor, right: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Return sum_ij log(1 + exp(s <left_i, right_j> + b)), a scalar.

    Args:
        left: vectors [N, d].
        right: vectors [M, d].
        scale: s, scalar.
        bias: b, scalar.
    """
    total: Tensor = _SoftplusSum.apply(left, right, scale, bias)  # type: ignore[no-untyped-call]
    return total


def _pieces(left: Tensor, right: Tensor) -> list[slice]:
    step = max(1, PIECE // max(1, len(right)))
    return [slice(start, start + step) for start in range(0, len(left), step)]


def _logits(left: Tensor, right: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    product = (scale * left) @ right.T
    return product if bias is None else product.add_(bias)


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        rows, columns = left.new_empty(len(left)), left.new_full((len(right),), -torch.inf)
        pieces = _pieces(left, right)
        for piece in pieces:
            logits = _logits(left[piece], right, scale, None)
            rows[piece] = logits.logsumexp(1)
            columns = torch.logaddexp(columns, logits.logsumexp(0))
        ctx.save_for_backward(left, right, scale, rows, columns, logits if len(pieces) == 1 else None)
        return rows, columns

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_rows: Tensor, of_columns: Tensor) -> tuple[Tensor, ...]:
        left, right, scale, rows, columns, kept = ctx.saved_tensors

        def slope(logits: Tensor, piece: slice) -> Tensor:
            """Return the softmax over each row and over each column, weighted by the gradients of their sums."""
            by_column = (logits - columns).exp_().mul_(of_columns)
            by_row: Tensor = (logits - rows[piece, None]).exp_().mul_(of_rows[piece, None])
            return by_row.add_(by_column)

        return _backward(left, right, scale, None, kept, slope)[:3]


class _SoftplusSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        total: Tensor = left.new_zeros(())
        pieces = _pieces(left, right)
        for piece in pieces:
            logits = _logits(left[piece], right, scale, bias)
            total = total + softplus(logits).sum()
        ctx.save_for_backward(left, right, scale, bias, logits if len(pieces) == 1 else None)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_sum: Tensor) -> tuple[Tensor, ...]:
        left, right, scale, bias, kept = ctx.saved_tensors
        return _backward(left, right, scale, bias, kept, lambda logits, piece: logits.sigmoid().mul_(of_sum))


def _backward(
    left: Tensor,
    right: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    kept: Tensor | None,
    slope: Callable[[Tensor, slice], Tensor],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return gradients of left, right, scale and bias from `slope`, the gradient of a piece of the logits."""
    of_left, of_right, of_bias = torch.empty_like(left), torch.zeros_like(right), left.new_zeros(())
    for piece in _pieces(left, right):
        gradient = slope(_logits(left[piece], right, scale, bias) if kept is None else kept, piece)
        of_left[piece] = gradient @ right
        of_right.addmm_(gradient.T, left[piece])
        if bias is not None:
            of_bias += gradient.sum()
    of_scale = (of_left * left).sum()
    return scale * of_left, scale * of_right, of_scale.to(scale), of_bias.to(scale)
