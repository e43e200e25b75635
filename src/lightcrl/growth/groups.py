"""Groups of an extension: features of new items, and embeddings of old ones."""

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
from lightcrl.training.early import check_groups


@dataclass(frozen=True)
class Groups:
    """Data for the training and the evaluation of an extension.

    Attributes:
        features: encoder outputs of new modalities, and embeddings of old ones under the names in `names`.
        names: name of every old modality in `features`; it differs from its own where its encoder is replaced.
        encoders: encoders of the new modalities.
        rejected: rejected items with reasons.
    """

    features: Features
    names: Mapping[str, str]
    encoders: Mapping[str, Encoder]
    rejected: list[Rejection]

    def only(self, names: Collection[str]) -> Features:
        """Return the features of the modalities `names` alone."""
        return Features({name: store for name, store in self.features.stores.items() if name in names})


def open_groups(embedder: Embedder, recipe: GrowthRecipe, old: Collection[str], folder: Path, tell: Tell) -> Groups:
    """Read the data, encode new items, and embed those old items that are not given as vectors.

    Args:
        embedder: the model before the extension.
        recipe: recipe with the data, encoders, stores and vectors.
        old: modalities of the model that take part.
        folder: folder of the old embeddings.
        tell: function that is called with events.

    Raises:
        LightCRLError: the data, an encoder, a store or vectors cannot be used.
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
    """Return the data: items of new modalities and of encoded old ones, and ids of those given as vectors."""
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
