"""Cleaning: wrong, weak and duplicate pairs in a data set, found by spaces that were not trained on them."""

from __future__ import annotations

from lightcrl.studies.clean.outcome import Cleaning
from lightcrl.studies.clean.run import clean

__all__ = ["Cleaning", "clean"]
