"""The parts of a matching score, and their weights by the reordered hits of held-out queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lightcrl.metrics.pairs import average_precision, pair_accuracy
from lightcrl.metrics.ranks import first_shares

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
"""Weights of the residual to choose from."""
LOCAL = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Weights of crowding to choose from."""


@dataclass(frozen=True)
class Scored:
    """The parts of the scores of pairs, each of the same shape.

    Attributes:
        space: the space's scores.
        crowding: the sum of r of both items, on the scale of the space's scores.
        residual: F.
    """

    space: Tensor
    crowding: Tensor
    residual: Tensor

    def total(self, local: Tensor | float, weight: Tensor | float) -> Tensor:
        """Return the scores by the weights of crowding and residual."""
        return self.space - local * self.crowding + weight * self.residual

    @classmethod
    def joined(cls, parts: Sequence[Scored]) -> Scored:
        """Return parts of the pairs one after another, on the CPU."""
        names = ("space", "crowding", "residual")
        return cls(*(torch.cat([getattr(part, name) for part in parts]).cpu() for name in names))


class Hits(NamedTuple):
    """The first hits of queries in one direction.

    Attributes:
        scored: parts of the scores [N, K].
        right: true for right items [N, K].
    """

    scored: Scored
    right: Tensor

    def shares(self, weights: Weights) -> Tensor:
        """Return R@1 of every query, [N]."""
        return first_shares(self.scored.total(*weights), self.right).double()


class Weights(NamedTuple):
    """The weights of crowding and of the residual."""

    local: float
    residual: float


SPACE = Weights(0.0, 0.0)


def choose_weights(hits: Sequence[Hits]) -> Weights:
    """Return the weight of crowding, then that of the residual, by mean R@1 of reordered hits.

    Each is the smallest within a standard error of the best one, and 0 if that one gains less than two standard errors.
    """
    local = _least_weight({each: [some.shares(Weights(each, 0.0)) for some in hits] for each in LOCAL})
    by_weight = {weight: [some.shares(Weights(local, weight)) for some in hits] for weight in WEIGHTS}
    return Weights(local, _least_weight(by_weight))


def figures(hits: Sequence[Hits], weights: Weights) -> dict[str, float]:
    """Return figures of matching, of the space (`space/...`), and R@1 without the residual (`local/...`)."""
    names = {"": weights, "space/": SPACE, "local/": Weights(weights.local, 0.0)}
    values = {f"{name}mean_recall@1": _recall([some.shares(each) for some in hits]) for name, each in names.items()}
    for name, each in (("", weights), ("space/", SPACE)):
        scores = [(some.scored.total(*each).numpy(), some.right.numpy()) for some in hits]
        pairs = np.concatenate([pair_accuracy(*pair) for pair in scores])
        values[f"{name}pair_accuracy"] = float(np.nanmean(pairs)) if np.isfinite(pairs).any() else 0.5
        values[f"{name}average_precision"] = float(np.mean([average_precision(*pair) for pair in scores]))
    return {**values, "local": weights.local, "weight": weights.residual}


def _recall(shares: Sequence[Tensor]) -> float:
    """Return the mean over directions of the means over queries."""
    return float(torch.stack([each.mean() for each in shares]).mean())


def _least_weight(by_weight: Mapping[float, Sequence[Tensor]]) -> float:
    """Return the smallest weight whose R@1, by direction and query, is within a standard error of the best one's.

    The weight is 0 if the best one is not two standard errors better than that: spaces near their ceiling stay.
    """
    best = max(by_weight, key=lambda weight: _recall(by_weight[weight]))

    def within(weight: float, errors: float) -> bool:
        gaps = [first - own for first, own in zip(by_weight[best], by_weight[weight], strict=True)]
        error = torch.stack([gap.var(correction=0) / len(gap) for gap in gaps]).sum().sqrt() / len(gaps)
        return _recall(gaps) <= errors * float(error)

    return 0.0 if within(0.0, 2) else min(weight for weight in by_weight if within(weight, 1))
