"""Features: what frozen encoders said, once, kept on disk for as many trainings as you like."""

from lightcrl.features.base import Store
from lightcrl.features.encoding import encode_items
from lightcrl.features.engines import ENGINES
from lightcrl.features.extract import Extraction, extract
from lightcrl.features.store import FeatureStore
from lightcrl.features.table import Features, Members, Split

__all__ = ["ENGINES", "Extraction", "FeatureStore", "Features", "Members", "Split", "Store", "encode_items", "extract"]
