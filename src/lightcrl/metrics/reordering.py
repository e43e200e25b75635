"""Ranks after the first hits of every query were reordered by other scores.

Items outside the list keep their places behind it. Equal scores are ties, as in `ranks`: they count as if broken at
random. If items tie in the first scores at the end of the list, the list has the first of them in order of numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightcrl.metrics.ranks import TIE

CHUNK = 1_024
"""Number of queries whose first hits are searched for at once."""


def first_hits(queries: Tensor, gallery: Tensor, count: int) -> np.ndarray:
    """Return the numbers of the first hits [Q, N] of queries [Q, d] in a gallery [G, d], best first; N <= `count`."""
    count = min(count, len(gallery))
    parts = [
        torch.sort(queries[start : start + CHUNK] @ gallery.T, dim=1, descending=True, stable=True).indices[:, :count]
        for start in range(0, len(queries), CHUNK)
    ]
    hits: np.ndarray = torch.cat(parts).numpy() if parts else np.zeros((0, count), np.int64)
    return hits


@dataclass(frozen=True)
class Reordered:
    """Reordered first hits.

    Attributes:
        lists: items of the gallery [Q, N], each once per query.
        scores: their new scores [Q, N].
        right: true for right items [Q, N].
    """

    lists: np.ndarray
    scores: np.ndarray
    right: np.ndarray

    @classmethod
    def of(cls, lists: np.ndarray, scores: np.ndarray, pairs: np.ndarray) -> Reordered:
        """Return reordered hits, with the right items given as pairs [P, 2]: query, item of the gallery."""
        size = 1 + int(max(lists.max(initial=0), pairs[:, 1].max(initial=0)))
        keys = np.arange(len(lists))[:, None] * size + lists
        return cls(lists, scores, np.isin(keys, pairs[:, 0] * size + pairs[:, 1]))

    @property
    def _close(self) -> np.ndarray:
        """The greatest distance of equal scores, [Q, 1]."""
        close: np.ndarray = TIE * np.abs(self.scores).max(1, keepdims=True, initial=0)
        return close

    def ranks(self, counts: np.ndarray) -> np.ndarray:
        """Return the counts [Q, 3] of `ranks.ranks` after reordering, from those before.

        A query without a right item in its list keeps its counts: the whole list stands before its right items.
        """
        best = np.where(self.right, self.scores, -np.inf).max(1, keepdims=True, initial=-np.inf)
        with np.errstate(invalid="ignore"):
            above, equal = self.scores > best + self._close, np.abs(self.scores - best) <= self._close
        fresh = np.stack([(above & ~self.right).sum(1), (equal & ~self.right).sum(1), (equal & self.right).sum(1)], 1)
        there = self.right.any(axis=1, keepdims=True)
        return np.where(there, fresh, counts)

    def places(self, places: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        """Return the places [P, 3] of `ranks.answer_places` after reordering, from those before; `pairs` are [P, 2]."""
        fresh = places.copy()
        query, column = np.nonzero(self.right)
        own = self.scores[query, column][:, None]
        close = self._close[query]
        above = (self.scores[query] > own + close).sum(1)
        equal = (np.abs(self.scores[query] - own) <= close).sum(1)
        size = 1 + int(max(self.lists.max(initial=0), pairs[:, 1].max(initial=0)))
        at = np.searchsorted(pairs[:, 0] * size + pairs[:, 1], query * size + self.lists[query, column])
        fresh[at, 1], fresh[at, 2] = above, equal
        return fresh
