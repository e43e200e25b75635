"""Tables for people: the content, which `report` shows on the console and on pages; and their Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Cell:
    """A figure with its small print.

    Attributes:
        text: the figure.
        small: small print, such as an interval: below the figure on the console, beside it elsewhere.
        after: words after both.
        own: true for the figure that the table is about; it is emphasised.
    """

    text: str
    small: str = ""
    after: str = ""
    own: bool = False

    def __str__(self) -> str:
        """Return the cell in one line.

        >>> str(Cell("0.39", "0.36-0.41")), str(Cell("0.39"))
        ('0.39 (0.36-0.41)', '0.39')
        """
        return " ".join(filter(None, [self.text, f"({self.small})" if self.small else "", self.after]))


Row = Sequence[str | Cell]


@dataclass(frozen=True)
class Sheet:
    """A table for people.

    Attributes:
        title: title above the table.
        headings: headings of the columns; empty for a table without.
        rows: rows of cells.
        note: note below the table.
        words: numbers of the columns of words, aligned at the left; the others have figures.
        looks: rows that are not like the others, by number: `"faint"` for chance, `"sum"` for means and totals.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Row]
    note: str = ""
    words: frozenset[int] = frozenset({0})
    looks: Mapping[int, Literal["faint", "sum"]] = field(default_factory=dict)


def markdown_table(headings: Sequence[str], rows: Sequence[Row]) -> list[str]:
    """Return the lines of a table, with an empty line at the end.

    >>> markdown_table(["method", "mean\\nR@1"], [["a|b", Cell("0.4", "0.3-0.5")]])
    ['| method | mean R@1 |', '|---|---|', '| a\\\\|b | 0.4 (0.3-0.5) |', '']
    """
    cells = [[str(cell).replace("\n", " ").replace("|", "\\|") for cell in row] for row in (headings, *rows)]
    head, *body = [f"| {' | '.join(row)} |" for row in cells]
    return [head, f"|{'---|' * len(headings)}", *body, ""]


def markdown_sheet(sheet: Sheet) -> list[str]:
    """Return the lines of a table below its title as a heading, with its note."""
    title = [f"## {sheet.title}", ""] if sheet.title else []
    return [*title, *markdown_table(sheet.headings, sheet.rows), *([sheet.note, ""] if sheet.note else [])]
