"""Dropout whose masks are random bytes."""

from __future__ import annotations

import pytest
import torch

from lightcrl.methods.dropout import Dropout


@pytest.mark.parametrize("p", [0.1, 0.45, 0.5, 0.998])
def test_the_share_dropped_is_p_and_the_mean_stays(p):
    torch.manual_seed(0)
    found = Dropout(p)(torch.ones(300, 1001))
    kept = (found != 0).double().mean().item()
    assert kept == pytest.approx(1 - p, abs=0.5 / 256 + 0.003)
    assert len(found.unique()) == 2
    # Five standard errors of a mean of so many.
    assert found.double().mean().item() == pytest.approx(1, abs=5 * found.double().std().item() / 300_300**0.5)


def test_features_are_dropped_independently_of_each_other_and_of_earlier_draws():
    torch.manual_seed(0)
    dropout = Dropout(0.5)
    first, second = ((dropout(torch.ones(20_000, 16)) != 0).double() for _ in range(2))
    joint = torch.corrcoef(torch.cat([first, second], 1).T) - torch.eye(32)
    assert joint.abs().max() < 0.04


def test_it_is_drawn_by_the_seed_and_does_nothing_in_eval_mode_or_for_zero():
    values = torch.randn(7, 13)
    dropout = Dropout(0.3)
    drawn = []
    for _ in range(2):
        torch.manual_seed(4)
        drawn.append(dropout(values))
    assert torch.equal(*drawn)
    assert torch.equal(dropout.eval()(values), values)
    assert torch.equal(dropout.mask((2, 3), values), torch.ones(2, 3))
    assert torch.equal(Dropout(0.0)(values), values)


def test_a_share_below_half_a_level_drops_nothing():
    assert torch.equal(Dropout(0.001)(torch.ones(5000)), torch.ones(5000))


def test_gradients_flow_through_what_is_kept_alone():
    values = torch.ones(50, 8, requires_grad=True)
    found = Dropout(0.5)(values)
    found.sum().backward()
    assert torch.equal(values.grad, found.detach())


@pytest.mark.parametrize(
    ("features", "groups", "steps", "share"),
    [
        (1920, 6000, 400, 0.5858), (1920, 6000, 4000, 0.5858), (1920, 6000, 100, 0.2612), (768, 6000, 396, 0.4696),
        (2560, 2000, 400, 0.7388), (1000, 1000, 400, 2.5 / 3.5), (10**9, 2, 400, 1.0), (1, 10**8, 400, 0.0),
    ],
)  # fmt: skip
def test_a_share_of_auto_grows_with_features_and_falls_with_groups(features, groups, steps, share):
    dropout = Dropout("auto")
    dropout.follow(features, groups, steps)
    assert dropout.p == pytest.approx(share, abs=3e-4)
    # However large, some features are kept.
    assert dropout(torch.ones(10_000)).count_nonzero()


def test_a_given_share_follows_nothing():
    dropout = Dropout(0.3)
    dropout.follow(1000, 10, 400)
    assert dropout.p == 0.3
