"""Forecast of the DFE's R@1 on all groups from the closed-form R@1 on a sample: a fit to measured runs.

With n groups in the sample, N in all, g groups of dev among which the closed form is smoothed, D in all, in logits:

    R@1(DFE, N, D) = R@1(closed form, n, D) + a + b (500^-0.3 - N^-0.3)+ + c (n^-0.3 - N^-0.3)

The closed form is what is at hand, and the forecast starts from it. b is the lead of training over the closed form,
which begins at about 500 groups; c is how the closed form grows with its groups. Both have the shape of measured
curves from 125 to 6,000 groups (docs/LOG.md). Two modalities of one kind, such as two encoders of the same texts, have
a fit of their own. R@1 among more groups than the sample's follows a line in the logarithm of their number, whose slope
is drawn to the usual one, since few small galleries say little of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from typing import Any

import numpy as np
from scipy.special import expit

from lightcrl.metrics.curve import next_target

# Usual values of a, b and c, and the squared residuals that a unit's distance from them costs in the fit.
USUAL = np.array([0.0, 3.7, 11.0])
PULL = np.diag([4.0, 0.01, 0.01])
POWER = -0.3
# Number of groups from which on training has a lead.
LEAD = 500
# Usual slope of the logit of R@1 over the log of the gallery's size, and its weight in squared logs.
SLOPE, SLOPE_PULL = -0.55, 8.0
# Errors in logits: of a run whose sample is all there is, and for each unit of the log by which gallery and data grow.
OWN, FARTHER, MORE = 0.15, 0.12, 0.12
NORMAL = 1.96
"""Half the width of a normal 95 % interval, in standard errors."""
TAIL = 0.025
"""Probability of an outcome on either side of a 95 % interval."""
NODES = 40
"""Number of nodes of the mean over the errors of a forecast."""
FARTHEST = 10.0
"""Multiple of the groups at hand up to which groups for a target are forecast."""


@dataclass(frozen=True)
class Point:
    """A measured run.

    Attributes:
        run: name of the run; points of a run are left out together.
        sample: number of groups for the fit of the closed form.
        closed_form: its R@1 by the number of groups in the gallery.
        groups: number of groups that the DFE was trained on.
        gallery: number of groups among which the DFE's R@1 was measured.
        trained: mean R@1 of the DFE on dev.
    """

    run: str
    sample: int
    closed_form: dict[int, float]
    groups: float
    gallery: int
    trained: float

    @property
    def features(self) -> np.ndarray:
        """[3]: one, the lead of training, the growth of the closed form."""
        lead, grown = LEAD**POWER - self.groups**POWER, self.sample**POWER - self.groups**POWER
        return np.array([1.0, max(0.0, lead), grown])

    @property
    def base(self) -> float:
        """Logit of the closed form's R@1 among `gallery` groups."""
        return logit(recall_among(self.closed_form, self.gallery))

    @property
    def error(self) -> float:
        """Standard error in logits that a run has by itself, without the noise of dev."""
        farther = FARTHER * max(0.0, math.log(self.gallery / max(self.closed_form)))
        return math.hypot(OWN, farther, MORE * max(0.0, math.log(self.groups / self.sample)))

    @property
    def noise(self) -> float:
        """Standard error in logits of both recalls, the closed form's and the outcome, over their groups of dev."""
        top = max(self.closed_form)
        return math.hypot(spread_of(self.closed_form[top], top), spread_of(self.trained, self.gallery))


@dataclass(frozen=True)
class Calibration:
    """A fit.

    Attributes:
        weights: a, b, c of the module's formula.
        spread: root mean square of the errors of left-out runs in units of `Point.error`, at least 1.
        runs: number of runs of the fit.
    """

    weights: tuple[float, float, float]
    spread: float
    runs: int


@dataclass(frozen=True)
class Need:
    """The number of groups for a target.

    Attributes:
        recall: target of R@1.
        groups: expected number of groups in all; infinite beyond `FARTHEST` times the groups at hand.
        low: lower end of the 95 % interval, at least the groups at hand.
        high: upper end, maybe infinite.
    """

    recall: float
    groups: float
    low: float
    high: float


@dataclass(frozen=True)
class Prediction:
    """The expected R@1 of the DFE after training on all groups.

    Attributes:
        recall: mean R@1 of both directions on all of dev.
        low: lower end of its 95 % interval: errors of the fit on left-out runs, and the noise of dev.
        high: upper end.
        groups: number of groups that it is trained on.
        gallery: number of groups in the gallery.
        growth: expected R@1 with 2, 4 and 10 times the groups.
        runs: number of measured runs of the fit.
        need: groups for the next multiple of 0.05.
    """

    recall: float
    low: float
    high: float
    groups: int
    gallery: int
    growth: dict[int, float]
    runs: int
    need: Need


def logit(share: float, least: float = 1e-3) -> float:
    """Return log(p / (1 - p)), with p kept at least `least` away from 0 and 1."""
    kept = min(max(share, least), 1 - least)
    return float(np.log(kept / (1 - kept)))


def smoothed(recall: float, groups: int) -> float:
    """Return a recall among groups with one more, half right: all or nothing among few groups is not certain."""
    return (recall * groups + 0.5) / (groups + 1)


