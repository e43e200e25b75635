"""Growth of recall with the training groups, and the number of groups for a target: pure functions.

    R(n) = a / (1 + (m / n)^c)        a: limit, at most 1; m: groups for half of the limit; c: slope

This is a logistic curve in log n. For n far above m it is the power law a (1 - (m/n)^c) of learning curves (Hestness et
al. 2017, arXiv 1712.00409), for n far below m the power law a (n/m)^c of the beginning; both occur between a hundred
and ten thousand groups.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.special import expit

# Least number of sizes for judging the fit of three parameters: two remain for the judgement.
LEAST_SIZES = 5
# An extrapolation beyond this many times the data is not reported as a number.
FARTHEST = 10.0
SAMPLES = 200
SLOPES = (0.1, 3.0)
GRID = 17
PRECISE = {"xtol": 1e-10, "ftol": 1e-12, "gtol": 1e-12}


@dataclass(frozen=True)
class Curve:
    """R(n) = end / (1 + (half / n)^slope)."""

    end: float
    half: float
    slope: float

    def __call__(self, groups: np.ndarray) -> np.ndarray:
        """Return recall at numbers of groups."""
        recall: np.ndarray = self.end / (1 + np.exp(self.slope * (math.log(self.half) - np.log(groups))))
        return recall

    def needed(self, target: float) -> float:
        """Return the number of groups for a recall of `target`; infinite if the limit of the curve is below it.

        >>> Curve(0.6, 1000.0, 1.0).needed(0.4)
        2000.0
        """
        if target >= self.end:
            return math.inf
        power = math.log(target / (self.end - target)) / self.slope
        return round(math.exp(min(power + math.log(self.half), 600.0)), 6)


@dataclass(frozen=True)
class Forecast:
    """The forecast of a curve for a target.

    Attributes:
        curve: curve fitted to the seeds' means by least squares.
        error: root mean square of the residuals.
        missed: recall at the largest size minus the forecast of a curve fitted to the other sizes.
        target: target recall.
        needed: number of groups for the target; infinite if the limit of the curve is below it.
        interval: 95 % interval of `needed`, over seeds and residuals; an end may be infinite.
        most: largest training size.
    """

    curve: Curve
    error: float
    missed: float
    target: float
    needed: float
    interval: tuple[float, float]
    most: int

    @property
    def words(self) -> str:
        """The forecast as the end of a sentence, such as "about 2,900 more groups for 0.40 (1,800 to 5,500)"."""
        low, _ = self.interval
        target = f"{self.target:.2f}"
        if self.needed <= self.most:
            return f"{target} is reached with about {_about(self.needed)} groups"
        if math.isinf(self.needed):
            least = f" ({self._more(low)} at least)" if self.most < low <= FARTHEST * self.most else ""
            return f"{target} is above the limit of the fitted curve, {self.curve.end:.2f}{least}"
        if self.needed > FARTHEST * self.most:
            return f"{target} is beyond the range of the fit: more than {FARTHEST:.0f} times the data"
        return f"about {self._more(self.needed)} for {target} ({self._range()})"

    def _more(self, groups: float) -> str:
        return f"{_about(groups - self.most)} more groups"

    def _range(self) -> str:
        low, high = self.interval
        least = _about(max(low - self.most, 0.0))
        if high > FARTHEST * self.most:
            return f"{least} or more; the fit sets no upper end"
        return f"{least} to {_about(high - self.most)}"


def fit_curve(groups: np.ndarray, recall: np.ndarray) -> Curve:
    """Fit recall [N] at numbers of groups [N] by least squares, within bounds, by SciPy's trust region.

    The search starts at the best point of a coarse grid over half and slope, for which the best limit is known.
    """
    x = np.log(groups)
    lowest, highest = x.min() - math.log(100), x.max() + math.log(1000)
    half, slope = np.meshgrid(np.linspace(lowest, highest, GRID), np.linspace(*SLOPES, GRID), indexing="ij")
    shapes = expit(slope[..., None] * (x - half[..., None]))
    ends = np.clip((shapes @ recall) / np.maximum((shapes**2).sum(-1), 1e-300), 0, 1)
    best = np.unravel_index(int(((ends[..., None] * shapes - recall) ** 2).sum(-1).argmin()), ends.shape)

    def left(at: np.ndarray) -> np.ndarray:
        residuals: np.ndarray = at[0] * expit(at[2] * (x - at[1])) - recall
        return residuals

    def gradient(at: np.ndarray) -> np.ndarray:
        shape = expit(at[2] * (x - at[1]))
        rise = at[0] * shape * (1 - shape)
        return np.stack([shape, -at[2] * rise, (x - at[1]) * rise], 1)

    bounds = ([0, lowest, SLOPES[0]], [1, highest, SLOPES[1]])
    start = np.array([ends[best], half[best], slope[best]])
    end, middle, steepness = least_squares(left, start, gradient, bounds, x_scale="jac", **PRECISE).x
    return Curve(float(end), math.exp(middle), float(steepness))


def forecast(
    groups: np.ndarray, recall: np.ndarray, target: float, *, samples: int = SAMPLES, seed: int = 0
) -> Forecast:
    """Fit a curve and forecast the groups for a target.

    The interval comes from curves fitted to the fitted values plus the error of resampled seeds (whole seeds, since
    their subsets are nested) plus resampled residuals, widened for the three parameters.

    Args:
        groups: sizes [N], ascending, at least `LEAST_SIZES`.
        recall: recall by seed, [S, N].
        target: target recall.
        samples: number of curves for the interval.
        seed: seed of the draws.

    Raises:
        ValueError: there are fewer sizes.
    """
    seeds, sizes = recall.shape
    if sizes < LEAST_SIZES:
        raise ValueError(f"{sizes} sizes; expected at least {LEAST_SIZES}")
    means = recall.mean(0)
    curve = fit_curve(groups, means)
    fitted = curve(groups)
    left = means - fitted
    generator = np.random.default_rng(seed)
    needed = []
    for _ in range(samples):
        drawn = recall[generator.integers(0, seeds, seeds)].mean(0) - means
        drawn *= math.sqrt(seeds / (seeds - 1)) if seeds > 1 else 0.0
        residuals = generator.choice(left, sizes) * math.sqrt(sizes / (sizes - 3))
        needed.append(fit_curve(groups, np.clip(fitted + drawn + residuals, 0, 1)).needed(target))
    low, high = np.quantile(needed, [0.025, 0.975], method="nearest")
    missed = float(means[-1] - fit_curve(groups[:-1], means[:-1])(groups[-1:])[0])
    return Forecast(
        curve,
        float(np.sqrt((left**2).mean())),
        missed,
        target,
        curve.needed(target),
        (float(low), float(high)),
        int(groups[-1]),
    )


def next_target(recall: float) -> float:
    """Return the next multiple of 0.05 that is at least 0.01 higher.

    >>> next_target(0.391), next_target(0.395), next_target(0.97)
    (0.45, 0.45, 0.99)
    """
    return min(round((math.floor((recall + 0.01) / 0.05 + 1e-9) + 1) * 0.05, 2), 0.99)


def _about(groups: float) -> str:
    """Format a number of groups with two significant digits.

    >>> _about(2871.3), _about(48.0)
    ('2,900', '48')
    """
    if groups < 10:
        return f"{groups:.0f}"
    place = 10 ** (math.floor(math.log10(groups)) - 1)
    return f"{round(groups / place) * place:,}"
