"""Samples of a calibration: from the items of the index, the model's own features, or everyday phrases."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl.embedder import Embedder
from lightcrl.errors import LightCRLError
from lightcrl.features.embed import embed_rows
from lightcrl.features.store import FeatureStore
from lightcrl.index.base import Record, Scope, View
from lightcrl.index.calibration import ASKED, FEWEST, SAMPLED, Best, Calibration, Sample, measure_tail
from lightcrl.index.catalog import Catalog

OWN_GROUP = 8
"""Greatest number of items of a query's own group that may precede the best other item."""

GROWTH = 2
"""Growth factor of the number of items after which an index is calibrated again."""

_SUBJECTS = (
    *("a dog", "two children", "a woman", "an old man", "a red car", "a cat", "a group of people", "a bird"),
    *("a bicycle", "a horse", "a train", "a plate of food", "a tall building", "a boat", "flowers", "a computer"),
)
_SCENES = (
    *("in the snow", "on a street at night", "by the sea", "in a kitchen"),
    *("on a mountain", "in front of a house", "in a park", "seen from above"),
)
EVERYDAY = tuple(f"{subject} {scene}" for subject in _SUBJECTS for scene in _SCENES)
"""Queries of last resort, if neither the index nor the model's features have texts."""


def calibrate(
    catalog: Catalog,
    view: View,
    modalities: dict[str, str],
    embedder: Callable[[], Embedder],
    place: str | None,
    seed: int = 0,
) -> Calibration:
    """Measure the scores of random pairs.

    Args:
        catalog: catalog of the index.
        view: its last commit.
        modalities: modalities of the model with their kinds.
        embedder: function that returns the model; only called if queries have to be encoded or embedded.
        place: folder or hub id of the model; a run's folder leads to its features.
        seed: seed of the random samples.
    """
    rng = np.random.default_rng(seed)
    items: dict[str, Sample] = {}
    queries: dict[str, Sample] = {}
    for modality in catalog.counts():
        numbers = catalog.numbers(modality)
        chosen = np.sort(rng.permutation(numbers)[: SAMPLED + ASKED])
        # Few items are in both samples. Scores of an item with itself or with its own group are left out.
        asking = chosen if len(chosen) < SAMPLED else rng.permutation(chosen)[:ASKED]
        items[modality] = _of_index(catalog, view, rng.permutation(chosen)[:SAMPLED])
        if len(asking) >= FEWEST:
            queries[modality] = _of_index(catalog, view, asking[:ASKED])
    for modality, kind in modalities.items():
        if modality not in queries and items:
            sample = _of_features(embedder, modality, place, rng) or _everyday(embedder, modality, kind)
            if sample is not None:
                queries[modality] = sample
    tails = {
        (asked, given): tail
        for asked, sample in queries.items()
        for given, others in items.items()
        if (tail := measure_tail(sample, others, _best_of_all(catalog, view, sample, given))) is not None
    }
    return Calibration(tails, catalog.counts())


def outgrown(calibration: Calibration | None, catalog: Catalog) -> bool:
    """Return True if an index needs calibration: for the first time, for a new modality, or after growth."""
    counts = {modality: count for modality, count in catalog.counts().items() if count >= FEWEST}
    measured = calibration.items if calibration else {}
    return any(count >= GROWTH * measured.get(modality, 0) for modality, count in counts.items())


def _of_index(catalog: Catalog, view: View, numbers: np.ndarray) -> Sample:
    records = catalog.records(numbers)
    names = tuple(_group(records.get(int(number))) for number in numbers)
    return Sample(view.vectors(numbers), names, "items of the index")


def _best_of_all(catalog: Catalog, view: View, queries: Sample, given: str) -> Best:
    """Return the best score of each query among all items of a modality, without those of its own group."""
    numbers = catalog.numbers(given)
    near, scores = view.search(queries.vectors, OWN_GROUP + 1, Scope(given, lambda: numbers))
    names = {number: _group(record) for number, record in catalog.records(np.unique(near[near >= 0])).items()}
    best = []
    for name, row, line in zip(queries.names, near.tolist(), scores.tolist(), strict=True):
        others = [score for number, score in zip(row, line, strict=True) if number in names and names[number] != name]
        best.append(others[0] if others else (line[-1] if line else -1.0))
    return Best(len(numbers), np.sort(np.array(best)))


def _group(record: Record | None) -> str | None:
    """Return the name that two items of a random pair must not share: the file name of the group, path or id."""
    if record is None:
        return None
    return (record.group or record.path or record.id).rstrip("/").rpartition("/")[2]


def _of_features(
    embedder: Callable[[], Embedder], modality: str, place: str | None, rng: np.random.Generator
) -> Sample | None:
    """Return items of the run that trained the model, from its feature store; None if there is none."""
    try:
        recipe = json.loads((Path(place or "") / "recipe.json").read_text(encoding="utf-8"))
        folders = sorted(Path(recipe["features"]["folder"]).glob(f"{modality}-*/manifest.json"))
    except (OSError, ValueError, KeyError):
        return None
    for manifest in folders:
        try:
            store = FeatureStore(manifest.parent)
            if store.manifest["encoder"]["fingerprint"] != embedder().encoder(modality).fingerprint:
                continue
            return _of_store(embedder(), modality, store, rng)
        except (LightCRLError, OSError, KeyError):  # an incomplete or torn store
            continue
    return None


def _of_store(embedder: Embedder, modality: str, store: FeatureStore, rng: np.random.Generator) -> Sample | None:
    rows = np.sort(rng.permutation(store.rows)[:ASKED])
    if len(rows) < FEWEST:
        return None
    groups: dict[int, Any] = {}
    for table in store.lines(["row", "group"]):
        groups.update(zip(table["row"].to_pylist(), table["group"].to_pylist(), strict=True))
    vectors = embed_rows(embedder.method, store, modality, rows).numpy()
    names = tuple(Path(str(groups[row])).name for row in rows.tolist())
    return Sample(vectors, names, f"the features of {modality} that the model was trained on")


def _everyday(embedder: Callable[[], Embedder], modality: str, kind: str) -> Sample | None:
    if kind != "text":
        return None
    return Sample(embedder().encode(EVERYDAY, modality), (None,) * len(EVERYDAY), "everyday phrases")
