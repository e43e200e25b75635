"""Calibration of scores: the share of random items that would score as high, and the test for any match at all.

The scores of random pairs are measured when the index is built, and stored with it: sampled queries of one modality
against sampled items of one, without pairs of an item with itself or with its own group. The smallest share is one of
all measured pairs; lower ones cannot be resolved.

The test for a match needs more, since the best of many random items is always near. So the index also stores the best
score of each sampled query outside its own group, among the sample and among all items. A query whose best score
exceeds hardly any of these ordinary ones is far from everything here: nothing matches.

Raw scores do this better than scores standardised for each query (by its mean and spread over the items).
Standardisation removes the very sign of a query that is near to nothing (docs/LOG.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import final

import numpy as np

SAMPLED = 1024
"""Number of sampled items of a modality."""

ASKED = 512
"""Number of sampled queries of a modality."""

FEWEST = 30
"""Least number of items or queries for a calibration."""

LEVELS = 256
"""Number of shares at which scores are stored, evenly spaced in their logarithm."""


@dataclass(frozen=True)
class Sample:
    """Sampled items, or queries, of one modality.

    Attributes:
        vectors: [S, d] float32.
        names: group of each, or None.
        source: origin of the sample, in words.
    """

    vectors: np.ndarray
    names: tuple[str | None, ...]
    source: str


@dataclass(frozen=True)
class Best:
    """The best scores of ordinary queries among a number of items.

    Attributes:
        items: number of items.
        scores: best score of each query [Q], rising.
    """

    items: int
    scores: np.ndarray


@dataclass(frozen=True)
class Tail:
    """The scores of random pairs.

    Attributes:
        scores: scores [LEVELS], falling, at shares from one of all pairs up to 1.
        few: the best scores among the sampled items.
        all: the best scores among all items.
        pairs: number of measured pairs.
        source: origin of the queries, in words.
    """

    scores: np.ndarray
    few: Best
    all: Best
    pairs: int
    source: str

    def shares(self, scores: np.ndarray) -> np.ndarray:
        """Return, for each score, the share of random pairs that score as high."""
        shares: np.ndarray = np.exp(np.interp(-scores, *self._curve))
        return shares

    @cached_property
    def _curve(self) -> tuple[np.ndarray, np.ndarray]:
        """The scores, negative so that they rise, and the logarithms of their shares; a search asks for each hit."""
        return -self.scores, np.log(np.geomspace(1.0 / self.pairs, 1.0, LEVELS))

    def ordinary(self, score: float, items: int) -> float:
        """Return the share of ordinary queries whose best score among `items` items is no higher than `score`.

        Between the two measured numbers of items, scores are interpolated linearly in the logarithm of the number.
        """
        few, many = np.log(self.few.items), np.log(max(self.all.items, self.few.items + 1))
        part = float(np.clip((np.log(max(items, 1)) - few) / (many - few), 0, 1))
        best = (1 - part) * self.few.scores + part * self.all.scores
        return float(np.searchsorted(best, score, "right") / len(best))


def measure_tail(queries: Sample, items: Sample, all_items: Best | None = None) -> Tail | None:
    """Measure the scores of random pairs of queries and items; None if there are too few.

    Args:
        queries: sample of the queries.
        items: sample of the items.
        all_items: the best scores of these queries among all items; by default those among the sample.

    >>> rng = np.random.default_rng(0)
    >>> points = rng.normal(size=(200, 8)) / 8**0.5
    >>> tail = measure_tail(Sample(points[:80], (None,) * 80, ""), Sample(points[80:], (None,) * 120, ""))
    >>> tail.pairs, bool(abs(tail.shares(np.array([0.0]))[0] - 0.5) < 0.1), tail.ordinary(9.0, 50), tail.ordinary(0, 50)
    (9600, True, 1.0, 0.0)
    """
    if min(len(queries.vectors), len(items.vectors)) < FEWEST:
        return None
    scores = queries.vectors.astype(np.float64) @ items.vectors.astype(np.float64).T
    kept = _strangers(queries, items)
    every = np.sort(scores[kept])[::-1]
    pairs = len(every)
    if pairs == 0:
        return None
    levels = np.geomspace(1.0 / pairs, 1.0, LEVELS)
    at_levels = every[np.ceil(levels * pairs).astype(int).clip(1, pairs) - 1]
    few = Best(len(items.vectors), np.sort(np.where(kept, scores, -1.0).max(1)))
    return Tail(at_levels, few, all_items or few, pairs, queries.source)


def _strangers(queries: Sample, items: Sample) -> np.ndarray:
    """Return [Q, S], true where a query and an item have no group in common."""
    place: dict[str, list[int]] = {}
    for column, name in enumerate(items.names):
        if name is not None:
            place.setdefault(name, []).append(column)
    kept = np.ones((len(queries.names), len(items.names)), dtype=bool)
    for row, name in enumerate(queries.names):
        kept[row, place.get(name or "", [])] = False
    return kept


@final
class Calibration:
    """The scores of random pairs in an index.

    Attributes:
        tails: scores of random pairs by modality of query and of item.
        items: number of items by modality at the time of the measurement.
    """

    def __init__(self, tails: Mapping[tuple[str, str], Tail], items: Mapping[str, int]) -> None:
        self.tails, self.items = dict(tails), dict(items)

    def pack(self) -> dict[tuple[str, str], bytes]:
        """Return the calibration as the catalog stores it."""
        packed = {("", ""): json.dumps(self.items).encode()}
        for pair, tail in self.tails.items():
            sizes = [tail.few.items, tail.all.items]
            head = json.dumps({"pairs": tail.pairs, "source": tail.source, "sizes": sizes}).encode()
            values = np.concatenate([tail.scores, tail.few.scores, tail.all.scores])
            packed[pair] = head + b"\n" + values.astype("<f8").tobytes()
        return packed

    @classmethod
    def unpack(cls, packed: Mapping[tuple[str, str], bytes]) -> Calibration | None:
        """Return the calibration that `pack` has packed; None if there is none."""
        if ("", "") not in packed:
            return None
        tails = {}
        for pair, value in packed.items():
            if pair[0]:
                head, _, numbers = value.partition(b"\n")
                summary, values = json.loads(head), np.frombuffer(numbers, "<f8")
                halves = np.split(values[LEVELS:], 2)
                few, many = (Best(size, half) for size, half in zip(summary["sizes"], halves, strict=True))
                tails[pair] = Tail(values[:LEVELS], few, many, summary["pairs"], summary["source"])
        return cls(tails, json.loads(packed["", ""]))
