"""Extraction: a frozen encoder runs once over every item of a modality, into a feature store.

The store is made shard by shard (`shards`), by an engine (`engines`). Shards from an earlier run are kept, and items in
a finished store of the same encoder are copied (`siblings`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl.data.base import Dataset, Item, Rejection, check_rejected
from lightcrl.encoders.base import Encoder, EncoderSpec, fingerprint
from lightcrl.events import Tell
from lightcrl.features.base import Store
from lightcrl.features.copies import repeated
from lightcrl.features.engines import ENGINES, Crew
from lightcrl.features.linked import link_shards
from lightcrl.features.packing import PACKED
from lightcrl.features.shards import Job, plan_tasks, shard_count
from lightcrl.features.siblings import Siblings
from lightcrl.features.spec import FeaturesSpec
from lightcrl.features.store import FORMAT, FeatureStore, Shard, complete_shards, format_of, write_manifest
from lightcrl.features.views import ViewedStore, view_dataset
from lightcrl.files.locks import in_turn
from lightcrl.files.remote import Folder, folder_at, local_place
from lightcrl.tokens import TokenSpec

# Number of items whose names are in memory at a time while the data is identified.
PORTION = 16_384


@dataclass(frozen=True)
class Extraction:
    """A store, and the work of this call.

    Attributes:
        store: the complete, open store.
        encoded: number of items that went through the encoder in this call.
        copied: number of items from another store of the same encoder.
        kept: number of items in shards that were already complete.
        rejected: all items that the store has set aside.
    """

    store: FeatureStore
    encoded: int
    copied: int
    kept: int
    rejected: list[Rejection]


def extract(
    encoder: Encoder,
    dataset: Dataset,
    modality: str,
    root: Path | str,
    *,
    dtype: str = "float16",
    strict: bool = False,
    max_rejected: float = 0.2,
    workers: int = 4,
    engine: str = "local",
    crew: Crew | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    tell: Tell = lambda event: None,
) -> Extraction:
    """Return the complete store of a modality of `dataset`, which is made, resumed or reused below `root`.

    A single process makes a store; others wait and read the complete store. For a store at a URI this holds for the
    processes of one machine. Two machines may encode the same items there, and write the same bytes.

    Args:
        encoder: the frozen encoder.
        dataset: groups and unique items.
        modality: modality of the items.
        root: folder of all stores, a path or a URI.
        dtype: dtype of the stored values, `"float16"`, `"float32"` or `"int8"`.
        strict: true to stop at the first unreadable item.
        max_rejected: greatest share of items that may be set aside.
        workers: decoding threads in every encoding process.
        engine: a member of `ENGINES`.
        crew: encoding processes, if the engine is not the local one.
        progress: function that is called with the number of finished items and of all items.
        tell: function that is called with the event `waiting` if another process makes the store.

    Raises:
        DataError: `strict` is true, and an item is unreadable.
        TooManyRejectedError: more than `max_rejected` are unreadable.
        StorageError: the disk is full, or the folder is not writable; complete shards are kept.
        EngineError: the encoding machines fail.
    """
    encoder.observe(item.read for item in dataset.items[modality])
    identity = {
        "format": FORMAT,
        "encoder": encoder.fingerprint,
        "dtype": dtype,
        "data": _data_identity(dataset, modality),
    }
    mark = fingerprint(identity)
    folder = folder_at(root).below(f"{modality}-{mark[:16]}")
    if (existing := _found(folder, mark, dataset, modality, progress)) is not None:
        return existing
    folder.make()
    job = Job(folder.uri, mark, encoder.fingerprint, dtype, strict, workers)
    with in_turn(local_place(folder.uri), tell):
        existing = _found(folder, mark, dataset, modality, progress)
        return existing or _make(
            job, encoder, dataset, modality, root, max_rejected, engine, crew or Crew(), progress, tell
        )


def _found(
    folder: Folder, mark: str, dataset: Dataset, modality: str, progress: Callable[[int, int], None]
) -> Extraction | None:
    """Return the store if it is complete."""
    if "manifest.json" not in folder.sizes():
        return None
    store = FeatureStore(folder.uri, mark)
    progress(len(dataset.items[modality]), len(dataset.items[modality]))
    return Extraction(store, 0, 0, store.rows, _rejections(store.rejected, modality))


def _make(
    job: Job,
    encoder: Encoder,
    dataset: Dataset,
    modality: str,
    root: Path | str,
    max_rejected: float,
    engine: str,
    crew: Crew,
    progress: Callable[[int, int], None],
    tell: Tell,
) -> Extraction:
    """Encode the missing items, or link to vectors that are there; the manifest is written last."""
    items, folder, mark = dataset.items[modality], folder_at(job.folder), job.fingerprint
    linked = None if job.dtype == PACKED else link_shards(folder, mark, encoder, dataset, modality)
    if linked is not None:
        _declare(folder, mark, encoder, modality, linked.dtype, linked.shards)
        progress(len(items), len(items))
        store = FeatureStore(folder.uri, mark)
        return Extraction(store, 0, 0, store.rows, [])
    shards = complete_shards(folder, shard_count(len(items)), mark)
    kept = sum(shard.rows for shard in shards.values())
    done = sum(shard.rows + len(shard.rejected) for shard in shards.values())
    progress(done, len(items))

    def advance(more: int) -> None:
        nonlocal done
        done += more
        progress(done, len(items))

    def check() -> None:
        """Stop as soon as the final share is certain to be too large, not hours later."""
        aside = [entry for _, shard in sorted(shards.items()) for entry in shard.rejected]
        check_rejected(_rejections(aside, modality), len(items) - len(aside), max_rejected)

    check()
    wanted = {"format": format_of(job.dtype), "dtype": job.dtype}
    siblings = Siblings(folder_at(root), wanted, encoder.fingerprint, exclude=folder.name)
    encoded = copied = 0
    if len(shards) < shard_count(len(items)) and (several := _unknown(_repeated(encoder, items), siblings)):
        # Shards are made in any order, so what several of them hold is encoded first, in a store of its own.
        links = np.stack([np.arange(len(several)), np.zeros(len(several), int)], 1)
        first = Dataset(["copies"], ["train"], {modality: several}, {modality: links})
        encoded = extract(
            encoder,
            first,
            modality,
            root,
            dtype=job.dtype,
            strict=job.strict,
            max_rejected=1.0,
            workers=job.workers,
            engine=engine,
            crew=crew,
            tell=tell,
        ).encoded
        copied = -encoded  # each of them is counted again where it is copied
        siblings = Siblings(folder_at(root), wanted, encoder.fingerprint, exclude=folder.name)
    tasks = plan_tasks(dataset, modality, siblings, set(shards))
    shape: TokenSpec | None = None
    with closing(ENGINES.load(engine)(job, encoder, tasks, advance, crew)) as running:
        for made in running:
            shards[made.number], shape = made.shard, made.shape
            encoded, copied = encoded + made.encoded, copied + made.copied
            check()

    made_shards = [shard for _, shard in sorted(shards.items())]
    equal = siblings.equal(folder, made_shards)
    _declare(folder, mark, encoder, modality, job.dtype, made_shards, shape, equal)
    folder.tidy()
    store = FeatureStore(folder.uri, mark)
    return Extraction(store, encoded, copied, kept, _rejections(store.rejected, modality))


def _repeated(encoder: Encoder, items: Sequence[Item]) -> list[Item]:
    """Return the first item of each content that several files have; texts are not files."""
    return [] if encoder.kind == "text" else repeated(items)


def _unknown(items: list[Item], siblings: Siblings) -> list[Item]:
    """Return the items that no finished store holds."""
    places, _ = siblings.find(items)
    return [item for place, item in enumerate(items) if place not in places]


def _declare(
    folder: Folder,
    mark: str,
    encoder: Encoder,
    modality: str,
    dtype: str,
    shards: Sequence[Shard],
    shape: TokenSpec | None = None,
    equal: str | None = None,
) -> None:
    """Write the manifest of a store whose shards are complete; `equal` is the fingerprint of a store that is equal."""
    shape = shape or TokenSpec(encoder.dim, encoder.slots, encoder.sequence)
    header = {
        "modality": modality,
        "kind": encoder.kind,
        "encoder": {"fingerprint": encoder.fingerprint, **encoder.describe()},
        "dim": shape.dim,
        "slots": shape.slots,
        "sequence": shape.sequence,
        "dtype": dtype,
    } | ({"equal": equal} if equal else {})
    write_manifest(folder, mark, header, shards)


def _data_identity(dataset: Dataset, modality: str) -> str:
    """Return the `fingerprint` of [keys, links], links as [item, "group\nsplit"], with few in memory at a time."""
    items = dataset.items[modality]
    links = (
        [item, f"{group}\n{split}"]
        for start in range(0, len(items), PORTION)
        for item, group, split in dataset.named_links(modality, start, start + PORTION)
    )
    state = hashlib.blake2b(digest_size=16)
    for piece in chain("[", _json_list(item.key for item in items), ",", _json_list(links), "]"):
        state.update(piece.encode())
    return state.hexdigest()


def _json_list(values: Iterator[Any]) -> Iterator[str]:
    """Yield the JSON of a list in pieces."""
    yield "["
    separator = ""
    while portion := list(islice(values, PORTION)):
        yield separator + json.dumps(portion, separators=(",", ":"))[1:-1]
        separator = ","
    yield "]"


def _rejections(entries: list[dict[str, str]], modality: str) -> list[Rejection]:
    return [Rejection(entry["source"], entry["reason"], entry["detail"], modality) for entry in entries]


def encode_modality(
    encoder: Encoder,
    dataset: Dataset,
    modality: str,
    features: FeaturesSpec,
    tell: Tell,
    *,
    strict: bool = False,
    max_rejected: float = 0.2,
) -> Extraction:
    """Run `extract` with a recipe's `[features]` table, and report progress as events `encode` and `encoded`."""
    done = extract(
        encoder,
        dataset,
        modality,
        features.folder,
        dtype=features.dtype,
        strict=strict,
        max_rejected=max_rejected,
        workers=features.workers,
        engine=features.engine,
        crew=features.crew,
        progress=lambda at, total: tell({"event": "encode", "modality": modality, "done": at, "total": total}),
        tell=tell,
    )
    tell(
        {
            "event": "encoded",
            "modality": modality,
            "items": done.store.rows,
            "encoded": done.encoded,
            "copied": done.copied,
            "kept": done.kept,
            "rejected": dict(Counter(rejection.reason for rejection in done.rejected)),
            "cut": len(done.store.cut),
            "folder": str(done.store.folder),
            "bytes": done.store.nbytes,
        }
    )
    return done


