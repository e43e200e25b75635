"""Embeddings with ids, from files or from an index, for old modalities whose encoder is not available."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lightcrl.data import joins
from lightcrl.data.spec import VectorsSpec
from lightcrl.errors import DataError
from lightcrl.index import Index
from lightcrl.index.model import check_line
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
        DataError: the file is unusable (see `data.joins.read_vectors`), its width is not `dim`, or its vectors lack
            unit length; or the index has no items of the modality.
        ForeignModelError: the index is of another model.
    """
    if Path(spec.path).is_dir():
        return _index(Path(spec.path), dim, modality, line)
    file = joins.read_vectors(spec)
    vectors, ids = file.values, list(file.ids)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise DataError(f"{file.path} has vectors {list(vectors.shape)}; expected [N, {dim}], the width of this model.")
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    if not (np.abs(lengths - 1) < TOLERANCE).all():
        place = int(np.argmax(~(np.abs(lengths - 1) < TOLERANCE)))
        raise DataError(
            f"{file.path}: the vector of {ids[place]!r} has length {lengths[place]:.3g}; expected unit vectors, as "
            "lightcrl embed writes them."
        )
    return (vectors / lengths[:, None]).astype(np.float32), {name: row for row, name in enumerate(ids)}


def _index(folder: Path, dim: int, modality: str, line: Line) -> tuple[np.ndarray, dict[str, int]]:
    index = Index.open(folder)
    check_line(index.folder, index.manifest, line, modality)
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
