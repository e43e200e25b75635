"""Groups of an extension: features of new items, and embeddings of old ones.

All that can be refused is refused before the first item is encoded: data without old items, groups without partner,
vectors of another width or model, stores of another encoder, encoders whose files have changed, batches larger than
the data.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from lightcrl.data import Dataset, Rejection, load_dataset
from lightcrl.data.base import check_rejected
from lightcrl.embedder import Embedder
from lightcrl.encoders import load_encoder
from lightcrl.encoders.base import Encoder, fingerprint
from lightcrl.errors import DataError, GrowthError, ModalityError, StaleStoreError
from lightcrl.events import Tell
from lightcrl.features import Features, FeatureStore
from lightcrl.features.extract import encode_each, encode_views
from lightcrl.features.table import Split
from lightcrl.features.views import settled_views
from lightcrl.growth.anchors import anchor_items, anchor_vectors
from lightcrl.growth.spec import GrowthRecipe
from lightcrl.growth.vectors import read_vectors
from lightcrl.training.early import report_groups
from lightcrl.training.plan import check_batch

LEAST = 2
"""Least number of training groups with a new item and an old one: a contrastive loss needs two."""


@dataclass(frozen=True)
class Groups:
    """Data for the training and the evaluation of an extension.

    Attributes:
        features: encoder outputs of new modalities, and embeddings of old ones under the names in `names`.
        names: name of every old modality in `features`; it differs from its own where its encoder is replaced.
        encoders: encoders of the new modalities.
        rejected: rejected items with reasons.
        data: digest of the groups, their splits and items.
        items: features of the old modalities that are given as items, by their own names.
    """

    features: Features
    names: Mapping[str, str]
    encoders: Mapping[str, Encoder]
    rejected: list[Rejection]
    data: str
    items: Mapping[str, FeatureStore]

    def only(self, names: Collection[str]) -> Features:
        """Return the features of the modalities `names` alone."""
        return Features({name: store for name, store in self.features.stores.items() if name in names})


def open_groups(
    embedder: Embedder, recipe: GrowthRecipe, partners: Sequence[str], others: Sequence[str], folder: Path, tell: Tell
) -> Groups:
    """Read the data, encode new items, and embed those old items that are not given as vectors.

    Args:
        embedder: the model before the extension.
        recipe: recipe with the data, encoders, stores and vectors.
        partners: modalities of the model in the training.
        others: modalities of the model that are only measured.
        folder: folder of the old embeddings.
        tell: function that is called with events.

    Raises:
        LightCRLError: the data, an encoder, a store or vectors cannot be used.
    """
    old = (*partners, *others)
    names = {name: old_name(name, embedder.modalities) if name in recipe.encoders else name for name in old}
    dataset = read_old_and_new(embedder, recipe, names, tell)
    encoders = {name: load_encoder(spec) for name, spec in recipe.encoders.items()}
    stores, rejected, encoded = _open_given(embedder, recipe, names, dataset, folder)
    rejected += dataset.rejected
    rejected += check_partners(dataset, recipe, partners, names, stores)
    # An encoder whose files have changed is refused here, not after hours.
    old_encoders = {name: embedder.encoder(name) for name in encoded}

    encode = partial(encode_each, strict=recipe.data.strict, max_rejected=recipe.data.max_rejected)
    fresh, aside = encode(encoders, dataset, recipe.features, tell)
    kept, more = encode(old_encoders, dataset, recipe.features, tell)
    rejected += [*aside, *more]
    limit = recipe.data.max_rejected
    specs = settled_views(recipe.encoders, dataset)
    viewed = encode_views(fresh, encoders, specs, dataset, recipe.features, tell, max_rejected=limit)
    splits = dict(zip(dataset.groups, dataset.splits, strict=True))
    for name, store in kept.items():
        place = folder / names[name]
        stores[names[name]] = anchor_items(embedder.method, name, store, splits, embedder.fingerprint, place)
    features = Features({**viewed, **{name: stores[name] for name in names.values()}})
    return Groups(features, names, encoders, rejected, data_digest(dataset), kept)


def _open_given(
    embedder: Embedder, recipe: GrowthRecipe, names: Mapping[str, str], dataset: Dataset, folder: Path
) -> tuple[dict[str, FeatureStore], list[Rejection], list[str]]:
    """Return embeddings from stores and vectors, rejected items, and the old modalities that are given as items."""
    stores: dict[str, FeatureStore] = {}
    rejected: list[Rejection] = []
    items: list[str] = []
    base, limit = embedder.fingerprint, recipe.data.max_rejected
    splits = dict(zip(dataset.groups, dataset.splits, strict=True))
    for name, anchor in names.items():
        place = folder / anchor
        if name in recipe.vectors:
            vectors, at = read_vectors(recipe.vectors[name], embedder.dim, name, embedder.line)
            stores[anchor], aside = anchor_vectors(vectors, at, dataset, anchor, base, place, limit)
            rejected += aside
        elif name in recipe.stores:
            store = open_store(embedder, name, recipe.stores[name])
            stores[anchor] = anchor_items(embedder.method, name, store, splits, base, place)
        else:
            items.append(name)
    return stores, rejected, items


def check_partners(
    dataset: Dataset,
    recipe: GrowthRecipe,
    partners: Sequence[str],
    names: Mapping[str, str],
    stores: Mapping[str, FeatureStore],
) -> list[Rejection]:
    """Return new items in groups without any other modality; they take no part.

    Args:
        dataset: groups with the new items.
        recipe: recipe of the extension.
        partners: old modalities in the training.
        names: name of every old modality in the data.
        stores: embeddings that are given, by that name.

    Raises:
        GrowthError: fewer than `LEAST` training groups have both a new item and one of `partners`.
        TrainingError: a batch is larger than the training groups with a new item and another.
        DataError: `data.strict`, and a group has no partner.
        TooManyRejectedError: more groups have no partner than `data.max_rejected` allows.
    """
    groups = {name: {dataset.groups[group] for group in links[:, 1].tolist()} for name, links in dataset.links.items()}
    groups |= {name: set(store.metadata()["group"].to_pylist()) for name, store in stores.items()}
    train = {name for name, split in zip(dataset.groups, dataset.splits, strict=True) if split == "train"}
    # The old embeddings of a replaced modality stand in the groups of its new items.
    met = {old: groups[names[old]] if names[old] in groups else groups.get(old, set()) for old in names}
    trained = set().union(*(met[name] for name in partners))
    rejected: list[Rejection] = []
    count = 0
    for new in sorted(recipe.encoders):
        both = groups[new] & trained & train
        if len(both) < LEAST:
            raise GrowthError(
                f"{len(both)} training groups have an item of {new!r} and one of an old modality "
                f"({', '.join(partners)}); expected {LEAST} or more: a new modality is aligned with old ones by groups "
                "with both. Check data.key (rows of equal key are one group), data.columns, and the ids of vectors."
            )
        mates = set().union(*met.values(), *(groups[name] for name in recipe.encoders if name != new))
        lonely = sorted(groups[new] - mates)
        count += len(groups[new])
        rejected += [Rejection(name, "no partner", "no item of another modality in the group", new) for name in lonely]
    if rejected and recipe.data.strict:
        raise DataError(f"{rejected[0]}. strict = true stops at the first such group; strict = false sets it aside.")
    check_rejected(rejected, count - len(rejected), recipe.data.max_rejected)
    sides = [trained, *(groups[new] for new in recipe.encoders)]
    check_batch(recipe.training, sum(sum(name in side for side in sides) > 1 for name in train))
    return rejected


def read_old_and_new(embedder: Embedder, recipe: GrowthRecipe, names: Mapping[str, str], tell: Tell) -> Dataset:
    """Return the data: items of new modalities and of encoded old ones, and ids of those given as vectors.

    Raises:
        GrowthError: the data lacks an old modality.
        LightCRLError: see `load_dataset`.
    """
    kinds: dict[str, str] = {name: spec.kind for name, spec in recipe.encoders.items()}
    columns = dict(recipe.data.columns)
    for name, anchor in names.items():
        if name in recipe.vectors:
            kinds[anchor] = "text"
            columns[anchor] = recipe.vectors[name].column or recipe.data.columns.get(name, name)
        elif name not in recipe.stores and name not in kinds:
            kinds[name] = embedder.modalities[name]
    try:
        dataset = load_dataset(recipe.data.model_copy(update={"columns": columns}), kinds)
    except ModalityError as error:
        raise GrowthError(
            f"{error} The extension expects items of {', '.join(kinds)} in the data. Old modalities that take part are "
            "named by partners (by default all of the model's); their columns by data.columns; [stores] and [vectors] "
            "give them without items."
        ) from None
    empty = [name for name in names.values() if name in dataset.items and not dataset.items[name]]
    if empty:
        raise GrowthError(
            f"the data has no item of {', '.join(empty)}, which the extension is to be aligned with. Check "
            "data.columns, name the old modalities that the data has as partners, or give [stores] or [vectors]."
        )
    report_groups(dataset, tell)
    return dataset


def met_groups(split: Split, fresh: Collection[str]) -> np.ndarray:
    """Return the numbers [G] of the groups of a split that have a new item and one of another modality."""
    present = {name: items.counts > 0 for name, items in split.members.items()}
    new = np.any([present[name] for name in fresh], axis=0)
    return np.flatnonzero(new & (np.sum(list(present.values()), axis=0) > 1))


def data_digest(dataset: Dataset) -> str:
    """Return a digest of groups, splits and items, whatever encodes them."""
    items = {name: [item.key for item in items] for name, items in sorted(dataset.items.items())}
    links = {name: pairs.tolist() for name, pairs in sorted(dataset.links.items())}
    return fingerprint([list(dataset.groups), dataset.splits, items, links])


def open_store(embedder: Embedder, modality: str, folder: str) -> FeatureStore:
    """Open a feature store that the model's own encoder has written.

    Raises:
        StaleStoreError: the store is of another encoder, or the model has trained its encoder further.
        StoreError: there is no store in `folder`.
    """
    store, expected = FeatureStore(folder), embedder.checkpoint.fingerprints[modality]
    actual = store.manifest.get("encoder", {}).get("fingerprint")
    if actual != expected or modality in embedder.checkpoint.towers:
        trained = ", and was trained further" if modality in embedder.checkpoint.towers else ""
        raise StaleStoreError(
            f"the store in {folder} is of an encoder with fingerprint {actual}; that of {modality!r} has {expected}"
            f"{trained}. Leave it out of [stores], so that items are encoded as the model does."
        )
    return store


def old_name(modality: str, taken: Collection[str]) -> str:
    """Return the name of the old embeddings of a modality whose encoder is replaced.

    >>> old_name("image", ["image", "text"])
    'old image'
    """
    name = f"old {modality}"
    while name in taken:
        name = f"old {name}"
    return name
