"""Intervals that are right as often as they say, and words that follow from them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from lightcrl.metrics.intervals import group_weights
from lightcrl.metrics.statistics import (
    Difference,
    bootstrap_ratios,
    difference,
    draws,
    estimate,
    student_interval,
    student_quantile,
)

GROUPS = 150


def trained(rng, seeds: int, *, mean: float = 0.5, method: int = 0, hard=None, groups: int = GROUPS, scatter=0.1):
    """The draws of one method whose seeds and groups scatter, and whose groups may be shared with another."""
    hard = rng.normal(0, 0.5, groups) if hard is None else hard
    figures = mean + hard + rng.normal(0, scatter, (seeds, 1)) + rng.normal(0, 0.3, (seeds, groups))
    items = bootstrap_ratios(figures.mean(0)[None], np.ones((1, groups)), samples=400)[:, 0]
    return draws(figures.mean(1), items, method)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 10, 49, 120])
def test_students_t_is_that_of_scipy(degrees):
    assert student_quantile(0.95, degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)


def test_the_interval_over_seeds_is_students():
    values = np.array([0.31, 0.35, 0.30, 0.36, 0.33])
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    assert student_interval(values) == pytest.approx((low, high), abs=1e-12)
    assert student_interval(values[:1]) is None


def test_a_draw_has_as_many_groups_as_there_are_and_parts_join(monkeypatch):
    whole = np.concatenate(list(group_weights(7, 50, seed=3)))
    assert whole.shape == (50, 7)
    assert (whole.sum(1) == 7).all()
    assert whole.mean() == 1
    monkeypatch.setattr("lightcrl.metrics.intervals.WEIGHTS", 7 * 20)
    parts = list(group_weights(7, 50, seed=3))
    assert [len(part) for part in parts] == [20, 20, 10]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_the_bootstrap_of_a_ratio_is_the_ratio_of_what_was_drawn():
    rng = np.random.default_rng(0)
    sums, sizes = rng.random((3, 20)), rng.integers(1, 6, (3, 20)).astype(float)
    found = bootstrap_ratios(sums, sizes, samples=30, seed=5)
    for number, weights in enumerate(np.concatenate(list(group_weights(20, 30, seed=5)))):
        drawn = np.repeat(np.arange(20), weights.astype(int))
        np.testing.assert_allclose(found[number], sums[:, drawn].sum(1) / sizes[:, drawn].sum(1), rtol=1e-12)


@pytest.mark.parametrize("seeds", [2, 5])
def test_an_interval_holds_the_truth_in_95_of_100_worlds(seeds):
    rng = np.random.default_rng(0)
    inside, items_inside = [], []
    for _ in range(400):
        found = estimate(trained(rng, seeds))
        inside.append(found.both[0] <= 0.5 <= found.both[1])
        items_inside.append(found.items[0] <= 0.5 <= found.items[1])
    assert 0.93 <= np.mean(inside) <= 0.99
    # Over groups alone it is too narrow: trainings scatter too.
    assert np.mean(items_inside) < 0.9


def test_methods_that_do_not_differ_are_told_apart_in_at_most_5_of_100_worlds():
    rng = np.random.default_rng(1)
    words = []
    for _ in range(300):
        hard = rng.normal(0, 0.5, GROUPS)
        pair = [trained(rng, 5, hard=hard, method=method) for method in (1, 2)]
        words.append(difference(*pair).word)
    assert np.mean([word != "not significant" for word in words]) <= 0.07


def test_a_method_better_by_a_fixed_amount_is_told_because_groups_are_paired():
    rng = np.random.default_rng(2)
    hard = rng.normal(0, 0.5, GROUPS)
    good, poor = (
        trained(rng, 5, mean=mean, hard=hard, method=number, scatter=0.01) for number, mean in ((1, 0.6), (2, 0.5))
    )
    found = difference(good, poor)
    assert found.mean == pytest.approx(0.1, abs=0.03)
    assert found.word == "better"
    assert difference(poor, good).word == "worse"
    # Unpaired, the intervals overlap.
    assert estimate(good).both[0] < estimate(poor).both[1]


def test_a_method_and_itself_differ_by_zero():
    found = trained(np.random.default_rng(3), 3)
    assert difference(found, found) == Difference(0.0, (0.0, 0.0))
    other = draws(found.values, found.items, 7)
    low, high = difference(found, other).interval
    assert low < 0 < high
    assert low == pytest.approx(-high, rel=0.35)


def test_one_seed_has_the_interval_over_groups_alone_and_seeds_that_agree_add_nothing():
    rng = np.random.default_rng(4)
    one = estimate(trained(rng, 1))
    assert one.seeds is None
    assert one.both == one.items
    items = rng.normal(0.3, 0.01, 100)
    same = estimate(draws(np.full(5, 0.3), items, 0))
    assert same.seeds == pytest.approx((0.3, 0.3))
    assert same.both == same.items


@pytest.mark.parametrize(("share", "ends"), [(1.0, (0.025 ** (1 / 16), 1.0)), (0.0, (0.0, 1 - 0.025 ** (1 / 16)))])
def test_all_or_no_hits_have_the_exact_interval_of_their_groups(share, ends):
    found = estimate(draws(np.full(3, share), np.full(200, share), 0, 16))
    assert found.items == found.both == pytest.approx(ends)


def test_a_share_near_one_has_no_interval_above_it():
    found = estimate(draws(np.array([0.97, 1.0]), np.linspace(0.95, 1, 200), 0))
    assert found.seeds == (pytest.approx(0.985 - 12.706 * 0.015, abs=1e-4), 1.0)
    assert found.both[1] == 1.0
