"""Slots: the fast score is the slow one, a planted slot is found, noise is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightcrl.metrics.cca import regularised_cca
from lightcrl.metrics.intervals import hits
from lightcrl.metrics.ranks import ranks
from lightcrl.studies.check.sample import Part
from lightcrl.studies.check.slots import Fold, border, choose_ridge, group_recall, paired_rows, select_slots
from lightcrl.studies.check.spaces import fit_baseline, shared_groups, sibling_recall
from samples import randn


def part(*slots: torch.Tensor, groups: torch.Tensor | None = None) -> Part:
    groups = torch.arange(len(slots[0])) if groups is None else groups
    return Part(list(slots), groups, np.arange(len(groups)))


def test_bordering_gives_the_whitened_features_of_all_columns_at_once():
    fit, held = randn(60, 9, seed=1, dtype=torch.float64), randn(20, 9, seed=2, dtype=torch.float64)
    at_once = border(None, fit, held, 0.5)
    first = border(None, fit[:, :4], held[:, :4], 0.5)
    in_steps = first.with_more(border(first, fit[:, 4:], held[:, 4:], 0.5))
    assert torch.allclose(in_steps.fit, at_once.fit)
    assert torch.allclose(in_steps.held, at_once.held)
    whole = torch.cat([fit, (0.5 * 60) ** 0.5 * torch.eye(9, dtype=fit.dtype)])
    inverse = torch.linalg.inv(whole.T @ whole / 60)
    assert torch.allclose(at_once.held @ at_once.held.T, held @ inverse @ held.T)


@pytest.mark.parametrize(("usual", "wanted"), [(0.01, 0.3), (0.9, 1.0), (40.0, 10.0)])
def test_of_ridges_that_differ_by_no_more_than_noise_the_nearest_to_the_usual_one_is_taken(usual, wanted):
    """Twenty groups at 0.4: the standard error is 0.11, and 30 is 0.2 worse than the best."""
    hits = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0] * 4)
    recalls = {ridge: hits + change for ridge, change in ((0.3, 0.0), (1.0, 0.05), (10.0, 0.02), (30.0, -0.15))}
    assert choose_ridge(recalls, usual) == wanted
    absent = torch.full((5,), torch.nan)
    assert choose_ridge({ridge: torch.cat([values, absent]) for ridge, values in recalls.items()}, usual) == wanted


def test_with_many_groups_the_best_ridge_is_taken_however_far_from_the_usual_one():
    hits = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0] * 400)
    assert choose_ridge({0.3: hits, 1.0: hits + 0.05, 10.0: hits + 0.02}, 40.0) == 1.0


@pytest.mark.parametrize("pair", [("a", "b"), ("b", "a")])
def test_the_fold_scores_as_csa_in_all_dimensions_does(pair):
    truth = randn(200, 6, seed=1)
    parts = {
        "a": part(truth @ randn(6, 8, seed=2) + randn(200, 8, seed=3), randn(200, 5, seed=4)),
        "b": part(truth @ randn(6, 7, seed=5) + randn(200, 7, seed=6)),
    }
    fit = torch.arange(200) < 140
    fold = Fold(parts, fit, ~fit, 0.7)
    fold.start("a", [0])
    fold.start("b", [0])
    if pair[0] == "a":
        with_more = fold.recall(pair, fold.candidate("a", 1))
        fold.add("a", 1)
        assert torch.equal(fold.recall(pair)[~fit], with_more[~fit])
    features = {}
    for name in pair:
        slots = [fold.slot(name, n) for n in range(2 if name == pair[0] == "a" else 1)]
        features[name] = tuple(torch.cat(side, 1) for side in zip(*slots, strict=True))
    cca = regularised_cca(features[pair[0]][0], features[pair[1]][0], 0.7)
    left = cca.variates(0, features[pair[0]][1]) * cca.correlations
    right = cca.variates(1, features[pair[1]][1])
    groups = torch.arange(60)
    expected = group_recall(left, right, (right * cca.correlations).norm(dim=1), groups, groups, 60)
    assert 0.2 < expected.mean() < 0.95
    assert fold.recall(pair)[~fit].tolist() == expected.tolist()
    assert fold.recall(pair)[fit].isnan().all()


def test_recall_counts_any_item_of_the_group_and_leaves_out_groups_without_partners():
    left = torch.tensor([[1.0, 0], [0, 1], [0, 1]])
    right = torch.tensor([[1.0, 0], [0, 1.0], [0.8, 0.6]])
    found = group_recall(left, right, torch.ones(3), torch.tensor([0, 1, 2]), torch.tensor([0, 1, 0]), 4)
    # Group 0: both of its texts find the picture; group 1: two pictures are equally near, half a hit.
    assert found[:2].tolist() == [1.0, 0.75]
    assert found[2:].isnan().all()


def test_rows_are_paired_within_groups():
    left, right = paired_rows(torch.tensor([0, 1, 1, 1, 4]), torch.tensor([0, 0, 1, 1, 3]))
    assert list(zip(left.tolist(), right.tolist(), strict=True)) == [(0, 0), (0, 1), (1, 2), (2, 3), (3, 2)]


def world(seed: int, useful: bool) -> dict[str, Part]:
    """A default slot that sees two of eight directions on the left; another sees all of them, or nothing."""
    truth = randn(400, 8, seed=seed)
    other = truth @ randn(8, 12, seed=seed + 1) if useful else randn(400, 12, seed=seed + 2)
    left = part(truth[:, :2] + 0.3 * randn(400, 2, seed=seed + 3), randn(400, 12, seed=seed + 4), other)
    return {"left": left, "right": part(truth @ randn(8, 8, seed=seed + 5))}


def chosen(parts: dict[str, Part]):
    return select_slots(parts, [("left", "right")], 400, {"left": (0,), "right": (0,)}, {"left": range(3), "right": ()})


def test_a_planted_slot_is_picked():
    found = chosen(world(10, useful=True))
    assert found.picked == {"left": (0, 2), "right": (0,)}
    assert found.gain > 0.3
    assert found.interval[0] > 0.2
    assert found.tried["left", 2] > 0.3 > 0.05 > found.tried["left", 1]


def test_slots_of_noise_do_not_change_the_default():
    changed = [chosen(world(100 * n, useful=False)).changed for n in range(1, 7)]
    assert sum(changed) == 0


def test_constant_embeddings_find_what_chance_finds():
    """As `evaluate retrieval` counts ties: 0.05 among 20 groups, and a share of the tie where a group has several."""
    groups = torch.arange(20)
    constant = torch.ones(20, 3)
    found = group_recall(constant, constant, constant.norm(dim=1), groups, groups, 20)
    assert found.tolist() == pytest.approx([0.05] * 20)
    pairs = np.stack([groups, groups], 1)
    assert hits(ranks(constant / 3**0.5, constant / 3**0.5, pairs), 1).tolist() == pytest.approx(found.tolist())
    assert group_recall(constant * 0, constant * 0, torch.zeros(20), groups, groups, 20).tolist() == pytest.approx(
        [0.05] * 20
    )
    several = torch.tensor([0, 0, 1])  # of three equal items two are right
    one = group_recall(constant[:2], constant[:3], constant[:3].norm(dim=1), torch.tensor([0, 1]), several, 2)
    assert one.tolist() == pytest.approx([(2 / 3 + 1 / 2) / 2, (1 / 3 + 1 / 2) / 2])


def test_siblings_that_are_all_equal_find_each_other_by_chance():
    groups = torch.arange(25).repeat_interleave(2)
    assert sibling_recall(torch.ones(50, 4), groups) == pytest.approx(1 / 49)
    assert sibling_recall(torch.eye(25).repeat_interleave(2, 0), groups) == 1


def named_sounds(groups: int, classes: int, shared: bool, seed: int) -> tuple[Part, Part]:
    """Noisy sounds of some classes and the name of each one's class, one item for all or one for each sound."""
    names, labels = 3 * randn(classes, 12, seed=3), torch.arange(groups) % classes
    sounds = names[labels] + 0.3 * randn(groups, 12, seed=seed)
    number = torch.arange(groups)
    items = labels.numpy() if shared else number.numpy()
    return Part([sounds], number, number.numpy()), Part([names[labels]], number, items)


def test_groups_that_share_an_item_answer_each_other():
    """As in an evaluation, which counts the name of a class once, with all its sounds as right answers."""
    (sound, name), (other, text) = named_sounds(120, 6, True, 4), named_sounds(48, 6, True, 5)
    assert shared_groups([other, text]).tolist() == [number % 6 for number in range(48)]
    parts = {"train": sound, "dev": other}, {"train": name, "dev": text}
    line = fit_baseline(parts, ([0], [0]), 0.01)
    assert line is not None
    assert line.recall > 0.99
    # The same texts as items of their own: of eight equal ones, one is right.
    (sound, name), (other, text) = named_sounds(120, 6, False, 4), named_sounds(48, 6, False, 5)
    assert shared_groups([other, text]).tolist() == list(range(48))
    alone = fit_baseline(({"train": sound, "dev": other}, {"train": name, "dev": text}), ([0], [0]), 0.01)
    assert alone is not None
    assert alone.recall == pytest.approx(1 / 8, abs=0.02)
