"""Shards of a store as pieces of work: which items each has, and how one is made. Any process can make any of them.

Items are cut into shards by their number alone and batched within a shard, so that whoever makes one, and however
often it was begun, makes the same batches, hence the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightcrl.data.base import Dataset, Item
from lightcrl.encoders.base import Encoder
from lightcrl.errors import DataError, ItemError
from lightcrl.features.encoding import encode
from lightcrl.features.siblings import Place, Siblings
from lightcrl.features.store import FeatureStore, Shard, write_shard
from lightcrl.files.remote import folder_at
from lightcrl.tokens import TokenSpec


@dataclass(frozen=True, slots=True)
class Job:
    """What all shards of a store have in common.

    Attributes:
        folder: path or URI of the store.
        fingerprint: the store's.
        encoder: the encoder's fingerprint.
        dtype: of the stored values.
        strict: stop at the first item that cannot be read.
        workers: threads that decode.
    """

    folder: str
    fingerprint: str
    encoder: str
    dtype: str
    strict: bool
    workers: int


@dataclass(frozen=True, slots=True)
class Task:
    """One shard that is to be made.

    Attributes:
        number: of the shard.
        items: in it, in order.
        links: place of an item among them, its group and the group's split; in order of places.
        copies: by place, where a finished store of the same encoder holds that item.
    """

    number: int
    items: list[Item]
    links: list[tuple[int, str, str]]
    copies: dict[int, Place]


@dataclass(frozen=True, slots=True)
class Made:
    """A shard that is complete, and what it took.

    Attributes:
        number: of the shard.
        shard: its entry of the manifest.
        shape: of the encoder's tokens.
        encoded: items that went through the encoder.
        copied: items taken from other stores.
    """

    number: int
    shard: Shard
    shape: TokenSpec
    encoded: int
    copied: int


def shard_size(count: int) -> int:
    """Items of each shard but the last: at least 1,024, and at most 1,024 shards in all."""
    return max(1024, -(-count // 1024))


def shard_count(count: int) -> int:
    """Shards that `count` items are cut into.

    >>> shard_count(0), shard_count(1024), shard_count(1025), shard_count(10_000_000)
    (0, 1, 2, 1024)
    """
    return -(-count // shard_size(count))


def plan_tasks(dataset: Dataset, modality: str, siblings: Siblings, complete: Collection[int]) -> Iterator[Task]:
    """The shards of a modality that are not `complete`, each when it is asked for."""
    items, links = dataset.items[modality], dataset.links[modality]
    size = shard_size(len(items))
    for number in range(shard_count(len(items))):
        if number in complete:
            continue
        part = list(items[number * size : (number + 1) * size])
        first, last = np.searchsorted(links[:, 0], (number * size, (number + 1) * size))
        yield Task(
            number,
            part,
            [
                (int(item) - number * size, dataset.groups[group], dataset.splits[group])
                for item, group in links[first:last]
            ],
            {place: found for place, item in enumerate(part) if (found := siblings.find(item.key)) is not None},
        )


def make_shard(
    job: Job,
    task: Task,
    encoder: Callable[[], Encoder],
    advance: Callable[[int], None] = lambda items: None,
) -> Made:
    """Encode what has to be encoded, copy the rest, and write the shard's files; its entry comes last.

    Args:
        job: what the shard has in common with others.
        task: the shard.
        encoder: gives the encoder; called when there is something to encode.
        advance: called with the number of items that are done since the last call.

    Raises:
        DataError: the job is `strict`, and an item cannot be read.
        StorageError: the shard cannot be written.
    """
    found, cut, shape = _copied(task.copies)
    fresh = [place for place in range(len(task.items)) if place not in found]
    rejected = []
    advance(len(found))
    if fresh:
        made = encoder()
        for place, outcome in encode(made, task.items, fresh, job.dtype, workers=job.workers, cut=cut.add):
            if isinstance(outcome, ItemError):
                source = task.items[place].source
                if job.strict:
                    raise DataError(f"{source}: {outcome}. strict = true stops at the first such item.")
                rejected.append({"source": source, "reason": outcome.reason, "detail": outcome.detail})
            else:
                found[place] = outcome
            advance(1)
        shape = shape or TokenSpec(made.dim, made.slots, made.sequence)
    assert shape is not None  # a shard has items, and each is either copied or fresh
    places = sorted(found)
    sequences = [found[place] for place in places]
    shard = write_shard(
        folder_at(job.folder),
        task.number,
        job.fingerprint,
        sequences,
        _metadata(task, found),
        rejected,
        shape.dim,
        job.dtype,
        [row for row, place in enumerate(places) if place in cut],
    )
    return Made(task.number, shard, shape, len(fresh) - len(rejected), len(task.copies))


def _copied(copies: Mapping[int, Place]) -> tuple[dict[int, np.ndarray], set[int], TokenSpec | None]:
    """Tokens by place from other stores, the places of texts that were cut, and the shape of the tokens."""
    stores = {folder: FeatureStore(folder) for folder in sorted({folder for folder, _ in copies.values()})}
    shapes = [TokenSpec(store.dim, store.slots, store.sequence) for store in stores.values()]
    found: dict[Place, np.ndarray] = {}
    for folder, store in stores.items():
        # All rows in one go: neighbours are read together, and no file is opened twice.
        held = store.read(np.array([row for other, row in copies.values() if other == folder]))
        sequences = np.split(held.values, held.offsets[1:-1])
        found |= {(folder, row): tokens for row, tokens in zip(held.rows.tolist(), sequences, strict=True)}
    short = {(folder, row) for folder, store in stores.items() for row in store.cut.tolist()}
    cut = {place for place, copy in copies.items() if copy in short}
    return {place: found[copy] for place, copy in copies.items()}, cut, next(iter(shapes), None)


def _metadata(task: Task, found: Mapping[int, Any]) -> dict[str, list[Any]]:
    rows = {place: row for row, place in enumerate(sorted(found))}
    kept = [link for link in task.links if link[0] in rows]
    return {
        "row": [rows[place] for place, _, _ in kept],
        "item": [task.items[place].key for place, _, _ in kept],
        "group": [group for _, group, _ in kept],
        "split": [split for _, _, split in kept],
        "source": [task.items[place].source for place, _, _ in kept],
    }