def encode_each(
    encoders: Mapping[str, Encoder],
    dataset: Dataset,
    features: FeaturesSpec,
    tell: Tell,
    *,
    strict: bool = False,
    max_rejected: float = 0.2,
) -> tuple[dict[str, FeatureStore], list[Rejection]]:
    """Run `encode_modality` for every modality in `encoders`; return the stores and the rejections of their items."""
    done = {
        modality: encode_modality(encoder, dataset, modality, features, tell, strict=strict, max_rejected=max_rejected)
        for modality, encoder in encoders.items()
    }
    stores = {modality: extraction.store for modality, extraction in done.items()}
    return stores, [rejection for extraction in done.values() for rejection in extraction.rejected]


def named(tell: Tell, modality: str) -> Tell:
    """Return a function that tells events under another name of their modality."""

    def rename(event: Mapping[str, Any]) -> None:
        tell({**event, "modality": modality} if "modality" in event else event)

    return rename


def encode_views(
    stores: Mapping[str, FeatureStore],
    encoders: Mapping[str, Encoder],
    specs: Mapping[str, EncoderSpec],
    dataset: Dataset,
    features: FeaturesSpec,
    tell: Tell,
    *,
    max_rejected: float = 0.2,
) -> dict[str, Store]:
    """Encode the views of training items that the encoders' tables ask for, beside the stores of the plain items.

    Every view has a store of its own, so that a further view encodes nothing else again. What cannot be read is in the
    rejections of the plain items already.
    """
    viewed: dict[str, Store] = dict(stores)
    for modality, spec in specs.items():
        views = []
        for number in range(1, 1 + spec.views.further):
            chosen = view_dataset(dataset, modality, number, spec)
            done = encode_modality(
                encoders[modality],
                chosen,
                modality,
                features,
                named(tell, f"{modality}, view {number}"),
                max_rejected=max_rejected,
            )
            views.append(done.store)
        if views:
            viewed[modality] = ViewedStore(stores[modality], tuple(views))
    return viewed
