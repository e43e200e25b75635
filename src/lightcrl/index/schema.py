"""The tables of the catalog, in SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

OWN = ("_number", "id", "modality", "path", "text", "digest", "_key", "group_name", "_place")
"""Columns of every item; `_key` and `_place` identify the items of a source that the index holds already."""

SHOWN = ("id", "modality", "path", "text", "digest", "group_name")
"""Columns of every item that messages about filters list."""

MOST_COLUMNS = 500
"""Greatest number of columns of the table of items."""

SCHEMA = """
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

PREVIEWS = "CREATE TABLE IF NOT EXISTS previews (number INTEGER PRIMARY KEY, media TEXT NOT NULL, data BLOB NOT NULL)"
"""Statement that makes the table of previews, where an older index has none."""


def quoted(name: str) -> str:
    """Return the name of a column as SQL."""
    return '"' + name.replace('"', '""') + '"'


def metadata_columns(read: Callable[[str], Iterable[Any]]) -> list[str]:
    """Return the columns of metadata, in the order of their addition; `read` returns the rows of a statement."""
    return [name for _, name, *_ in read("PRAGMA table_info(items)") if name not in OWN]
