"""The changes of one commit to the catalog."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

from lightcrl.data.base import Rejection
from lightcrl.errors import StoreError
from lightcrl.index.base import Token
from lightcrl.index.previews import Preview
from lightcrl.index.schema import MOST_COLUMNS, OWN, PREVIEWS, metadata_columns, quoted


@final
class Change:
    """A commit in preparation, on the connection of an open transaction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def token(self, token: Token, next_number: int | None = None) -> None:
        """Store the engine's new state, and the number of the next item."""
        self._set("token", token)
        if next_number is not None:
            self._set("next", next_number)

    def insert(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add items: cells by column, metadata among them."""
        self.widen(name for row in rows for name in row)
        for row in rows:
            names = ", ".join(quoted(name) for name in row)
            self._connection.execute(
                f"INSERT INTO items ({names}) VALUES ({', '.join('?' * len(row))})", list(row.values())
            )

    def preview(self, previews: Mapping[int, Preview]) -> None:
        """Store previews by number of their items."""
        self._connection.execute(PREVIEWS)
        rows = [(number, preview.media, preview.data) for number, preview in previews.items()]
        self._connection.executemany("INSERT OR REPLACE INTO previews VALUES (?, ?, ?)", rows)

    def update(self, number: int, cells: Mapping[str, Any]) -> None:
        """Change cells of an item."""
        self.widen(cells)
        names = ", ".join(f"{quoted(name)} = ?" for name in cells)
        self._connection.execute(f"UPDATE items SET {names} WHERE _number = ?", [*cells.values(), number])

    def drop(self, numbers: Iterable[int]) -> None:
        """Remove items; the engine still holds them."""
        rows = [(int(number),) for number in numbers]
        self._connection.execute(PREVIEWS)
        self._connection.executemany("DELETE FROM items WHERE _number = ?", rows)
        self._connection.executemany("DELETE FROM previews WHERE number = ?", rows)
        self._connection.executemany("INSERT OR IGNORE INTO gone VALUES (?)", rows)

    def forget(self) -> None:
        """Clear the list of removed items, after the engine has dropped them."""
        self._connection.execute("DELETE FROM gone")

    def set_aside(self, rejected: Iterable[Rejection], added: Iterable[tuple[str, str]] = ()) -> None:
        """List the rejections; drop those of sources and modalities that were added."""
        self._connection.executemany("DELETE FROM aside WHERE source = ? AND modality = ?", added)
        self._connection.executemany(
            "INSERT OR REPLACE INTO aside VALUES (?, ?, ?, ?)",
            [
                (rejection.source, rejection.modality or "", rejection.reason, rejection.detail)
                for rejection in rejected
            ],
        )

    def calibrate(self, values: Mapping[tuple[str, str], bytes]) -> None:
        """Replace the calibration."""
        self._connection.execute("DELETE FROM calibration")
        self._connection.executemany(
            "INSERT INTO calibration VALUES (?, ?, ?)", [(*key, v) for key, v in values.items()]
        )

    def widen(self, names: Iterable[str]) -> None:
        """Add missing columns of metadata.

        Raises:
            StoreError: the index would have too many columns.
        """
        present = {name.lower() for name in (*OWN, *metadata_columns(self._connection.execute))}
        fresh = [name for name in dict.fromkeys(names) if name.lower() not in present]
        if len(present) + len(fresh) > MOST_COLUMNS:
            raise StoreError(f"{len(present) + len(fresh)} columns of metadata; an index keeps at most {MOST_COLUMNS}.")
        for name in fresh:
            self._connection.execute(f"ALTER TABLE items ADD COLUMN {quoted(name)}")

    def _set(self, key: str, value: Any) -> None:
        self._connection.execute("UPDATE state SET value = ? WHERE key = ?", (json.dumps(value), key))
