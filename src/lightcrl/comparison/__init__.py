"""Methods side by side: the same features, splits, seeds and budget, and differences with intervals."""

from __future__ import annotations

from lightcrl.comparison.entries import Entry, parse_entries
from lightcrl.comparison.outcome import Comparison
from lightcrl.comparison.run import compare

__all__ = ["Comparison", "Entry", "compare", "parse_entries"]
