"""What the command line shows of an index: what came of adding, its content, results of a search, its structure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from lightcrl.data.base import Rejection
from lightcrl.index import Added, Copies, Hit, Index, Outlier
from lightcrl.index.outcome import Outcome
from lightcrl.report.progress import console

SHOWN = 10
"""Groups or rejections that are listed; JSON has all."""


def print_added(index: Index, done: Added) -> None:
    """What came of adding."""
    console.print(
        f"{done.added:,} added, {done.replaced:,} replaced, {done.present:,} there already; {done.encoded:,} went "
        f"through an encoder. {index.folder}: {_counted(index.counts())}",
        soft_wrap=True,
        markup=False,
    )
    _print_aside(done.rejected)


def print_removed(count: int, left: int) -> None:
    """What came of removing."""
    console.print(f"{count:,} removed, {left:,} left")


def print_compacted(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """What came of rewriting."""
    sizes = " to ".join(f"{told['bytes'] / 2**20:,.1f} MiB" for told in (before, after))
    console.print(f"{before['removed']:,} removed items dropped; {sizes}")


def print_index(told: Mapping[str, Any], aside: Sequence[Rejection]) -> None:
    """What is in an index."""
    table = Table(title=f"{told['items']:,} items in {told['folder']}", show_header=False)
    engine = told["engine"]
    options = ", ".join(f"{name} {value}" for name, value in engine["options"].items() if value is not None)
    table.add_row("items", _counted(told["modalities"]) or "none")
    table.add_row("columns", escape(", ".join(told["columns"]) or "none"))
    table.add_row("engine", f"{engine['name']}{f' ({options})' if options else ''}, {told['dtype']}, d {told['dim']}")
    table.add_row("model", escape(f"{told['model']['place'] or 'unknown place'}\n{told['model']['fingerprint']}"))
    table.add_row("size", f"{told['bytes'] / 2**20:,.1f} MiB, {told['removed']:,} removed items in it")
    pairs = [f"{pair['query']} to {pair['item']} ({pair['queries_from']})" for pair in told["calibration"]]
    table.add_row("scores have\na meaning for", escape("\n".join(pairs) or "nothing yet: too few items"))
    console.print(table)
    _print_aside(aside)


def print_hits(outcome: Outcome) -> None:
    """The results of a search, best first, and whether anything matches."""
    table = Table(title=escape(outcome.words()), title_justify="left")
    for heading, justify in (("", "right"), ("item", "left"), ("score", "right"), ("as high by chance", "right")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    style = "dim" if outcome.matches is False else ""
    for number, hit in enumerate(outcome.hits, 1):
        table.add_row(str(number), escape(_told(hit)), f"{hit.score:.3f}", _odds(hit.share), style=style)
    if outcome.hits:
        console.print(table)
    if verdict := outcome.verdict():
        console.print(verdict, markup=False)


def print_copies(copies: Sequence[Copies]) -> None:
    """Groups of near-identical items."""
    for of_modality in copies:
        items = sum(map(len, of_modality.groups))
        console.print(
            f"{of_modality.modality}: {len(of_modality.groups):,} groups of near-identical items ({items:,} items); "
            f"similarity at least {of_modality.threshold:.4f}: {of_modality.reason}",
            soft_wrap=True,
            markup=False,
        )
        for group in of_modality.groups[:SHOWN]:
            console.print("  " + "  ".join(group), markup=False, soft_wrap=True)
        if len(of_modality.groups) > SHOWN:
            console.print(f"  and {len(of_modality.groups) - SHOWN:,} more groups; --json has all")


def print_outliers(far: Sequence[Outlier]) -> None:
    """Items far from everything."""
    if not far:
        console.print("no item is far from everything")
        return
    table = Table(title=f"{len(far):,} items far from everything")
    for heading in ("item", "modality", "distance", "nearest", "similarity"):
        table.add_column(heading, justify="right" if heading in ("distance", "similarity") else "left", overflow="fold")
    for outlier in far:
        cells = (outlier.id, outlier.modality, f"{outlier.farness:.3f}", outlier.nearest, f"{outlier.score:.3f}")
        table.add_row(*map(escape, cells))
    console.print(table)


def _told(hit: Hit) -> str:
    """An item in a line or two."""
    metadata = ", ".join(f"{name} {value}" for name, value in hit.metadata.items() if value not in (None, ""))
    return "\n".join(line for line in (hit.text or hit.path or hit.id, metadata[:200]) if line)


def _odds(share: float | None) -> str:
    """A share as one in so many."""
    return "" if share is None else f"1 in {1 / share:,.0f}" if share < 0.1 else f"{share:.0%}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {modality}" for modality, count in counts.items())


def _print_aside(rejected: Sequence[Rejection]) -> None:
    if not rejected:
        return
    reasons = Counter(rejection.reason for rejection in rejected).most_common()
    console.print(f"set aside: {', '.join(f'{count:,} {reason}' for reason, count in reasons)}", markup=False)
    for rejection in rejected[:SHOWN]:
        console.print(f"  {rejection}", markup=False, soft_wrap=True)
    if len(rejected) > SHOWN:
        console.print(f"  and {len(rejected) - SHOWN:,} more; --json has all")
