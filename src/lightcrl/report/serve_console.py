"""What the command line shows of a server."""

from __future__ import annotations

from pathlib import Path

from lightcrl.report.progress import console


def print_serving(folder: Path, items: int, address: str, writable: bool) -> None:
    """Where an index is served."""
    how = "may be changed" if writable else "read only"
    console.print(f"{folder}: {items:,} items, {how}. {address} (stop with Ctrl-C)", soft_wrap=True, markup=False)
