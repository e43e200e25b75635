"""The rules by which embedding-reader 1.8 and autofaiss read folders of .npy and Parquet (`parquet_npy`)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq


def read_pairs(vectors: Path, tables: Path) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Arrays and tables in the order of their names, joined by the place of a row; the header is read as text."""
    arrays, rows = sorted(vectors.glob("**/*.npy")), sorted(tables.glob("**/*.parquet"))
    assert len(arrays) == len(rows) > 0
    parts, lines = [], []
    for array, table in zip(arrays, rows, strict=True):
        data = array.read_bytes()
        header = str(data[:300].split(b"\n")[0])
        shape = re.search(r"'shape': \(([0-9]+), ([0-9]+)\)", header)
        dtype = re.search(r"'descr': '([<f0-9]+)'", header)
        assert shape is not None
        assert dtype is not None
        start = len(data[:300].split(b"\n")[0]) + 1
        values = np.frombuffer(data[start:], dtype[1]).reshape(int(shape[1]), int(shape[2]))
        mine = pq.read_table(table).to_pylist()
        assert len(mine) == len(values)
        parts.append(values)
        lines += mine
    return np.concatenate(parts), lines
