"""Console output of the bridges to other projects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from lightcrl.report.progress import console

if TYPE_CHECKING:
    from lightcrl.bridges.hub import Pushed
    from lightcrl.bridges.mteb import Measured


def print_scores(done: Measured) -> None:
    """Print the main score of each task of mteb."""
    table = Table(title="mteb")
    for name in ("task", "split", "subset", "main score"):
        table.add_column(name, no_wrap=True)
    table.add_column("", justify="right")
    for score in done.scores:
        table.add_row(escape(score.task), score.split, score.subset, score.metric, f"{score.value:.4f}")
    console.print(table)
    console.print(f"results: {done.folder}", soft_wrap=True, markup=False)


def print_pushed(done: Pushed) -> None:
    """Print the address of a pushed model, and the place and licence of each encoder."""
    for modality, carried in done.carried.items():
        size = f"{carried.size / 2**20:,.1f} MiB"
        console.print(f"{modality}: carried along, {size}, licence {carried.licence}", soft_wrap=True, markup=False)
    for modality, name in done.named.items():
        console.print(f"{modality}: {name} on the hub", soft_wrap=True, markup=False)
    console.print(done.url, soft_wrap=True, markup=False)
    console.print(f'load it: lightcrl.load("{done.repository}")', soft_wrap=True, markup=False)
