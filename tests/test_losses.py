"""Both losses against loops over single items in float64, and their mean over pairs of modalities."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch.nn.functional import cross_entropy

from lightcrl.errors import TrainingError
from lightcrl.losses import LOGIT_BIAS_START, LOGIT_SCALE_START, LOSSES, info_nce, over_pairs, sigmoid
from samples import units

# Group numbers of the left and of the right side.
CASES = {
    "pairs": ([0, 1, 2, 3], [0, 1, 2, 3]),
    "pairs in another order": ([0, 1, 2], [2, 0, 1]),
    "several positives": ([0, 1, 2], [0, 0, 0, 1, 1, 2]),
    "several on both sides": ([0, 0, 1, 1], [1, 0, 0, 1, 1]),
    "anchors without positive": ([0, 1, 2, 3, 4], [0, 7, 3, 8]),
    "one pair": ([5], [5]),
}


def scores(left, right, scale, bias=0.0):
    return [[scale * sum(a * b for a, b in zip(x, y, strict=True)) + bias for y in right] for x in left]


def info_nce_by_loops(left, right, left_groups, right_groups, scale, smoothing=0.0):
    def one_side(logits, mine, theirs):
        anchors = []
        for row, group in zip(logits, mine, strict=True):
            total = sum(math.exp(logit) for logit in row)
            surprise = [-math.log(math.exp(logit) / total) for logit in row]
            right = [one for one, other in zip(surprise, theirs, strict=True) if other == group]
            if right:
                of_all = sum(surprise) / len(surprise)
                anchors.append((1 - smoothing) * sum(right) / len(right) + smoothing * of_all)
        return sum(anchors) / len(anchors)

    logits = scores(left, right, scale)
    flipped = [list(column) for column in zip(*logits, strict=True)]
    return (one_side(logits, left_groups, right_groups) + one_side(flipped, right_groups, left_groups)) / 2


def sigmoid_by_loops(left, right, left_groups, right_groups, scale, bias):
    total = 0.0
    for row, mine in zip(scores(left, right, scale, bias), left_groups, strict=True):
        for logit, theirs in zip(row, right_groups, strict=True):
            sign = 1 if mine == theirs else -1
            total += math.log(1 + math.exp(-sign * logit))
    return total / len(left)


@pytest.mark.parametrize(("left_groups", "right_groups"), CASES.values(), ids=CASES)
@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (1 / 0.07, -2.5), (100.0, -10.0)])
def test_both_losses_are_their_formulas(left_groups, right_groups, scale, bias):
    left, right = units(len(left_groups), 5, seed=1), units(len(right_groups), 5, seed=2)
    sides = (left, right, torch.tensor(left_groups), torch.tensor(right_groups))
    plain = (left.tolist(), right.tolist(), left_groups, right_groups)
    s, b = torch.tensor(scale).double(), torch.tensor(bias).double()
    assert info_nce(*sides, s).item() == pytest.approx(info_nce_by_loops(*plain, s.item()), rel=1e-9)
    assert sigmoid(*sides, s, b).item() == pytest.approx(sigmoid_by_loops(*plain, s.item(), bias), rel=1e-9)


@pytest.mark.parametrize(("left_groups", "right_groups"), CASES.values(), ids=CASES)
def test_label_smoothing_gives_a_share_of_the_target_to_all(left_groups, right_groups):
    left, right = units(len(left_groups), 5, seed=1), units(len(right_groups), 5, seed=2)
    sides = (left, right, torch.tensor(left_groups), torch.tensor(right_groups), torch.tensor(9.0).double())
    wanted = info_nce_by_loops(left.tolist(), right.tolist(), left_groups, right_groups, 9.0, smoothing=0.2)
    assert info_nce(*sides, label_smoothing=0.2).item() == pytest.approx(wanted, rel=1e-9)
    assert info_nce(*sides, label_smoothing=0.0) == info_nce(*sides)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_info_nce_of_plain_pairs_is_clips_cross_entropy(smoothing):
    left, right, pairs = units(6, 8, seed=1), units(6, 8, seed=2), torch.arange(6)
    logits = 14.0 * left @ right.T
    clip = sum(cross_entropy(side, pairs, label_smoothing=smoothing) for side in (logits, logits.T)) / 2
    found = info_nce(left, right, pairs, pairs, torch.tensor(14.0), label_smoothing=smoothing)
    torch.testing.assert_close(found, clip)


def test_info_nce_by_hand():
    """Two right angles at scale log 3: every anchor gives its own side 3/4."""
    same = torch.eye(2)
    assert info_nce(same, same, torch.arange(2), torch.arange(2), torch.tensor(math.log(3))).item() == pytest.approx(
        -math.log(3 / 4)
    )


def test_info_nce_of_equal_embeddings_is_that_of_a_blind_guess():
    same = units(1, 4).expand(7, 4)
    assert info_nce(same, same, torch.arange(7), torch.arange(7), torch.tensor(50.0)).item() == pytest.approx(
        math.log(7)
    )


def test_info_nce_is_blind_to_the_bias_and_the_sigmoid_loss_is_not():
    sides = (units(3, 4, 1), units(3, 4, 2), torch.arange(3), torch.arange(3), torch.tensor(10.0))
    assert info_nce(*sides, torch.tensor(-10.0)) == info_nce(*sides) == info_nce(*sides, torch.tensor(0.0))
    assert sigmoid(*sides, torch.tensor(-10.0)) != sigmoid(*sides, torch.tensor(0.0))


def test_the_sigmoid_loss_by_hand():
    """Every logit is 0, so that each of the two rows gives log 2 for each of its three columns."""
    left, right = torch.eye(4)[:2], torch.eye(4)[[2, 3, 3]]
    found = sigmoid(left, right, torch.tensor([0, 1]), torch.tensor([0, 1, 2]), torch.tensor(9.0), torch.tensor(0.0))
    assert found.item() == pytest.approx(3 * math.log(2))


def test_large_logits_do_not_overflow():
    left, right, groups = torch.eye(3), -torch.eye(3), torch.arange(3)
    for name in LOSSES:
        assert LOSSES.load(name)(left, right, groups, groups, torch.tensor(1e4), torch.tensor(0.0)).isfinite(), name


def test_scale_and_bias_start_as_published():
    assert {"info_nce": pytest.approx(14.2857, abs=1e-4), "sigmoid": 10.0} == LOGIT_SCALE_START
    assert LOGIT_BIAS_START == {"sigmoid": -10.0}


def three_modalities():
    """Groups 0 to 4: every modality misses some; sound and text share none."""
    groups = {
        "image": torch.tensor([0, 1, 2, 3]),
        "sound": torch.tensor([3, 4]),
        "text": torch.tensor([0, 0, 1, 2, 2]),
    }
    return {name: units(len(found), 6, seed) for seed, (name, found) in enumerate(groups.items())}, groups


@pytest.mark.parametrize("name", LOSSES)
def test_over_pairs_is_the_mean_over_pairs_that_share_a_group(name):
    loss = LOSSES.load(name)
    embeddings, groups = three_modalities()
    logits = (torch.tensor(8.0), torch.tensor(-3.0))
    wanted = [
        loss(embeddings[a], embeddings[b], groups[a], groups[b], *logits)
        for a, b in [("image", "sound"), ("image", "text")]
    ]
    torch.testing.assert_close(over_pairs(loss, embeddings, groups, *logits), sum(wanted) / 2)
    groups["sound"] = torch.tensor([3, 2])  # now sound and text share group 2
    wanted = [loss(embeddings[a], embeddings[b], groups[a], groups[b], *logits) for a, b in combinations(groups, 2)]
    torch.testing.assert_close(over_pairs(loss, embeddings, groups, *logits), sum(wanted) / 3)


def test_over_pairs_does_not_depend_on_the_order_of_modalities():
    embeddings, groups = three_modalities()
    turned = dict(reversed(embeddings.items()))
    logits = (torch.tensor(8.0), torch.tensor(-3.0))
    assert over_pairs(sigmoid, turned, groups, *logits) == over_pairs(sigmoid, embeddings, groups, *logits)


def test_over_pairs_of_two_modalities_is_the_loss_itself():
    embeddings, groups = three_modalities()
    del embeddings["sound"], groups["sound"]
    sides = (
        embeddings["image"],
        embeddings["text"],
        groups["image"],
        groups["text"],
        torch.tensor(8.0),
        torch.tensor(0.0),
    )
    assert over_pairs(info_nce, embeddings, groups, *sides[4:]) == info_nce(*sides)


def test_over_pairs_without_a_shared_group_says_so():
    embeddings = {"image": units(2, 3), "text": units(2, 3)}
    groups = {"image": torch.tensor([0, 1]), "text": torch.tensor([2, 3])}
    with pytest.raises(TrainingError, match=r"no two modalities share a group .* expected groups with two items"):
        over_pairs(info_nce, embeddings, groups, torch.tensor(1.0), torch.tensor(0.0))


def test_either_direction_of_info_nce_can_be_had_alone():
    left, right = units(5, 4, seed=1), units(5, 4, seed=2)
    groups, scale = torch.arange(5), torch.tensor(8.0, dtype=torch.float64)
    ahead, back = (info_nce(left, right, groups, groups, scale, left_share=share) for share in (1.0, 0.0))
    torch.testing.assert_close(ahead, cross_entropy(scale * left @ right.T, groups))
    torch.testing.assert_close(back, cross_entropy(scale * right @ left.T, groups))
    torch.testing.assert_close(info_nce(left, right, groups, groups, scale), (ahead + back) / 2)
