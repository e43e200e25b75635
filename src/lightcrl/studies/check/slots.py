"""Selection of slots: greedy forward selection by the held-out R@1 of the closed-form map.

Every fold whitens each modality once; a further slot only borders the Cholesky factor, so that its evaluation takes
some hundredths of a second.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightcrl.metrics.intervals import mean_interval
from lightcrl.metrics.ranks import first_shares
from lightcrl.studies.check.sample import Part

# The ridge for the whole sample; a part of it gets proportionally more, since noise grows as groups get fewer.
RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0)
FOLDS = 3
# Share of the groups that confirm the choice of the others.
CONFIRM = 0.3
# Greatest number of added slots over all modalities: each costs storage and training time.
MOST_ADDED = 6
# After the first round only its best candidates remain.
FINALISTS = 12

Pair = tuple[str, str]


@dataclass(frozen=True)
class Columns:
    """Whitened features of a modality: ridged unit covariance over the fitted items.

    Attributes:
        fit: columns of the fitted items, [N, D].
        held: columns of the held-out items, [H, D].
    """

    fit: Tensor
    held: Tensor

    def with_more(self, more: Columns) -> Columns:
        """Return these columns and those of `more` side by side."""
        return Columns(torch.cat([self.fit, more.fit], 1), torch.cat([self.held, more.held], 1))


def border(done: Columns | None, fit: Tensor, held: Tensor, ridge: float) -> Columns:
    """Return the whitened columns that further features add to earlier ones: a bordered Cholesky factorisation.

    Args:
        done: earlier whitened columns, or None at first.
        fit: new features [N, D], centred and scaled to a mean variance of 1.
        held: the same features of the held-out items, [H, D].
        ridge: value added to every variance.
    """
    covariance = fit.T @ fit / len(fit)
    covariance.diagonal().add_(ridge)
    if done is not None:
        projection = done.fit.T @ fit / len(fit)
        covariance -= projection.T @ projection
        fit, held = fit - done.fit @ projection, held - done.held @ projection
    factor = torch.linalg.cholesky(covariance)
    return Columns(
        torch.linalg.solve_triangular(factor, fit.T, upper=False).T,
        torch.linalg.solve_triangular(factor, held.T, upper=False).T,
    )


class Fold:
    """Groups for fitting and held-out groups.

    Args:
        parts: items by modality.
        fit: mask of the fitted groups, [G].
        held: mask of the held-out groups, [G].
        ridge: ridge in units of the mean variance of a feature.
    """

    def __init__(self, parts: Mapping[str, Part], fit: Tensor, held: Tensor, ridge: float) -> None:
        self.parts, self.ridge = parts, ridge
        self.fit = {name: fit[part.groups] for name, part in parts.items()}
        self.held = {name: held[part.groups] for name, part in parts.items()}
        self.columns: dict[str, Columns] = {}
        self.groups = {name: part.groups[self.held[name]] for name, part in parts.items()}
        self.size = len(fit)
        self._rows: dict[Pair, tuple[Tensor, Tensor]] = {}
        self._seen: dict[Pair, tuple[Tensor, Tensor]] = {}

    def slot(self, modality: str, number: int) -> tuple[Tensor, Tensor]:
        """Return the features of a slot, centred and scaled by the fitted items."""
        values = self.parts[modality].slots[number]
        fit, held = values[self.fit[modality]], values[self.held[modality]]
        mean = fit.mean(0)
        scale = (fit - mean).square().mean().sqrt().clamp(min=1e-6)
        return (fit - mean) / scale, (held - mean) / scale

    def start(self, modality: str, slots: Iterable[int]) -> None:
        """Whiten the first slots of a modality."""
        pieces = [self.slot(modality, number) for number in slots]
        fit, held = (torch.cat(side, 1) for side in zip(*pieces, strict=True))
        self.columns[modality] = border(None, fit, held, self.ridge)

    def candidate(self, modality: str, number: int) -> Columns:
        """Return the columns that a further slot adds."""
        return border(self.columns[modality], *self.slot(modality, number), self.ridge)

    def add(self, modality: str, number: int) -> None:
        """Add a further slot."""
        self.columns[modality] = self.columns[modality].with_more(self.candidate(modality, number))
        self._seen = {pair: seen for pair, seen in self._seen.items() if modality not in pair}

    def recall(self, pair: Pair, more: Columns | None = None) -> Tensor:
        """Return R@1 of each held-out group, [G], averaged over both directions; NaN for groups without this pair.

        The score of a and b is that of CSA in all dimensions, `a' Cxx^-1 Cxy Cyy^-1 b`, over the length of the
        gallery's vector, its variates weighted by their correlations.

        Args:
            pair: two modalities.
            more: candidate columns for the first modality.
        """
        left, right = (self.columns[name] for name in pair)
        rows = self._paired(pair)
        if pair not in self._seen:
            cross = left.fit[rows[0]].T @ right.fit[rows[1]] / len(rows[0])
            self._seen[pair] = (left.held @ cross, (right.held @ cross.T).square().sum(1))
        seen, squares = self._seen[pair]
        if more is not None:
            cross = more.fit[rows[0]].T @ right.fit[rows[1]] / len(rows[0])
            seen, squares = seen + more.held @ cross, squares + (right.held @ cross.T).square().sum(1)
        groups = [self.groups[name] for name in pair]
        return group_recall(seen, right.held, squares.sqrt(), groups[0], groups[1], self.size)

    def _paired(self, pair: Pair) -> tuple[Tensor, Tensor]:
        if pair not in self._rows:
            groups = [self.parts[name].groups[self.fit[name]] for name in pair]
            self._rows[pair] = paired_rows(*groups)
        return self._rows[pair]


def paired_rows(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows of paired items, from the groups of the items on both sides: every item at least once; a side with
    fewer items in a group repeats them.

    >>> paired_rows(torch.tensor([0, 1, 3]), torch.tensor([0, 0, 1, 2]))
    (tensor([0, 0, 1]), tensor([0, 1, 2]))
    """
    members = [_members(side) for side in (left, right)]
    pairs = [
        (mine[n % len(mine)], other[n % len(other)])
        for group, mine in members[0].items()
        if (other := members[1].get(group))
        for n in range(max(len(mine), len(other)))
    ]
    rows = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def _members(groups: Tensor) -> dict[int, list[int]]:
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(row)
    return members


