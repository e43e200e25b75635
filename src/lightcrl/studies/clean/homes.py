"""Homes of wrong items: the groups in which they belong, if these are in the data.

An item belongs in one of N groups, or in none of them. A group with features x is its home with a probability in
proportion to exp(w x) / N, and there is none in proportion to exp(c): a multinomial logit (McFadden 1974, "Conditional
logit analysis of qualitative choice behavior"). It is fitted on pairs that were found right, each once with its own
group among the groups and once without it. The share of wrong items that have no home is fitted on the wrong items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightcrl.checkpoint import load_folder
from lightcrl.features.embed import embed_rows
from lightcrl.studies.clean.decisions import Decision, Place
from lightcrl.studies.clean.evidence import Holdout
from lightcrl.studies.clean.spaces import Ground, hold_out
from lightcrl.studies.clean.verdict import Verdict

FEATURES = 4
"""F: contrast, mean and largest similarity to siblings for the frozen encoder, mean similarity to them in the space."""
FITTED = 512
"""Greatest number of right pairs that the choice is fitted on."""
CHOICES = 8192
"""Greatest number of groups to choose from while it is fitted."""
ALONE = 0.05
"""Least sum of the siblings' probabilities of being right for a group to have siblings."""
BLOCK = 256
STEPS, ROUNDS = 100, 50


@dataclass(frozen=True)
class Home:
    """The group in which a wrong item belongs.

    Attributes:
        group: number of the group.
        probability: probability that the item belongs there.
    """

    group: int
    probability: float


@dataclass(frozen=True)
class _Fold:
    """Groups of a fold and split to choose from.

    Attributes:
        holdout: these groups, embedded by a space that was not trained on them.
        items: unit vectors [R, d] of all rows of the judged modality in that space.
        own: the frozen encoder's vectors [R, D] of the same rows, around the mean of the fold's, of unit length.
        groups: number of each group over all splits, [H].
        links: number of the link of every pair of the holdout, [P].
        rows: store row of every pair, [P].
    """

    holdout: Holdout
    items: Tensor
    own: Tensor
    groups: np.ndarray
    links: np.ndarray
    rows: np.ndarray


def find_homes(
    ground: Ground, spaces: Mapping[int, Path], verdict: Verdict, modality: str, split: int, threshold: float
) -> dict[int, Home]:
    """Return the likeliest home of every wrong item of a split, by the number of its link.

    Args:
        ground: common setting of the folds.
        spaces: folder of the space of each fold.
        verdict: verdict on the pairs.
        modality: judged modality.
        split: number of the split; items stay in their split.
        threshold: probability of being wrong above which an item is wrong.
    """
    links = ground.layout.links[modality]
    wrong = verdict.over_links(len(links.rows))
    # Links that are not judged have no anchor to be compared with.
    judged = np.sort(verdict.links[ground.layout.splits[links.groups[verdict.links]] == split])
    misplaced, right = judged[wrong[judged] > threshold], judged[wrong[judged] <= threshold]
    if not len(misplaced) or len(right) < FEATURES:
        return {}
    folds = list(_open_folds(ground, spaces, 1 - wrong, modality, split))
    weights, none = _fit(folds, right, ground, modality)
    best, total = np.full((2, len(misplaced)), -np.inf)
    group = np.full(len(misplaced), -1)
    for fold in folds:
        for start in range(0, len(misplaced), BLOCK):
            rows = slice(start, start + BLOCK)
            chosen = misplaced[rows]
            utility = (_features(fold, links.rows[chosen], np.full(len(chosen), -1)) @ weights).numpy()
            utility[links.groups[chosen][:, None] == fold.groups[None]] = -np.inf
            place = utility.argmax(1)
            largest = utility[np.arange(len(chosen)), place]
            group[rows] = np.where(largest > best[rows], fold.groups[place], group[rows])
            best[rows] = np.maximum(best[rows], largest)
            total[rows] = np.logaddexp(total[rows], np.logaddexp.reduce(utility, axis=1))
    count = np.log(sum(len(fold.groups) for fold in folds))
    chance = wrong[misplaced] * _chances(best - count, total - count, none)
    homes = zip(misplaced.tolist(), group.tolist(), chance.tolist(), strict=True)
    return {link: Home(number, probability) for link, number, probability in homes if number >= 0}


