"""Composition of batches: a pure function of the split, the seed and the epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from lightcrl.data.components import least_connected
from lightcrl.features.table import Members, Split
from lightcrl.tokens import TokenBatch

DRAWING = 1
"""Part of the seed of views, whose draws must not change those of groups and items."""


@dataclass(frozen=True)
class Batch:
    """The items of a step, by modality.

    Attributes:
        rows: rows of the feature store [N_m].
        groups: group numbers [N_m]; equal numbers are positives of each other.
        window: pass and number of the window of the batch; batches of a window are read together.
        tokens: stored tokens of this process' share of the rows, once they have been read.
    """

    rows: dict[str, np.ndarray]
    groups: dict[str, np.ndarray]
    window: tuple[int, int] = (0, 0)
    tokens: Mapping[str, TokenBatch] = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """A way to shuffle groups that do not fit into memory: in blocks of neighbours, each read at once.

    Attributes:
        block: number of groups that stay together on their way into a window.
        batches: number of batches per window, whose groups are shuffled completely.
    """

    block: int
    batches: int


def epoch_batches(
    split: Split, batch_size: int, items_per_group: int, seed: int, epoch: int, window: Window | None = None
) -> Iterator[Batch]:
    """Yield the batches of an epoch.

    An epoch makes as many passes over the groups as the richest group has items; a group takes part as long as it has
    items that the epoch has not shown. So every item of the richest modality is shown once, with another item of the
    other modalities. A pass is cut into batches of nearly equal size, so that no batch is tiny. Groups with items of a
    single modality take no part, nor does a group that is alone in its pass: it has no negatives.

    A pass shuffles all its groups. With a `window` it shuffles blocks of neighbouring groups, concatenates them, and
    shuffles the groups of `window.batches` batches at a time. The groups of a batch are then in the order of the
    stores, so that each of several processes embeds, and reads, its own part of the window.
    """
    generator = np.random.default_rng([seed, epoch])
    turns = _turns(split, items_per_group)
    shuffled = {modality: _shuffled(members, generator) for modality, members in split.members.items()}
    for turn in range(int(turns.max(initial=0))):
        present = np.flatnonzero(turns > turn)
        if len(present) < 2:
            continue
        pieces = _pieces(len(present), batch_size)
        if window is None:
            for groups in np.array_split(generator.permutation(present), pieces):
                yield _batch(split, shuffled, groups, turn, items_per_group)
            continue
        for number, groups in _by_blocks(present, pieces, window, generator):
            yield replace(_batch(split, shuffled, np.sort(groups), turn, items_per_group), window=(turn, number))


def draw_views(batches: Iterable[Batch], views: Mapping[str, np.ndarray], seed: int, epoch: int) -> Iterator[Batch]:
    """Yield the batches of an epoch with a view of every item, drawn anew for each.

    Args:
        batches: batches of plain items.
        views: row of each view of each item [V, rows], by modality (`ViewedStore.addresses`).
        seed: seed of the training.
        epoch: number of the epoch.
    """
    generator = np.random.default_rng([seed, epoch, DRAWING])
    return _viewed(batches, views, lambda count, items: generator.integers(count, size=items))


def take_view(batches: Iterable[Batch], views: Mapping[str, np.ndarray], number: int) -> Iterator[Batch]:
    """Yield batches with view `number` of every item; a modality with fewer views repeats its own.

    Args:
        batches: batches of plain items.
        views: rows of each view, see `draw_views`.
        number: number of the view, 0 for plain items.
    """
    return _viewed(batches, views, lambda count, items: np.full(items, number % count))


def _viewed(
    batches: Iterable[Batch], views: Mapping[str, np.ndarray], choose: Callable[[int, int], np.ndarray]
) -> Iterator[Batch]:
    """Yield batches with the views that `choose` returns for a number of views and of items."""
    for batch in batches:
        chosen = {
            name: views[name][choose(len(views[name]), len(rows)), rows]
            for name, rows in batch.rows.items()
            if name in views
        }
        yield replace(batch, rows={**batch.rows, **chosen}) if chosen else batch


def count_batches(split: Split, batch_size: int, items_per_group: int) -> int:
    """Return the number of batches of `epoch_batches`, the same for every epoch."""
    turns = _turns(split, items_per_group)
    present = [int((turns > turn).sum()) for turn in range(int(turns.max(initial=0)))]
    return sum(_pieces(groups, batch_size) for groups in present if groups >= 2)


def _shuffled(members: Members, generator: np.random.Generator) -> np.ndarray:
    """Return each group's items in random order, [L], in an array with the groups' starts."""
    keys = generator.random(len(members.rows))
    if members.counts.max(initial=0) <= 1:
        return members.rows
    return members.rows[np.lexsort((keys, members.groups))]


def _by_blocks(
    present: np.ndarray, pieces: int, window: Window, generator: np.random.Generator
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the groups of each of `pieces` batches, with the number of their window."""
    starts = generator.permutation(np.arange(0, len(present), window.block))
    order = np.concatenate([present[start : start + window.block] for start in starts])
    ends = np.cumsum([0, *(len(part) for part in np.array_split(order, pieces))])
    cuts = np.array_split(np.arange(pieces), -(-pieces // window.batches))
    for number, batches in enumerate(cuts):
        begin = ends[batches[0]]
        drawn = generator.permutation(order[begin : ends[batches[-1] + 1]])
        for batch in batches:
            yield number, drawn[ends[batch] - begin : ends[batch + 1] - begin]


def _turns(split: Split, items_per_group: int) -> np.ndarray:
    """Return the number of passes of an epoch in which each group takes part, [G]."""
    most, turns = np.zeros(len(split), np.int32), np.zeros(len(split), np.int32)
    for members in split.members.values():
        np.maximum(most, members.counts, out=most)
    usable = split.usable
    turns[usable] = -(-most[usable] // items_per_group)
    return turns


def _pieces(groups: int, batch_size: int) -> int:
    """Return the number of batches of a pass over two groups or more, each with at least two groups."""
    return max(1, min(round(groups / batch_size), groups // 2))


def _batch(split: Split, shuffled: dict[str, np.ndarray], groups: np.ndarray, turn: int, items_per_group: int) -> Batch:
    rows, owners = {}, {}
    for modality, members in split.members.items():
        counts = members.starts[groups + 1] - members.starts[groups]
        taken = np.minimum(counts, items_per_group)
        owner = np.repeat(groups, taken)
        place = np.arange(taken.sum()) - np.repeat(np.cumsum(taken) - taken, taken)
        place = (turn * items_per_group + place) % np.repeat(np.maximum(counts, 1), taken)
        if len(owner):
            rows[modality] = shuffled[modality][members.starts[owner] + place].astype(np.int64)
            owners[modality] = owner
    return Batch(rows, _merge_shared(rows, owners))


def _merge_shared(rows: dict[str, np.ndarray], owners: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give groups that share an item in this batch (two images of one caption) the same number: they are positives."""
    links = []
    for modality, items in rows.items():
        order = np.argsort(items, kind="stable")
        same = np.flatnonzero(items[order][1:] == items[order][:-1])
        links.append(np.stack([owners[modality][order[same]], owners[modality][order[same + 1]]], 1))
    pairs = np.concatenate(links) if links else np.zeros((0, 2), dtype=np.int64)
    if not len(pairs):
        return owners
    names, places = np.unique(pairs, return_inverse=True)
    least = names[least_connected(len(names), places.reshape(pairs.shape))]
    number_of = dict(zip(names.tolist(), least.tolist(), strict=True))
    return {
        modality: np.array([number_of.get(group, group) for group in groups.tolist()], dtype=np.int64)
        for modality, groups in owners.items()
    }
