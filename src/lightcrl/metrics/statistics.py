"""What may be said of figures that vary by seed and by what they were measured on: pure functions.

A figure is a mean over queries and over seeds, and both are samples: other groups would have given other hits, other
seeds another training. Three intervals follow:

    seeds    Student's t over the seeds' figures: what another training would give on the same groups
    items    percentile bootstrap over groups of the seeds' mean: what other groups would give for the same trainings
    both     each draw of groups plus a draw of the seeds' mean error, t with S - 1 degrees of freedom times s / sqrt(S)

Resampling a handful of seeds as one resamples groups (a pigeonhole bootstrap: Owen 2007, "The pigeonhole bootstrap")
gives intervals that are too narrow: of two seeds it sees half of the variance. Drawing the seeds' error from t gives
the right width for any number of them, if trainings scatter normally. How queries and seeds interact is counted in both
parts, so that `both` is a little wide.

Methods are compared on the same draws of groups, each with its own draws of seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from lightcrl.metrics.intervals import group_weights

LEVEL = 0.95
SAMPLES = 4000


@dataclass(frozen=True)
class Draws:
    """A figure with its bootstrap.

    Attributes:
        values: [S] by seed.
        items: [B] of the seeds' mean, groups drawn anew; draw b has the same groups for every figure.
        both: [B] the same with the seeds' error added.
    """

    values: np.ndarray
    items: np.ndarray
    both: np.ndarray

    @property
    def mean(self) -> float:
        """Over seeds."""
        return float(self.values.mean())


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % intervals.

    Attributes:
        mean: over seeds.
        seeds: interval over seeds; None with a single seed.
        items: interval over groups.
        both: interval over both; that over groups with a single seed.
    """

    mean: float
    seeds: tuple[float, float] | None
    items: tuple[float, float]
    both: tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """One figure minus another, paired by groups.

    Attributes:
        mean: over seeds.
        interval: its two ends, over groups and seeds.
    """

    mean: float
    interval: tuple[float, float]

    @property
    def word(self) -> str:
        """`"better"` or `"worse"` if the interval is all on one side of zero, else `"not significant"`."""
        low, high = self.interval
        return "better" if low > 0 else "worse" if high < 0 else "not significant"


def student_quantile(level: float, degrees: int) -> float:
    """The t with P(|T| <= t) = level for Student's t.

    >>> [round(student_quantile(0.95, degrees), 3) for degrees in (1, 2, 4, 9)]
    [12.706, 4.303, 2.776, 2.262]
    """
    return float(stdtrit(degrees, (1 + level) / 2))


def student_interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float] | None:
    """Interval of the mean of `values` [S], taken as normal; None for fewer than two."""
    if len(values) < 2:
        return None
    half = student_quantile(level, len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half


def bootstrap_ratios(sums: np.ndarray, sizes: np.ndarray, samples: int = SAMPLES, seed: int = 0) -> np.ndarray:
    """[samples, C] means of queries' hits, groups drawn anew: the same draws for all columns.

    Args:
        sums: [C, G] hits of each group's queries.
        sizes: [C, G] queries of each group.
        samples: B, how often to draw.
        seed: of the draws.
    """
    parts = [
        (weights @ sums.T) / np.maximum(weights @ sizes.T, 1) for weights in group_weights(sums.shape[1], samples, seed)
    ]
    return np.concatenate(parts)


def draws(values: np.ndarray, items: np.ndarray, seed: int) -> Draws:
    """Add the seeds' error to a bootstrap over groups.

    Args:
        values: [S] the figure by seed.
        items: [B] its mean over seeds, groups drawn anew.
        seed: of the error's draws; another one for every method, whose trainings are independent.
    """
    if len(values) < 2:
        return Draws(values, items, items)
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    generator = np.random.default_rng([seed, len(values)])
    return Draws(values, items, items + error * generator.standard_t(len(values) - 1, len(items)))


def estimate(found: Draws, least: float = 0.0) -> Estimate:
    """The figure with its intervals, none of which leaves [least, 1]: a share, or a correlation from -1."""
    seeds = student_interval(found.values)
    items, both = (_within(_ends(values), least) for values in (found.items, found.both))
    return Estimate(found.mean, seeds and _within(seeds, least), items, both)


def difference(one: Draws, other: Draws) -> Difference:
    """`one` minus `other`, draw by draw."""
    return Difference(one.mean - other.mean, _ends(one.both - other.both))


def _within(ends: tuple[float, float], least: float) -> tuple[float, float]:
    low, high = ends
    return min(max(low, least), 1.0), min(max(high, least), 1.0)


def _ends(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
