"""Console output of the server."""

from __future__ import annotations

from pathlib import Path

from lightcrl.report.progress import console


def print_serving(folder: Path, items: int, address: str, writable: bool) -> None:
    """Print the folder, size and address of a served index."""
    how = "may be changed" if writable else "read only"
    console.print(f"{folder}: {items:,} items, {how}. {address} (stop with Ctrl-C)", soft_wrap=True, markup=False)
