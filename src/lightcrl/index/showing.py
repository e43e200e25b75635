"""Previews on demand: those stored in the index, and those of a run's items, which are read from the run's own data."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from lightcrl.data.base import Item
from lightcrl.errors import LightCRLError
from lightcrl.index.base import Entry
from lightcrl.index.catalog import Catalog
from lightcrl.index.encoded import run_data
from lightcrl.index.previews import OF_RUN, Preview, make_preview

RUNS = 4
"""Number of runs whose data stays in memory."""

KEPT = 512
"""Number of previews of runs kept in memory."""

_reading = threading.Lock()


def find_preview(catalog: Catalog, number: int, id: str, kinds: Mapping[str, str]) -> Preview | None:
    """Return the preview of an item without a file; None if there is none, or the run's data is gone.

    Args:
        catalog: catalog of the index.
        number: number of the item.
        id: id of the item.
        kinds: kind of item by modality.
    """
    preview = catalog.preview(number)
    if preview is None or preview.media != OF_RUN:
        return preview
    for modality, kept in catalog.kept("id", [id]):
        return _preview_of_run(preview.data.decode(), modality, kept.key, kinds.get(modality, ""))
    return None


@lru_cache(KEPT)
def _preview_of_run(folder: str, modality: str, key: str, kind: str) -> Preview | None:
    try:
        item = _items(folder).get((modality, key))
    except (LightCRLError, OSError):
        return None
    return make_preview(Entry(modality, item), kind) if item is not None else None


def _items(folder: str) -> Mapping[tuple[str, str], Item]:
    with _reading:  # many pictures are asked for at once; the data is read once
        return _read_items(folder)


@lru_cache(RUNS)
def _read_items(folder: str) -> Mapping[tuple[str, str], Item]:
    dataset = run_data(Path(folder))[1]
    return {(modality, item.key): item for modality, items in dataset.items.items() for item in items}
