"""Parquet, scanned batch by batch; the bytes of pictures and sounds are read again on demand."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow
import pyarrow.parquet

from lightcrl.data.base import Rejection, Row
from lightcrl.data.columns import Columns
from lightcrl.errors import DataError

BATCH_ROWS = 256
UNREADABLE = (pyarrow.ArrowException, OSError)


def read_parquet(path: Path, name: str, layout: Columns) -> Iterator[Row | Rejection]:
    """Yield every row; only the wanted columns are read."""
    table = ParquetCells(path)
    layout.check(table.columns, name)
    number = 0
    try:
        for batch in table.file.iter_batches(BATCH_ROWS, columns=layout.wanted(table.columns)):
            for values in batch.to_pylist():
                yield from layout.read(values, f"{name}:{number + 1}", table, number)
                number += 1
    except UNREADABLE as error:
        yield Rejection(f"{name}:{number + 1}", "torn file", str(error))


class ParquetCells:
    """Single cells of a Parquet file; recent row groups are cached, since items are requested nearly in order."""

    kept = 4

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.file = pyarrow.parquet.ParquetFile(path)
        except UNREADABLE as error:
            raise DataError(f"{path} cannot be read as Parquet: {error}. Is it whole?") from error
        self.columns: list[str] = self.file.schema_arrow.names
        self._starts = [0]
        for group in range(self.file.num_row_groups):
            self._starts.append(self._starts[-1] + self.file.metadata.row_group(group).num_rows)
        self._recent: OrderedDict[tuple[int, str], Any] = OrderedDict()
        self._lock = Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        """Reopen the file in another process."""
        return ParquetCells, (self.path,)

    def cell(self, row: int, column: str) -> Any:
        """Return a cell, by the row's number from 0."""
        group = bisect_right(self._starts, row) - 1
        with self._lock:
            values = self._recent.get((group, column))
            if values is None:
                values = self._recent[group, column] = self.file.read_row_group(group, columns=[column])[column]
            self._recent.move_to_end((group, column))
            while len(self._recent) > self.kept:
                self._recent.popitem(last=False)
        return values[row - self._starts[group]].as_py()