def spread_of(recall: float, groups: int) -> float:
    """Return the standard error, in logits, of a recall in two directions over independent groups."""
    share = smoothed(recall, groups)
    return 1 / math.sqrt(2 * groups * share * (1 - share))


def recall_among(measured: Mapping[int, float], size: int) -> float:
    """Return R@1 among `size` groups from R@1 among others: logits on a line over the logarithm of the size.

    >>> round(recall_among({100: 0.5, 200: 0.4, 400: 0.3077}, 400), 4)
    0.3077
    """
    sizes = np.log([*measured])
    values = np.array([logit(value) for value in measured.values()])
    # The largest gallery has the least noise: the line goes through it.
    top = int(sizes.argmax())
    steps = sizes - sizes[top]
    slope = (steps @ (values - values[top]) + SLOPE_PULL * SLOPE) / (steps @ steps + SLOPE_PULL)
    return float(expit(values[top] + min(0.0, slope) * (np.log(size) - sizes[top])))


def fit(points: Sequence[Point]) -> Calibration | None:
    """Fit by least squares with a ridge towards the usual values; its errors are those of left-out runs.

    The result is None for fewer than two runs, which leave nothing to test the fit on.
    """
    runs = sorted({point.run for point in points})
    if len(runs) < 2:
        return None
    misses = []
    for run in runs:
        weights = _solve([point for point in points if point.run != run])
        mine = [
            (_target(point) - point.features @ weights) / math.hypot(point.error, point.noise)
            for point in points
            if point.run == run
        ]
        misses.append(float(np.mean(np.square(mine))))
    a, b, c = _solve(points).tolist()
    return Calibration((a, b, c), max(1.0, float(np.sqrt(np.mean(misses)))), len(runs))


def _target(point: Point) -> float:
    return logit(smoothed(point.trained, point.gallery)) - point.base


def _solve(points: Sequence[Point]) -> np.ndarray:
    features = np.stack([point.features for point in points])
    targets = np.array([_target(point) for point in points]) - features @ USUAL
    # Every run counts once, regardless of its number of samples; a point with more error counts less.
    counts = {point.run: sum(other.run == point.run for other in points) for point in points}
    share = np.array([(OWN / point.error) ** 2 / counts[point.run] for point in points])
    moved: np.ndarray = np.linalg.solve((features.T * share) @ features + PULL, features.T @ (share * targets))
    weights: np.ndarray = USUAL + moved
    return weights


def predict(
    calibration: Calibration,
    closed_form: Mapping[int, float],
    sample: int,
    groups: int,
    gallery: int,
    interval: tuple[float, float] | None = None,
) -> Prediction:
    """Predict the R@1 of the DFE among `gallery` groups after training on `groups`, from the closed form on `sample`.

    `interval` is the closed form's own, 95 %, over the groups of its gallery; it is taken to be no narrower than that
    of as many independent groups. Training is measured on these groups too, or on groups like them.
    """
    top = max(closed_form)
    shares = {size: smoothed(recall, size) for size, recall in closed_form.items()}
    own = (logit(interval[1]) - logit(interval[0])) / (2 * NORMAL) if interval else 0.0
    noise = max(own, spread_of(closed_form[top], top)) if interval else 0.0

    def at(number: float, errors: float | np.ndarray = 0.0) -> Any:
        point = Point("", sample, shares, number, gallery, 0.5)
        error = math.hypot(calibration.spread * point.error, noise)
        return expit(point.base + point.features @ np.array(calibration.weights) + errors * error)

    recall, low, high = (float(at(groups, errors)) for errors in (0.0, -NORMAL, NORMAL))
    # Among few groups an outcome without any miss, or any hit, may be likely although no recall below 1 is one.
    errors, weights = np.polynomial.hermite_e.hermegauss(NODES)
    likely, weights = at(groups, errors), weights / weights.sum()
    low = 0.0 if weights @ (1 - likely) ** gallery >= TAIL else low
    high = 1.0 if weights @ likely**gallery >= TAIL else high
    target = next_target(recall)
    growing = [_first(groups, partial(at, errors=errors), target) for errors in (0.0, NORMAL, -NORMAL)]
    need = Need(target, *growing)
    growth = {times: float(at(groups * times)) for times in (2, 4, 10)}
    return Prediction(recall, low, high, groups, gallery, growth, calibration.runs, need)


def _first(groups: int, recall: Callable[[float], float], target: float) -> float:
    """Return the least number of groups, from `groups` to `FARTHEST` times as many, whose recall reaches a target."""
    if recall(groups) >= target:
        return float(groups)
    sizes = groups * np.geomspace(1, FARTHEST, 200)
    reached = [size for size in sizes if recall(float(size)) >= target]
    return float(reached[0]) if reached else math.inf


def measured(*, alike: bool) -> list[Point]:
    """Return the runs that come with the package (calibration.json, made by benchmarks/forecasts.py).

    `alike` chooses those of two modalities of one kind, such as two encoders of the same texts, or all others.
    """
    table = json.loads(files("lightcrl.studies.check").joinpath("calibration.json").read_text(encoding="utf-8"))
    return [
        Point(
            f"{entry['encoders']} {entry['groups']} {entry['dev']} {entry['seed']}",
            entry["sample"],
            {int(size): value for size, value in entry["closed_form"].items()},
            entry["groups"],
            entry["dev"],
            entry["trained"],
        )
        for entry in table["points"]
        if entry["alike"] == alike
    ]
