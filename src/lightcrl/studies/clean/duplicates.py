"""Duplicates among the anchors of groups: equal content, and nearly equal features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightcrl.data import Item
from lightcrl.studies.check.leaks import DEVIATIONS, LEAST_COSINE, content_marks

BLOCK = 1024
MOST = 100_000
"""Greatest number of anchors whose features are compared, each with each."""


@dataclass(frozen=True)
class Twins:
    """Pairs of anchors with the same or nearly the same content.

    Attributes:
        exact: pairs [N, 2] of equal content, the earlier anchor first.
        near: pairs [M, 2] of nearly equal features.
        cosines: cosine of each near pair, [M].
        threshold: cosine from which two anchors are near.
        compared: false if there are too many anchors for near pairs.
    """

    exact: np.ndarray
    near: np.ndarray
    cosines: np.ndarray
    threshold: float
    compared: bool


def find_twins(items: Sequence[Item], vectors: Tensor) -> Twins:
    """Return the duplicates among items [N] with features [N, D].

    Near pairs are nearest neighbours whose log distance log(1 - cosine) lies four robust deviations below the median of
    all items, and whose cosine is 0.95 or more, as in `lightcrl check`.
    """
    first: dict[str, int] = {}
    exact = [
        (first[mark], number)
        for number, mark in enumerate(content_marks(items))
        if mark is not None and first.setdefault(mark, number) != number
    ]
    pairs = np.array(exact, np.int64).reshape(-1, 2)
    if not 2 < len(items) <= MOST:
        return Twins(pairs, np.zeros((0, 2), np.int64), np.zeros(0), 1.0, len(items) <= MOST)
    # A copy must not set the scale of distances between different items.
    kept = np.setdiff1d(np.arange(len(items)), pairs[:, 1])
    cosines, nearest = nearest_others(vectors[kept])
    logs = np.log(np.maximum(1 - cosines.astype(np.float64), 1e-6))
    low, middle, high = np.quantile(logs, [0.25, 0.5, 0.75])
    bound = middle - DEVIATIONS * max((high - low) / 1.349, 1e-3)
    threshold = max(LEAST_COSINE, 1 - float(np.exp(bound)))
    close = np.flatnonzero(cosines >= threshold)
    ordered = np.sort(np.stack([kept[close], kept[nearest[close]]], 1), 1)
    near, place = np.unique(ordered, axis=0, return_index=True)
    return Twins(pairs, near, cosines[close][place], threshold, True)


def nearest_others(vectors: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosine [N] of each vector with its nearest other, after centring, and the number [N] of that."""
    unit = normalize(vectors - vectors.mean(0), dim=1)
    cosines, nearest = [], []
    for start in range(0, len(unit), BLOCK):
        scores = unit[start : start + BLOCK] @ unit.T
        scores[torch.arange(len(scores)), torch.arange(start, start + len(scores))] = -torch.inf
        best = scores.max(1)
        cosines.append(best.values)
        nearest.append(best.indices)
    return torch.cat(cosines).numpy(), torch.cat(nearest).numpy()
