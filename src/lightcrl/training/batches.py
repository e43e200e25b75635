"""Which items meet in a batch: a pure function of the split, the seed and the epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from lightcrl.data.components import least_connected
from lightcrl.features.table import Members, Split
from lightcrl.tokens import TokenBatch


@dataclass(frozen=True)
class Batch:
    """Items of one step, by modality.

    Attributes:
        rows: rows of the feature store [N_m].
        groups: group numbers [N_m]; equal numbers are positives of each other.
        window: pass and number of the window that it was drawn from; batches of one window are read together.
        tokens: stored tokens, once they have been read: of this process' share of the rows.
    """

    rows: dict[str, np.ndarray]
    groups: dict[str, np.ndarray]
    window: tuple[int, int] = (0, 0)
    tokens: Mapping[str, TokenBatch] = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """How groups are shuffled that do not fit into memory: in blocks of neighbours, which are read in one go.

    Attributes:
        block: groups that stay together on their way into a window.
        batches: drawn from a window, whose groups are shuffled in full.
    """

    block: int
    batches: int


def epoch_batches(
    split: Split, batch_size: int, items_per_group: int, seed: int, epoch: int, window: Window | None = None
) -> Iterator[Batch]:
    """The batches of one epoch.

    An epoch makes as many passes over the groups as the richest has items, a group taking part as long as it has items
    that the epoch has not shown; so every item of the richest modality is shown once, with another item of the others.
    A pass is cut into batches of nearly equal size, so that no batch is tiny. Groups with items of a single modality
    take no part, nor does a group that is alone in its pass: there is nothing to tell it from.

    A pass shuffles all its groups; with a `window` it shuffles blocks of neighbouring groups, lays them end to end, and
    shuffles the groups of so many batches at a time. The groups of a batch then stand in order of the stores: the first
    of several processes embeds the first of them, and so reads a part of the window that is its own.
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


def count_batches(split: Split, batch_size: int, items_per_group: int) -> int:
    """How many batches `epoch_batches` gives, the same for every epoch."""
    turns = _turns(split, items_per_group)
    present = [int((turns > turn).sum()) for turn in range(int(turns.max(initial=0)))]
    return sum(_pieces(groups, batch_size) for groups in present if groups >= 2)


def _shuffled(members: Members, generator: np.random.Generator) -> np.ndarray:
    """[L] each group's items in a random order, in one array beside the groups' starts."""
    keys = generator.random(len(members.rows))
    if members.counts.max(initial=0) <= 1:
        return members.rows
    return members.rows[np.lexsort((keys, members.groups))]


def _by_blocks(
    present: np.ndarray, pieces: int, window: Window, generator: np.random.Generator
) -> Iterator[tuple[int, np.ndarray]]:
    """The groups of each of `pieces` batches, with the number of the window that they come from."""
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
    """[G] in how many passes of an epoch each group takes part."""
    most, turns = np.zeros(len(split), np.int32), np.zeros(len(split), np.int32)
    for members in split.members.values():
        np.maximum(most, members.counts, out=most)
    usable = split.usable
    turns[usable] = -(-most[usable] // items_per_group)
    return turns


def _pieces(groups: int, batch_size: int) -> int:
    """Into how many batches a pass of two groups or more is cut, none of them with fewer than two."""
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
    for modality, found in rows.items():
        order = np.argsort(found, kind="stable")
        same = np.flatnonzero(found[order][1:] == found[order][:-1])
        links.append(np.stack([owners[modality][order[same]], owners[modality][order[same + 1]]], 1))
    pairs = np.concatenate(links) if links else np.zeros((0, 2), dtype=np.int64)
    if not len(pairs):
        return owners
    names, places = np.unique(pairs, return_inverse=True)
    least = names[least_connected(len(names), places.reshape(pairs.shape))]
    known = dict(zip(names.tolist(), least.tolist(), strict=True))
    return {
        modality: np.array([known.get(group, group) for group in groups.tolist()], dtype=np.int64)
        for modality, groups in owners.items()
    }
