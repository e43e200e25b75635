"""Vectors with ids in files of their own, joined to data that names them by id."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lightcrl.data.base import Item, Rejection, Row, vector_item
from lightcrl.data.spec import DataSpec, VectorsSpec
from lightcrl.data.vectors import ArrayRow, array_mark, open_array
from lightcrl.errors import DataError, ModalityError, first_line

COLUMNS = ("vector", "embedding", "emb")
"""Names of the column of vectors in Parquet; the first present one counts."""


@dataclass(frozen=True)
class VectorFile:
    """Vectors with unique ids.

    Attributes:
        path: the file.
        values: [N, D], or tokens [N, T, D]; mapped from the file if it is `.npy`.
        ids: N ids.
    """

    path: Path
    values: np.ndarray
    ids: Sequence[str]

    @cached_property
    def mark(self) -> str:
        """The text that identifies the file's content."""
        return array_mark(self.path, self.path.name)

    def item(self, row: int) -> Item:
        """Return the vector of a row as an item."""
        if self.path.suffix != ".npy":
            return vector_item(self.values[row], self.ids[row])
        return replace(vector_item(ArrayRow(self.path, row, self.mark), ""), source=self.ids[row])


@dataclass(frozen=True)
class Joins:
    """The data with ids in place of some modalities' vectors, and the vectors.

    Attributes:
        spec: the data, in which these modalities have columns of ids.
        kinds: kind of item by modality, in which ids are texts.
        files: vectors by modality.
    """

    spec: DataSpec
    kinds: Mapping[str, str]
    files: Mapping[str, VectorFile]

    def rows(self, rows: Iterator[Row | Rejection]) -> Iterator[Row | Rejection]:
        """Yield the rows with vectors in place of ids; an id without a vector is a `Rejection`."""
        places = {name: {id: row for row, id in enumerate(file.ids)} for name, file in self.files.items()}
        for row in rows:
            if isinstance(row, Rejection) or not self.files:
                yield row
                continue
            cells = dict(row.cells)
            for name, place in places.items():
                named = cells.pop(name, [])
                for item in named:
                    if item.raw not in place:
                        yield Rejection(item.source, "no vector of this id", str(item.raw), name)
                vectors = [self.files[name].item(place[item.raw]) for item in named if item.raw in place]
                if vectors:
                    cells[name] = vectors
            yield replace(row, cells=cells)


def open_joins(spec: DataSpec, kinds: Mapping[str, str]) -> Joins:
    """Open the files of vectors that `spec.vectors` names.

    Raises:
        ModalityError: a modality is unknown, or of another kind than `"vectors"`.
        DataError: a file cannot be used; see `read_vectors`.
    """
    for name in spec.vectors:
        if kinds.get(name) != "vectors":
            raise ModalityError(
                f"data.vectors.{name}: expected a modality of kind 'vectors'; there are "
                f"{', '.join(f'{modality} ({kind})' for modality, kind in kinds.items())}."
            )
    columns = {name: given.column or spec.columns.get(name, name) for name, given in spec.vectors.items()}
    return Joins(
        spec.model_copy(update={"columns": {**spec.columns, **columns}}),
        {**kinds, **dict.fromkeys(spec.vectors, "text")},
        {name: read_vectors(given) for name, given in spec.vectors.items()},
    )


def read_vectors(spec: VectorsSpec) -> VectorFile:
    """Return vectors and their ids.

    Raises:
        DataError: the file is missing or unreadable, or its ids are not one per vector and unique.
    """
    path = Path(spec.path)
    if not path.is_file():
        raise DataError(f"no vectors in {path}; expected .npy with ids beside it, or .parquet.")
    values, ids = _parquet(path) if path.suffix == ".parquet" else _npy(path, spec.ids)
    if len(values) != len(ids) or len(set(ids)) != len(ids):
        raise DataError(
            f"{path} has {len(values):,} vectors and {len(ids):,} ids, {len(set(ids)):,} of them different; expected "
            "a unique id per vector."
        )
    return VectorFile(path, values, ids)


def _npy(path: Path, given: str | None) -> tuple[np.ndarray, list[str]]:
    beside = Path(given) if given else path.with_suffix(".json")
    try:
        content: Any = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} with ids in {beside}: {error}. Expected .npy [N, D] and JSON.") from None
    ids = content.get("ids") if isinstance(content, dict) else content
    if not isinstance(ids, list):
        raise DataError(f"{beside} has no list of ids; expected one, or a table with one under the key 'ids'.")
    return open_array(path), [str(name) for name in ids]


def _parquet(path: Path) -> tuple[np.ndarray, list[str]]:
    try:
        names = pq.read_schema(path).names
        column = next((name for name in COLUMNS if name in names), COLUMNS[0])
        table = pq.read_table(path, columns=["id", column])
        flat = table[column].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        values = flat.reshape(len(table), -1) if len(table) else flat.reshape(0, 0)
        return values, [str(name) for name in table["id"].to_pylist()]
    except (OSError, ValueError, pa.ArrowException, AttributeError) as error:
        raise DataError(
            f"cannot read {path}: {first_line(error)} Expected the columns id, and vector with lists of equal length."
        ) from None
