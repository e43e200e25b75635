"""The share of a known null in a sample: recovered from samples whose share is known."""

from __future__ import annotations

import numpy as np
import pytest

from lightcrl.metrics.mixture import fit_mixture, probability, share_interval

SIZE = 6000


def draw(share: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A sample [N, 3] with a share of the null, the mask of that share, and a sample of the null."""
    generator = np.random.default_rng(seed)
    wrong = generator.random(SIZE) < share
    sample, null = generator.normal(size=(2, SIZE, 3))
    return sample + np.where(wrong[:, None], 0.0, (2.0, 1.5, 0.5)), wrong, null


@pytest.mark.parametrize("share", [0.05, 0.2, 0.4])
def test_the_share_and_the_probabilities_are_right(share):
    sample, wrong, null = draw(share, 0)
    mixture = fit_mixture(sample, null)
    ratio = mixture.log_ratio(sample)
    numbers = np.arange(SIZE) // 3
    estimate, (low, high) = share_interval(ratio, mixture.log_ratio(null), (numbers, numbers), samples=60)
    assert mixture.share == pytest.approx(wrong.mean(), abs=0.025)
    assert estimate == pytest.approx(wrong.mean(), abs=0.025)
    assert low < estimate < high < low + 0.1
    chance = probability(ratio, estimate)
    likely = (chance > 0.3) & (chance < 0.7)
    assert wrong[likely].mean() == pytest.approx(chance[likely].mean(), abs=0.15)


def test_two_kinds_that_do_not_overlap_are_counted():
    ratio, numbers = np.where(np.arange(900) % 7 == 0, -9.0, 9.0), np.arange(900) // 3
    estimate, (low, high) = share_interval(ratio, np.full(900, -9.0), (numbers, numbers), samples=60)
    assert estimate == pytest.approx((ratio < 0).mean(), abs=1e-3)
    assert low < estimate < high


@pytest.mark.parametrize(("ratio", "share"), [(9.0, 0.0), (-9.0, 1.0)])
def test_the_interval_of_none_or_all_is_that_of_so_many_groups(ratio, share):
    numbers = np.arange(600) // 5
    estimate, (low, high) = share_interval(np.full(600, ratio), np.full(600, -9.0), (numbers, numbers), samples=60)
    assert estimate == pytest.approx(share, abs=5e-3)
    # None of 120 groups: a share of 3 % would have that outcome with a probability of 2.5 %.
    assert (low if share else 1 - high) == pytest.approx(0.025 ** (1 / 120), abs=1e-6)


def test_missing_features_count_by_their_absence():
    sample, wrong, null = draw(0.2, 1)
    sample[::2, 2] = null[::2, 2] = np.nan
    mixture = fit_mixture(sample, null)
    assert mixture.share == pytest.approx(wrong.mean(), abs=0.03)
    ratio = mixture.log_ratio(sample)
    assert np.isfinite(ratio).all()
    assert ratio[~wrong].mean() > 2 > 0 > ratio[wrong].mean()
