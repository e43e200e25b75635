"""A sample that mixes a known null with something else: its share of the null, and each member's probability of it.

The sample has density f = p f0 + (1 - p) f1; f0 is known by a second sample. The rest f1 is f0, tilted exponentially:

    f(x) / f0(x) = p + (1 - p) exp(w x + b)

(exponential tilt mixture: Zou, Fine and Yandell 2002, "On empirical likelihood for a semiparametric mixture model",
Biometrika 89). For p = 0 this is logistic regression of sample against null. The ratio orders the members of the sample
as the ratio of f1 and f0 does, so it is also the best combination of several features. The offset b is fitted, and not
set so that f1 is a density over the null's members: where the two do not overlap, no such density exists.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import coo_array

from lightcrl.metrics.intervals import group_weights, least_share

RIDGE = 0.2
"""Penalty of the squared weights of standardised features, per member of the smaller side."""
BOUND = 6.0
"""Greatest deviation of a feature, in standard deviations of the null; larger ones are cut."""
STEEPEST = 30.0
"""Greatest logarithm of the ratio f1 / f0."""
START = 0.1
ITERATIONS = 200
STRETCH = 8.0
"""Greatest factor of the log ratio when the share is fitted."""
BINS = 256
"""Number of bins of the log ratio for the bootstrap."""
WIDEST = 10.0
"""Greatest absolute log ratio that the bootstrap tells apart; beyond it a member is of one kind for certain."""


@dataclass(frozen=True)
class Mixture:
    """A fitted mixture.

    Attributes:
        share: p, share of the null in the sample.
        weights: w [F + 1], of the features and of the mark of a missing one.
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
        tilt = standardised(features, self.means, self.scales) @ self.weights + self.offset
        ratio: np.ndarray = np.clip(tilt, -STEEPEST, STEEPEST)
        return ratio


def probability(log_ratio: np.ndarray, share: float) -> np.ndarray:
    """Return the probability [N] that a member is of the null, p / (p + (1 - p) exp(log_ratio)).

    >>> probability(np.array([0.0, np.log(9)]), 0.5).round(3).tolist()
    [0.5, 0.1]
    """
    wrong: np.ndarray = share / (share + (1 - share) * np.exp(log_ratio))
    return wrong


def standardised(features: np.ndarray, means: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Return standardised features, 0 where one is missing (NaN), and 1 for members with a missing one, [N, F + 1].

    >>> standardised(np.array([[3.0, np.nan]]), np.array([1.0, 0.0]), np.array([2.0, 1.0])).tolist()
    [[1.0, 0.0, 1.0]]
    """
    standard = np.clip((features - means) / scales, -BOUND, BOUND)
    missing = np.isnan(standard)
    return np.concatenate([np.where(missing, 0.0, standard), missing.any(1, keepdims=True)], 1)


def fit_mixture(sample: np.ndarray, null: np.ndarray) -> Mixture:
    """Fit the mixture by maximum likelihood of sample against null.

    Args:
        sample: features [N, F]; NaN for missing ones.
        null: features [M, F] of members of the null.
    """
    count = np.maximum((~np.isnan(null)).sum(0), 1)
    means = np.nansum(null, 0) / count
    scales = np.sqrt(np.nansum((null - means) ** 2, 0) / count)
    scales = np.where(scales > 0, scales, 1.0)
    inside, outside = standardised(sample, means, scales), standardised(null, means, scales)
    logit, offset, *weights = _fit(inside, outside, np.ones(len(inside)), np.ones(len(outside)))
    return Mixture(_share(logit), np.array(weights), offset, means, scales)


def share_interval(
    sample: np.ndarray,
    null: np.ndarray,
    groups: tuple[np.ndarray, np.ndarray],
    *,
    samples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, tuple[float, float]]:
    """Return the share of the null and its interval: a percentile bootstrap over groups.

    Every draw fits the share anew, with a factor and an offset of the log ratios. A sample without any member of the
    null has none in any draw either, so the interval reaches at least as far as the exact one of no event (or nothing
    but events) among as many groups.

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
    whole = np.ones((1, len(numbers)))
    shares = [
        _share_of(middle, own, other)
        for weights in (whole, *group_weights(len(numbers), samples, seed))
        for own, other in zip(weights @ tables[0], weights @ tables[1], strict=True)
    ]
    low, high = np.quantile(shares[1:], [(1 - level) / 2, (1 + level) / 2])
    least = least_share(len(np.unique(groups[0])), level)
    return shares[0], (min(float(low), least), max(float(high), 1 - least))


def _share_of(log_ratio: np.ndarray, own: np.ndarray, other: np.ndarray) -> float:
    """Return the share for log ratios [B] and the weights [B] of sample and null there.

    The ratio is fitted anew up to a factor and an offset. A factor above 1 undoes the penalty of the features' weights,
    without which a small sample's ratio would be too flat to tell f1 from the null.
    """
    objective = _objective(log_ratio[:, None], log_ratio[:, None], own / own.sum(), other / other.sum(), 0.0)
    start = np.array([_logit(START), 0.0, 1.0])
    bounds = ((None, None), (None, None), (1.0, STRETCH))
    return _share(minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds).x[0])


def _fit(sample: np.ndarray, null: np.ndarray, own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the logit of the share, the offset and the weights, for standardised features and the members' weights."""
    start = np.zeros(2 + sample.shape[1])
    start[0] = _logit(START)
    penalty = RIDGE / min(own.sum(), other.sum())
    objective = _objective(sample, null, own / own.sum(), other / other.sum(), penalty)
    options = {"maxiter": ITERATIONS, "ftol": 1e-10, "gtol": 1e-7}
    solved: np.ndarray = minimize(objective, start, jac=True, method="L-BFGS-B", options=options).x
    return solved


def _objective(
    sample: np.ndarray,
    null: np.ndarray,
    own: np.ndarray,
    other: np.ndarray,
    penalty: float,
    base: np.ndarray | float = 0.0,
) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
    """Return the function from logit of the share, offset and weights to the negative log likelihood and its slope."""

    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        share, offset, weights = _share(point[0]), point[1], point[2:]
        value, slope = penalty * float(weights @ weights), np.zeros_like(point)
        slope[2:] = 2 * penalty * weights
        for values, chance, inside in ((sample, own, True), (null, other, False)):
            tilted = np.exp(np.minimum(np.maximum(values @ weights + offset, -STEEPEST), STEEPEST))
            ratio = share + (1 - share) * tilted
            value += float(chance @ (np.log1p(ratio) - (np.log(ratio) if inside else 0.0)))
            by_ratio = chance * (1 / (1 + ratio) - (1 / ratio if inside else 0.0))
            by_tilt = by_ratio * (1 - share) * tilted
            slope[0] += float(by_ratio @ (1 - tilted)) * share * (1 - share)
            slope[1] += by_tilt.sum()
            slope[2:] += by_tilt @ values
        return value, slope

    return objective


def _share(logit: float) -> float:
    return float(1 / (1 + np.exp(-min(max(logit, -STEEPEST), STEEPEST))))


def _logit(share: float) -> float:
    share = min(max(share, 1e-6), 1 - 1e-6)
    return float(np.log(share / (1 - share)))
