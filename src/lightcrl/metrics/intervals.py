"""Figures from ranks and places, and their intervals: pure functions that do not depend on the order of items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

WEIGHTS = 10_000_000
"""Number of draws whose weights are held at once: those of a million groups stay below a gigabyte."""
MANY = 10_000
"""Number of values above which the interval of the median is searched near the middle only."""


def precision_recall(within: np.ndarray, answers: np.ndarray, ks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return precision and recall over the first k, means over queries, each [K].

    Precision is the share of right items among the first k, recall the share of a query's right items among them.

    Args:
        within: number of right items among each query's first k, [Q, K]; see `found_within`.
        answers: number of right items of each query, [Q].
        ks: values of k [K], none greater than the gallery.

    >>> within = found_within(np.array([[0, 0, 1], [0, 2, 1]]), np.array([1, 2, 4]))
    >>> precision, recall = precision_recall(within, np.array([2]), np.array([1, 2, 4]))
    >>> precision.tolist(), recall.tolist()
    ([1.0, 0.5, 0.5], [0.5, 0.5, 1.0])
    """
    return (within / ks).mean(0), (within / answers[:, None]).mean(0)


def found_within(places: np.ndarray, ks: np.ndarray) -> np.ndarray:
    """Return the number of right items of each query among the first k, [Q, K], with ties broken at random.

    >>> found_within(np.array([[0, 0, 1], [0, 2, 1], [1, 1, 2]]), np.array([1, 2, 4])).tolist()
    [[1.0, 1.0, 2.0], [0.0, 0.5, 1.0]]
    """
    query, better, equal = places.T
    columns = [np.bincount(query, weights=np.clip((k - better) / equal, 0, 1)) for k in ks]
    return np.stack(columns, 1)


def curve_ks(size: int, most: int = 40) -> np.ndarray:
    """Return whole numbers [K] from 1 to `size`, about evenly spaced on a logarithmic axis; all numbers if few.

    >>> curve_ks(4).tolist(), curve_ks(1000, most=6).tolist()
    ([1, 2, 3, 4], [1, 4, 16, 63, 251, 1000])
    """
    if size <= most:
        return np.arange(1, size + 1)
    return np.unique(np.geomspace(1, size, most).round().astype(np.int64))


def hits(counts: np.ndarray, k: int) -> np.ndarray:
    """Return the probability [Q] of a right item among the first k, with ties broken at random, from `ranks`' counts.

    >>> hits(np.array([[0, 0, 1], [3, 0, 1], [0, 1, 1]]), 1).tolist()
    [1.0, 0.0, 0.5]
    """
    better, wrong, right = counts.T
    places = np.clip(k - better, 0, wrong + right)
    # The probability that wrong items take all places of the tie: C(wrong, places) / C(wrong + right, places).
    miss = np.ones(len(counts))
    for step in range(int(right.max(initial=0))):
        left = wrong + right - step
        with np.errstate(divide="ignore", invalid="ignore"):
            miss = np.where(step < right, miss * np.clip(left - places, 0, None) / np.maximum(left, 1), miss)
    return 1.0 - miss


def best_ranks(counts: np.ndarray) -> np.ndarray:
    """Return the rank [Q] of each query's best positive (1 is first), the middle of its tie, from `ranks`' counts."""
    better, wrong, right = counts.T
    middle: np.ndarray = better + 1 + wrong / (right + 1)
    return middle


def median_rank(counts: np.ndarray) -> float:
    """Return the median over queries of the best positive's rank."""
    return float(np.median(best_ranks(counts)))


