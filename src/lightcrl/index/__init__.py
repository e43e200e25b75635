"""The index: vectors with ids on disk, and the exact nearest of them to a query."""

from lightcrl.index.index import Found, Index
from lightcrl.index.search import nearest

__all__ = ["Found", "Index", "nearest"]
