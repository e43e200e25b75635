"""Structure of an index: near-identical items, and outliers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from lightcrl.data.components import least_connected
from lightcrl.errors import QueryError
from lightcrl.index.index import Index

NEIGHBOURS = 20
"""Number of nearest items of each that are searched for copies; larger groups are connected through their members."""

CROWD = 5
"""Number of nearest items that determine the distance of an item from all others."""

EXPECTED = 0.5
"""Expected number of items, of all, that lie as near to another as a copy but are none."""

FEWEST = 20
"""Least number of items for a threshold from the data."""

MOST = 0.9999
"""Greatest threshold: float16 cannot resolve higher similarities."""


@dataclass(frozen=True)
class Copies:
    """Near-identical items of one modality.

    Attributes:
        modality: modality of the items.
        threshold: least cosine similarity of two copies.
        reason: origin of the threshold, in words.
        groups: ids of connected copies, the largest group first.
    """

    modality: str
    threshold: float
    reason: str
    groups: tuple[tuple[str, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Outlier:
    """An item far from all others of its modality.

    Attributes:
        id: id of the item.
        modality: modality of the item.
        farness: 1 minus its mean cosine similarity to its nearest items.
        limit: the farness above which items of this modality are outliers.
        nearest: id of the nearest item.
        score: cosine similarity to the nearest item.
    """

    id: str
    modality: str
    farness: float
    limit: float
    nearest: str
    score: float

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as JSON."""
        return asdict(self)


def find_duplicates(
    index: Index, *, threshold: float | None = None, where: str | None = None, modality: str | None = None
) -> list[Copies]:
    """Return groups of near-identical items, by modality.

    Args:
        index: index to search for each of its items: with the exact engine, a thousand against a million take four
            seconds.
        threshold: least similarity of copies; by default chosen from the data (see `choose_threshold`).
        where: filter of the items.
        modality: modality of the items; by default every modality.

    Raises:
        QueryError: the threshold is not a similarity.
        FilterError: the filter is invalid.
    """
    if threshold is not None and not 0 < threshold <= 1:
        raise QueryError(f"a threshold of {threshold}; expected a similarity above 0, at most 1.")
    copies = []
    for name in _modalities(index, modality):
        near = index.neighbours(NEIGHBOURS, where=where, modality=name)
        chosen = choose_threshold(near.scores[:, 0])
        value, reason = chosen if threshold is None else (threshold, "given")
        groups = groups_above(near.places, near.scores, value)
        copies.append(Copies(name, value, reason, tuple(tuple(near.ids[at] for at in group) for group in groups)))
    return copies


def find_outliers(
    index: Index, *, where: str | None = None, modality: str | None = None, most: int | None = None
) -> list[Outlier]:
    """Return items far from all others of their modality, the farthest first.

    Args:
        index: index to search for each of its items, as `find_duplicates` does.
        where: filter of the items.
        modality: modality of the items; by default every modality.
        most: number of items, regardless of the limit (see `limit_of_outliers`); by default all above the limit.

    Raises:
        FilterError: the filter is invalid.
    """
    outliers = []
    for name in _modalities(index, modality):
        near = index.neighbours(CROWD, where=where, modality=name)
        far = farness(near.scores)
        limit = limit_of_outliers(far)
        for at in np.argsort(-far, kind="stable").tolist():
            if near.places[at, 0] >= 0 and (most is not None or far[at] > limit):
                nearest, score = near.ids[near.places[at, 0]], float(near.scores[at, 0])
                outliers.append(Outlier(near.ids[at], name, float(far[at]), limit, nearest, score))
    outliers.sort(key=lambda outlier: outlier.limit - outlier.farness)
    return outliers[:most]


def _modalities(index: Index, modality: str | None) -> Sequence[str]:
    return [modality] if modality is not None else list(index.counts())


def choose_threshold(nearest: np.ndarray) -> tuple[float, str]:
    """Return the similarity from which two items count as copies, and the reason in words.

    The distances of ordinary items to their nearest, 1 minus similarity, are about log-normal. Median and lower
    quartile give their spread, as long as fewer than a quarter of the items have copies. The threshold is the distance
    below which `EXPECTED` of all items would lie if none had copies; copies make it a little stricter.

    Args:
        nearest: [N] similarity of each item to its nearest.

    >>> ordinary = 1 - np.exp(np.random.default_rng(0).normal(-1.5, 0.4, 1000))
    >>> value, reason = choose_threshold(np.concatenate([ordinary, np.full(20, 0.99)]))
    >>> round(value, 2), reason
    (0.94, 'by the spread of ordinary distances, 0.5 of 1,020 items would be so near without a copy')
    >>> choose_threshold(np.array([0.3, 0.4]))[0]
    0.9999
    """
    near = nearest[np.isfinite(nearest)]
    if len(near) < FEWEST:
        return MOST, "too few items to tell more than what is as good as equal"
    logs = np.log1p(-near.astype(np.float64).clip(max=1 - 1e-6))
    quartile, median = np.quantile(logs, [0.25, 0.5])
    spread = (median - quartile) / -NormalDist().inv_cdf(0.25)
    value = float(-np.expm1(median + spread * NormalDist().inv_cdf(EXPECTED / len(near))))
    reason = f"by the spread of ordinary distances, {EXPECTED:g} of {len(near):,} items would be so near without a copy"
    return min(value, MOST), reason


def groups_above(places: np.ndarray, scores: np.ndarray, threshold: float) -> list[np.ndarray]:
    """Return groups of items connected by similarities of at least `threshold`, the largest first.

    Args:
        places: [N, K] positions of each item's nearest items; -1 for none.
        scores: [N, K] their similarities.
        threshold: least similarity.

    >>> groups_above(np.array([[2], [0], [0]]), np.array([[0.99], [0.5], [0.99]]), 0.9)
    [array([0, 2])]
    """
    rows, columns = np.nonzero((scores >= threshold) & (places >= 0))
    least = least_connected(len(places), np.stack([rows, places[rows, columns]], 1))
    order = np.argsort(least, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(least[order])) + 1)
    return sorted((group for group in groups if len(group) > 1), key=lambda group: (-len(group), group[0]))


def farness(scores: np.ndarray) -> np.ndarray:
    """Return the farness [N] of each item: 1 minus its mean similarity to its nearest items.

    Args:
        scores: [N, K] similarities of the nearest other items.
    """
    present = np.isfinite(scores)
    distances: np.ndarray = np.where(present, 1 - scores, 0).sum(1) / np.maximum(present.sum(1), 1)
    return distances


def limit_of_outliers(far: np.ndarray) -> float:
    """Return the farness above which an item is an outlier: the third quartile plus three interquartile ranges.

    This is Tukey's outer fence: of normally distributed items, two in a million lie above it.
    """
    low, high = np.quantile(far, [0.25, 0.75]) if len(far) else (0.0, 0.0)
    return float(high + 3 * (high - low))
