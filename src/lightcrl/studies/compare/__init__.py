"""Comparison of methods: the same features, splits, seeds and budget, and differences with intervals."""

from __future__ import annotations

from lightcrl.studies.compare.outcome import Comparison
from lightcrl.studies.compare.run import compare
from lightcrl.studies.entries import Entry, parse_entries

__all__ = ["Comparison", "Entry", "compare", "parse_entries"]
