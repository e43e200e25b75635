"""The catalog: one row per item in SQLite, and with it all that changes in an index, in one transaction at a time.

    state         key, JSON: generation, the engine's token, the next number
    items         _number, id, modality, path, text, digest, _key, group_name, _place, and a column for each of metadata
    gone          numbers that the engine still holds, but that are no items any more
    aside         what was set aside, with its reason
    calibration   by modality of query and of item, what scores of random pairs look like

Readers never wait: SQLite's write-ahead log shows each the state of its last commit.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final
from urllib.parse import quote

import numpy as np

from lightcrl.data.base import Rejection
from lightcrl.errors import StoreError, TornStoreError
from lightcrl.index.base import Record, Token
from lightcrl.index.filters import run_filter

NAME = "catalog.db"

OWN = ("_number", "id", "modality", "path", "text", "digest", "_key", "group_name", "_place")
"""Columns of every item; `_key` and `_place` tell whether a source's item is there already."""

SHOWN = ("id", "modality", "path", "text", "digest", "group_name")
"""Those of them that a filter is told of."""

MOST_COLUMNS = 500

_SCHEMA = """
CREATE TABLE state (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE items (
    _number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, modality TEXT NOT NULL, path TEXT, text TEXT,
    digest TEXT NOT NULL, _key TEXT NOT NULL, group_name TEXT, _place TEXT
);
CREATE INDEX items_path ON items (path);
CREATE INDEX items_place ON items (_place, modality);
CREATE INDEX items_digest ON items (digest, modality);
CREATE INDEX items_modality ON items (modality);
CREATE TABLE gone (number INTEGER PRIMARY KEY);
CREATE TABLE aside (source TEXT, modality TEXT, reason TEXT, detail TEXT, PRIMARY KEY (source, modality));
CREATE TABLE calibration (query TEXT, item TEXT, value BLOB NOT NULL, PRIMARY KEY (query, item));
"""
_MANY = 500  # values of one statement
_WAIT = 60.0  # seconds for another process's commit


@dataclass(frozen=True)
class State:
    """What readers hold in memory, of one commit.

    Attributes:
        generation: number of the commit.
        token: the engine's state.
        next: number that the next item gets.
        items: how many there are.
    """

    generation: int
    token: Token
    next: int
    items: int


