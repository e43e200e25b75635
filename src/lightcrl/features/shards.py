"""Shards of a store as pieces of work: their items, and the way to make them. Any process can make any shard.

The cut into shards depends only on the number of items, and batches are formed within a shard. So every process makes
the same batches, hence the same bytes, however often a shard was begun.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightcrl.data.base import Dataset, Item
from lightcrl.encoders.base import Encoder
from lightcrl.errors import DataError, ItemError
from lightcrl.features.copies import content, extent
from lightcrl.features.encoding import encode
from lightcrl.features.siblings import Place, Siblings
from lightcrl.features.store import FeatureStore, Shard, write_shard
from lightcrl.files.remote import folder_at
from lightcrl.tokens import TokenSpec


@dataclass(frozen=True, slots=True)
class Job:
    """Settings that all shards of a store have in common.

    Attributes:
        folder: path or URI of the store.
        fingerprint: fingerprint of the store.
        encoder: fingerprint of the encoder.
        dtype: dtype of the stored values.
        strict: true to stop at the first unreadable item.
        workers: number of decoding threads.
    """

    folder: str
    fingerprint: str
    encoder: str
    dtype: str
    strict: bool
    workers: int


@dataclass(frozen=True, slots=True)
class Task:
    """A missing shard.

    Attributes:
        number: number of the shard.
        items: items of the shard, in order.
        links: place of an item among them, its group and the group's split; in order of places.
        copies: location of an item in a finished store of the same encoder, by place.
        contents: contents of files that are known already (`copies.content`), by place.
    """

    number: int
    items: list[Item]
    links: list[tuple[int, str, str]]
    copies: dict[int, Place]
    contents: dict[int, str]


@dataclass(frozen=True, slots=True)
class Made:
    """A complete shard, and the work that it took.

    Attributes:
        number: number of the shard.
        shard: its entry in the manifest.
        shape: shape of the encoder's tokens.
        encoded: number of items that went through the encoder.
        copied: number of items from other stores.
    """

    number: int
    shard: Shard
    shape: TokenSpec
    encoded: int
    copied: int


def shard_size(count: int) -> int:
    """Return the number of items per shard except the last: at least 1,024, and at most 1,024 shards in total."""
    return max(1024, -(-count // 1024))


def shard_count(count: int) -> int:
    """Return the number of shards of `count` items.

    >>> shard_count(0), shard_count(1024), shard_count(1025), shard_count(10_000_000)
    (0, 1, 2, 1024)
    """
    return -(-count // shard_size(count))


def plan_tasks(dataset: Dataset, modality: str, siblings: Siblings, complete: Collection[int]) -> Iterator[Task]:
    """Yield the shards of a modality that are not `complete`."""
    items = dataset.items[modality]
    size = shard_size(len(items))
    for number in range(shard_count(len(items))):
        if number not in complete:
            first, last = number * size, (number + 1) * size
            part = list(items[first:last])
            links = [(item - first, group, split) for item, group, split in dataset.named_links(modality, first, last)]
            yield Task(number, part, links, *siblings.find(part))


def make_shard(
    job: Job,
    task: Task,
    encoder: Callable[[], Encoder],
    advance: Callable[[int], None] = lambda items: None,
) -> Made:
    """Encode new items, copy the others, and write the shard's files; its entry is written last.

    Args:
        job: settings of all shards.
        task: the shard.
        encoder: function that returns the encoder; it is called only if an item must be encoded.
        advance: function that is called with the number of items finished since its last call.

    Raises:
        DataError: the job is `strict`, and an item is unreadable.
        StorageError: the shard cannot be written.
    """
    tokens, cut, contents, shape = _copied(task.copies)
    fresh = [place for place in range(len(task.items)) if place not in tokens]
    rejected = []
    advance(len(tokens))
    if fresh:
        made = encoder()
        for place, outcome in encode(made, task.items, fresh, job.dtype, workers=job.workers, cut=cut.add):
            if isinstance(outcome, ItemError):
                source = task.items[place].source
                if job.strict:
                    raise DataError(f"{source}: {outcome}. strict = true stops at the first such item.")
                rejected.append({"source": source, "reason": outcome.reason, "detail": outcome.detail})
            else:
                tokens[place] = outcome
            advance(1)
        shape = shape or TokenSpec(made.dim, made.slots, made.sequence)
    assert shape is not None  # a shard has items, and each is either copied or encoded
    places = sorted(tokens)
    sequences = [tokens[place] for place in places]
    shard = write_shard(
        folder_at(job.folder),
        task.number,
        job.fingerprint,
        sequences,
        _metadata(task, tokens, _contents(task, tokens, contents, job.workers)),
        rejected,
        shape.dim,
        job.dtype,
        [row for row, place in enumerate(places) if place in cut],
    )
    return Made(task.number, shard, shape, len(fresh) - len(rejected), len(task.copies))


def _copied(
    copies: Mapping[int, Place],
) -> tuple[dict[int, np.ndarray], set[int], dict[int, str], TokenSpec | None]:
    """Return from other stores tokens by place, places of texts that were cut, contents of files, and the shape."""
    stores = {folder: FeatureStore(folder) for folder in sorted({folder for folder, _ in copies.values()})}
    shapes = [TokenSpec(store.dim, store.slots, store.sequence) for store in stores.values()]
    copied: dict[Place, np.ndarray] = {}
    contents: dict[Place, str] = {}
    for folder, store in stores.items():
        # All rows at once: neighbours are read together, and no file is opened twice.
        held = store.read(np.array([row for other, row in copies.values() if other == folder]))
        sequences = np.split(held.values, held.offsets[1:-1])
        copied |= {(folder, row): tokens for row, tokens in zip(held.rows.tolist(), sequences, strict=True)}
        contents |= {(folder, row): mark for row, mark in store.contents(held.rows).items()}
    short = {(folder, row) for folder, store in stores.items() for row in store.cut.tolist()}
    cut = {place for place, copy in copies.items() if copy in short}
    marks = {place: contents[copy] for place, copy in copies.items() if copy in contents}
    return {place: copied[copy] for place, copy in copies.items()}, cut, marks, next(iter(shapes), None)


def _contents(task: Task, tokens: Mapping[int, Any], copied: Mapping[int, str], workers: int) -> dict[int, str]:
    """Return the contents of files by place; those that nothing tells are read, once more after decoding."""
    told = {**copied, **task.contents}
    unread = [place for place in tokens if place not in told and extent(task.items[place].raw) is not None]
    with ThreadPoolExecutor(workers) as pool:
        marks = pool.map(content, [task.items[place] for place in unread])
        return told | {place: mark for place, mark in zip(unread, marks, strict=True) if mark is not None}


def _metadata(task: Task, tokens: Mapping[int, Any], contents: Mapping[int, str]) -> dict[str, list[Any]]:
    rows = {place: row for row, place in enumerate(sorted(tokens))}
    kept = [link for link in task.links if link[0] in rows]
    columns: dict[str, list[Any]] = {
        "row": [rows[place] for place, _, _ in kept],
        "item": [task.items[place].key for place, _, _ in kept],
        "group": [group for _, group, _ in kept],
        "split": [split for _, _, split in kept],
        "source": [task.items[place].source for place, _, _ in kept],
    }
    return {**columns, "content": [contents.get(place) for place, _, _ in kept]} if contents else columns
