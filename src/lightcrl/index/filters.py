"""Filters: conditions in SQLite's syntax, such as `year > 2020 and split = 'train'`, that read items and nothing else.

A filter comes from a command line or over a network. It runs on a read-only connection. An authorizer checks every
table, column and function that the filter names, and a filter that takes too long is interrupted.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable

import numpy as np

from lightcrl.errors import FilterError

SECONDS = 10.0
"""Longest time of a filter, in seconds."""

LONGEST = 100_000
"""Greatest number of characters of a filter."""

FUNCTIONS = frozenset(
    [
        "abs",
        "coalesce",
        "glob",
        "ifnull",
        "iif",
        "instr",
        "length",
        "like",
        "lower",
        "ltrim",
        "max",
        "min",
        "nullif",
        "round",
        "rtrim",
        "sign",
        "substr",
        "substring",
        "trim",
        "typeof",
        "upper",
        "date",
        "datetime",
        "julianday",
        "strftime",
        "time",
        "unixepoch",
    ]
)

_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 1_000_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: LONGEST + 1000,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 100,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 2,
}
_STEPS = 10_000  # of SQLite's virtual machine between two checks of the time limit


def run_filter(
    connection: sqlite3.Connection, where: str, columns: Iterable[str], seconds: float = SECONDS
) -> np.ndarray:
    """Return the numbers [M] int64, ascending, of the items for which a condition is true.

    Args:
        connection: a read-only connection; its restrictions stay in force.
        where: the condition.
        columns: columns that the error message lists.
        seconds: longest time, in seconds.

    Raises:
        FilterError: the filter is not a condition, names anything but columns and allowed functions, or takes too long.
    """
    names = list(columns)
    if len(where) > LONGEST or not where.strip() or "\0" in where:
        raise FilterError(f"a filter of {len(where):,} characters; expected a condition of 1 to {LONGEST:,}.")
    refused: list[str] = []
    _guard(connection, refused, seconds)
    try:
        rows = connection.execute(f"SELECT _number FROM items WHERE (\n{where}\n) ORDER BY _number").fetchall()
    except (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeError) as error:
        raise FilterError(_reason(where, error, refused, names, seconds)) from None
    finally:
        connection.set_progress_handler(None, 0)
    return np.array(rows, dtype=np.int64).reshape(-1)


def _guard(connection: sqlite3.Connection, refused: list[str], seconds: float) -> None:
    """Restrict a connection to columns of items and to `FUNCTIONS`, for a limited time."""
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    end = time.monotonic() + seconds

    def allow(action: int, first: str | None, second: str | None, database: str | None, trigger: str | None) -> int:
        if action == sqlite3.SQLITE_SELECT:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ and first == "items":
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in FUNCTIONS:
            return sqlite3.SQLITE_OK
        refused.append(f"function {second}" if action == sqlite3.SQLITE_FUNCTION else str(first or "a statement"))
        return sqlite3.SQLITE_DENY

    connection.set_authorizer(allow)
    connection.set_progress_handler(lambda: time.monotonic() > end, _STEPS)


def _reason(where: str, error: Exception, refused: list[str], names: list[str], seconds: float) -> str:
    shown = where if len(where) <= 200 else where[:200] + "..."
    if "interrupted" in str(error):
        return f"the filter {shown!r} took more than {seconds:g} s. Make it simpler."
    said = f"it asks for {refused[0]}, which filters may not use" if refused else str(error)
    return (
        f"the filter {shown!r} cannot be used: {said}. Expected a condition on {', '.join(names)}, such as "
        "\"year > 2020 and split = 'train'\" (texts in single quotes)."
    )