@dataclass(frozen=True, slots=True)
class Kept:
    """What tells whether an item of a source is there already.

    Attributes:
        number: of the item.
        id: its name.
        digest: of its content.
        key: the source's own, which changes with the content.
        place: where it lies in its source.
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
        """Take a database that `create` has made; connections are opened when needed, one for each thread."""
        self.path = path
        self._threads = threading.local()

    @classmethod
    def create(cls, path: Path, token: Token) -> Catalog:
        """Make an empty database in place of what is there."""
        for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}-journal"):
            path.with_name(name).unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_SCHEMA)
            state = {"generation": 0, "token": token, "next": 1, "items": 0}
            connection.executemany(
                "INSERT INTO state VALUES (?, ?)", [(key, json.dumps(value)) for key, value in state.items()]
            )
            connection.commit()
        return cls(path)

    # --- reading ---

    def state(self) -> State:
        """The last commit's."""
        rows = self._read("SELECT key, value FROM state WHERE key IN ('generation', 'token', 'next', 'items')")
        return State(**{key: json.loads(value) for key, value in rows})

    def opened(self) -> tuple[State, np.ndarray]:
        """The last commit's state, and what is gone by it (see `gone`)."""
        connection = self._thread()
        connection.execute("BEGIN")
        try:
            return self.state(), self.gone()
        finally:
            connection.execute("COMMIT")

    def columns(self) -> list[str]:
        """Columns of metadata, in the order in which they came."""
        return [name for _, name, *_ in self._read("PRAGMA table_info(items)") if name not in OWN]

    def records(self, numbers: Iterable[int]) -> dict[int, Record]:
        """Those of the items that are there, by number."""
        return dict(self._select("_number", [int(number) for number in numbers]))

    def listed(self, modality: str | None, where: str | None) -> list[Record]:
        """Items as `numbers` takes them, in the order in which they came."""
        numbers = self.numbers(modality, where).tolist()
        records = self.records(numbers)
        return [records[number] for number in numbers if number in records]

    def named(self, ids: Sequence[str]) -> dict[str, tuple[int, Record]]:
        """Those of the items that are there, by id, with their numbers."""
        return {record.id: (number, record) for number, record in self._select("id", ids)}

    def at_path(self, path: str) -> tuple[int, Record] | None:
        """The item of a file."""
        return next(self._select("path", [path]), None)

    def numbers(self, modality: str | None = None, where: str | None = None) -> np.ndarray:
        """Numbers [M] int64, ascending, of all items, of one modality, or of those for which a filter is true.

        Raises:
            FilterError: see `run_filter`.
        """
        if where is not None:
            if modality is not None:
                where = f"(\n{where}\n) AND modality = '{modality.replace(chr(39), chr(39) * 2)}'"
            with closing(self._connect()) as connection:
                return run_filter(connection, where, [*SHOWN, *self.columns()])
        condition, values = ("WHERE modality = ?", (modality,)) if modality is not None else ("", ())
        rows = self._read(f"SELECT _number FROM items {condition} ORDER BY _number", values)
        return np.array(rows, dtype=np.int64).reshape(-1)

    def gone(self) -> np.ndarray:
        """Numbers [M] int64, ascending, that the engine still holds."""
        return np.array(self._read("SELECT number FROM gone ORDER BY number"), dtype=np.int64).reshape(-1)

    def counts(self) -> dict[str, int]:
        """Items by modality."""
        return dict(self._read("SELECT modality, count(*) FROM items GROUP BY modality ORDER BY min(_number)"))

    def values(self, column: str, most: int) -> tuple[bool, list[Any]]:
        """Whether a column of metadata holds numbers alone; its least and greatest, or its `most` commonest values."""
        cell = _quoted(column)
        there = f"FROM items WHERE {cell} IS NOT NULL"
        ((texts, low, high),) = self._read(f"SELECT sum(typeof({cell}) = 'text'), min({cell}), max({cell}) {there}")
        if texts == 0:
            return True, [low, high]
        rows = self._read(f"SELECT {cell} {there} GROUP BY {cell} ORDER BY count(*) DESC, {cell} LIMIT ?", (most,))
        return False, [value for (value,) in rows]

    def aside(self) -> list[Rejection]:
        """What was set aside and has not been added since."""
        rows = self._read("SELECT source, reason, detail, modality FROM aside ORDER BY rowid")
        return [Rejection(source, reason, detail, modality or None) for source, reason, detail, modality in rows]

    def calibration(self) -> dict[tuple[str, str], bytes]:
        """By modality of query and of item."""
        return {(query, item): value for query, item, value in self._read("SELECT * FROM calibration")}

    def kept(self, column: str, values: Sequence[Any]) -> Iterator[tuple[str, Kept]]:
        """Modality and what is there of each item whose `column` (`id`, `_place` or `digest`) is one of the values."""
        for start in range(0, len(values), _MANY):
            some = list(values[start : start + _MANY])
            marks = ", ".join("?" * len(some))
            rows = self._read(
                f"SELECT modality, _number, id, digest, _key, _place, path FROM items WHERE {column} IN ({marks})", some
            )
            yield from ((modality, Kept(*rest)) for modality, *rest in rows)

    # --- writing ---

    @contextmanager
    def change(self) -> Iterator[Change]:
        """One commit: all that is done with what is given, or nothing of it."""
        connection = self._thread()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield Change(self, connection)
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
            some = list(values[start : start + _MANY])
            cursor = self._thread().execute(
                f"SELECT * FROM items WHERE {column} IN ({', '.join('?' * len(some))})", some
            )
            names = [column[0] for column in cursor.description]
            for row in cursor.fetchall():
                cells = dict(zip(names, row, strict=True))
                own = {name: cells.pop(name) for name in OWN}
                yield own["_number"], _record(own, cells)

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
        """A connection; where the folder cannot be written, one that takes the file as it is."""
        place = f"file:{quote(str(self.path))}"
        for mode in ("mode=rw" if write else "mode=ro", "mode=ro", "mode=ro&immutable=1"):
            try:
                connection = sqlite3.connect(f"{place}?{mode}", uri=True, timeout=_WAIT, isolation_level=None)
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("SELECT count(*) FROM state").fetchone()
            except sqlite3.OperationalError:
                continue
            except sqlite3.DatabaseError as error:
                raise TornStoreError(f"{self.path} cannot be read ({error}). Build the index again.") from None
            return connection
        raise StoreError(f"{self.path} cannot be opened. Build the index again.")