def move(decisions: Sequence[Decision], homes: Mapping[Place, tuple[str, float]], threshold: float) -> list[Decision]:
    """Return the decisions with items that are dropped as wrong moved to their homes.

    An item stays dropped if it belongs there with a probability of `threshold` or less, if the group has the same item
    already, or if the group leaves the data.

    Args:
        decisions: decisions on all pairs.
        homes: name of the likeliest home and its probability, by the pair.
        threshold: probability above which an item is moved.
    """
    leaving = {each.group for each in decisions if each.reason == "leak"}
    present = {each.place for each in decisions}
    result = []
    for each in decisions:
        group, chance = homes.get(each.place, ("", 0.0))
        here = (each.decision, each.reason) == ("drop", "wrong") and chance > threshold and group not in leaving
        if here and (place := (group, each.modality, each.item)) not in present:
            present.add(place)
            each = replace(each, decision="move", moved_to=group)
        result.append(each)
    return result


def _open_folds(
    ground: Ground, spaces: Mapping[int, Path], trust: np.ndarray, modality: str, split: int
) -> Iterator[_Fold]:
    """Yield the groups of each fold, embedded by its space."""
    store = ground.features.store(modality)
    for number, folder in spaces.items():
        held = (ground.folds == number) & (ground.layout.splits == split)
        method = load_folder(folder / "best").method
        holdout, links = hold_out(ground, method, modality, held, trust)
        if not len(links):
            continue
        own = ground.own[modality].float()
        centred = normalize(own - holdout.own.float().mean(0), dim=1)
        items = embed_rows(method, store, modality, np.arange(store.rows))
        rows = ground.layout.links[modality].rows[links]
        yield _Fold(holdout, items, centred, np.flatnonzero(held), links, rows)


def _features(fold: _Fold, rows: np.ndarray, own_pair: np.ndarray) -> Tensor:
    """Return the features [N, H, F] of items in each group of a fold: deviations from the mean over its groups.

    Args:
        fold: groups to choose from.
        rows: store row of each item, [N].
        own_pair: pair of the fold that is the item itself and no sibling, or -1, [N].
    """
    holdout, count = fold.holdout, len(fold.groups)
    items, own = fold.items[rows], fold.own[rows]
    anchors, anchor_groups = torch.from_numpy(holdout.links).unbind(1)
    groups = torch.from_numpy(holdout.pairs[:, 1])
    trust = torch.from_numpy(holdout.trust).float().repeat(len(rows), 1)
    itself = np.flatnonzero(own_pair >= 0)
    trust[itself, own_pair[itself]] = 0.0
    weight = _summed(trust, groups, count)
    near = own @ fold.own[fold.rows].T
    columns = [
        _largest(items @ holdout.anchors[anchors].T, anchor_groups, count),
        _summed(near * trust, groups, count) / weight,
        _largest(torch.where(trust > 0, near * trust.sqrt(), -torch.inf), groups, count),
        _summed(items @ fold.items[fold.rows].T * trust, groups, count) / weight,
    ]
    columns[1:] = [column.masked_fill(weight < ALONE, -torch.inf) for column in columns[1:]]
    return torch.stack([_deviations(column) for column in columns], -1)


