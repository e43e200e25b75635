"""What holds for every loss of the table `LOSSES`."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightcrl.errors import TrainingError
from lightcrl.losses import LOSSES
from samples import units

SCALE, BIAS = torch.tensor(12.0, dtype=torch.float64), torch.tensor(-4.0, dtype=torch.float64)
LEFT, RIGHT = torch.tensor([0, 1, 1, 2, 5]), torch.tensor([1, 0, 2, 2, 0, 4])

pytestmark = pytest.mark.parametrize("loss", [LOSSES.load(name) for name in LOSSES], ids=list(LOSSES))


def sides(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return units(len(LEFT), 6, seed=2 * seed + 1), units(len(RIGHT), 6, seed=2 * seed + 2)


@given(
    seed=st.integers(0, 1000), order=st.tuples(st.permutations(range(len(LEFT))), st.permutations(range(len(RIGHT))))
)
def test_the_order_of_items_does_not_matter(loss, seed, order):
    left, right = sides(seed)
    one, other = map(list, order)
    turned = loss(left[one], right[other], LEFT[one], RIGHT[other], SCALE, BIAS)
    torch.testing.assert_close(turned, loss(left, right, LEFT, RIGHT, SCALE, BIAS))


def test_the_names_of_groups_do_not_matter(loss):
    left, right = sides()
    names = torch.tensor([40, -7, 10**12, 3, 9, 0])
    found = loss(left, right, names[LEFT], names[RIGHT], SCALE, BIAS)
    assert found == loss(left, right, LEFT, RIGHT, SCALE, BIAS)


def test_a_turn_of_the_whole_space_does_not_matter(loss):
    left, right = sides()
    turn = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).Q
    found = loss(left @ turn, right @ turn, LEFT, RIGHT, SCALE, BIAS)
    torch.testing.assert_close(found, loss(left, right, LEFT, RIGHT, SCALE, BIAS))


def test_sides_of_one_size_can_be_exchanged(loss):
    left, right = sides()
    right, groups = right[1:], RIGHT[1:]
    found = loss(right, left, groups, LEFT, SCALE, BIAS)
    torch.testing.assert_close(found, loss(left, right, LEFT, groups, SCALE, BIAS))


def test_it_is_a_positive_number(loss):
    found = loss(*sides(), LEFT, RIGHT, SCALE, BIAS)
    assert found.shape == ()
    assert found > 0


@given(seed=st.integers(0, 1000))
def test_perfect_embeddings_beat_random_ones_and_those_beat_the_opposite(loss, seed):
    groups = torch.arange(5)
    # At right angles: other groups that happen to lie close together cost more than random embeddings may.
    perfect, random = torch.linalg.qr(units(16, 5, seed=seed))[0].T, units(5, 16, seed=seed + 5000)
    best, middle, worst = (loss(perfect, right, groups, groups, SCALE, BIAS) for right in (perfect, random, -perfect))
    assert best < middle < worst


def test_scale_and_similarity_change_it(loss):
    left, right = sides()
    assert loss(left, right, LEFT, RIGHT, SCALE / 2, BIAS) != loss(left, right, LEFT, RIGHT, SCALE, BIAS)
    assert loss(left, -right, LEFT, RIGHT, SCALE, BIAS) != loss(left, right, LEFT, RIGHT, SCALE, BIAS)


def test_its_gradient_is_that_of_finite_differences(loss):
    left, right = (side.requires_grad_() for side in sides())
    scale, bias = SCALE.clone().requires_grad_(), BIAS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b, s, o: loss(a, b, LEFT, RIGHT, s, o), (left, right, scale, bias))


def test_every_positive_is_pulled_and_every_negative_pushed(loss):
    """From right angles between all items, those of one group move together, siblings included, others apart."""
    groups = torch.tensor([0, 0, 1])
    left, right = torch.eye(6).double().split(3)
    right.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(left, right, groups, groups, SCALE, BIAS + 4), right)
    by_similarity = left @ gradient.T
    assert torch.equal(by_similarity < 0, groups[:, None] == groups[None, :])
    assert (by_similarity != 0).all()


def test_an_item_without_positive_is_still_a_negative_of_others(loss):
    left, right, groups = units(3, 6, seed=1), units(3, 6, seed=1), torch.arange(3)
    far = -left.mean(0, keepdim=True)
    near = left[:1]
    loner = torch.tensor([9])
    losses = [
        loss(left, torch.cat([right, extra]), groups, torch.cat([groups, loner]), SCALE, BIAS) for extra in (far, near)
    ]
    assert losses[0] < losses[1]


def test_without_any_positive_it_says_what_it_expected(loss):
    with pytest.raises(TrainingError, match=r"no item has a positive on the other side; expected at least one group"):
        loss(units(2, 3), units(2, 3), torch.tensor([0, 1]), torch.tensor([2, 3]), SCALE, BIAS)
