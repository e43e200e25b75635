"""A table on disk that grows while a source is read, and the sequences of items and names that are read from it.

The table is cut into parts, each a compressed Arrow record batch. A few are held in memory; then all are moved to a
file without a name, which ends with the process, however that ends.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from abc import ABC, abstractmethod
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar, overload
from weakref import finalize

import numpy as np
import pyarrow as pa

from lightcrl.data.base import Item
from lightcrl.data.columns import Cells, StoredCell
from lightcrl.data.naming import digests
from lightcrl.data.vectors import ArrayRow
from lightcrl.data.webdataset import TarSlice
from lightcrl.files.local import cache_folder, clear_errors, make_folder

T = TypeVar("T")
PART = 4096
"""Number of lines of a part."""
HELD = 16 << 20
"""Size in bytes from which a table is moved to a file."""
RECENT = 8
"""Number of parts that are kept as Python objects after they were read."""
Column = Sequence[Any]


class Spool:
    """Lines of strings, paths and places in files; the columns of a part with other objects stay in memory.

    The first column identifies a line: its digests stay in memory until they are taken.
    """

    def __init__(self, *names: str) -> None:
        """Make an empty table of columns `names`."""
        self._names = names
        self._lines: tuple[list[Any], ...] = tuple([] for _ in names)
        self._count = 0
        self._digests = array("Q")  # grows in place, so that nothing is left behind in pieces
        self._held: dict[tuple[int, str], Column] = {}
        self._load: dict[tuple[int, str], Callable[[Any], Any] | None] = {}
        self._tables: dict[int, Cells] = {}
        self._places = array("q", [0])
        self._memory: list[bytes] = []
        self._file: Any = None
        self.part = lru_cache(RECENT)(self._part)

    def __len__(self) -> int:
        return self._count + len(self._lines[0])

    def append(self, *values: Any) -> None:
        """Add a line."""
        for column, value in zip(self._lines, values, strict=True):
            column.append(value)
        if len(self._lines[0]) == PART:
            self._write()

    def take_digests(self) -> np.ndarray:
        """End the table, and return the digests [N, 2] of its first column, which are then no longer kept."""
        if self._lines[0]:
            self._write()
        taken, self._digests = self._digests, array("Q")
        return np.frombuffer(taken, np.uint64).reshape(-1, 2) if taken else np.zeros((0, 2), np.uint64)

    def _write(self) -> None:
        number, columns = len(self._places) - 1, {}
        for name, values in zip(self._names, self._lines, strict=True):
            dump, load, kind = self._form(set(map(type, values)))
            try:
                columns[name] = pa.array(list(map(dump, values)) if dump else values, kind)
                self._load[number, name] = load
            except (TypeError, ValueError):  # other objects, or strings that are not Unicode
                first: dict[str, Any] = {}  # five rows of a picture in memory hold it once
                shared = name == self._names[-1]
                self._held[number, name] = list(map(first.setdefault, self._lines[0], values)) if shared else values
        keys = columns.get(self._names[0])
        if keys is None:
            keys = pa.array([name.encode("utf-8", "surrogatepass") for name in self._lines[0]], pa.large_binary())
        self._digests.frombytes(digests(keys).tobytes())
        self._count += len(keys)
        self._lines = tuple([] for _ in self._names)
        sink = pa.BufferOutputStream()
        batch = pa.record_batch(columns)
        with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_batch(batch)
        self._memory.append(sink.getvalue().to_pybytes())
        self._places.append(self._places[-1] + len(self._memory[-1]))
        if self._file is not None or self._places[-1] > HELD:
            self._spill()

    def _spill(self) -> None:
        folder = cache_folder() / "items"
        with clear_errors(folder):
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=make_folder(folder))  # noqa: SIM115 - see finalize
                finalize(self, self._file.close)
            for data in self._memory:
                self._file.write(data)
            self._file.flush()
        self._memory = []

    @property
    def nbytes(self) -> int:
        """Size of all parts in bytes."""
        return self._places[-1]

    def _part(self, number: int) -> tuple[Column, ...]:
        """Return the columns of a part."""
        start, end = self._places[number], self._places[number + 1]
        data = os.pread(self._file.fileno(), end - start, start) if self._file else self._memory[number]
        batch = pa.ipc.open_stream(data).read_next_batch()
        columns: list[Column] = []
        for name in self._names:
            if (number, name) in self._held:
                columns.append(self._held[number, name])
            else:
                load, values = self._load[number, name], batch[name].to_pylist()
                columns.append(list(map(load, values)) if load else values)
        return tuple(columns)

    def _form(self, types: set[type]) -> tuple[Callable[[Any], Any] | None, Callable[[Any], Any] | None, pa.DataType]:
        """Return writer, reader and Arrow's type for values of these types; Arrow refuses the values of others."""
        if types == {type(Path())}:
            return str, Path, pa.large_string()
        if types <= {TarSlice, ArrayRow}:
            return pickle.dumps, pickle.loads, pa.large_binary()
        if types == {StoredCell}:
            return self._dump_cell, self._load_cell, pa.large_binary()
        return None, None, pa.large_string() if types == {str} else pa.null()

    def _dump_cell(self, cell: StoredCell) -> bytes:
        """Write a cell without its table, which stays open for all cells."""
        self._tables.setdefault(id(cell.table), cell.table)
        return pickle.dumps((id(cell.table), cell.row, cell.column, cell.kind, cell.key))

    def _load_cell(self, data: bytes) -> StoredCell:
        table, *place = pickle.loads(data)
        return StoredCell(self._tables[table], *place)


class Lines(Sequence[T], ABC):
    """A sequence that is read from a table on disk, part by part.

    Attributes:
        table: the table.
        places: line of each element [N]; None if they are the lines in order.
    """

    def __init__(self, table: Spool, places: np.ndarray | None, count: int) -> None:
        """Read `count` elements from `table`."""
        self.table, self.places, self._count = table, places, count

    @abstractmethod
    def _make(self, columns: Sequence[Column]) -> list[T]:
        """Return the elements of some lines, from the columns of the table."""

    def _read(self, lines: Sequence[int]) -> list[T]:
        made: list[T] = []
        if isinstance(lines, range) and lines.step == 1:
            for start in range(lines.start - lines.start % PART, lines.stop, PART):
                here = slice(max(lines.start - start, 0), lines.stop - start)
                made += self._make([column[here] for column in self.table.part(start // PART)])
            return made
        for number, members in groupby(lines, lambda line: line // PART):
            places, columns = [line % PART for line in members], self.table.part(number)
            made += self._make([[column[place] for place in places] for column in columns])
        return made

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> list[T]: ...
    def __getitem__(self, at: int | slice) -> T | list[T]:
        chosen = range(self._count)[at]
        if isinstance(chosen, int):
            return self._read([chosen if self.places is None else int(self.places[chosen])])[0]
        return self._read(chosen if self.places is None else self.places[at].tolist())

    def __iter__(self) -> Iterator[T]:
        for start in range(0, self._count, PART):
            yield from self[start : start + PART]

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Sequence) and len(self) == len(other)
        return same and all(mine == theirs for mine, theirs in zip(self, other, strict=True))  # type: ignore[call-overload]

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel to other processes as a list."""
        return list, (list(self),)

    __hash__ = None  # type: ignore[assignment]


class Names(Lines[str]):
    """Names of groups."""

    def _make(self, columns: Sequence[Column]) -> list[str]:
        return list(columns[0])


class Items(Lines[Item]):
    """Items, made when they are read."""

    def _make(self, columns: Sequence[Column]) -> list[Item]:
        return list(map(Item, *columns))
