"""Run a frozen encoder once over every item of a modality, into a feature store.

Items are cut into shards by their number alone and batched within a shard, so a run that is killed and resumed makes
the same batches, hence the same bytes. Items that a finished store of the same encoder already holds are copied.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl.data.base import Dataset, Item, Rejection, check_rejected
from lightcrl.encoders.base import Encoder, fingerprint
from lightcrl.errors import DataError, ItemError, LightCRLError
from lightcrl.features.encoding import encode
from lightcrl.features.store import FORMAT, FeatureStore, Shard, complete_shard, write_manifest, write_shard
from lightcrl.storage import make_folder


@dataclass(frozen=True)
class Extraction:
    """A store, and what it took to have it.

    Attributes:
        store: complete and open.
        encoded: items that went through the encoder in this call.
        copied: items taken from another store of the same encoder.
        kept: items in shards that were already complete.
        rejected: everything that the store has set aside.
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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Extraction:
    """The complete store of one modality of `dataset`, made, resumed or found below `root`.

    Args:
        encoder: the frozen encoder.
        dataset: groups and unique items.
        modality: whose items.
        root: folder of all stores.
        dtype: of the stored values, `"float16"` or `"float32"`.
        strict: stop at the first item that cannot be read.
        max_rejected: greatest share of items that may be set aside.
        workers: threads that decode.
        progress: called with items done and items in all.

    Raises:
        DataError: `strict`, and an item cannot be read.
        TooManyRejectedError: more than `max_rejected` cannot be read.
        StorageError: the disk is full or not writable; complete shards are kept.
    """
    items, links = dataset.items[modality], dataset.links[modality]
    identity = {
        "format": FORMAT,
        "encoder": encoder.fingerprint,
        "dtype": dtype,
        "data": _data_identity(dataset, modality),
    }
    mark = fingerprint(identity)
    folder = make_folder(Path(root) / f"{modality}-{mark[:16]}")
    if (folder / "manifest.json").exists():
        store = FeatureStore(folder, mark)
        progress(len(items), len(items))
        return Extraction(store, 0, 0, store.rows, _rejections(store.rejected, modality))

    known = _Known(Path(root), encoder.fingerprint, dtype, exclude=folder)
    size = max(1024, -(-len(items) // 1024))
    bounds = np.searchsorted(links[:, 0], np.arange(0, len(items) + size, size))
    shards: list[Shard] = []
    encoded = copied = kept = 0
    for number, first in enumerate(range(0, len(items), size)):
        part = items[first : first + size]
        shard = complete_shard(folder, number, mark)
        if shard is not None:
            kept += shard.rows
        else:
            found = {place: tokens for place, item in enumerate(part) if (tokens := known.tokens(item.key)) is not None}
            fresh = [place for place in range(len(part)) if place not in found]
            rejected = []
            done = first + len(found)
            for place, outcome in encode(encoder, part, fresh, dtype, workers=workers):
                done += 1
                progress(done, len(items))
                if isinstance(outcome, ItemError):
                    if strict:
                        raise DataError(f"{part[place].source}: {outcome}. strict = true stops at the first such item.")
                    rejected.append({"source": part[place].source, "reason": outcome.reason, "detail": outcome.detail})
                else:
                    found[place] = outcome
            metadata = _metadata(dataset, part, found, links[bounds[number] : bounds[number + 1]], first)
            sequences = [found[place] for place in sorted(found)]
            shard = write_shard(folder, number, mark, sequences, metadata, rejected, encoder.dim, dtype)
            encoded += len(fresh) - len(rejected)
            copied += len(part) - len(fresh)
        shards.append(shard)
        progress(min(first + size, len(items)), len(items))
        aside = [entry for done_shard in shards for entry in done_shard.rejected]
        # Stop as soon as the final share is certain to be too large, not after hours.
        check_rejected(_rejections(aside, modality), len(items) - len(aside), max_rejected)

    header = {
        "modality": modality,
        "kind": encoder.kind,
        "encoder": {"fingerprint": encoder.fingerprint, **encoder.describe()},
        "dim": encoder.dim,
        "slots": encoder.slots,
        "sequence": encoder.sequence,
        "dtype": dtype,
    }
    write_manifest(folder, mark, header, shards)
    for leftover in folder.glob("*.tmp"):  # of killed runs
        leftover.unlink()
    store = FeatureStore(folder, mark)
    return Extraction(store, encoded, copied, kept, _rejections(store.rejected, modality))


def _data_identity(dataset: Dataset, modality: str) -> str:
    groups = [f"{name}\n{split}" for name, split in zip(dataset.groups, dataset.splits, strict=True)]
    links = [[int(item), groups[group]] for item, group in dataset.links[modality]]
    return fingerprint([[item.key for item in dataset.items[modality]], links])


def _metadata(
    dataset: Dataset, part: Sequence[Item], found: dict[int, np.ndarray], links: np.ndarray, first: int
) -> dict[str, list[Any]]:
    rows = {place: row for row, place in enumerate(sorted(found))}
    kept = [(place, int(group)) for place, group in zip(links[:, 0] - first, links[:, 1], strict=True) if place in rows]
    return {
        "row": [rows[place] for place, _ in kept],
        "item": [part[place].key for place, _ in kept],
        "group": [dataset.groups[group] for _, group in kept],
        "split": [dataset.splits[group] for _, group in kept],
        "source": [part[place].source for place, _ in kept],
    }


def _rejections(entries: list[dict[str, str]], modality: str) -> list[Rejection]:
    return [Rejection(entry["source"], entry["reason"], entry["detail"], modality) for entry in entries]


class _Known:
    """Items that finished stores of the same encoder and dtype already hold."""

    def __init__(self, root: Path, encoder: str, dtype: str, exclude: Path) -> None:
        self._places: dict[str, tuple[FeatureStore, int]] = {}
        for manifest in sorted(root.glob("*/manifest.json")):
            if manifest.parent == exclude:
                continue
            header = json.loads(manifest.read_text(encoding="utf-8"))
            if header["format"] != FORMAT or header["encoder"]["fingerprint"] != encoder or header["dtype"] != dtype:
                continue
            try:
                store = FeatureStore(manifest.parent)
            except LightCRLError:  # a torn sibling only means that its items are encoded again
                continue
            table = store.metadata()
            for key, row in zip(table["item"].to_pylist(), table["row"].to_pylist(), strict=True):
                self._places.setdefault(key, (store, row))

    def tokens(self, key: str) -> np.ndarray | None:
        if key not in self._places:
            return None
        store, row = self._places[key]
        return store.item(row)
