"""Features: outputs of frozen encoders, computed once and kept on disk for any number of trainings."""

from lightcrl.features.base import Store
from lightcrl.features.encoding import encode_items
from lightcrl.features.engines import ENGINES
from lightcrl.features.extract import Extraction, extract
from lightcrl.features.store import FeatureStore
from lightcrl.features.table import Features, Members, Split

__all__ = ["ENGINES", "Extraction", "FeatureStore", "Features", "Members", "Split", "Store", "encode_items", "extract"]
