"""Console output about an index: additions, content, search results, copies and outliers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightcrl.data.base import Rejection
from lightcrl.index import Added, Copies, Hit, Index, Outlier
from lightcrl.index.outcome import Outcome
from lightcrl.report.progress import console
from lightcrl.report.sheets import print_sheet
from lightcrl.sheets import Sheet

SHOWN = 10
"""Greatest number of groups or rejections in a list; JSON has all."""


def print_added(index: Index, done: Added) -> None:
    """Print the counts of an addition, and the rejected items."""
    console.print(
        f"{done.added:,} added, {done.replaced:,} replaced, {done.present:,} already present; "
        f"{done.encoded:,} encoded. {index.folder}: {_counted(index.counts())}",
        soft_wrap=True,
        markup=False,
    )
    _print_aside(done.rejected)


def print_removed(count: int, left: int) -> None:
    """Print the number of removed and of remaining items."""
    console.print(f"{count:,} removed, {left:,} left")


def print_compacted(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Print the number of dropped items, and the size of the index before and after."""
    sizes = " to ".join(f"{facts['bytes'] / 2**20:,.1f} MiB" for facts in (before, after))
    console.print(f"{before['removed']:,} removed items dropped; {sizes}")


def print_exported(folder: Path, files: Mapping[str, int]) -> None:
    """Print the arrays of an export."""
    size = sum(files.values()) / 2**20
    console.print(
        f"{folder}: {len(files):,} arrays of {size:,.1f} MiB, each with a table of its rows in *_metadata: "
        f"{', '.join(sorted({name.partition('/')[0] for name in files}))}",
        soft_wrap=True,
        markup=False,
    )


def print_index(facts: Mapping[str, Any], aside: Sequence[Rejection]) -> None:
    """Print the content of an index, and the items set aside."""
    engine = facts["engine"]
    options = ", ".join(f"{name} {value}" for name, value in engine["options"].items() if value is not None)
    pairs = [f"{pair['query']} to {pair['item']} ({pair['queries_from']})" for pair in facts["calibration"]]
    rows = [
        ("items", _counted(facts["modalities"]) or "none"),
        ("columns", ", ".join(facts["columns"]) or "none"),
        ("engine", f"{engine['name']}{f' ({options})' if options else ''}, {facts['dtype']}, d {facts['dim']}"),
        ("model", f"{facts['model']['place'] or 'unknown place'}\n{facts['model']['fingerprint']}"),
        *(
            ("valid for", f"{older['fingerprint'][:12]}: {', '.join(older['modalities'])}")
            for older in facts["ancestors"]
        ),
        ("size", f"{facts['bytes'] / 2**20:,.1f} MiB, with {facts['removed']:,} removed items"),
        ("calibrated\nscores", "\n".join(pairs) or "none yet: too few items"),
    ]
    print_sheet(Sheet(f"{facts['items']:,} items in {facts['folder']}", (), rows, words=frozenset({0, 1})))
    _print_aside(aside)


def print_hits(outcome: Outcome) -> None:
    """Print the results of a search, best first, and the verdict if no item matches."""
    rows = [
        (str(number), _described(hit), f"{hit.score:.3f}", _odds(hit.share))
        for number, hit in enumerate(outcome.hits, 1)
    ]
    faint = range(len(rows)) if outcome.matches is False else ()
    headings = ("", "item", "score", "as high by chance")
    if rows:
        print_sheet(Sheet(outcome.words(), headings, rows, words=frozenset({1}), looks=dict.fromkeys(faint, "faint")))
    if verdict := outcome.verdict():
        console.print(verdict, markup=False)


def print_copies(copies: Sequence[Copies]) -> None:
    """Print the groups of near-identical items by modality."""
    for result in copies:
        items = sum(map(len, result.groups))
        console.print(
            f"{result.modality}: {len(result.groups):,} groups of near-identical items ({items:,} items); "
            f"similarity at least {result.threshold:.4f}: {result.reason}",
            soft_wrap=True,
            markup=False,
        )
        for group in result.groups[:SHOWN]:
            console.print("  " + "  ".join(group), markup=False, soft_wrap=True)
        if len(result.groups) > SHOWN:
            console.print(f"  and {len(result.groups) - SHOWN:,} more groups; --json has all")


def print_outliers(far: Sequence[Outlier]) -> None:
    """Print the items that are far from all others."""
    if not far:
        console.print("no item is far from all others")
        return
    rows = [(item.id, item.modality, f"{item.farness:.3f}", item.nearest, f"{item.score:.3f}") for item in far]
    headings = ("item", "modality", "distance", "nearest", "similarity")
    print_sheet(Sheet(f"{len(far):,} items far from all others", headings, rows, words=frozenset({0, 1, 3})))


def _described(hit: Hit) -> str:
    """Return an item and its metadata in one line each."""
    metadata = ", ".join(f"{name} {value}" for name, value in hit.metadata.items() if value not in (None, ""))
    return "\n".join(line for line in (hit.text or hit.path or hit.id, metadata[:200]) if line)


def _odds(share: float | None) -> str:
    """Return a share as odds, such as "1 in 250"; from a tenth on in per cent."""
    return "" if share is None else f"1 in {1 / share:,.0f}" if share < 0.1 else f"{share:.0%}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {modality}" for modality, count in counts.items())


def _print_aside(rejected: Sequence[Rejection]) -> None:
    if not rejected:
        return
    reasons = Counter(item.reason for item in rejected).most_common()
    console.print(f"set aside: {', '.join(f'{count:,} {reason}' for reason, count in reasons)}", markup=False)
    for item in rejected[:SHOWN]:
        console.print(f"  {item}", markup=False, soft_wrap=True)
    if len(rejected) > SHOWN:
        console.print(f"  and {len(rejected) - SHOWN:,} more; --json has all")