def group_recall(
    left: Tensor,
    right: Tensor,
    right_length: Tensor,
    left_groups: Tensor,
    right_groups: Tensor,
    size: int,
    alike: Tensor | None = None,
) -> Tensor:
    """Return the share of a group's items that retrieve an item of their own group first, [size], over both directions.

    Args:
        left: vectors [N, D].
        right: vectors [M, D]; scores are inner products, over the length of the gallery's vector.
        right_length: lengths [M].
        left_groups: groups [N].
        right_groups: groups [M].
        size: number of groups; those without items on both sides are NaN.
        alike: label of each group, [size] or more; items of groups with one label answer each other. By default every
            group has its own.

    Ties count as if broken at random: see `metrics.ranks`.
    """
    scores = left @ right.T
    labels = (left_groups, right_groups) if alike is None else (alike[left_groups], alike[right_groups])
    own = labels[0][:, None] == labels[1]
    shares = []
    for length, groups, other, axis in (
        (right_length[None], left_groups, right_groups, 1),
        (left.norm(dim=1)[:, None], right_groups, left_groups, 0),
    ):
        scaled = scores / length.clamp(min=1e-9)
        firsts = first_shares(scaled, own) if axis else first_shares(scaled.T, own.T)
        asked = torch.isin(groups, other)
        hits = torch.zeros(size).index_add_(0, groups[asked], firsts[asked])
        counts = torch.zeros(size).index_add_(0, groups[asked], torch.ones(int(asked.sum())))
        shares.append(hits / counts)  # 0 / 0 where there is none: NaN
    return (shares[0] + shares[1]) / 2


@dataclass(frozen=True)
class Selection:
    """The result of the selection.

    Attributes:
        ridge: best ridge for `auto`, for that number of groups.
        auto: slots of `"auto"`, by modality.
        picked: slots to use, by modality: those of `auto`, or confirmed better ones.
        found: best slots of the search, by modality, confirmed or not.
        gain: R@1 of `found` minus that of `auto`, on groups outside the search.
        interval: 95 % interval of `gain`.
        recall: R@1 of `auto` on those groups, with that number of groups in the gallery.
        tried: gain of adding a single slot to `auto`, by modality and slot, where it was tried.
    """

    ridge: float
    auto: dict[str, tuple[int, ...]]
    picked: dict[str, tuple[int, ...]]
    found: dict[str, tuple[int, ...]]
    gain: float
    interval: tuple[float, float]
    recall: float
    tried: dict[tuple[str, int], float]

    @property
    def changed(self) -> bool:
        """True if slots other than those of `"auto"` are picked."""
        return self.picked != self.auto


