"""Muon (K. Jordan et al., 2024): steps along the nearest orthogonal matrix: all directions learn at one pace."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor

MOMENTUM = 0.95
"""Share of the earlier steps in a step's direction."""
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the polynomial whose iteration brings singular values near 1."""
ITERATIONS = 5


class Muon(torch.optim.AdamW):
    """AdamW, with Muon for some weights: matrices [out, in], and convolutions as matrices [out, in x height x width].

    Args:
        groups: groups of parameters, as for AdamW.
        hidden: the weights that Muon changes, which are also in `groups`.
        share: Muon's rate relative to that of the weight's group; an orthogonal step is larger than one of AdamW.
    """

    def __init__(self, groups: Iterable[Mapping[str, Any]], hidden: Iterable[Tensor], share: float) -> None:
        super().__init__([dict(group) for group in groups])
        self.hidden = {id(weight) for weight in hidden}
        self.share = share

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change the hidden weights, and the others as AdamW does."""
        for group in self.param_groups:
            rate = group["lr"] * self.share
            for weight in group["params"]:
                if id(weight) in self.hidden and weight.grad is not None:
                    state = self.state[weight]
                    if not state:  # of AdamW's form, which is checked where a state is restored
                        state |= {"step": torch.zeros(()), "exp_avg": torch.zeros_like(weight)}
                    mean = state["exp_avg"].lerp_(weight.grad, 1 - MOMENTUM)
                    direction = orthogonal(weight.grad.lerp(mean, MOMENTUM).flatten(1)).view_as(weight)
                    weight.mul_(1 - rate * group["weight_decay"]).add_(direction, alpha=-rate)
                    weight.grad = None  # AdamW passes over it
        return cast("float | None", super().step(closure))


def orthogonal(matrix: Tensor) -> Tensor:
    """Return U Vᵀ of U S Vᵀ = `matrix` [m, n], with singular values of 0.7 to 1.2, times √(m / n) if m > n."""
    a, b, c = COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    values = (matrix.mT if tall else matrix).bfloat16()
    values = values / (values.norm() + 1e-7)
    for _ in range(ITERATIONS):
        square = values @ values.mT
        values = a * values + (b * square + c * square @ square) @ values
    grown = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
    return (values.mT if tall else values).to(matrix.dtype) * grown
