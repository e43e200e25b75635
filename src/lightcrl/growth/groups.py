"""The groups of an extension: new items as features, old ones as the embeddings that they have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from lightcrl.data import Dataset, Rejection, load_dataset
from lightcrl.embedder import Embedder
from lightcrl.encoders import load_encoder
from lightcrl.encoders.base import Encoder
from lightcrl.errors import StaleStoreError
from lightcrl.events import Tell
from lightcrl.features import Features, FeatureStore
from lightcrl.features.extract import encode_modality
from lightcrl.growth.anchors import anchor_items, anchor_vectors
from lightcrl.growth.spec import GrowthRecipe
from lightcrl.growth.vectors import read_vectors
from lightcrl.pipeline import check_groups


@dataclass(frozen=True)
class Groups:
    """What an extension is trained and measured on.

    Attributes:
        features: new modalities as their encoders see them; old ones as embeddings, under the names of `names`.
        names: old modality to its name here: its own, or another where it is given another encoder.
        encoders: of the new modalities.
        rejected: what was set aside.
    """

    features: Features
    names: Mapping[str, str]
    encoders: Mapping[str, Encoder]
    rejected: list[Rejection]

    def only(self, names: Collection[str]) -> Features:
        """The features of these modalities alone."""
        return Features({name: store for name, store in self.features.stores.items() if name in names})


def open_groups(embedder: Embedder, recipe: GrowthRecipe, old: Collection[str], folder: Path, tell: Tell) -> Groups:
    """Read the data, encode new items, and embed old ones where their embeddings are not given.

    Args:
        embedder: the model before.
        recipe: whose data, encoders, stores and vectors are read.
        old: modalities of the model that take part.
        folder: where embeddings are kept.
        tell: called with what happens.

    Raises:
        LightCRLError: data, encoders, stores or vectors that cannot be used.
    """
    names = {name: old_name(name, embedder.modalities) if name in recipe.encoders else name for name in old}
    dataset = read_groups(embedder, recipe, names)
    tell({"event": "data", "groups": dict(Counter(dataset.splits)), "rejected": len(dataset.rejected)})
    check_groups(dataset)
    rejected = list(dataset.rejected)
    encoders = {name: load_encoder(spec) for name, spec in recipe.encoders.items()}
    stores = {}

    def encode(encoder: Encoder, modality: str) -> FeatureStore:
        data, features = recipe.data, recipe.features
        done = encode_modality(
            encoder, dataset, modality, features, tell, strict=data.strict, max_rejected=data.max_rejected
        )
        rejected.extend(done.rejected)
        return done.store

    for name, encoder in encoders.items():
        stores[name] = encode(encoder, name)
    base, splits = embedder.checkpoint.digest, dict(zip(dataset.groups, dataset.splits, strict=True))
    for name, anchor in names.items():
        if name in recipe.vectors:
            vectors, ids = read_vectors(recipe.vectors[name], embedder.dim)
            place = folder / anchor
            stores[anchor], aside = anchor_vectors(vectors, ids, dataset, anchor, base, place, recipe.data.max_rejected)
            rejected += aside
            continue
        given = recipe.stores.get(name)
        store = open_store(embedder, name, given) if given else encode(embedder.encoder(name), name)
        stores[anchor] = anchor_items(embedder.method, name, store, splits, base, folder / anchor)
    return Groups(Features(stores), names, encoders, rejected)


def read_groups(embedder: Embedder, recipe: GrowthRecipe, names: Mapping[str, str]) -> Dataset:
    """The data of a recipe: items of new modalities and of old ones that are encoded, ids of those that are vectors."""
    kinds: dict[str, str] = {name: spec.kind for name, spec in recipe.encoders.items()}
    columns = dict(recipe.data.columns)
    for name, anchor in names.items():
        if name in recipe.vectors:
            kinds[anchor] = "text"
            columns[anchor] = recipe.vectors[name].column or recipe.data.columns.get(name, name)
        elif name not in recipe.stores and name not in kinds:
            kinds[name] = embedder.modalities[name]
    return load_dataset(recipe.data.model_copy(update={"columns": columns}), kinds)


def open_store(embedder: Embedder, modality: str, folder: str) -> FeatureStore:
    """A finished feature store of the model's own encoder.

    Raises:
        StaleStoreError: another encoder has made it.
        StoreError: there is none.
    """
    store, expected = FeatureStore(folder), embedder.checkpoint.fingerprints[modality]
    found = store.manifest.get("encoder", {}).get("fingerprint")
    if found != expected or modality in embedder.checkpoint.towers:
        trained = ", and was trained further" if modality in embedder.checkpoint.towers else ""
        raise StaleStoreError(
            f"the store in {folder} is of an encoder with fingerprint {found}; that of {modality!r} has {expected}"
            f"{trained}. Leave it out of [stores], so that items are encoded as the model does."
        )
    return store


def old_name(modality: str, taken: Collection[str]) -> str:
    """What the old embeddings of a modality are called that is given another encoder.

    >>> old_name("image", ["image", "text"])
    'old image'
    """
    name = f"old {modality}"
    while name in taken:
        name = f"old {name}"
    return name