def select_slots(
    parts: Mapping[str, Part],
    pairs: Sequence[Pair],
    groups: int,
    auto: Mapping[str, Sequence[int]],
    free: Mapping[str, Sequence[int]],
    seed: int = 0,
) -> Selection:
    """Add slots to `auto` as long as the held-out R@1 gains, and keep them if the gain holds on fresh groups.

    Slots are selected by cross-validation over 70 % of the groups and confirmed on the other 30 %: the best of many
    candidates is optimistic on the groups of the search, so only fresh groups can confirm it.

    Args:
        parts: items of train by modality.
        pairs: pairs of modalities; R@1 is averaged over them.
        groups: number of groups.
        auto: initial slots by modality.
        free: allowed slots by modality.
        seed: seed of the division into parts.
    """
    place = torch.from_numpy(np.random.default_rng(seed).permutation(groups))
    confirm = place < round(CONFIRM * groups)
    begin = {name: tuple(slots) for name, slots in auto.items()}

    def make(fit: Tensor, held: Tensor, slots: Mapping[str, Sequence[int]], ridge: float) -> Fold:
        fold = Fold(parts, fit, held, ridge * groups / int(fit.sum()))
        for name, numbers in slots.items():
            fold.start(name, numbers)
        return fold

    def recalls(folds: Sequence[Fold], pair: Pair, more: Sequence[Columns] | None = None) -> Tensor:
        return torch.stack([fold.recall(pair, more[n] if more else None) for n, fold in enumerate(folds)]).nanmean(0)

    divisions = [(~confirm & (place % FOLDS != fold), ~confirm & (place % FOLDS == fold)) for fold in range(FOLDS)]

    def trial(ridge: float) -> Tensor:
        folds = [make(fit, held, begin, ridge) for fit, held in divisions]
        return _by_group({pair: recalls(folds, pair) for pair in pairs})

    widths = [sum(parts[name].slots[number].shape[1] for number in numbers) for name, numbers in begin.items()]
    ridge = choose_ridge({ridge: trial(ridge) for ridge in RIDGES}, 2 * sum(widths) / len(widths) / groups)
    folds = [make(fit, held, begin, ridge) for fit, held in divisions]
    best_slots = dict(begin)
    base = {pair: recalls(folds, pair) for pair in pairs}
    open_ = [(name, number) for name, numbers in free.items() for number in numbers if number not in begin[name]]
    first: dict[tuple[str, int], float] = {}
    for _ in range(MOST_ADDED):
        gains = {}
        for name, number in open_:
            more = [fold.candidate(name, number) for fold in folds]
            then = {
                pair: recalls(folds, pair if pair[0] == name else pair[::-1], more) if name in pair else base[pair]
                for pair in pairs
            }
            gains[name, number] = _by_group(then) - _by_group(base)
        if not gains:
            break
        means = {slot: float(gain.nanmean()) for slot, gain in gains.items()}
        first = first or means
        best = max(means, key=means.__getitem__)
        if means[best] <= _error(gains[best]):
            break
        for fold in folds:
            fold.add(*best)
        base = {pair: recalls(folds, pair) if best[0] in pair else base[pair] for pair in pairs}
        best_slots[best[0]] = (*best_slots[best[0]], best[1])
        open_ = sorted((slot for slot in open_ if slot != best), key=means.__getitem__, reverse=True)[:FINALISTS]

    last = [make(~confirm, confirm, slots, ridge) for slots in (begin, best_slots)]
    before, after = (_by_group({pair: fold.recall(pair) for pair in pairs}) for fold in last)
    gain = (after - before)[~before.isnan()].double().numpy()
    interval = mean_interval(gain, np.arange(len(gain))) if best_slots != begin else (0.0, 0.0)
    picked = best_slots if interval[0] > 0 else begin
    return Selection(ridge, begin, picked, best_slots, float(gain.mean()), interval, float(before.nanmean()), first)


def choose_ridge(recalls: Mapping[float, Tensor], usual: float) -> float:
    """Return the ridge nearest to the usual one among those within a standard error of the best.

    Of few groups the best of several ridges is chance, and the usual one, 2 F / G for F features and G groups, better.

    Args:
        recalls: R@1 of each group [G] by ridge, NaN where there is none.
        usual: a ridge.

    >>> few = {1.0: torch.tensor([0.9, 0.1, 0.5]), 10.0: torch.tensor([0.8, 0.0, 0.4])}
    >>> choose_ridge(few, 20.0)
    10.0
    >>> choose_ridge({ridge: recall.repeat(100) for ridge, recall in few.items()}, 20.0)
    1.0
    """
    means = {ridge: float(recall.nanmean()) for ridge, recall in recalls.items()}
    best = max(means, key=means.__getitem__)
    near = [ridge for ridge, mean in means.items() if mean >= means[best] - _error(recalls[best])]
    return min(near, key=lambda ridge: abs(math.log(ridge / usual)))


def _by_group(by_pair: Mapping[Pair, Tensor]) -> Tensor:
    """Return the mean over pairs of the values of each group, ignoring NaN, [G]."""
    return torch.stack([*by_pair.values()]).nanmean(0)


def _error(values: Tensor) -> float:
    """Return the standard error of the mean, ignoring NaN."""
    numbers = values[~values.isnan()]
    return float(numbers.std() / len(numbers) ** 0.5)
