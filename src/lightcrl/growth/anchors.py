"""Old modalities as embeddings that stay as they are: a feature store each, of one token per item, the embedding.

Whatever an old modality comes as (raw items, a finished feature store, vectors with ids), this is what training sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
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
"""Items of a shard."""

Part = tuple[np.ndarray, dict[str, list[Any]]]
"""Vectors [n, d] of a shard's items, and the lines of its metadata."""


def anchor_items(
    method: Method, modality: str, store: FeatureStore, groups: Mapping[str, str], base: str, folder: Path
) -> FeatureStore:
    """The embeddings of a feature store's items, of those that stand in `groups`.

    Args:
        method: that embeds them.
        modality: theirs.
        store: their features.
        groups: name of every group to its split; it counts, whatever the store says.
        base: digest of the method's checkpoint.
        folder: where the embeddings are kept; those there, of the same items by the same model, are taken.

    Raises:
        StoreError: the store has none of the groups.
    """
    table = store.metadata()
    table = table.filter(pc.is_in(table["group"], pa.array(list(groups), pa.string())))
    if not len(table):
        raise StoreError(
            f"{store.folder} has no group of the data; expected the same names. Those of a table follow from data.key."
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
    ids: Sequence[str],
    dataset: Dataset,
    name: str,
    base: str,
    folder: Path,
    max_rejected: float,
) -> tuple[FeatureStore, list[Rejection]]:
    """The vectors whose ids the data's cells name, and what was set aside.

    Args:
        vectors: unit vectors [N, d].
        ids: [N].
        dataset: whose items of `name` are ids.
        name: of the modality there.
        base: digest of the checkpoint that made the vectors.
        folder: where they are kept.
        max_rejected: greatest share of ids without a vector.

    Raises:
        TooManyRejectedError: more have none.
    """
    at = {key: row for row, key in enumerate(ids)}
    items = dataset.items[name]
    rejected = [Rejection(one.source, "no vector of this id", one.raw, name) for one in items if one.raw not in at]
    kept = [number for number, one in enumerate(items) if one.raw in at]
    check_rejected(rejected, len(kept), max_rejected)
    if not kept:
        raise DataError(f"none of the {len(items):,} ids in the data has a vector, such as {items[0].raw!r}.")
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
    """The lines of the items from `start` on, up to a shard's end, rows counted within the shard."""
    here = np.flatnonzero((places >= start) & (places < start + PART))
    here = here[np.argsort(places[here], kind="stable")]
    return {
        "row": (places[here] - start).tolist(),
        **{key: [lines[key][line] for line in here] for key in ("item", "group", "split", "source")},
    }


def _kept(
    folder: Path, modality: str, identity: list[Any], dim: int, parts: Callable[[], Iterator[Part]]
) -> FeatureStore:
    """The store of these vectors: the one there, or a new one."""
    mark = fingerprint(identity)
    try:
        return FeatureStore(folder, mark)
    except StoreError:  # none yet, a torn one, or one of other content
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
