"""The index: items of all modalities and their embeddings on disk; it can be searched and changed."""

from lightcrl.index.base import ENGINES, Added, Engine, Entry, Hit, Part, Record
from lightcrl.index.export import export_store, is_store
from lightcrl.index.index import Index
from lightcrl.index.search import nearest
from lightcrl.index.sources import Reading
from lightcrl.index.structure import Copies, Outlier, find_duplicates, find_outliers
from lightcrl.index.vectors import Found, VectorIndex

__all__ = [
    "ENGINES",
    "Added",
    "Copies",
    "Engine",
    "Entry",
    "Found",
    "Hit",
    "Index",
    "Outlier",
    "Part",
    "Reading",
    "Record",
    "VectorIndex",
    "export_store",
    "find_duplicates",
    "find_outliers",
    "is_store",
    "nearest",
]
