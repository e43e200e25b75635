"""A sample that mixes a known null with something else: its share of the null, and each member's probability of it.

The sample has density f = p f0 + (1 - p) f1; f0 is known by a second sample. The rest f1 is f0, tilted exponentially:

    f(x) / f0(x) = p + (1 - p) exp(w x + b),     b such that f1 is a density

(exponential tilt mixture: Zou, Fine and Yandell 2002, "On empirical likelihood for a semiparametric mixture model",
Biometrika 89). For p = 0 this is logistic regression of sample against null. The ratio orders the members of the sample as
the ratio of f1 and f0 does, so it is also the best combination of several features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import coo_array

from lightcrl.metrics.intervals import group_weights

RIDGE = 1e-5
"""Penalty of the squared weights of standardised features."""
BOUND = 6.0
"""Greatest deviation of a feature, in standard deviations of the null; larger ones are cut."""
STEEPEST = 30.0
"""Greatest logarithm of the ratio f1 / f0."""
START = 0.1
ITERATIONS = 200
BINS = 256
"""Number of bins of the log ratio for the bootstrap."""
WIDEST = 10.0
"""Greatest absolute log ratio that the bootstrap tells apart; beyond it a member is of one kind for certain."""


@dataclass(frozen=True)
class Mixture:
    """A fitted mixture.

    Attributes:
        share: p, share of the null in the sample.
        weights: w [F'], of the expanded features.
        offset: b.
        means: means [F] of the null's features.
        scales: standard deviations [F] of the null's features.
    """

    share: float
    weights: np.ndarray
    offset: float
    means: np.ndarray
    scales: np.ndarray

    def log_ratio(self, features: np.ndarray) -> np.ndarray:
        """Return log f1 / f0 of members with `features` [N, F], [N]."""
        tilt = expand(features, self.means, self.scales) @ self.weights + self.offset
        ratio: np.ndarray = np.clip(tilt, -STEEPEST, STEEPEST)
        return ratio


def probability(log_ratio: np.ndarray, share: float) -> np.ndarray:
    """Return the probability [N] that a member is of the null, p / (p + (1 - p) exp(log_ratio)).

    >>> probability(np.array([0.0, np.log(9)]), 0.5).round(3).tolist()
    [0.5, 0.1]
    """
    wrong: np.ndarray = share / (share + (1 - share) * np.exp(log_ratio))
    return wrong


def expand(features: np.ndarray, means: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return standardised features, their squares and their products, [N, F (F + 3) / 2]; missing ones (NaN) are 0.

    >>> expand(np.array([[3.0, np.nan]]), np.array([1.0, 0.0]), np.array([2.0, 1.0])).tolist()
    [[1.0, 0.0, 1.0, 0.0, 0.0]]
    """
    standard = np.clip((features - means) / scales, -BOUND, BOUND)
    standard = np.where(np.isnan(standard), 0.0, standard)
    first, second = np.triu_indices(standard.shape[1])
    return np.concatenate([standard, standard[:, first] * standard[:, second]], 1)


def fit_mixture(sample: np.ndarray, null: np.ndarray) -> Mixture:
    """Fit the mixture by maximum likelihood of sample against null.

    Args:
        sample: features [N, F]; NaN for missing ones.
        null: features [M, F] of members of the null.
    """
    with np.errstate(invalid="ignore"):
        means = np.nan_to_num(np.nanmean(null, 0))
        scales = np.nan_to_num(np.nanstd(null, 0))
    scales = np.where(scales > 0, scales, 1.0)
    inside, outside = expand(sample, means, scales), expand(null, means, scales)
    share, weights, offset = _fit(inside, outside, np.ones(len(inside)), np.ones(len(outside)))
    return Mixture(share, weights, offset, means, scales)


def share_interval(
    sample: np.ndarray,
    null: np.ndarray,
    groups: tuple[np.ndarray, np.ndarray],
    *,
    samples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, tuple[float, float]]:
    """Return the share of the null and its interval: percentile bootstrap over groups, refitted on one feature.

    Args:
        sample: log ratios [N] of the sample, such as `Mixture.log_ratio` gives for members that it was not fitted on.
        null: log ratios [M] of members of the null.
        groups: number of the group of every member, of sample and null; groups are drawn, with all their members.
        samples: number of draws.
        level: coverage of the interval.
        seed: seed of the draws.
    """
    edges = np.linspace(-WIDEST, WIDEST, BINS + 1)
    bins = [np.clip(np.digitize(values, edges) - 1, 0, BINS - 1) for values in (sample, null)]
    numbers, places = np.unique(np.concatenate(groups), return_inverse=True)
    owners = places[: len(sample)], places[len(sample) :]
    tables = [
        coo_array((np.ones(len(own)), (own, column)), (len(numbers), BINS)).tocsr()
        for own, column in zip(owners, bins, strict=True)
    ]
    middle = (edges[1:] + edges[:-1]) / 2
    points = expand(middle[:, None], np.zeros(1), np.full(1, WIDEST / BOUND))
    whole = np.ones((1, len(numbers)))
    start: np.ndarray | None = None
    shares = []
    for weights in (whole, *group_weights(len(numbers), samples, seed)):
        for own, other in zip(weights @ tables[0], weights @ tables[1], strict=True):
            share, slope, _ = _fit(points, points, own, other, start)
            start = np.concatenate([[_logit(share)], slope]) if start is None else start
            shares.append(share)
    low, high = np.quantile(shares[1:], [(1 - level) / 2, (1 + level) / 2])
    return shares[0], (float(low), float(high))


def _fit(
    sample: np.ndarray, null: np.ndarray, own: np.ndarray, other: np.ndarray, start: np.ndarray | None = None
) -> tuple[float, np.ndarray, float]:
    """Return share, weights and offset for expanded features and the members' weights."""
    if start is None:
        start = np.concatenate([[_logit(START)], np.zeros(sample.shape[1])])
    objective = _objective(sample, null, own / own.sum(), other / other.sum())
    solved = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": ITERATIONS}).x
    return float(_share(solved[0])), solved[1:], _offset(null @ solved[1:], other / other.sum())


def _objective(
    sample: np.ndarray, null: np.ndarray, own: np.ndarray, other: np.ndarray
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Return the function from (logit of the share, weights) to the negative log likelihood and its gradient."""

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        share, weights = _share(point[0]), point[1:]
        tilts = sample @ weights, null @ weights
        offset = _offset(tilts[1], other)
        value, slope, slope_share = RIDGE * float(weights @ weights), 2 * RIDGE * weights, 0.0
        # The offset moves with the weights, so that f1 stays a density.
        moved = (other * np.exp(np.clip(tilts[1] + offset, -STEEPEST, STEEPEST))) @ null
        for values, tilt, chance, inside in ((sample, tilts[0], own, True), (null, tilts[1], other, False)):
            tilted = np.exp(np.clip(tilt + offset, -STEEPEST, STEEPEST))
            ratio = share + (1 - share) * tilted
            value += float(chance @ (np.log1p(ratio) - (np.log(ratio) if inside else 0.0)))
            by_ratio = chance * (1 / (1 + ratio) - (1 / ratio if inside else 0.0))
            by_tilt = by_ratio * (1 - share) * tilted
            slope = slope + by_tilt @ values - by_tilt.sum() * moved
            slope_share += float(by_ratio @ (1 - tilted))
        return value, np.concatenate([[slope_share * share * (1 - share)], slope])

    return objective


def _offset(tilt: np.ndarray, chance: np.ndarray) -> float:
    """Return b: the negative logarithm of the null's mean of exp(tilt)."""
    largest = float(tilt.max())
    return -largest - float(np.log(chance @ np.exp(tilt - largest)))


def _share(logit: float) -> float:
    return float(1 / (1 + np.exp(-np.clip(logit, -STEEPEST, STEEPEST))))


def _logit(share: float) -> float:
    share = min(max(share, 1e-6), 1 - 1e-6)
    return float(np.log(share / (1 - share)))
