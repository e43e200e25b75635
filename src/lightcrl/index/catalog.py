"""The catalog: one row per item in SQLite, with all that changes in an index; each change is one transaction.

    state         key, JSON: generation, the engine's token, the next number
    items         _number, id, modality, path, text, digest, _key, group_name, _place, and a column for each of metadata
    gone          numbers of removed items that the engine still holds
    aside         items set aside, with their reasons
    calibration   scores of random pairs, by modality of query and of item
    previews      small versions of items that lie in no file; older indexes have no such table

Readers never wait: SQLite's write-ahead log shows each reader the last commit.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final
from urllib.parse import quote

import numpy as np

from lightcrl.data.base import Rejection
from lightcrl.errors import StoreError, TornStoreError
from lightcrl.index.base import Record, Token
from lightcrl.index.change import Change
from lightcrl.index.filters import run_filter
from lightcrl.index.previews import Preview
from lightcrl.index.schema import OWN, PREVIEWS, SCHEMA, SHOWN, metadata_columns, quoted

NAME = "catalog.db"

_MANY = 500  # greatest number of values of one statement
# `timeout`: seconds to wait for another process's commit.
_SETTINGS: Mapping[str, Any] = {"uri": True, "timeout": 60.0, "isolation_level": None, "check_same_thread": False}


@dataclass(frozen=True)
class State:
    """The state of one commit, as readers hold it in memory.

    Attributes:
        generation: number of the commit.
        token: the engine's state.
        next: number of the next item.
        items: number of items.
    """

    generation: int
    token: Token
    next: int
    items: int


@dataclass(frozen=True, slots=True)
class Kept:
    """The identity of a stored item, to compare with the items of a source.

    Attributes:
        number: number of the item.
        id: id of the item.
        digest: digest of its content.
        key: the source's own key, which changes with the content.
        place: place of the item in its source.
        path: its file.
    """

    number: int
    id: str
    digest: str
    key: str
    place: str | None
    path: str | None


@final
class Catalog:
    """The items of one index.

    Attributes:
        path: the database.
    """

    def __init__(self, path: Path) -> None:
        """Take a database that `create` has made; each thread opens a connection when it first needs one."""
        self.path = path
        self._threads = threading.local()

    @classmethod
    def create(cls, path: Path, token: Token) -> Catalog:
        """Make an empty database in place of an existing one."""
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}-journal"):
            path.with_name(name).unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(f"{SCHEMA}{PREVIEWS};")
            state = {"generation": 0, "token": token, "next": 1, "items": 0}
            connection.executemany(
                "INSERT INTO state VALUES (?, ?)", [(key, json.dumps(value)) for key, value in state.items()]
            )
            connection.commit()
        return cls(path)

    # --- reading ---

    def state(self) -> State:
        """Return the state of the last commit."""
        rows = self._read("SELECT key, value FROM state WHERE key IN ('generation', 'token', 'next', 'items')")
        return State(**{key: json.loads(value) for key, value in rows})

    def opened(self) -> tuple[State, np.ndarray]:
        """Return the last commit's state and its removed items (see `gone`), read together."""
        connection = self._thread()
        connection.execute("BEGIN")
        try:
            return self.state(), self.gone()
        finally:
            connection.execute("COMMIT")

    def columns(self) -> list[str]:
        """Return the columns of metadata, in the order of their addition."""
        return metadata_columns(self._read)

    def records(self, numbers: Iterable[int]) -> dict[int, Record]:
        """Return records by number; numbers without an item are left out."""
        return dict(self._select("_number", [int(number) for number in numbers]))

    def listed(self, modality: str | None, where: str | None) -> list[Record]:
        """Return the records that `numbers` selects, in the order of their addition."""
        numbers = self.numbers(modality, where).tolist()
        records = self.records(numbers)
        return [records[number] for number in numbers if number in records]

    def named(self, ids: Sequence[str]) -> dict[str, tuple[int, Record]]:
        """Return numbers and records by id; ids without an item are left out."""
        return {record.id: (number, record) for number, record in self._select("id", ids)}

    def at_path(self, path: str) -> tuple[int, Record] | None:
        """Return number and record of the item of a file; None if there is none."""
        return next(self._select("path", [path]), None)

    def numbers(self, modality: str | None = None, where: str | None = None) -> np.ndarray:
        """Return the numbers [M] int64, ascending, of all items, of one modality, or of those that a filter selects.

        Raises:
            FilterError: the filter is invalid (see `run_filter`).
        """
        if where is not None:
            if modality is not None:
                where = f"(\n{where}\n) AND modality = '{modality.replace(chr(39), chr(39) * 2)}'"
            with closing(self._connect()) as connection:
                return run_filter(connection, where, [*SHOWN, *self.columns()])
        return np.array(self.page(modality, 0, -1), dtype=np.int64)

    def page(self, modality: str | None, offset: int, limit: int) -> list[int]:
        """Return `numbers(modality)[offset : offset + limit]` without reading the others; all from -1 as limit."""
        condition, values = ("WHERE modality = ?", [modality]) if modality is not None else ("", [])
        rows = f"SELECT _number FROM items {condition} ORDER BY _number LIMIT ? OFFSET ?"
        return [number for (number,) in self._read(rows, [*values, limit, offset])]

    def gone(self) -> np.ndarray:
        """Return the numbers [M] int64, ascending, of removed items that the engine still holds."""
        return np.array(self._read("SELECT number FROM gone ORDER BY number"), dtype=np.int64).reshape(-1)

    def counts(self) -> dict[str, int]:
        """Return the number of items by modality."""
        return dict(self._read("SELECT modality, count(*) FROM items GROUP BY modality ORDER BY min(_number)"))

    def values(self, column: str, most: int) -> tuple[bool, list[Any]]:
        """Return the range or the commonest values of a column of metadata.

        Args:
            column: name of the column.
            most: greatest number of values.

        Returns:
            True with the least and greatest value of a column of numbers alone; else False with its `most` commonest
            values.
        """
        cell = quoted(column)
        present = f"FROM items WHERE {cell} IS NOT NULL"
        ((texts, low, high),) = self._read(f"SELECT sum(typeof({cell}) = 'text'), min({cell}), max({cell}) {present}")
        if texts == 0:
            return True, [low, high]
        rows = self._read(f"SELECT {cell} {present} GROUP BY {cell} ORDER BY count(*) DESC, {cell} LIMIT ?", (most,))
        return False, [value for (value,) in rows]

    def aside(self) -> list[Rejection]:
        """Return the items that were set aside and not added since."""
        rows = self._read("SELECT source, reason, detail, modality FROM aside ORDER BY rowid")
        return [Rejection(source, reason, detail, modality or None) for source, reason, detail, modality in rows]

    def calibration(self) -> dict[tuple[str, str], bytes]:
        """Return the packed calibration by modality of query and of item."""
        return {(query, item): value for query, item, value in self._read("SELECT * FROM calibration")}

    def preview(self, number: int) -> Preview | None:
        """Return the preview of an item; None if there is none."""
        rows = self._read("SELECT media, data FROM previews WHERE number = ?", (number,)) if self._previews() else []
        return Preview(*rows[0]) if rows else None

    def kept(self, column: str, values: Sequence[Any]) -> Iterator[tuple[str, Kept]]:
        """Yield modality and identity of the items that have one of the values in a column.

        Args:
            column: `id`, `_place` or `digest`.
            values: values of the column.
        """
        for start in range(0, len(values), _MANY):
            part = list(values[start : start + _MANY])
            marks = ", ".join("?" * len(part))
            rows = self._read(
                f"SELECT modality, _number, id, digest, _key, _place, path FROM items WHERE {column} IN ({marks})", part
            )
            yield from ((modality, Kept(*rest)) for modality, *rest in rows)

    # --- writing ---

    @contextmanager
    def change(self) -> Iterator[Change]:
        """Commit all changes made through the yielded object, or none of them after an exception."""
        connection = self._thread()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield Change(connection)
            connection.execute("UPDATE state SET value = value + 1 WHERE key = 'generation'")
            connection.execute("UPDATE state SET value = (SELECT count(*) FROM items) WHERE key = 'items'")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise

    # --- connections ---

    def close(self) -> None:
        """Close this thread's connection."""
        if (connection := getattr(self._threads, "connection", None)) is not None:
            connection.close()
            del self._threads.connection

    def _select(self, column: str, values: Sequence[Any]) -> Iterator[tuple[int, Record]]:
        for start in range(0, len(values), _MANY):
            part = list(values[start : start + _MANY])
            shown = "EXISTS (SELECT 1 FROM previews WHERE number = _number)" if self._previews() else "0"
            cursor = self._thread().execute(
                f"SELECT {shown}, * FROM items WHERE {column} IN ({', '.join('?' * len(part))})", part
            )
            names = [column[0] for column in cursor.description[1:]]
            for preview, *row in cursor.fetchall():
                cells = dict(zip(names, row, strict=True))
                own = {name: cells.pop(name) for name in OWN}
                yield own["_number"], _record(own, cells, bool(preview))

    def _previews(self) -> bool:
        """Return True if the database has the table of previews."""
        return bool(self._read("SELECT 1 FROM sqlite_master WHERE name = 'previews'"))

    def _read(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        try:
            return self._thread().execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise TornStoreError(f"{self.path} cannot be read ({error}). Build the index again.") from None

    def _thread(self) -> sqlite3.Connection:
        if getattr(self._threads, "connection", None) is None:
            self._threads.connection = self._connect(write=True)
        connection: sqlite3.Connection = self._threads.connection
        return connection

    def _connect(self, write: bool = False) -> sqlite3.Connection:
        """Return a connection; if the folder is not writable, one that takes the file as unchanging."""
        place = f"file:{quote(str(self.path))}"
        for mode in ("mode=rw" if write else "mode=ro", "mode=ro", "mode=ro&immutable=1"):
            try:
                connection = sqlite3.connect(f"{place}?{mode}", factory=_Connection, **_SETTINGS)
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("SELECT count(*) FROM state").fetchone()
            except sqlite3.OperationalError:
                continue
            except sqlite3.DatabaseError as error:
                raise TornStoreError(f"{self.path} cannot be read ({error}). Build the index again.") from None
            return connection
        raise StoreError(f"{self.path} cannot be opened. Build the index again.")


@final
class _Connection(sqlite3.Connection):
    """A connection that closes with its last use: threads end, and catalogs are given up, without a word.

    It may be closed by another thread, though only one thread uses it.
    """

    def __del__(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # a file that cannot be opened
            self.close()


def _record(own: Mapping[str, Any], metadata: Mapping[str, Any], preview: bool) -> Record:
    id, modality, path, text, digest, group = (own[name] for name in SHOWN)
    return Record(id, modality, path, text, digest, group, dict(metadata), preview)
