"""Sources with stored features: a run's folder and the folder of a feature store."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from lightcrl.data import load_dataset
from lightcrl.data.base import Dataset, Item, Rejection
from lightcrl.embedder import Embedder
from lightcrl.errors import DataError, StaleStoreError
from lightcrl.features.base import rows_by_item
from lightcrl.features.embed import embed_rows
from lightcrl.features.extract import encode_modality
from lightcrl.features.store import FeatureStore
from lightcrl.index.base import Entry
from lightcrl.recipe import Recipe
from lightcrl.specs import parse

ROWS = 4096
"""Number of rows of a feature store embedded at a time."""


def read_run(folder: Path, embedder: Embedder) -> Iterator[Entry | Rejection]:
    """Yield all items of a run, with their groups and the column `split`.

    Items with stored features are not encoded again; missing features are made again.

    Raises:
        DataError: the run's recipe or its data is missing.
    """
    recipe, dataset = run_data(folder)
    yield from dataset.rejected
    for modality in (name for name in embedder.modalities if name in recipe.kinds):
        limit = recipe.data.max_rejected
        done = encode_modality(
            embedder.encoder(modality), dataset, modality, recipe.features, lambda event: None, max_rejected=limit
        )
        yield from done.rejected
        yield from _embedded(dataset, modality, done.store, embedder, str(folder.absolute()))


def run_data(folder: Path) -> tuple[Recipe, Dataset]:
    """Return the recipe of a run and its data.

    Raises:
        DataError: the run's recipe or its data is missing, or the folder holds an extended model.
    """
    if (folder / "extension.json").is_file():
        raise DataError(
            f"{folder} is an extended model, whose data are the items that it was extended with. Name the files or "
            "tables to index; an index of the model before stays valid: open it with --model."
        )
    try:
        recipe = parse(Recipe, json.loads((folder / "recipe.json").read_text(encoding="utf-8")), "recipe")
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / 'recipe.json'} cannot be read ({error}). Run the recipe again.") from None
    return recipe, load_dataset(recipe.data, recipe.kinds)


def _embedded(dataset: Dataset, modality: str, store: FeatureStore, embedder: Embedder, folder: str) -> Iterator[Entry]:
    row_of = rows_by_item(store)
    group_of = dict(reversed(dataset.links[modality].tolist()))  # an item of several groups gets its first one
    present = [(number, row_of[item.key]) for number, item in enumerate(dataset.items[modality]) if item.key in row_of]
    items = distinct(dataset.items[modality])
    for start in range(0, len(present), ROWS):
        batch = present[start : start + ROWS]
        rows = np.array([row for _, row in batch])
        for (number, _), vector in zip(batch, embed_rows(embedder.method, store, modality, rows).numpy(), strict=True):
            item, group = items[number], group_of[number]
            path = str(item.raw.absolute()) if isinstance(item.raw, Path) else None
            text = item.raw if isinstance(item.raw, str) else None
            split = {"split": dataset.splits[group]}
            run = folder if path is None and text is None else None
            yield Entry(modality, item, None, path, text, dataset.groups[group], split, vector, run=run)


def distinct(items: Sequence[Item]) -> list[Item]:
    """Return items with distinct sources: the captions of one picture are `a.jpg`, `a.jpg#2`, `a.jpg#3`.

    >>> [item.source for item in distinct([Item("1", "a", "x"), Item("2", "b", "y"), Item("3", "a", "z")])]
    ['a', 'b', 'a#2']
    """
    before: Counter[str] = Counter()
    named = []
    for item in items:
        before[item.source] += 1
        count = before[item.source]
        named.append(item if count == 1 else replace(item, source=f"{item.source}#{count}"))
    return named


def read_store(folder: Path, embedder: Embedder) -> Iterator[Entry]:
    """Yield all items of a feature store, identified by their keys.

    Raises:
        StaleStoreError: another encoder than the model's made the store.
        DataError: the model has no such modality.
    """
    store = FeatureStore(folder)
    modality, made_by = store.manifest["modality"], store.manifest["encoder"]["fingerprint"]
    if modality not in embedder.modalities:
        raise DataError(f"{folder} holds {modality!r}; the model has {', '.join(embedder.modalities)}.")
    if made_by != embedder.encoder(modality).fingerprint:
        raise StaleStoreError(
            f"{folder} was made by the encoder {made_by}, the model's is {embedder.encoder(modality).fingerprint}."
        )
    lines = {line["row"]: line for line in reversed(store.metadata().to_pylist())}
    for start in range(0, store.rows, ROWS):
        rows = np.arange(start, min(start + ROWS, store.rows))
        vectors = embed_rows(embedder.method, store, modality, rows).numpy()
        for row, vector in zip(rows.tolist(), vectors, strict=True):
            line = lines[row]
            item = Item(line["item"], line["source"], None)
            place = f"{modality}:{line['item']}"
            yield Entry(
                modality, item, group=line["group"], metadata={"split": line["split"]}, vector=vector, place=place
            )
