"""Numbers from embeddings: pure functions, exact, in chunks, blind to batch size and to the order of items."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from lightcrl.errors import ShapeError

CHUNK = 1024
"""Queries scored at once against the whole gallery's next part."""

GALLERY_CHUNK = 65_536

TIE = 1e-6
"""Scores this close are equal: how a float32 product is rounded depends on where in the gallery an item stands."""


def ranks(queries: Tensor, gallery: Tensor, positives: list[np.ndarray]) -> np.ndarray:
    """How each query's best positive fares: [Q, 3] counts of better wrong items, equal wrong items, equal right items.

    Equal right items counts the best positive itself and positives of the same score (within `TIE`). Together they
    give the exact expected recall if ties are broken at random, so that a constant embedding scores chance, not 1.

    Args:
        queries: unit vectors [Q, d].
        gallery: unit vectors [N, d], each item once.
        positives: for every query the numbers of its right items in the gallery, at least one.

    Raises:
        ShapeError: sizes disagree, or a query has no positive.
    """
    _check_sizes(queries, gallery, positives)
    queries, gallery = queries.float(), gallery.float()
    counts = np.zeros((len(queries), 3), dtype=np.int64)
    for start in range(0, len(queries), CHUNK):
        part = queries[start : start + CHUNK]
        chosen = positives[start : start + CHUNK]
        lengths = np.array([len(found) for found in chosen])
        query = torch.from_numpy(np.repeat(np.arange(len(chosen)), lengths))
        item = torch.from_numpy(np.concatenate(chosen).astype(np.int64))
        best = torch.full((len(part),), -torch.inf)
        # Scores of a gallery of one chunk serve both passes; a larger one is scored twice to keep memory bounded.
        cached: list[Tensor] = []
        for first in range(0, len(gallery), GALLERY_CHUNK):
            scores = part @ gallery[first : first + GALLERY_CHUNK].T
            here = (item >= first) & (item < first + scores.shape[1])
            right = scores[query[here], item[here] - first]
            best = best.scatter_reduce(0, query[here], right, "amax")
            cached = [scores]
        for first in range(0, len(gallery), GALLERY_CHUNK):
            scores = cached[0] if len(gallery) <= GALLERY_CHUNK else part @ gallery[first : first + GALLERY_CHUNK].T
            here = (item >= first) & (item < first + scores.shape[1])
            right = scores[query[here], item[here] - first]
            equal_right = torch.zeros(len(part), dtype=torch.int64)
            equal_right.index_add_(0, query[here], (right >= best[query[here]] - TIE).long())
            better = (scores > best[:, None] + TIE).sum(1)
            equal = (scores >= best[:, None] - TIE).sum(1) - better
            found = torch.stack([better, equal - equal_right, equal_right], 1)
            counts[start : start + len(part)] += found.numpy()
    return counts


def answer_places(queries: Tensor, gallery: Tensor, positives: list[np.ndarray]) -> np.ndarray:
    """Where every right item of every query stands: [A, 3] number of its query, items better, items equal.

    Equal items are those within `TIE`, itself among them, right or wrong. From these follows how many right items are
    among the first k if ties are broken at random; see `precision_recall`.

    Args:
        queries: unit vectors [Q, d].
        gallery: unit vectors [N, d], each item once.
        positives: for every query the numbers of its right items in the gallery, at least one; A in all.

    Raises:
        ShapeError: as `ranks`.
    """
    _check_sizes(queries, gallery, positives)
    queries, gallery = queries.float(), gallery.float()
    parts = []
    for start in range(0, len(queries), CHUNK):
        part, chosen = queries[start : start + CHUNK], positives[start : start + CHUNK]
        lengths = torch.tensor([len(found) for found in chosen])
        there = torch.arange(int(lengths.max())) < lengths[:, None]
        items = torch.zeros(there.shape, dtype=torch.int64)
        items[there] = torch.from_numpy(np.concatenate(chosen).astype(np.int64))
        right = torch.empty(there.shape)
        better, equal = torch.zeros_like(items), torch.zeros_like(items)
        # Scores of a gallery of one chunk serve both passes, as in `ranks`.
        cached: list[Tensor] = []
        for first in range(0, len(gallery), GALLERY_CHUNK):
            scores = part @ gallery[first : first + GALLERY_CHUNK].T
            here = (items >= first) & (items < first + scores.shape[1])
            found = scores.gather(1, (items - first).clamp(0, scores.shape[1] - 1))
            right = torch.where(here, found, right)
            cached = [scores]
        for first in range(0, len(gallery), GALLERY_CHUNK):
            scores = cached[0] if len(gallery) <= GALLERY_CHUNK else part @ gallery[first : first + GALLERY_CHUNK].T
            rising = scores.sort(1).values
            above = scores.shape[1] - torch.searchsorted(rising, right + TIE, right=True)
            better += above
            equal += scores.shape[1] - torch.searchsorted(rising, right - TIE) - above
        number = torch.arange(start, start + len(part))[:, None].expand(there.shape)
        parts.append(torch.stack([number[there], better[there], equal[there]], 1).numpy())
    return np.concatenate(parts)