def _summed(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """Return the sums [N, H] of values [N, P] over the pairs of each group."""
    return torch.zeros(len(values), count).index_add_(1, groups, values)


def _largest(values: Tensor, groups: Tensor, count: int) -> Tensor:
    """Return the largest of values [N, P] among the pairs of each group, [N, H]; minus infinity where it has none."""
    empty = torch.full((len(values), count), -torch.inf)
    return empty.scatter_reduce_(1, groups.expand(len(values), -1), values, "amax")


def _deviations(values: Tensor) -> Tensor:
    """Return deviations [N, H] from the mean over the groups, in standard deviations; 0 where a group has no value."""
    there = torch.isfinite(values)
    count = there.sum(1, keepdim=True).clamp(min=1)
    filled = values.masked_fill(~there, 0.0)
    centred = (filled - filled.sum(1, keepdim=True) / count).masked_fill(~there, 0.0)
    return centred / (centred.square().sum(1, keepdim=True) / count).sqrt().clamp(min=1e-6)


def _fit(folds: Sequence[_Fold], right: np.ndarray, ground: Ground, modality: str) -> tuple[Tensor, float]:
    """Return w [F] and c of the choice, fitted on right pairs, all folds' groups being there to choose from."""
    generator = np.random.default_rng(ground.seed)
    drawn = [np.sort(generator.permutation(len(fold.groups))[: CHOICES // len(folds)]) for fold in folds]
    chosen = np.sort(generator.permutation(right)[:FITTED])
    links = ground.layout.links[modality]
    tables = [
        _choices(folds, drawn, links.rows[some], links.groups[some], some)
        for some in np.split(chosen, range(BLOCK, len(chosen), BLOCK))
    ]
    point = torch.zeros(FEATURES + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([point], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        total = point.new_zeros(())
        for table, absent in tables:
            utility = (table @ point[:-1].float()).double().masked_fill(absent, -torch.inf)
            utility = utility - (~absent).sum(1, keepdim=True).log()
            none = point[-1].expand(len(table))
            everywhere, elsewhere = utility.logsumexp(1), utility[:, 1:].logsumexp(1)
            total = total + (torch.logaddexp(everywhere, none) - utility[:, 0]).sum()
            total = total + (torch.logaddexp(elsewhere, none) - none).sum()
        mean: Tensor = total / (2 * len(chosen))
        mean.backward()  # type: ignore[no-untyped-call]
        return mean

    solver.step(loss)  # type: ignore[no-untyped-call]
    solved = point.detach()
    return solved[:-1].float(), float(solved[-1])


def _choices(
    folds: Sequence[_Fold], drawn: Sequence[np.ndarray], rows: np.ndarray, groups: np.ndarray, links: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Return the features [N, 1 + C, F] of right items in their own group, which comes first, and in the drawn ones.

    The mask [N, 1 + C] is true where the own group was drawn too.
    """
    homes, others, absent = torch.zeros(len(rows), 1, FEATURES), [], [np.zeros((len(rows), 1), bool)]
    for fold, places in zip(folds, drawn, strict=True):
        own = np.searchsorted(fold.links, links)
        own[fold.links[np.minimum(own, len(fold.links) - 1)] != links] = -1
        features = _features(fold, rows, own)
        here = np.flatnonzero(own >= 0)
        homes[here, 0] = features[here, fold.holdout.pairs[own[here], 1]]
        others.append(features[:, places])
        absent.append(fold.groups[places][None] == groups[:, None])
    return torch.cat([homes, *others], 1), torch.from_numpy(np.concatenate(absent, 1))


def _chances(best: np.ndarray, total: np.ndarray, none: float) -> np.ndarray:
    """Return the probability [N] of the best home, after fitting the share of items that have none by EM.

    Args:
        best: w x - log N of the best group.
        total: logarithm of the sum over all groups of exp(w x) / N.
        none: c.
    """
    share = 0.5
    for _ in range(ROUNDS):
        homeless = none + np.log(share) - np.logaddexp(none + np.log(share), total + np.log1p(-share))
        share = float(np.clip(np.exp(homeless).mean(), 1e-6, 1 - 1e-6))
    chance: np.ndarray = np.exp(best + np.log1p(-share) - np.logaddexp(none + np.log(share), total + np.log1p(-share)))
    return chance
