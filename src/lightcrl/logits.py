"""Reductions of the logits of all pairs, z = s L R' + b, in memory that is linear in the batch.

The matrix is made some rows at a time and forgotten; backward makes it again, at the price of one product more. It is
kept where it fits into one such piece.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import softplus

# Logits made at a time: 32 MiB in float32.
PIECE = 1 << 23


def row_and_column_logsumexp(left: Tensor, right: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """log sum_j exp(s <left_i, right_j>) of every i, and log sum_i of every j.

    Args:
        left: [N, d].
        right: [M, d].
        scale: s, scalar.

    Returns:
        [N] and [M].
    """
    found: tuple[Tensor, Tensor] = _LogSumExp.apply(left, right, scale)  # type: ignore[no-untyped-call]
    return found


def softplus_sum(left: Tensor, right: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """sum_ij log(1 + exp(s <left_i, right_j> + b)), a scalar.

    Args:
        left: [N, d].
        right: [M, d].
        scale: s, scalar.
        bias: b, scalar.
    """
    found: Tensor = _SoftplusSum.apply(left, right, scale, bias)  # type: ignore[no-untyped-call]
    return found


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
            """The softmax over each row and over each column, by the gradients of their sums."""
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
    """Gradients of left, right, scale and bias from `slope`, the gradient of a piece of the logits."""
    of_left, of_right, of_bias = torch.empty_like(left), torch.zeros_like(right), left.new_zeros(())
    for piece in _pieces(left, right):
        found = slope(_logits(left[piece], right, scale, bias) if kept is None else kept, piece)
        of_left[piece] = found @ right
        of_right.addmm_(found.T, left[piece])
        if bias is not None:
            of_bias += found.sum()
    of_scale = (of_left * left).sum()
    return scale * of_left, scale * of_right, of_scale.to(scale), of_bias.to(scale)
