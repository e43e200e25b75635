"""What a score means: the share of random items that would score as high.

Scores of two modalities are not comparable: texts are nearer to texts than to pictures, and some queries are near to
everything. So a score is first put on the scale of its query: its distance from the mean score of a sample of the
items, in standard deviations. How these distances are spread over random pairs, queries of one modality against items
of one, is measured when the index is built, items of the same group and an item with itself left out, and kept with it.
A share below one of all pairs measured is not told apart: it is given as that.

With N items, the best of N random ones has a share of about 1/N; `chance` turns a share into the probability that some
random item of N scores as high.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import numpy as np

SAMPLED = 1024
"""Items of a modality that are kept as its sample."""

ASKED = 512
"""Queries of a modality that are scored against the sample."""

FEWEST = 30
"""Items or queries below which nothing is said."""

LEVELS = 256
"""Shares at which the spread is kept, evenly in their logarithm."""


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
class Tail:
    """How far random pairs lie above the mean of their query.

    Attributes:
        distances: [LEVELS] in standard deviations, falling with the share.
        pairs: how many were measured.
        source: where the queries are from, for people.
    """

    distances: np.ndarray
    pairs: int
    source: str

    def shares(self, distances: np.ndarray) -> np.ndarray:
        """The share of random pairs that lie as far above, or farther."""
        levels = np.geomspace(1.0 / self.pairs, 1.0, LEVELS)
        logs = np.interp(-distances, -self.distances, np.log(levels))
        shares: np.ndarray = np.exp(logs)
        return shares


def measure_tail(queries: Sample, items: Sample) -> Tail | None:
    """How random pairs of queries and items score; None where there are too few.

    >>> rng = np.random.default_rng(0)
    >>> points = rng.normal(size=(200, 8)) / 8**0.5
    >>> tail = measure_tail(Sample(points[:80], (None,) * 80, ""), Sample(points[80:], (None,) * 120, ""))
    >>> tail.pairs, bool(abs(tail.shares(np.array([0.0]))[0] - 0.5) < 0.1)
    (9600, True)
    """
    if min(len(queries.vectors), len(items.vectors)) < FEWEST:
        return None
    scores = queries.vectors.astype(np.float64) @ items.vectors.astype(np.float64).T
    place: dict[str, list[int]] = {}
    for column, name in enumerate(items.names):
        if name is not None:
            place.setdefault(name, []).append(column)
    kept = np.ones(scores.shape, dtype=bool)
    for row, name in enumerate(queries.names):
        kept[row, place.get(name or "", [])] = False
    distances = _standard(scores, np.where(kept, scores, np.nan))[kept]
    pairs = len(distances)
    levels = np.geomspace(1.0 / pairs, 1.0, LEVELS)
    order = np.sort(distances)[::-1]
    return Tail(order[np.ceil(levels * pairs).astype(int).clip(1, pairs) - 1], pairs, queries.source)


def _standard(scores: np.ndarray, against: np.ndarray) -> np.ndarray:
    """Scores [Q, K] as distances from the mean of others [Q, S], NaN left out, in standard deviations of these."""
    mean, spread = np.nanmean(against, axis=1, keepdims=True), np.nanstd(against, axis=1, keepdims=True)
    distances: np.ndarray = (scores - mean) / np.maximum(spread, 1e-6)
    return distances


def chance(share: float, count: int) -> float:
    """The probability that one of `count` random items scores as high as an item of that share.

    >>> round(chance(0.001, 1000), 2)
    0.63
    """
    return float(-np.expm1(count * np.log1p(-min(share, 1 - 1e-12))))


@final
class Calibration:
    """The samples of an index, and how their random pairs score.

    Attributes:
        samples: by modality of items.
        tails: by modality of query and of item.
        items: how many the index had when this was measured.
    """

    def __init__(self, samples: Mapping[str, np.ndarray], tails: Mapping[tuple[str, str], Tail], items: int) -> None:
        self.samples, self.tails, self.items = dict(samples), dict(tails), items

    @classmethod
    def measure(cls, queries: Mapping[str, Sample], items: Mapping[str, Sample], count: int) -> Calibration:
        """Measure every modality of queries against every modality of items."""
        tails = {
            (asked, given): tail
            for asked, sample in queries.items()
            for given, others in items.items()
            if (tail := measure_tail(sample, others)) is not None
        }
        return cls({given: sample.vectors.astype(np.float32) for given, sample in items.items()}, tails, count)

    def shares(self, queries: np.ndarray, asked: str, given: str, scores: np.ndarray) -> np.ndarray | None:
        """[Q, K] the shares of scores [Q, K] of queries [Q, d]; None where nothing was measured.

        Args:
            queries: unit vectors.
            asked: their modality.
            given: modality of the items.
            scores: of items.
        """
        tail = self.tails.get((asked, given))
        if tail is None:
            return None
        against = queries.astype(np.float32) @ self.samples[given].T
        return tail.shares(_standard(scores, against))

    def pack(self) -> dict[tuple[str, str], bytes]:
        """As the catalog keeps it."""
        told = {"items": self.items, "dim": {name: sample.shape[1] for name, sample in self.samples.items()}}
        packed = {("", ""): json.dumps(told).encode()}
        packed |= {("", name): sample.astype("<f4").tobytes() for name, sample in self.samples.items()}
        for pair, tail in self.tails.items():
            head = json.dumps({"pairs": tail.pairs, "source": tail.source}).encode()
            packed[pair] = head + b"\n" + tail.distances.astype("<f4").tobytes()
        return packed

    @classmethod
    def unpack(cls, packed: Mapping[tuple[str, str], bytes]) -> Calibration | None:
        """What `pack` gave; None where there is none."""
        if ("", "") not in packed:
            return None
        told = json.loads(packed["", ""])
        samples = {
            name: np.frombuffer(packed["", name], "<f4").reshape(-1, width) for name, width in told["dim"].items()
        }
        tails = {}
        for pair, value in packed.items():
            if pair[0]:
                head, _, distances = value.partition(b"\n")
                tails[pair] = Tail(np.frombuffer(distances, "<f4"), **json.loads(head))
        return cls(samples, tails, told["items"])
