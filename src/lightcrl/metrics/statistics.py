"""Confidence intervals of figures that vary with the seed and with the measured groups: pure functions.

A figure is a mean over queries and over seeds, and both are samples: other groups would give other hits, other seeds
another training. There are three intervals:

    seeds    Student's t over the seeds' figures: variation of the training, for the same groups
    items    percentile bootstrap over groups of the seeds' mean: variation of the groups, for the same trainings
    both     each draw of groups plus a draw of the seeds' mean error, t with S - 1 degrees of freedom times s / sqrt(S)

A bootstrap over a few seeds, as over groups (a pigeonhole bootstrap: Owen 2007, "The pigeonhole bootstrap"), gives
intervals that are too narrow: with two seeds it covers half of the variance. Drawing the seeds' error from t gives
the right width for any number of seeds, if trainings vary normally. The interaction of queries and seeds is counted in
both parts, so that `both` is slightly wide.

Methods are compared on the same draws of groups, each with its own draws of seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from lightcrl.metrics.intervals import exact_at_ends, group_weights

LEVEL = 0.95
SAMPLES = 4000


@dataclass(frozen=True)
class Draws:
    """A figure with its bootstrap.

    Attributes:
        values: figure by seed, [S].
        items: bootstrap [B] of the seeds' mean over groups; draw b has the same groups for every figure.
        both: the same draws [B] with the seeds' error added.
        groups: number of groups that are drawn; None if an interval of all or nothing is not asked for.
    """

    values: np.ndarray
    items: np.ndarray
    both: np.ndarray
    groups: int | None = None

    @property
    def mean(self) -> float:
        """Return the mean over seeds."""
        return float(self.values.mean())


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % intervals.

    Attributes:
        mean: mean over seeds.
        seeds: interval over seeds; None with a single seed.
        items: interval over groups.
        both: interval over groups and seeds; equal to `items` with a single seed.
    """

    mean: float
    seeds: tuple[float, float] | None
    items: tuple[float, float]
    both: tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """One figure minus another, paired by groups.

    Attributes:
        mean: mean over seeds.
        interval: lower and upper end, over groups and seeds.
    """

    mean: float
    interval: tuple[float, float]

    @property
    def word(self) -> str:
        """`"better"` or `"worse"` if the whole interval is on one side of zero, otherwise `"not significant"`."""
        low, high = self.interval
        return "better" if low > 0 else "worse" if high < 0 else "not significant"


def student_quantile(level: float, degrees: int) -> float:
    """Return the t with P(|T| <= t) = level for Student's t.

    >>> [round(student_quantile(0.95, degrees), 3) for degrees in (1, 2, 4, 9)]
    [12.706, 4.303, 2.776, 2.262]
    """
    return float(stdtrit(degrees, (1 + level) / 2))


def student_interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float] | None:
    """Return the interval of the mean of `values` [S], assumed normal; None for fewer than two."""
    if len(values) < 2:
        return None
    half = student_quantile(level, len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def bootstrap_ratios(sums: np.ndarray, sizes: np.ndarray, samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    """Return means [samples, C] of queries' hits over draws of groups, which are the same for all columns.

    Args:
        sums: hits of each group's queries, [C, G].
        sizes: number of queries of each group, [C, G].
        samples: B, number of draws.
        seed: seed of the draws.
    """
    parts = [
        (weights @ sums.T) / np.maximum(weights @ sizes.T, 1) for weights in group_weights(sums.shape[1], samples, seed)
    ]
    return np.concatenate(parts)


def draws(values: np.ndarray, items: np.ndarray, seed: int, groups: int | None = None) -> Draws:
    """Add the seeds' error to a bootstrap over groups.

    Args:
        values: figure by seed, [S].
        items: bootstrap [B] of its mean over seeds, over groups.
        seed: seed of the error's draws; different for every method, whose trainings are independent.
        groups: number of groups that are drawn.
    """
    if len(values) < 2:
        return Draws(values, items, items, groups)
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    generator = np.random.default_rng([seed, len(values)])
    return Draws(values, items, items + error * generator.standard_t(len(values) - 1, len(items)), groups)


def estimate(figure: Draws, least: float = 0.0) -> Estimate:
    """Return the figure with its intervals, clipped to [least, 1]: a share, or a correlation from -1."""
    seeds = student_interval(figure.values)
    items, both = (_within(_ends(values), least) for values in (figure.items, figure.both))
    if figure.groups is not None and least == 0:
        items, both = (exact_at_ends(ends, figure.mean, figure.groups) for ends in (items, both))
    return Estimate(figure.mean, seeds and _within(seeds, least), items, both)


def difference(figure: Draws, other: Draws) -> Difference:
    """Return the first figure minus the second, draw by draw."""
    return Difference(figure.mean - other.mean, _ends(figure.both - other.both))


def _within(ends: tuple[float, float], least: float) -> tuple[float, float]:
    low, high = ends
    return min(max(low, least), 1.0), min(max(high, least), 1.0)


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