def precision_recall(places: np.ndarray, ks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall over the first k, means over queries, each [K]; ties count as if broken at random.

    Precision is the share of right items among the first k, recall the share of a query's right items that are there.

    Args:
        places: what `answer_places` gave.
        ks: [K], none greater than the gallery.

    >>> precision, recall = precision_recall(np.array([[0, 0, 1], [0, 2, 1]]), np.array([1, 2, 4]))
    >>> precision.tolist(), recall.tolist()
    ([1.0, 0.5, 0.5], [0.5, 0.5, 1.0])
    """
    found = found_within(places, ks)
    return (found / ks).mean(0), (found / np.bincount(places[:, 0])[:, None]).mean(0)


def found_within(places: np.ndarray, ks: np.ndarray) -> np.ndarray:
    """[Q, K] how many right items each query has among the first k, ties broken at random; see `precision_recall`.

    >>> found_within(np.array([[0, 0, 1], [0, 2, 1], [1, 1, 2]]), np.array([1, 2, 4])).tolist()
    [[1.0, 1.0, 2.0], [0.0, 0.5, 1.0]]
    """
    query, better, equal = places.T
    columns = [np.bincount(query, weights=np.clip((k - better) / equal, 0, 1)) for k in ks]
    return np.stack(columns, 1)


def curve_ks(size: int, most: int = 40) -> np.ndarray:
    """[K] whole numbers from 1 to `size`, about evenly spaced on a logarithmic axis; all of them where few.

    >>> curve_ks(4).tolist(), curve_ks(1000, most=6).tolist()
    ([1, 2, 3, 4], [1, 4, 16, 63, 251, 1000])
    """
    if size <= most:
        return np.arange(1, size + 1)
    return np.unique(np.geomspace(1, size, most).round().astype(np.int64))


def hits(counts: np.ndarray, k: int) -> np.ndarray:
    """[Q] probability that a right item is among the first k, ties broken at random, from `ranks`' counts.

    >>> hits(np.array([[0, 0, 1], [3, 0, 1], [0, 1, 1]]), 1).tolist()
    [1.0, 0.0, 0.5]
    """
    better, wrong, right = counts.T
    places = np.clip(k - better, 0, wrong + right)
    # All places of the tie taken by wrong items: C(wrong, places) / C(wrong + right, places).
    miss = np.ones(len(counts))
    for step in range(int(right.max(initial=0))):
        left = wrong + right - step
        with np.errstate(divide="ignore", invalid="ignore"):
            miss = np.where(step < right, miss * np.clip(left - places, 0, None) / np.maximum(left, 1), miss)
    return 1.0 - miss


def best_ranks(counts: np.ndarray) -> np.ndarray:
    """[Q] rank of each query's best positive (1 is first), the middle of its tie, from `ranks`' counts."""
    better, wrong, right = counts.T
    middle: np.ndarray = better + 1 + wrong / (right + 1)
    return middle


def median_rank(counts: np.ndarray) -> float:
    """Median over queries of the best positive's rank."""
    return float(np.median(best_ranks(counts)))


def bootstrap_interval(
    statistic: Callable[[np.ndarray], np.ndarray],
    groups: int,
    *,
    width: int = 0,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """As `bootstrap_intervals`, of one statistic: from weights [S, groups] to values [S]."""

    def named(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"": statistic(weights)}

    return bootstrap_intervals(named, groups, width=width, samples=samples, seed=seed, level=level)[""]


def bootstrap_intervals(
    statistics: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    groups: int,
    *,
    width: int = 0,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap over groups, the same draws for every statistic.

    Args:
        statistics: from weights [S, groups] (how often each group was drawn) to values [S] by name.
        groups: how many there are.
        width: numbers that `statistics` holds per sample, if more than `groups`; keeps memory bounded.
        samples: S, how often to draw.
        seed: of the draws.
        level: share of the draws inside the interval.

    Returns:
        The lower and upper end, by name.
    """
    generator = np.random.default_rng(seed)
    values: dict[str, list[np.ndarray]] = {}
    # In parts, so that weights of a million groups need no gigabytes.
    part = max(1, min(samples, 20_000_000 // max(groups, width, 1)))
    for start in range(0, samples, part):
        drawn = min(part, samples - start)
        weights = np.stack([np.bincount(generator.integers(0, groups, groups), minlength=groups) for _ in range(drawn)])
        for name, found in statistics(weights.astype(np.float64)).items():
            values.setdefault(name, []).append(found)
    tail = (1 - level) / 2
    ends = {name: np.quantile(np.concatenate(found), [tail, 1 - tail]) for name, found in values.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def mean_interval(values: np.ndarray, groups: np.ndarray, *, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean of `values` [N], drawing whole `groups` [N], since members of one group go together."""
    _, codes = np.unique(groups, return_inverse=True)
    sums = np.bincount(codes, weights=values)
    sizes = np.bincount(codes).astype(np.float64)
    return bootstrap_interval(lambda weights: weights @ sums / (weights @ sizes), len(sums), samples=samples, seed=seed)


def median_interval(
    values: np.ndarray, groups: np.ndarray, *, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % interval of the (lower) median of `values` [N], drawing whole `groups` [N]."""
    names, codes = np.unique(groups, return_inverse=True)
    order = np.argsort(values, kind="stable")

    def statistic(weights: np.ndarray) -> np.ndarray:
        drawn = weights[:, codes[order]].cumsum(1)
        medians: np.ndarray = values[order][(drawn >= drawn[:, -1:] / 2).argmax(1)]
        return medians

    return bootstrap_interval(statistic, len(names), width=len(values), samples=samples, seed=seed)


def _check_sizes(queries: Tensor, gallery: Tensor, positives: list[np.ndarray]) -> None:
    if queries.shape[1] != gallery.shape[1] or len(positives) != len(queries):
        raise ShapeError(
            f"{len(queries)} queries of width {queries.shape[1]} with {len(positives)} sets of positives against a "
            f"gallery of width {gallery.shape[1]}; expected equal widths and one set per query."
        )
    if any(len(found) == 0 for found in positives):
        raise ShapeError("a query has no right item in the gallery; leave it out of the queries.")
