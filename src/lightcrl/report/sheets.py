"""Tables on the console; `sheet.html.j2` shows the same on pages."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from lightcrl.heads.state import TrainedHead
from lightcrl.metrics.result import Result
from lightcrl.report.progress import console
from lightcrl.sheets import Cell, Row, Sheet


def print_sheet(sheet: Sheet) -> None:
    """Print a table and its note."""
    table = Table(title=Text(sheet.title), title_justify="left", show_header=any(sheet.headings))
    for column, heading in enumerate(sheet.headings or sheet.rows[0]):
        words = column in sheet.words
        name = heading if isinstance(heading, str) and sheet.headings else ""
        widest = max(map(len, name.split()), default=0)  # no word of a heading is broken
        table.add_column(
            Text(name),
            justify="left" if words else "right",
            no_wrap=not words,
            overflow="fold",
            min_width=widest,
        )
    for number, row in enumerate(sheet.rows):
        look = sheet.looks.get(number, "")
        style = {"faint": "dim", "sum": "bold"}.get(look, "")
        table.add_row(*map(_rich, row), style=style, end_section=look == "sum")
    console.print(table)
    if sheet.note:
        console.print(sheet.note, style="dim", markup=False)


def _rich(cell: str | Cell) -> Text:
    if isinstance(cell, str):
        return Text(cell)
    text = Text(" ".join(filter(None, [cell.text, cell.after])))
    return text.append(f"\n{cell.small}", style="dim") if cell.small else text


def share(result: Result, name: str, own: bool = False) -> Cell:
    """Return a figure as a fraction, with its interval if it has one."""
    ends = "{:.3f}–{:.3f}".format(*result.interval[name]) if name in result.interval else ""
    return Cell(f"{result.metrics[name]:.3f}", ends, own=own)


def percent(result: Result, name: str, own: bool = False) -> Cell:
    """Return a figure in per cent, with its interval if it has one; empty for an unmeasured figure."""
    if name not in result.metrics:
        return Cell("")
    ends = "{:.1f}–{:.1f}".format(*(100 * end for end in result.interval[name])) if name in result.interval else ""
    return Cell(f"{100 * result.metrics[name]:.1f}", ends, own=own)


def figures_sheet(result: Result, title: str, names: Mapping[str, str] | None = None) -> Sheet:
    """Return the table of an evaluation's figures.

    Args:
        result: the figures.
        title: title of the table.
        names: figures that the table shows, and their names in it; all by default.
    """
    rows: list[Row] = [
        (
            shown,
            Cell(f"{result.metrics[name]:.3f}", own=True),
            "{:.3f}–{:.3f}".format(*result.interval[name]) if name in result.interval else "",
            f"{result.chance[name]:.4f}" if name in result.chance else "",
        )
        for name, shown in (names or {name: name for name in result.metrics}).items()
    ]
    return Sheet(title, ("figure", "value", "95 % interval", "chance"), rows)


def head_figures(head: TrainedHead) -> str:
    """Return the figures of a head in a line."""
    return ", ".join(f"{key} {value:.3f}" for key, value in head.figures.get("metrics", {}).items())


def parts_sheet(title: str, parts: Mapping[str, int]) -> Sheet:
    """Return the table of the numbers of trained parameters by part."""
    rows: list[Row] = [(part, f"{count:,}") for part, count in parts.items()]
    rows.append(("all", Cell(f"{sum(parts.values()):,}", own=True)))
    return Sheet(title, ("part", "parameters"), rows, looks={len(parts): "sum"})
