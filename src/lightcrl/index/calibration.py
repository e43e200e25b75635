"""What a score means: the share of random items that would score as high, and whether anything matches at all.

How random pairs score, queries of one modality against items of one, is measured when the index is built and kept with
it: sampled queries against sampled items, an item with itself and with its own group left out. A share below one of all
pairs measured is not told apart: it is given as that.

Whether anything matches is another question, since the best of many random items is always near. So the best score of
each sampled query, its own group left out, is kept too, among the sample and among all items. A query whose best score
hardly any of these ordinary ones falls short of is far from everything here: nothing matches.

Scores as they are do this better than scores put on the scale of their query (its mean and spread over the items): that
a query is near to nothing is just what the latter takes away (docs/LOG.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

SAMPLED = 1024
"""Items of a modality that queries are scored against."""

ASKED = 512
"""Queries of a modality that are scored."""

FEWEST = 30
"""Items or queries below which nothing is said."""

LEVELS = 256
"""Shares at which the spread of scores is kept, evenly in their logarithm."""


@dataclass(frozen=True)
class Sample:
    """Some items, or queries, of one modality.

    Attributes:
        vectors: [S, d] float32.
        names: of each, the group that it is of, or None.
        source: where they are from, for people.
    """

    vectors: np.ndarray
    names: tuple[str | None, ...]
    source: str


@dataclass(frozen=True)
class Best:
    """The best scores of ordinary queries among so many items.

    Attributes:
        items: how many.
        scores: [Q] rising.
    """

    items: int
    scores: np.ndarray


@dataclass(frozen=True)
class Tail:
    """How random pairs score.

    Attributes:
        scores: [LEVELS] falling, those that shares from one of all pairs up to 1 have.
        few: the best scores among the sampled items.
        all: the best scores among all items.
        pairs: how many were measured.
        source: where the queries are from, for people.
    """

    scores: np.ndarray
    few: Best
    all: Best
    pairs: int
    source: str

    def shares(self, scores: np.ndarray) -> np.ndarray:
        """The share of random pairs that score as high, of each score."""
        levels = np.geomspace(1.0 / self.pairs, 1.0, LEVELS)
        shares: np.ndarray = np.exp(np.interp(-scores, -self.scores, np.log(levels)))
        return shares

    def ordinary(self, score: float, items: int) -> float:
        """The share of ordinary queries whose best score among so many items is no higher than this one.

        Between the numbers of items at which this was measured, the scores lie between, by the logarithm.
        """
        few, many = np.log(self.few.items), np.log(max(self.all.items, self.few.items + 1))
        part = float(np.clip((np.log(max(items, 1)) - few) / (many - few), 0, 1))
        best = (1 - part) * self.few.scores + part * self.all.scores
        return float(np.searchsorted(best, score, "right") / len(best))


def measure_tail(queries: Sample, items: Sample, all_items: Best | None = None) -> Tail | None:
    """How random pairs of queries and items score; None where there are too few.

    Args:
        queries: a sample of them.
        items: a sample of them.
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
    """[Q, S] whether a query and an item have no group in common."""
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
    """How random pairs score in an index.

    Attributes:
        tails: by modality of query and of item.
        items: by modality, how many the index had when this was measured.
    """

    def __init__(self, tails: Mapping[tuple[str, str], Tail], items: Mapping[str, int]) -> None:
        self.tails, self.items = dict(tails), dict(items)

    def pack(self) -> dict[tuple[str, str], bytes]:
        """As the catalog keeps it."""
        packed = {("", ""): json.dumps(self.items).encode()}
        for pair, tail in self.tails.items():
            sizes = [tail.few.items, tail.all.items]
            head = json.dumps({"pairs": tail.pairs, "source": tail.source, "sizes": sizes}).encode()
            values = np.concatenate([tail.scores, tail.few.scores, tail.all.scores])
            packed[pair] = head + b"\n" + values.astype("<f8").tobytes()
        return packed

    @classmethod
    def unpack(cls, packed: Mapping[tuple[str, str], bytes]) -> Calibration | None:
        """What `pack` gave; None where there is none."""
        if ("", "") not in packed:
            return None
        tails = {}
        for pair, value in packed.items():
            if pair[0]:
                head, _, numbers = value.partition(b"\n")
                told, values = json.loads(head), np.frombuffer(numbers, "<f8")
                halves = np.split(values[LEVELS:], 2)
                few, many = (Best(size, half) for size, half in zip(told["sizes"], halves, strict=True))
                tails[pair] = Tail(values[:LEVELS], few, many, told["pairs"], told["source"])
        return cls(tails, json.loads(packed["", ""]))