@final
class Change:
    """A commit that is being made."""

    def __init__(self, catalog: Catalog, connection: sqlite3.Connection) -> None:
        self._catalog, self._connection = catalog, connection

    def token(self, token: Token, next_number: int | None = None) -> None:
        """Keep the engine's new state, and the number that the next item gets."""
        self._set("token", token)
        if next_number is not None:
            self._set("next", next_number)

    def insert(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add items: cells by column, metadata among them."""
        self.widen(name for row in rows for name in row)
        for row in rows:
            names = ", ".join(_quoted(name) for name in row)
            self._connection.execute(
                f"INSERT INTO items ({names}) VALUES ({', '.join('?' * len(row))})", list(row.values())
            )

    def update(self, number: int, cells: Mapping[str, Any]) -> None:
        """Change cells of an item."""
        self.widen(cells)
        names = ", ".join(f"{_quoted(name)} = ?" for name in cells)
        self._connection.execute(f"UPDATE items SET {names} WHERE _number = ?", [*cells.values(), number])

    def drop(self, numbers: Iterable[int]) -> None:
        """Remove items; the engine still holds them."""
        rows = [(int(number),) for number in numbers]
        self._connection.executemany("DELETE FROM items WHERE _number = ?", rows)
        self._connection.executemany("INSERT OR IGNORE INTO gone VALUES (?)", rows)

    def forget(self) -> None:
        """The engine no longer holds what is gone."""
        self._connection.execute("DELETE FROM gone")

    def set_aside(self, rejected: Iterable[Rejection], added: Iterable[tuple[str, str]] = ()) -> None:
        """Keep what was set aside; forget it of sources and modalities that were added."""
        self._connection.executemany("DELETE FROM aside WHERE source = ? AND modality = ?", added)
        self._connection.executemany(
            "INSERT OR REPLACE INTO aside VALUES (?, ?, ?, ?)",
            [
                (rejection.source, rejection.modality or "", rejection.reason, rejection.detail)
                for rejection in rejected
            ],
        )

    def calibrate(self, values: Mapping[tuple[str, str], bytes]) -> None:
        """Put a calibration in place of the present one."""
        self._connection.execute("DELETE FROM calibration")
        self._connection.executemany(
            "INSERT INTO calibration VALUES (?, ?, ?)", [(*key, v) for key, v in values.items()]
        )

    def widen(self, names: Iterable[str]) -> None:
        """Make columns of metadata that are not there yet.

        Raises:
            StoreError: they would be too many.
        """
        present = {name.lower() for name in (*OWN, *self._catalog.columns())}
        fresh = [name for name in dict.fromkeys(names) if name.lower() not in present]
        if len(present) + len(fresh) > MOST_COLUMNS:
            raise StoreError(f"{len(present) + len(fresh)} columns of metadata; an index keeps at most {MOST_COLUMNS}.")
        for name in fresh:
            self._connection.execute(f"ALTER TABLE items ADD COLUMN {_quoted(name)}")

    def _set(self, key: str, value: Any) -> None:
        self._connection.execute("UPDATE state SET value = ? WHERE key = ?", (json.dumps(value), key))


def _record(own: Mapping[str, Any], metadata: Mapping[str, Any]) -> Record:
    return Record(
        own["id"], own["modality"], own["path"], own["text"], own["digest"], own["group_name"], dict(metadata)
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
