"""The facts of an index: model, engine, items, columns, rejections, sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightcrl.index.catalog import Catalog
from lightcrl.index.model import line_of
from lightcrl.index.reading import Reader
from lightcrl.lineage import ancestors


def index_facts(folder: Path, manifest: Mapping[str, Any], catalog: Catalog, reader: Reader) -> dict[str, Any]:
    """Return model, engine, items by modality, columns of metadata, rejections and sizes of an index as JSON."""
    state, gone = catalog.opened()
    return {
        "folder": str(folder),
        **{key: manifest[key] for key in ("format", "engine", "dim", "dtype", "model")},
        "items": state.items,
        "modalities": catalog.counts(),
        "columns": catalog.columns(),
        "removed": len(gone),
        "bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        "aside": dict(Counter(rejection.reason for rejection in catalog.aside()).most_common()),
        "calibration": reader.calibration(),
        "ancestors": ancestors(line_of(manifest), manifest["model"]["modalities"]),
        "generation": state.generation,
    }
