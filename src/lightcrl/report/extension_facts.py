"""The report of an extended model: its last step, with queries between all of its modalities.

Items of old modalities that the data of the step lacks, such as photographs where sounds were added through the names
of their classes, are from the data of the ancestor that was trained on them. They stand in no group with new items.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lightcrl import __version__
from lightcrl.checkpoint import Checkpoint, load_checkpoint
from lightcrl.data import Dataset, DataSpec, Item, load_dataset
from lightcrl.embedder import Embedder
from lightcrl.errors import CheckpointError, DataError
from lightcrl.events import Tell
from lightcrl.features.base import item_keys
from lightcrl.features.embed import embed_split
from lightcrl.growth.extend import growth_training, sides
from lightcrl.growth.groups import Groups, open_groups, read_old_and_new
from lightcrl.growth.history import restore
from lightcrl.growth.spec import GrowthRecipe
from lightcrl.lineage import history_table
from lightcrl.report.facts import (
    GrowthFacts,
    ModalityFacts,
    Report,
    encoder_name,
    gather,
    model_facts,
    settings,
    token_shape,
)
from lightcrl.report.gallery import Collection, by_kind, gallery
from lightcrl.report.space import look
from lightcrl.specs import parse

FIGURES = "extension.json"
ELSEWHERE = 400
"""Greatest number of items of a modality from the data of an ancestor."""


def gather_model(folder: Path | str, *, tell: Tell = lambda event: None) -> Report:
    """Return the report of a run's folder, or of an extended model's; arguments and errors as in `gather`."""
    return gather_extension(Path(folder), tell) if (Path(folder) / FIGURES).is_file() else gather(folder, tell=tell)


def gather_extension(folder: Path, tell: Tell) -> Report:
    """Read the folder of an extended model, and embed its items again. Missing features are made again.

    Raises:
        CheckpointError: the folder is not that of a finished extension.
        GrowthError: the model was extended by a version that kept no record of its parent.
        DataError: the data is gone.
    """
    recipe, figures = _read(folder)
    checkpoint, trained = load_checkpoint(folder), load_checkpoint(folder / "training")
    parent = restore(checkpoint, str(checkpoint.lineage[-1]["from"]))
    embedder = Embedder(parent, device="cpu")
    replaced = figures["replaced"]
    partners, others = sides(recipe, parent.method, replaced)
    groups = open_groups(embedder, recipe, partners, others, folder / "anchors", tell)
    dataset = read_old_and_new(embedder, recipe, groups.names, lambda event: None)
    split = groups.features.split(recipe.evaluation.split)
    vectors, links = embed_split(trained.method, groups.features, split)
    kinds, items = _items(recipe, embedder, groups, dataset, links)
    collection = Collection(kinds, items, vectors, links)
    absent = [name for name in parent.method.modalities if name not in groups.names and name != replaced]
    for name in absent:
        collection = _from_elsewhere(collection, embedder, name, len(dataset.groups))
    fresh = sorted(recipe.encoders)
    spec = growth_training(recipe.training, parent)
    rest = [name for name in by_kind(collection.kinds) if name not in fresh]
    return Report(
        name=recipe.name,
        folder=folder.absolute().name,
        title=recipe.name,
        version=__version__,
        split=recipe.evaluation.split,
        groups=dict(Counter(dataset.splits)),
        modalities=tuple(_modality(name, collection, checkpoint, parent, groups) for name in collection.kinds),
        models=(model_facts(folder / "training", {**figures, "method": checkpoint.name, "seed": recipe.seed}),),
        settings=settings(parent.method.options.model_dump(mode="json"), spec, folder / "training"),
        confusion=None,
        classes=None,
        space=look(collection.vectors, collection.links),
        gallery=gallery(
            collection,
            directions=[(new, old) for new in fresh for old in rest] + [(old, new) for old in rest for new in fresh],
        ),
        heads=checkpoint.heads,
        growth=GrowthFacts(
            figures,
            history_table(checkpoint.digest, checkpoint.lineage),
            tuple(name for name in absent if name in collection.items),
        ),
    )


def _read(folder: Path) -> tuple[GrowthRecipe, dict[str, Any]]:
    try:
        recipe = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))
        figures: dict[str, Any] = json.loads((folder / FIGURES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"no finished extension in {folder} ({error}). Expected recipe.json and {FIGURES}; extend the model first."
        ) from None
    return parse(GrowthRecipe, recipe), figures


def _items(
    recipe: GrowthRecipe,
    embedder: Embedder,
    groups: Groups,
    dataset: Dataset,
    links: Mapping[str, np.ndarray],
) -> tuple[dict[str, str], dict[str, list[Item]]]:
    """Return kind and items by modality; old items that are given as vectors or a store cannot be looked at."""
    owner = {anchor: name for name, anchor in groups.names.items()}
    kinds, items = {}, {}
    split = groups.features.split(recipe.evaluation.split)
    for name in links:
        store, old = groups.features.store(name), owner.get(name, name)
        given = old in recipe.vectors or old in recipe.stores
        kinds[name] = "vectors" if given else embedder.modalities.get(old) or recipe.encoders[name].kind
        keys = item_keys(store)
        by_key = {item.key: item for item in dataset.items.get(old, dataset.items.get(name, ()))}
        rows = np.unique(split.members[name].rows).tolist()
        items[name] = [by_key.get(keys[row]) or Item(keys[row], keys[row], None) for row in rows]
    return kinds, items


def _from_elsewhere(collection: Collection, embedder: Embedder, modality: str, first: int) -> Collection:
    """Return the items with those of a modality from the data that an ancestor was trained on, unless that is gone.

    Args:
        collection: the items so far.
        embedder: the model before its last step.
        modality: a modality without items.
        first: number of the first of their groups.
    """
    origins = [embedder.checkpoint.recipe]
    origins += [step["before"]["recipe"] for step in reversed(embedder.checkpoint.lineage) if "before" in step]
    origin = next((each for each in origins if modality in each.get("encoders", {})), None)
    if origin is None:
        return collection
    kinds = {name: entry["kind"] for name, entry in origin["encoders"].items()}
    try:
        dataset = load_dataset(parse(DataSpec, origin["data"], "data"), kinds)
    except DataError:
        return collection
    texts = _texts(dataset, kinds)
    wanted = {number for number, split in enumerate(dataset.splits) if split != "train"}
    pairs = [(item, group) for item, group in dataset.links[modality].tolist() if group in wanted]
    chosen = np.random.default_rng(0).permutation(sorted({item for item, _ in pairs}))[:ELSEWHERE].tolist()
    group_of = dict(pairs)
    shown = [replace(dataset.items[modality][number], source=texts.get(group_of[number], "")) for number in chosen]
    vectors, _ = embedder.encode_some(shown, modality)
    kept = np.flatnonzero(~np.isnan(vectors[:, 0]))
    if not len(kept):
        return collection
    numbers = [first + group_of[chosen[at]] for at in kept]
    return Collection(
        {**collection.kinds, modality: kinds[modality]},
        {**collection.items, modality: [shown[at] for at in kept]},
        {**collection.vectors, modality: torch.from_numpy(vectors[kept])},
        {**collection.links, modality: np.stack([np.arange(len(kept)), numbers], 1)},
    )


def _texts(dataset: Dataset, kinds: Mapping[str, str]) -> dict[int, str]:
    """Return the first text of every group that has one."""
    texts: dict[int, str] = {}
    for name in (name for name, kind in kinds.items() if kind == "text"):
        for item, group in dataset.links[name].tolist():
            texts.setdefault(group, str(dataset.items[name][item].read()))
    return texts


def _modality(
    name: str, collection: Collection, checkpoint: Checkpoint, parent: Checkpoint, groups: Groups
) -> ModalityFacts:
    owner = {anchor: old for old, anchor in groups.names.items()}
    model = parent if name in owner else checkpoint
    old = owner.get(name, name)
    new = name in groups.encoders
    store = groups.features.stores.get(name)
    return ModalityFacts(
        name,
        collection.kinds[name],
        encoder_name(model.encoders[old]),
        old in model.towers,
        token_shape(store) if new and store else f"embedding × {parent.method.dim}",
        store.rows if store else len(collection.items[name]),
        store.nbytes if store else 0,
    )
