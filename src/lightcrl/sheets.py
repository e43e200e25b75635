"""Tables for people: what the console draws and what goes into Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sheet:
    """A table for people.

    Attributes:
        title: above it.
        headings: of its columns; the first is a name, the others are numbers.
        rows: of cells.
        note: below it.
    """

    title: str
    headings: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table, an empty one last.

    >>> markdown_table(["method", "R@1"], [["a|b", "0.4"]])
    ['| method | R@1 |', '|---|---|', '| a\\\\|b | 0.4 |', '']
    """
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (headings, *rows)]
    head, *body = [f"| {' | '.join(row)} |" for row in cells]
    return [head, f"|{'---|' * len(headings)}", *body, ""]
