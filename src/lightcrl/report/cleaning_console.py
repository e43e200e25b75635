"""Report of a cleaning on the command line."""

from __future__ import annotations

from lightcrl.report.progress import console
from lightcrl.report.sheets import print_sheet
from lightcrl.studies.clean.outcome import Cleaning, sheets


def print_cleaning(done: Cleaning) -> None:
    """Print noise rates, decisions and the next commands."""
    for sheet in sheets(done):
        print_sheet(sheet)
    console.print(f"decisions and page: {done.folder}", soft_wrap=True, markup=False)
    console.print(f"next: lightcrl run {done.recipe}", soft_wrap=True, markup=False)
