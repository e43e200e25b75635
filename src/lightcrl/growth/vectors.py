"""Embeddings with ids, from files or from an index, for old modalities whose encoder is not available."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lightcrl.errors import DataError
from lightcrl.growth.spec import VectorsSpec
from lightcrl.index import Index
from lightcrl.lineage import Line

TOLERANCE = 1e-2
"""Greatest deviation of the length of a unit vector from 1; it allows for rounding to float16."""


def read_vectors(spec: VectorsSpec, dim: int, modality: str, line: Line) -> tuple[np.ndarray, dict[str, int]]:
    """Return unit vectors [N, d] in float32, and the row of each id.

    Items of an index have further names: the path of their file, and their text.

    Args:
        spec: file of the vectors, or folder of an index.
        dim: d of the model.
        modality: modality of the vectors.
        line: the model, for an index.

    Raises:
        DataError: the file is missing or unreadable, its width is not `dim`, its vectors lack unit length, or its ids
            are not one per vector and unique; or the index has no items of the modality.
        ForeignModelError: the index is of another model.
    """
    path = Path(spec.path)
    if path.is_dir():
        return _index(path, dim, modality, line)
    if not path.is_file():
        raise DataError(f"no vectors in {path}; expected .npy with ids beside it, .parquet, or the folder of an index.")
    vectors, ids = _parquet(path) if path.suffix == ".parquet" else _npy(path, spec.ids)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise DataError(f"{path} has vectors {list(vectors.shape)}; expected [N, {dim}], the width of this model.")
    if len(vectors) != len(ids) or len(set(ids)) != len(ids):
        raise DataError(
            f"{path} has {len(vectors):,} vectors and {len(ids):,} ids, {len(set(ids)):,} of them different; expected "
            "a unique id per vector."
        )
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if not (np.abs(lengths - 1) < TOLERANCE).all():
        place = int(np.argmax(~(np.abs(lengths - 1) < TOLERANCE)))
        raise DataError(
            f"{path}: the vector of {ids[place]!r} has length {lengths[place]:.3g}; expected unit vectors, as "
            "lightcrl embed writes them."
        )
    return (vectors / lengths[:, None]).astype(np.float32), {name: row for row, name in enumerate(ids)}


def _index(folder: Path, dim: int, modality: str, line: Line) -> tuple[np.ndarray, dict[str, int]]:
    index = Index.open(folder)
    index.check_line(line, modality)
    if index.dim != dim:
        raise DataError(f"{folder} has vectors of width {index.dim}; expected {dim}, the width of this model.")
    records = index.records(modality=modality)
    if not records:
        have = ", ".join(f"{count:,} of {name}" for name, count in index.counts().items()) or "none at all"
        raise DataError(f"the index in {folder} has no items of {modality!r}; it has {have}.")
    vectors = index.vectors([record.id for record in records])
    names = {record.id: row for row, record in enumerate(records)}
    for row, record in enumerate(records):
        for name in (record.path, record.text):
            if name is not None:
                names.setdefault(name, row)
    # Stored in float16, vectors deviate from unit length.
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), names


def _npy(path: Path, given: str | None) -> tuple[np.ndarray, list[str]]:
    beside = Path(given) if given else path.with_suffix(".json")
    try:
        vectors = np.load(path, allow_pickle=False)
        content: Any = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} with ids in {beside}: {error}. Expected .npy [N, d] and JSON.") from None
    ids = content.get("ids") if isinstance(content, dict) else content
    if not isinstance(ids, list):
        raise DataError(f"{beside} has no list of ids; expected one, or a table with one under the key 'ids'.")
    return vectors, [str(name) for name in ids]


def _parquet(path: Path) -> tuple[np.ndarray, list[str]]:
    try:
        table = pq.read_table(path, columns=["id", "vector"])
        column = table["vector"].combine_chunks()
        flat = column.flatten().to_numpy(zero_copy_only=False)
        return flat.reshape(len(table), -1) if len(table) else flat.reshape(0, 0), [
            str(n) for n in table["id"].to_pylist()
        ]
    except (OSError, ValueError, pa.ArrowException, AttributeError) as error:
        raise DataError(
            f"cannot read {path}: {error}. Expected the columns id, and vector with lists of equal length."
        ) from None
