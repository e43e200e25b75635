"""Items in finished stores of the same encoder, which are copied instead of encoded again."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lightcrl.data.base import Item
from lightcrl.data.naming import digests
from lightcrl.features.copies import content, extent
from lightcrl.features.store import ITEMS, Shard
from lightcrl.files.remote import Folder, folder_at

Place: TypeAlias = tuple[str, int]
"""Path or URI of a store, and a row in it."""
READERS = 8
"""Number of files that are read at a time to compare their contents."""


@dataclass(frozen=True)
class _Names:
    """Names [N] as digests, sorted by their first half, and the store and the row of each."""

    digests: np.ndarray
    stores: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[tuple[np.ndarray, int, np.ndarray]]) -> _Names:
        names = np.concatenate([np.zeros((0, 2), np.uint64), *(part for part, _, _ in parts)])
        order = np.argsort(names[:, 0], kind="stable")  # the first of equal names stays first
        stores = np.concatenate([np.zeros(0, np.int32), *(np.full(len(part), n, np.int32) for part, n, _ in parts)])
        rows = np.concatenate([np.zeros(0, np.int64), *(rows for _, _, rows in parts)])
        return cls(names[order], stores[order], rows[order])

    def find(self, names: Sequence[str]) -> np.ndarray:
        """Return the number of each of N names, -1 where it is missing."""
        if not len(self.rows) or not len(names):
            return np.full(len(names), -1)
        wanted = digests(pa.array(names, pa.string()))
        at = np.searchsorted(self.digests[:, 0], wanted[:, 0])
        at[at == len(self.rows)] = 0
        return np.where((self.digests[at] == wanted).all(1), at, -1)


class Siblings:
    """Items in the finished stores below a folder; for a store on an object store only the metadata is read.

    An item is known by its key, and a file also by its content.
    """

    def __init__(self, root: Folder, wanted: Mapping[str, Any], encoder: str, exclude: str) -> None:
        """Read all stores below `root` except `exclude`.

        Args:
            root: folder of all stores.
            wanted: required entries of the manifest.
            encoder: fingerprint of the encoder.
            exclude: name of the store in the making.
        """
        self._folders: list[str] = []
        self._manifests: list[dict[str, Any]] = []
        self._sizes: set[int] = set()
        keys, contents = [], []
        for name in root.folders():
            folder = root.below(name)
            if name == exclude or (manifest := _manifest(folder, wanted, encoder)) is None:
                continue
            self._manifests.append(manifest)
            for lines in _lines(folder, manifest):
                keys.append((digests(lines["item"].combine_chunks()), len(self._folders), lines["row"].to_numpy()))
                if "content" in lines.column_names and len(files := lines.drop_null()):
                    marks = files["content"].combine_chunks()
                    contents.append((digests(marks), len(self._folders), files["row"].to_numpy()))
                    self._sizes.update(int(mark.split(" ", 1)[0]) for mark in marks.to_pylist())
            self._folders.append(folder.uri)
        self._keys, self._contents = _Names.of(keys), _Names.of(contents)

    def find(self, items: Sequence[Item]) -> tuple[dict[int, Place], dict[int, str]]:
        """Return the location of each item that a store holds, and the contents that were compared, by place.

        A file is read only if its key is unknown, and a stored file has its size.
        """
        places = self._located(self._keys, range(len(items)), [item.key for item in items])
        if not self._sizes:
            return places, {}
        sizes = {
            place: part.size for place, item in enumerate(items) if place not in places and (part := extent(item.raw))
        }
        alike = [place for place, size in sizes.items() if size in self._sizes]
        with ThreadPoolExecutor(READERS) as pool:
            marks = pool.map(content, [items[place] for place in alike])
            contents = {place: mark for place, mark in zip(alike, marks, strict=True) if mark is not None}
        return places | self._located(self._contents, list(contents), list(contents.values())), contents

    def equal(self, folder: Folder, shards: Sequence[Shard]) -> str | None:
        """Return the fingerprint of a store with the features, groups and splits of the complete `shards` of a folder.

        Such a store is left where only names or modification times of files have changed. On one disk, both then have
        one copy of the features.
        """
        values = [(shard.rows, *_features(shard.files)) for shard in shards]
        for uri, manifest in zip(self._folders, self._manifests, strict=True):
            if values == [(shard["rows"], *_features(shard["files"])) for shard in manifest["shards"]]:
                numbers = range(len(shards))
                if all(_links(folder_at(uri), number).equals(_links(folder, number)) for number in numbers):
                    for name in (name for shard in shards for name, _ in _features(shard.files)):
                        folder.share(name, folder_at(uri))
                    return str(manifest.get("equal", manifest["fingerprint"]))
        return None

    def _located(self, names: _Names, places: Sequence[int], wanted: Sequence[str]) -> dict[int, Place]:
        at = names.find(wanted)
        return {
            places[n]: (self._folders[names.stores[at[n]]], int(names.rows[at[n]]))
            for n in np.flatnonzero(at >= 0).tolist()
        }


def _manifest(folder: Folder, wanted: Mapping[str, Any], encoder: str) -> dict[str, Any] | None:
    """Return the manifest of a complete store of the wanted kind, or None."""
    try:
        manifest: dict[str, Any] = json.loads(folder.read("manifest.json"))
    except (FileNotFoundError, ValueError):
        return None
    if manifest["encoder"]["fingerprint"] != encoder or any(manifest[key] != value for key, value in wanted.items()):
        return None
    # The items of a torn sibling are encoded again.
    sizes = folder.sizes()
    files = [file for shard in manifest["shards"] for file in shard["files"].items()]
    return manifest if all(sizes.get(name) == stamp["bytes"] for name, stamp in files) else None


def _lines(folder: Folder, manifest: Mapping[str, Any]) -> Iterator[pa.Table]:
    """Yield row, item and, if the items are files, content of every line of a store, shard by shard."""
    first = 0
    for number, shard in enumerate(manifest["shards"]):
        file = pq.ParquetFile(io.BytesIO(folder.read(ITEMS.format(number))))
        present = [name for name in ("row", "item", "content") if name in file.schema_arrow.names]
        lines = file.read(present)
        yield lines.set_column(0, "row", pa.array(lines["row"].to_numpy() + first))
        first += shard["rows"]


def _features(files: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """Return the digests of a shard's files of features."""
    return sorted((name, stamp["digest"]) for name, stamp in files.items() if not name.startswith("items-"))


def _links(folder: Folder, number: int) -> pa.Table:
    """Return the columns row, group and split of a shard."""
    return pq.read_table(io.BytesIO(folder.read(ITEMS.format(number))), columns=["row", "group", "split"])
