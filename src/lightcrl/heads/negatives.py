"""Negatives of a pair: items of other groups, drawn by the space's own similarity, from easy to hard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightcrl.features.table import Split

BLOCK = 512
"""Number of queries whose similarities are in memory at once."""


@dataclass(frozen=True)
class Nearest:
    """The nearest items of other groups, for every item of a modality in a split.

    Attributes:
        rows: rows of the queries, ascending [N].
        others: rows of their nearest items of the other modality, nearest first [N, K].
    """

    rows: np.ndarray
    others: np.ndarray

    def draw(self, rows: np.ndarray, count: int, done: float, ramp: float, hardest: int) -> np.ndarray:
        """Draw negatives [B, count] of the queries at `rows` [B], by torch's global generator.

        The pool is all K neighbours at first, and shrinks geometrically to the `hardest` in the share `ramp` of
        training.
        """
        most = self.others.shape[1]
        progress = min(1.0, done / ramp) if ramp else 1.0
        least = min(max(hardest, count), most)
        size = max(count, round(most * (least / most) ** progress)) if most >= count else most
        drawn = torch.rand(len(rows), size).argsort(1)[:, :count].numpy()
        chosen: np.ndarray = np.take_along_axis(self.others[np.searchsorted(self.rows, rows)], drawn, 1)
        return chosen


def nearest(vectors: Mapping[str, Tensor], split: Split, source: str, target: str, count: int) -> Nearest:
    """Return for every item of `source` its `count` nearest items of `target` that share no group with it.

    Args:
        vectors: unit vectors [R, d] of all rows by modality.
        split: groups; only their items take part.
        source: modality of the queries.
        target: modality of the neighbours.
        count: number of neighbours; fewer if there are not enough.
    """
    rows, pool = np.unique(split.members[source].rows), np.unique(split.members[target].rows)
    place = {row: number for number, row in enumerate(pool.tolist())}
    own = positives(split, source, target)
    count = max(1, min(count, len(pool) - max((len(set(others)) for others in own.values()), default=0)))
    queries, keys = (vectors[name][torch.from_numpy(chosen)] for name, chosen in ((source, rows), (target, pool)))
    others = np.zeros((len(rows), count), np.int64)
    for start in range(0, len(rows), BLOCK):
        scores = queries[start : start + BLOCK] @ keys.T
        for line, row in enumerate(rows[start : start + BLOCK].tolist()):
            scores[line, [place[other] for other in own.get(row, ())]] = -torch.inf
        others[start : start + BLOCK] = pool[scores.topk(count, dim=1).indices.numpy()]
    return Nearest(rows, others)


def positives(split: Split, source: str, target: str) -> dict[int, list[int]]:
    """Return the rows of `target` that share a group with each row of `source`."""
    mine, theirs = split.members[source], split.members[target]
    own: dict[int, list[int]] = {}
    for row, group in zip(mine.rows.tolist(), mine.groups.tolist(), strict=True):
        own.setdefault(row, []).extend(theirs.rows[theirs.starts[group] : theirs.starts[group + 1]].tolist())
    return own
