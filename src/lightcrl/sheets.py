"""Tables for people, for the console and for Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sheet:
    """A table for people.

    Attributes:
        title: title above the table.
        headings: headings of the columns; the first column has names, the others numbers.
        rows: rows of cells.
        note: note below the table.
    """

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table, with an empty line at the end.

    >>> markdown_table(["method", "R@1"], [["a|b", "0.4"]])
    ['| method | R@1 |', '|---|---|', '| a\\\\|b | 0.4 |', '']
    """
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (headings, *rows)]
    head, *body = [f"| {' | '.join(row)} |" for row in cells]
    return [head, f"|{'---|' * len(headings)}", *body, ""]
