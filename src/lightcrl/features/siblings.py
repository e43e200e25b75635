"""Items in finished stores of the same encoder, which are copied instead of encoded again."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import pyarrow.parquet as pq

from lightcrl.files.remote import Folder

Place: TypeAlias = tuple[str, int]
"""Path or URI of a store, and a row in it."""


class Siblings:
    """Items in the finished stores below a folder; for a store on an object store only the metadata is read."""

    def __init__(self, root: Folder, wanted: Mapping[str, Any], encoder: str, exclude: str) -> None:
        """Read all stores below `root` except `exclude`.

        Args:
            root: folder of all stores.
            wanted: required entries of the manifest.
            encoder: fingerprint of the encoder.
            exclude: name of the store in the making.
        """
        self._places: dict[str, Place] = {}
        for name in root.folders():
            folder = root.below(name)
            if name != exclude and (manifest := _manifest(folder, wanted, encoder)) is not None:
                for key, row in _rows(folder, manifest):
                    self._places.setdefault(key, (folder.uri, row))

    def find(self, key: str) -> Place | None:
        """Return the location of the item with that key, or None."""
        return self._places.get(key)


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


def _rows(folder: Folder, manifest: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    first = 0
    for number, shard in enumerate(manifest["shards"]):
        table = pq.read_table(io.BytesIO(folder.read(f"items-{number:05d}.parquet")), columns=["item", "row"])
        for key, row in zip(table["item"].to_pylist(), table["row"].to_pylist(), strict=True):
            yield key, first + row
        first += shard["rows"]
