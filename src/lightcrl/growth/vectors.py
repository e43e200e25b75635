"""Embeddings with ids from files, for old modalities whose encoder is not available."""

from __future__ import annotations

import numpy as np

from lightcrl.data import joins
from lightcrl.data.spec import VectorsSpec
from lightcrl.errors import DataError

TOLERANCE = 1e-2
"""Greatest deviation of the length of a unit vector from 1; it allows for rounding to float16."""


def read_vectors(spec: VectorsSpec, dim: int) -> tuple[np.ndarray, list[str]]:
    """Return unit vectors [N, d] in float32, and their ids [N].

    Raises:
        DataError: the file is unusable (see `data.joins.read_vectors`), its width is not `dim`, or its vectors lack
            unit length.
    """
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
    return (vectors / lengths[:, None]).astype(np.float32), ids
