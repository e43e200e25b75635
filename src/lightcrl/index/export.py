"""Export of vectors to plain files, in the layout that clip-retrieval, autofaiss and embedding-reader read.

    image_emb/image_emb_00000.npy            [n, d], one array per part; a folder per modality
    image_metadata/image_metadata_00000.parquet   n rows: id, path, text, group, further columns

Files of the same number have the same rows in the same order (`file_format="parquet_npy"` of embedding-reader).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lightcrl.features.store import FeatureStore
from lightcrl.files.local import clear_errors, make_folder, whole_file
from lightcrl.index.base import View
from lightcrl.index.catalog import Catalog

PART = 100_000
"""Number of rows per file."""
NAME = "{0}_{1}_{2:05d}"


def export_items(folder: Path, catalog: Catalog, view: View, part: int = PART) -> Path:
    """Write the items of an index, modality by modality, and return the folder.

    Raises:
        StorageError: the folder is not writable.
    """
    for modality in catalog.counts():
        numbers = catalog.numbers(modality)
        _clear(folder, modality)
        for place, start in enumerate(range(0, len(numbers), part)):
            chosen = numbers[start : start + part]
            records = catalog.records(chosen)
            rows = [records[number] for number in chosen.tolist()]
            lines = [
                {"id": row.id, "path": row.path, "text": row.text, "group": row.group, **dict(row.metadata)}
                for row in rows
            ]
            _write(folder, modality, place, view.vectors(chosen), lines)
    return folder


def export_store(source: Path, folder: Path, part: int = PART) -> Path:
    """Write a feature store with a row per token, and return the folder.

    The table names item, place of the token in it, group, split and source; an item of several groups has its first.

    Raises:
        StoreError: there is no complete store in `source`.
        StorageError: the folder is not writable.
    """
    store = FeatureStore(source)
    modality = store.manifest["modality"]
    lines = {line["row"]: line for line in reversed(store.metadata().to_pylist())}
    _clear(folder, modality)
    size = max(1, part // max(1, store.longest))
    for place, start in enumerate(range(0, store.rows, size)):
        held = store.read(np.arange(start, min(start + size, store.rows)))
        counts = np.diff(held.offsets).tolist()
        rows = [
            {**{name: lines[row][name] for name in ("item", "group", "split", "source")}, "row": row, "token": token}
            for row, count in zip(held.rows.tolist(), counts, strict=True)
            for token in range(count)
        ]
        _write(folder, modality, place, held.tokens, rows)
    return folder


def is_store(folder: Path) -> bool:
    """Return true if a folder is that of a feature store."""
    return (folder / "manifest.json").is_file() and (folder / "items-00000.parquet").is_file()


def _clear(folder: Path, modality: str) -> None:
    """Make the folders of a modality, without files of an earlier export."""
    for ending in ("emb", "metadata"):
        place = folder / f"{modality}_{ending}"
        with clear_errors(place):
            shutil.rmtree(place, ignore_errors=True)
        make_folder(place)


def _write(folder: Path, modality: str, number: int, vectors: np.ndarray, lines: Sequence[Mapping[str, Any]]) -> None:
    path = folder / f"{modality}_emb" / f"{NAME.format(modality, 'emb', number)}.npy"
    with whole_file(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, vectors)
    path = folder / f"{modality}_metadata" / f"{NAME.format(modality, 'metadata', number)}.parquet"
    with whole_file(path) as temporary:
        pq.write_table(pa.table(_columns(lines)), temporary)


def _columns(lines: Sequence[Mapping[str, Any]]) -> dict[str, pa.Array]:
    """Return the columns of a table; one with values of several types becomes text."""
    names = dict.fromkeys(name for line in lines for name in line)
    columns = {}
    for name in names:
        values = [line.get(name) for line in lines]
        try:
            columns[name] = pa.array(values)
        except pa.ArrowException:
            columns[name] = pa.array([None if value is None else str(value) for value in values])
    return columns
