"""Which items meet in a batch: a pure function of the split, the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from lightcrl.features.table import Split


@dataclass(frozen=True)
class Batch:
    """Items of one step, by modality.

    Attributes:
        rows: rows of the feature store [N_m].
        groups: group numbers [N_m]; equal numbers are positives of each other.
    """

    rows: dict[str, np.ndarray]
    groups: dict[str, np.ndarray]


def epoch_batches(split: Split, batch_size: int, items_per_group: int, seed: int, epoch: int) -> Iterator[Batch]:
    """The batches of one epoch.

    An epoch makes as many passes over the groups as the richest has items, a group taking part as long as it has items
    that the epoch has not shown; so every item of the richest modality is shown once, with another item of the others.
    A pass is cut into batches of nearly equal size, so that no batch is tiny. Groups with items of a single modality
    take no part, nor does a group that is alone in its pass: there is nothing to tell it from.
    """
    generator = np.random.default_rng([seed, epoch])
    turns = _turns(split, items_per_group)
    # Each group's items in a random order, kept in one array beside the groups' starts.
    shuffled = {
        modality: members.rows[np.lexsort((generator.random(len(members.rows)), members.groups))]
        for modality, members in split.members.items()
    }
    for turn in range(int(turns.max(initial=0))):
        present = generator.permutation(np.flatnonzero(turns > turn))
        if len(present) >= 2:
            for groups in np.array_split(present, _pieces(len(present), batch_size)):
                yield _batch(split, shuffled, groups, turn, items_per_group)


def count_batches(split: Split, batch_size: int, items_per_group: int) -> int:
    """How many batches `epoch_batches` gives, the same for every epoch."""
    turns = _turns(split, items_per_group)
    present = [int((turns > turn).sum()) for turn in range(int(turns.max(initial=0)))]
    return sum(_pieces(groups, batch_size) for groups in present if groups >= 2)


def _turns(split: Split, items_per_group: int) -> np.ndarray:
    """[G] in how many passes of an epoch each group takes part."""
    counts = np.stack([members.counts for members in split.members.values()])
    return np.where((counts > 0).sum(0) >= min(2, len(counts)), -(-counts.max(0) // items_per_group), 0)


def _pieces(groups: int, batch_size: int) -> int:
    """Into how many batches a pass of two groups or more is cut, none of them with fewer than two."""
    return max(1, min(round(groups / batch_size), groups // 2))


def _batch(split: Split, shuffled: dict[str, np.ndarray], groups: np.ndarray, turn: int, items_per_group: int) -> Batch:
    rows, owners = {}, {}
    for modality, members in split.members.items():
        counts = members.counts[groups]
        taken = np.minimum(counts, items_per_group)
        owner = np.repeat(groups, taken)
        place = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
        place = (turn * items_per_group + place) % np.repeat(np.maximum(counts, 1), taken)
        if len(owner):
            rows[modality] = shuffled[modality][members.starts[owner] + place]
            owners[modality] = owner
    return Batch(rows, _merge_shared(rows, owners))


def _merge_shared(rows: dict[str, np.ndarray], owners: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give groups that share an item in this batch (two images of one caption) the same number: they are positives."""
    parent: dict[int, int] = {}

    def root(group: int) -> int:
        while group in parent:
            group = parent[group]
        return group

    for modality, found in rows.items():
        order = np.argsort(found, kind="stable")
        same = np.flatnonzero(found[order][1:] == found[order][:-1])
        for one, other in zip(
            owners[modality][order[same]].tolist(), owners[modality][order[same + 1]].tolist(), strict=True
        ):
            one, other = root(one), root(other)
            if one != other:
                parent[max(one, other)] = min(one, other)
    if not parent:
        return owners
    return {
        modality: np.array([root(group) for group in groups.tolist()], dtype=np.int64)
        for modality, groups in owners.items()
    }
