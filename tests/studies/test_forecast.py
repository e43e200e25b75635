"""The fit behind the prediction: planted laws come back, errors are honest, the packaged points are read."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightcrl.studies.check.forecast import Point, fit, logit, measured, predict, recall_among


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def law(noise: float = 0.0) -> list[Point]:
    """Runs for which logit(DFE) = logit(closed form) + 0.3 + 0.4 log(groups / sample), and noise."""
    rng = np.random.default_rng(0)
    points = []
    for level in (-2.0, -1.0, 0.0, 1.0):
        for times in (1, 4, 16):
            trained = sigmoid(level + 0.3 + 0.4 * math.log(times) + noise * rng.normal())
            points.append(Point(f"{level} {times}", 500, {1000: sigmoid(level)}, 500 * times, 1000, trained))
    return points


def test_a_planted_law_is_found_again():
    found = fit(law())
    assert found.weights == pytest.approx((0.3, 0.0, 0.4), abs=0.01)
    assert found.error < 0.02
    assert found.runs == 12
    expected = predict(found, {1000: sigmoid(0.5)}, 500, 2000, 1000)
    assert logit(expected.recall) == pytest.approx(0.5 + 0.3 + 0.4 * math.log(4), abs=0.03)
    assert expected.growth[4] == pytest.approx(sigmoid(0.8 + 0.4 * math.log(16)), abs=0.01)


def test_the_error_is_that_of_runs_left_out():
    found = fit(law(noise=0.5))
    assert 0.3 < found.error < 0.9
    expected = predict(found, {1000: 0.5}, 500, 500, 1000)
    assert logit(expected.high) - logit(expected.recall) == pytest.approx(found.error)
    assert logit(expected.recall) - logit(expected.low) == pytest.approx(found.error)


def test_the_noise_of_the_closed_form_widens_what_is_expected():
    found = fit(law(noise=0.5))
    exact = predict(found, {1000: 0.5}, 500, 500, 1000)
    noisy = predict(found, {1000: 0.5}, 500, 500, 1000, interval=(sigmoid(-1.96), sigmoid(1.96)))
    assert noisy.recall == exact.recall
    assert logit(noisy.high) - logit(noisy.recall) == pytest.approx(math.hypot(found.error, 1))


def test_points_of_one_run_are_left_out_together():
    """Two samples of one run agree with each other, not with the other run: only leaving both out shows it."""
    same = [Point("a", 500, {1000: 0.3}, 500, 1000, 0.3)] * 5
    other = Point("b", 500, {1000: 0.3}, 500, 1000, 0.6)
    assert fit([*same, other]).error == pytest.approx(logit(0.6) - logit(0.3), rel=0.05)
    assert fit(same) is None


@pytest.mark.parametrize("size", [50, 400, 5000])
def test_recall_among_more_groups_follows_the_line_of_its_logits(size):
    measured_at = {n: sigmoid(4 - 0.8 * math.log(n)) for n in (100, 200, 400)}
    assert recall_among(measured_at, size) == pytest.approx(sigmoid(4 - 0.8 * math.log(size)))


def test_more_groups_to_search_are_never_easier():
    assert recall_among({100: 0.3, 200: 0.35}, 1000) == pytest.approx(0.35)


def test_the_packaged_points_make_a_calibration():
    points = measured()
    found = fit(points)
    assert found is not None
    assert found.runs >= 2
    assert all(0 < point.trained < 1 for point in points)
    assert math.isfinite(found.error)
