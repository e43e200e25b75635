"""Embeddings with ids from files, for old modalities whose encoder is not available."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lightcrl.errors import DataError
from lightcrl.growth.spec import VectorsSpec

TOLERANCE = 1e-2
"""Greatest deviation of the length of a unit vector from 1; it allows for rounding to float16."""


def read_vectors(spec: VectorsSpec, dim: int) -> tuple[np.ndarray, list[str]]:
    """Return unit vectors [N, d] in float32, and their ids [N].

    Raises:
        DataError: the file is missing or unreadable, its width is not `dim`, its vectors lack unit length, or its ids
            are not one per vector and unique.
    """
    path = Path(spec.path)
    if not path.is_file():
        raise DataError(f"no vectors in {path}; expected .npy with ids beside it, or .parquet.")
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
    return (vectors / lengths[:, None]).astype(np.float32), ids


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
