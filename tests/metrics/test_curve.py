"""Curves whose answer is known, and words for what they cannot say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from lightcrl.metrics.curve import Curve, Forecast, fit_curve, forecast, next_target

SIZES = np.array([125, 250, 500, 1000, 2000, 4000, 6000])


@pytest.mark.parametrize("curve", [Curve(0.6, 3000, 0.8), Curve(0.45, 300, 1.5), Curve(1.0, 20_000, 0.7)])
def test_a_curve_is_found_again(curve):
    found = fit_curve(SIZES, curve(SIZES))
    assert found.end == pytest.approx(curve.end, rel=1e-3)
    assert found.half == pytest.approx(curve.half, rel=1e-3)
    assert found.slope == pytest.approx(curve.slope, rel=1e-3)
    assert found.needed(0.4) == pytest.approx(curve.needed(0.4), rel=2e-3)


def test_the_end_of_a_curve_is_at_most_one():
    # Doubling with the data for ever: no recall does.
    found = fit_curve(SIZES, SIZES / 6000)
    assert found.end <= 1
    assert np.isfinite(found(SIZES)).all()


def test_the_groups_a_target_needs_are_where_the_curve_reaches_it():
    curve = Curve(0.6, 1000, 1.3)
    assert curve(np.array([curve.needed(0.35)]))[0] == pytest.approx(0.35)
    assert curve.needed(0.6) == curve.needed(0.9) == math.inf


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    truth, rng = Curve(0.6, 3000, 0.8), np.random.default_rng(0)
    inside = []
    for world in range(12):
        recall = truth(SIZES) + rng.normal(0, 0.006, (4, len(SIZES)))
        low, high = forecast(SIZES, recall, 0.45, samples=40, seed=world).interval
        inside.append(low <= truth.needed(0.45) <= high)
    assert np.mean(inside) >= 0.8


def test_a_forecast_tells_its_error_and_how_it_would_have_done():
    found = forecast(SIZES, Curve(0.6, 3000, 0.8)(SIZES)[None], 0.45, samples=5)
    assert found.error == pytest.approx(0, abs=1e-5)
    assert found.missed == pytest.approx(0, abs=1e-3)
    # A leap at the last size, that the others cannot foresee.
    leap = Curve(0.6, 3000, 0.8)(SIZES) + np.array([0, 0, 0, 0, 0, 0, 0.1])
    assert forecast(SIZES, leap[None], 0.45, samples=5).missed == pytest.approx(0.1, abs=2e-3)
    with pytest.raises(ValueError, match="4 sizes; expected at least 5"):
        forecast(SIZES[:4], leap[None, :4], 0.45)


SAID = Forecast(Curve(0.6, 3000, 1.0), 0.0, 0.0, 0.45, 9000.0, (8000.0, 12_500.0), 6000)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "about 3,000 more groups for 0.45 (2,000 to 6,500)"),
        ({"interval": (5000.0, math.inf)}, "about 3,000 more groups for 0.45 (0 or more; the fit sets no upper end)"),
        ({"needed": 4120.0}, "0.45 is reached with about 4,100 groups"),
        (
            {"needed": math.inf, "target": 0.7, "interval": (9000.0, math.inf)},
            "0.70 is above the limit of the fitted curve, 0.60 (3,000 more groups at least)",
        ),
        (
            {"needed": math.inf, "target": 0.7, "interval": (math.inf, math.inf)},
            "0.70 is above the limit of the fitted curve, 0.60",
        ),
        ({"needed": 70_000.0}, "0.45 is beyond the range of the fit: more than 10 times the data"),
    ],
)
def test_the_words_say_what_the_fit_can_and_cannot(given, words):
    assert replace(SAID, **given).words == words


def test_the_next_round_target_is_above():
    assert [next_target(value) for value in (0.0, 0.38, 0.391, 0.445, 0.97, 0.999)] == [
        0.05,
        0.4,
        0.45,
        0.5,
        0.99,
        0.99,
    ]


@pytest.mark.parametrize("seed", range(8))
def test_no_curve_of_a_fine_grid_fits_better(seed):
    rng = np.random.default_rng(seed)
    truth = Curve(rng.uniform(0.2, 1), math.exp(rng.uniform(4, 10)), rng.uniform(0.3, 2.5))
    recall = np.clip(truth(SIZES) + rng.normal(0, 0.01, len(SIZES)), 0, 1)
    halves, slopes = np.geomspace(SIZES[0] / 100, SIZES[-1] * 1000, 300), np.linspace(0.1, 3, 150)
    shapes = 1 / (1 + (halves[:, None, None] / SIZES) ** slopes[:, None])
    ends = np.clip((shapes @ recall) / (shapes**2).sum(-1), 0, 1)
    least = ((ends[..., None] * shapes - recall) ** 2).sum(-1).min()
    assert ((fit_curve(SIZES, recall)(SIZES) - recall) ** 2).sum() <= least + 1e-12
