"""Forecast of the DFE's R@1 on all groups from the closed-form R@1 on a sample: a fit to measured runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

# Ridge of the fit towards "the DFE's logit is the closed form's plus a constant", in squared residuals: the slope needs
# points of many levels, growth with the data fewer.
PULL = (0.0, 1.0, 0.05)


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
    groups: int
    gallery: int
    trained: float

    @property
    def features(self) -> np.ndarray:
        """[3]: one, logit of the closed form's R@1 among `gallery` groups, log of the ratio of groups to sample."""
        at = recall_among(self.closed_form, self.gallery)
        return np.array([1.0, logit(at), np.log(self.groups / self.sample)])


@dataclass(frozen=True)
class Calibration:
    """A fit: logit(DFE) = logit(closed form among as many) + a + b logit(closed form) + c log(groups / sample).

    Attributes:
        weights: a, b, c.
        error: root mean square error on left-out runs, in logits.
        runs: number of runs of the fit.
    """

    weights: tuple[float, float, float]
    error: float
    runs: int


@dataclass(frozen=True)
class Prediction:
    """The expected R@1 of the DFE after training on all groups.

    Attributes:
        recall: mean R@1 of both directions on all of dev.
        low: recall minus an error: that of the fit on left-out runs, combined with the noise of the closed form.
        high: recall plus that error.
        gallery: number of groups in the gallery.
        growth: expected R@1 with 2, 4 and 10 times the groups.
        runs: number of measured runs of the fit.
    """

    recall: float
    low: float
    high: float
    gallery: int
    growth: dict[int, float]
    runs: int


def logit(share: float, least: float = 1e-3) -> float:
    """Return log(p / (1 - p)), with p kept at least `least` away from 0 and 1."""
    kept = min(max(share, least), 1 - least)
    return float(np.log(kept / (1 - kept)))


def recall_among(measured: Mapping[int, float], size: int) -> float:
    """Return R@1 among `size` groups from R@1 among others: logits on a line over the logarithm of the size.

    >>> round(recall_among({100: 0.5, 200: 0.4, 400: 0.3077}, 200), 2)
    0.4
    """
    sizes = np.log([*measured])
    values = np.array([logit(value) for value in measured.values()])
    if len(measured) == 1:
        return float(1 / (1 + np.exp(-values[0])))
    # The largest gallery has the least noise: the line goes through it.
    top = int(sizes.argmax())
    steps = np.delete(sizes - sizes[top], top)
    slope = min(0.0, float(steps @ np.delete(values - values[top], top) / (steps @ steps)))
    return float(1 / (1 + np.exp(-(values[top] + slope * (np.log(size) - sizes[top])))))


def fit(points: Sequence[Point]) -> Calibration | None:
    """Fit by least squares with the ridge `PULL`, and its leave-one-run-out error; None for fewer than two runs, which
    leave nothing to test the fit on.
    """
    runs = sorted({point.run for point in points})
    if len(runs) < 2:
        return None
    misses = []
    for run in runs:
        weights = _solve([point for point in points if point.run != run])
        mine = [_target(point) - point.features @ weights for point in points if point.run == run]
        misses.append(float(np.mean(np.square(mine))))
    a, b, c = _solve(points).tolist()
    return Calibration((a, b, c), float(np.sqrt(np.mean(misses))), len(runs))


def _target(point: Point) -> float:
    return logit(point.trained) - float(point.features[1])


def _solve(points: Sequence[Point]) -> np.ndarray:
    features = np.stack([point.features for point in points])
    targets = np.array([_target(point) for point in points])
    # Every run counts once, regardless of its number of samples.
    counts = {point.run: sum(other.run == point.run for other in points) for point in points}
    share = np.array([1 / counts[point.run] for point in points])
    return np.linalg.solve((features.T * share) @ features + np.diag(PULL), (features.T * share) @ targets)


def predict(
    calibration: Calibration,
    closed_form: Mapping[int, float],
    sample: int,
    groups: int,
    gallery: int,
    interval: tuple[float, float] | None = None,
) -> Prediction:
    """Predict the R@1 of the DFE among `gallery` groups after training on `groups`, from the closed form on `sample`.

    `interval` is the closed form's own, 95 %: its noise adds to the error of the fit.
    """
    noise = (logit(interval[1]) - logit(interval[0])) / 3.92 if interval else 0.0
    error = float(np.hypot(calibration.error, noise))

    def at(times: int, errors: float = 0.0) -> float:
        features = Point("", sample, dict(closed_form), groups * times, gallery, 0.5).features
        value = features[1] + features @ np.array(calibration.weights) + errors * error
        return float(1 / (1 + np.exp(-value)))

    growth = {times: at(times) for times in (2, 4, 10)}
    return Prediction(at(1), at(1, -1), at(1, 1), gallery, growth, calibration.runs)


def measured() -> list[Point]:
    """Return the runs that come with the package (calibration.json, made by benchmarks/calibrate.py)."""
    table = json.loads(files("lightcrl.studies.check").joinpath("calibration.json").read_text(encoding="utf-8"))
    return [
        Point(
            f"{entry['encoders']} {entry['groups']}",
            entry["sample"],
            {int(size): value for size, value in entry["closed_form"].items()},
            entry["groups"],
            entry["gallery"],
            entry["trained"],
        )
        for entry in table["points"]
    ]