def group_weights(groups: int, samples: int, seed: int = 0, width: int = 0) -> Iterator[np.ndarray]:
    """Yield the number of times that each group is drawn in each of `samples` draws with replacement, [b, groups].

    Args:
        groups: number of groups.
        samples: number of draws.
        seed: seed of the draws, which do not depend on the size of a block.
        width: numbers that the caller holds per draw, if more than `groups`; keeps memory bounded.
    """
    generator = np.random.default_rng(seed)
    part = max(1, min(samples, WEIGHTS // max(groups, width, 1)))
    for start in range(0, samples, part):
        drawn = generator.integers(0, groups, (min(part, samples - start), groups))
        drawn += groups * np.arange(len(drawn))[:, None]
        yield np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)


def bootstrap_interval(
    statistic: Callable[[np.ndarray], np.ndarray],
    groups: int,
    *,
    width: int = 0,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Return the interval of a single statistic: from weights [S, groups] to values [S]; see `bootstrap_intervals`."""

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
    """Return percentile bootstrap intervals over groups, with the same draws for every statistic.

    Args:
        statistics: function from weights [S, groups] (number of times that each group was drawn) to values [S] by name.
        groups: number of groups.
        width: numbers that `statistics` holds per sample, if more than `groups`; keeps memory bounded.
        samples: S, number of draws.
        seed: seed of the draws.
        level: share of the draws inside the interval.

    Returns:
        The lower and upper end, by name.
    """
    values: dict[str, list[np.ndarray]] = {}
    for weights in group_weights(groups, samples, seed, width):
        for name, drawn in statistics(weights).items():
            values.setdefault(name, []).append(drawn)
    tail = (1 - level) / 2
    ends = {name: np.quantile(np.concatenate(drawn), [tail, 1 - tail]) for name, drawn in values.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def least_share(groups: int, level: float = 0.95) -> float:
    """Return the lower end of a share's exact interval where every one of `groups` independent groups is a hit.

    It is ((1 - level) / 2)^(1 / groups) (Clopper and Pearson 1934); without a hit, 1 minus it is the upper end.
    """
    return float(((1 - level) / 2) ** (1 / groups))


def exact_at_ends(ends: tuple[float, float], share: float, groups: int) -> tuple[float, float]:
    """Return a share's 95 % interval, no narrower than the exact one (`least_share`) where all or no groups are hits.

    A bootstrap of hits alone has no miss in any draw.

    >>> low, high = exact_at_ends((1.0, 1.0), 1.0, 16)
    >>> round(low, 3), high
    (0.794, 1.0)
    >>> exact_at_ends((0.8, 0.9), 0.85, 16)
    (0.8, 0.9)
    """
    (low, high), least = ends, least_share(groups)
    return min(low, least) if share == 1 else low, max(high, 1 - least) if share == 0 else high


def mean_interval(values: np.ndarray, groups: np.ndarray, *, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of the mean of `values` [N], drawing whole `groups` [N], which are not independent."""
    return mean_intervals({"": values}, groups, samples=samples, seed=seed)[""]


def mean_intervals(
    values: Mapping[str, np.ndarray], groups: np.ndarray, *, samples: int = 1000, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Return `mean_interval` for several values [N] by name, with shared draws of the same groups [N]."""
    _, codes = np.unique(groups, return_inverse=True)
    sums = {name: np.bincount(codes, weights=numbers) for name, numbers in values.items()}
    sizes = np.bincount(codes).astype(np.float64)

    def statistics(weights: np.ndarray) -> dict[str, np.ndarray]:
        drawn = weights @ sizes
        return {name: weights @ numbers / drawn for name, numbers in sums.items()}

    return bootstrap_intervals(statistics, len(sizes), samples=samples, seed=seed)


def median_interval(
    values: np.ndarray, groups: np.ndarray, *, samples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Return the 95 % interval of the (lower) median of `values` [N], drawing whole `groups` [N]."""
    names, codes = np.unique(groups, return_inverse=True)
    order = np.argsort(values, kind="stable")
    codes, values = codes[order], values[order]
    sizes = np.bincount(codes)
    # With many values the medians of draws lie near the middle: earlier values are only counted.
    middle = slice(int(0.4 * len(values)), int(0.6 * len(values))) if len(values) > MANY else slice(0, len(values))
    before = np.bincount(codes[: middle.start], minlength=len(names))

    def statistic(weights: np.ndarray) -> np.ndarray:
        half = weights @ sizes[:, None] / 2
        drawn = weights[:, codes[middle]].cumsum(1) + weights @ before[:, None]
        medians: np.ndarray = values[middle][(drawn >= half).argmax(1)]
        elsewhere = (weights @ before >= half[:, 0]) | (drawn[:, -1] < half[:, 0])
        for draw in np.flatnonzero(elsewhere):
            medians[draw] = values[(weights[draw, codes].cumsum() >= half[draw]).argmax()]
        return medians

    return bootstrap_interval(statistic, len(names), width=len(values[middle]), samples=samples, seed=seed)
