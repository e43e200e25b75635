"""Fixed embeddings of old modalities: one feature store per modality, with the embedding as the only token of an item.

Training reads these stores whether the old modality is given as raw items, as a feature store or as vectors with ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightcrl.data.base import Dataset, Rejection, check_rejected, digest
from lightcrl.encoders.base import fingerprint
from lightcrl.errors import DataError, StoreError
from lightcrl.features.embed import embed_rows
from lightcrl.features.store import FeatureStore, write_manifest, write_shard
from lightcrl.files.local import make_folder
from lightcrl.methods import Method

PART = 16_384
"""Number of items per shard."""

Part = tuple[np.ndarray, dict[str, list[Any]]]
"""Vectors [n, d] of the items of a shard, and the columns of its metadata."""


def anchor_items(
    method: Method, modality: str, store: FeatureStore, groups: Mapping[str, str], base: str, folder: Path
) -> FeatureStore:
    """Return the embeddings of the items of a feature store whose groups are in `groups`.

    Args:
        method: the method that embeds the items.
        modality: modality of the items.
        store: features of the items.
        groups: split of every group by its name; it overrides the split in the store.
        base: digest of the method's checkpoint.
        folder: folder of the embeddings; stored embeddings of the same items by the same model are reused.

    Raises:
        StoreError: the store has none of the groups.
    """
    table = store.metadata()
    table = table.filter(pc.is_in(table["group"], pa.array(list(groups), pa.string())))
    if not len(table):
        raise StoreError(
            f"{store.folder} has no group of the data; expected the same group names. Those of a table follow from "
            "data.key."
        )
    lines = table.to_pydict()
    rows = np.array(lines["row"])
    chosen, places = np.unique(rows, return_inverse=True)
    lines["split"] = [groups[name] for name in lines["group"]]

    def parts() -> Iterator[Part]:
        for start in range(0, len(chosen), PART):
            vectors = embed_rows(method, store, modality, chosen[start : start + PART])
            yield vectors.numpy(), _lines_of(lines, places, start)

    return _kept(folder, modality, [base, store.fingerprint, lines["group"], lines["split"]], method.dim, parts)


def anchor_vectors(
    vectors: np.ndarray,
    at: Mapping[str, int],
    dataset: Dataset,
    name: str,
    base: str,
    folder: Path,
    max_rejected: float,
) -> tuple[FeatureStore, list[Rejection]]:
    """Return a store of the vectors whose ids are in the data, and the items without a vector.

    Args:
        vectors: unit vectors [N, d].
        at: row of the vector by id.
        dataset: dataset in which the items of `name` are ids.
        name: name of the modality in `dataset`.
        base: digest of the checkpoint that made the vectors.
        folder: folder of the store.
        max_rejected: greatest share of ids without a vector.

    Raises:
        TooManyRejectedError: the share of ids without a vector exceeds `max_rejected`.
        DataError: no id has a vector.
    """
    items = dataset.items[name]
    rejected = [Rejection(item.source, "no vector of this id", item.raw, name) for item in items if item.raw not in at]
    kept = [number for number, item in enumerate(items) if item.raw in at]
    check_rejected(rejected, len(kept), max_rejected)
    if not kept:
        raise DataError(
            f"none of the {len(items):,} ids in the data has a vector, such as {items[0].raw!r}; expected ids of the "
            "vectors. Set vectors.<modality>.column to the column of ids."
        )
    row = {number: place for place, number in enumerate(kept)}
    links = [(row[item], group) for item, group in dataset.links[name].tolist() if item in row]
    places = np.array([item for item, _ in links])
    lines = {
        "row": places.tolist(),
        "item": [items[kept[place]].key for place in places],
        "group": [dataset.groups[group] for _, group in links],
        "split": [dataset.splits[group] for _, group in links],
        "source": [items[kept[place]].source for place in places],
    }
    chosen = np.array([at[items[number].raw] for number in kept])

    def parts() -> Iterator[Part]:
        for start in range(0, len(chosen), PART):
            yield vectors[chosen[start : start + PART]], _lines_of(lines, places, start)

    content = [base, [items[number].raw for number in kept], lines["group"], lines["split"]]
    mark = [*content, digest(vectors[chosen].tobytes())]
    return _kept(folder, name, mark, vectors.shape[1], parts), rejected


def _lines_of(lines: Mapping[str, list[Any]], places: np.ndarray, start: int) -> dict[str, list[Any]]:
    """Return the metadata of the shard that begins at row `start`; rows count from 0 within the shard."""
    here = np.flatnonzero((places >= start) & (places < start + PART))
    here = here[np.argsort(places[here], kind="stable")]
    return {
        "row": (places[here] - start).tolist(),
        **{key: [lines[key][line] for line in here] for key in ("item", "group", "split", "source")},
    }


def _kept(
    folder: Path, modality: str, identity: list[Any], dim: int, parts: Callable[[], Iterator[Part]]
) -> FeatureStore:
    """Return the store of these vectors; a stored one with the same fingerprint is reused."""
    mark = fingerprint(identity)
    try:
        return FeatureStore(folder, mark)
    except StoreError:  # No store, an incomplete one, or one of other content: it is written below.
        pass
    make_folder(folder)
    (folder / "manifest.json").unlink(missing_ok=True)
    shards = [
        write_shard(folder, number, mark, list(vectors[:, None]), lines, [], dim, "float32")
        for number, (vectors, lines) in enumerate(parts())
    ]
    header = {"modality": modality, "kind": "embedding", "dim": dim, "slots": 1, "sequence": False, "dtype": "float32"}
    write_manifest(folder, mark, header, shards)
    return FeatureStore(folder, mark)
