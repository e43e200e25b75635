"""States of towers: what enters an encoder's first trained block, in a feature store like any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lightcrl.data.base import Dataset, Item
from lightcrl.encoders.base import Encoder
from lightcrl.encoders.tower import TuningSpec, state_encoder
from lightcrl.errors import ItemError, NoCutError
from lightcrl.events import Tell
from lightcrl.features.extract import encode_modality, named
from lightcrl.features.packing import PACKED
from lightcrl.features.spec import FeaturesSpec
from lightcrl.features.store import FeatureStore

# Number of items that are traced, and from which the size of all is estimated; a quarter of them is compared.
SAMPLE = 16


def prepared_sample(encoder: Encoder, items: Sequence[Item]) -> list[Any]:
    """Return some evenly spaced items, prepared; unreadable ones are left out."""
    sample = []
    for place in np.unique(np.linspace(0, len(items) - 1, SAMPLE).astype(int)).tolist():
        try:
            sample.append(encoder.prepare(items[place].read()))
        except ItemError:
            continue
    return sample


def store_states(
    encoders: Mapping[str, Encoder],
    tuning: Mapping[str, TuningSpec],
    dataset: Dataset,
    features: FeaturesSpec,
    tell: Tell,
) -> dict[str, FeatureStore]:
    """Return the stores of the states that towers read, by modality, made or reused; none for those of raw items.

    The event `states` tells a store's size before any item is encoded, or the reason why there is none.

    Raises:
        EncoderError: an encoder cannot be trained.
        LightCRLError: see `extract`.
    """
    made = {name: _store(encoders[name], spec, dataset, name, features, tell) for name, spec in tuning.items()}
    return {name: store for name, store in made.items() if store is not None}


def _store(
    encoder: Encoder, spec: TuningSpec, dataset: Dataset, modality: str, features: FeaturesSpec, tell: Tell
) -> FeatureStore | None:
    items = dataset.items[modality]
    sample = prepared_sample(encoder, items)

    def report(size: int, reason: str = "") -> None:
        tell({"event": "states", "modality": modality, "items": len(items), "bytes": size, "reason": reason})

    try:
        if not sample:
            raise NoCutError("none of the first items can be read")
        states = state_encoder(encoder, spec, sample)
        tokens = states.encode(sample).mask.sum().item() / len(sample)
    except NoCutError as error:
        report(0, str(error))
        return None
    # States are inputs of trained blocks, and hold sizes that 8 bits cannot.
    if features.dtype == PACKED:
        features = features.model_copy(update={"dtype": "float16"})
    report(round(len(items) * tokens * states.dim * np.dtype(features.dtype).itemsize))
    # Items that the encoder itself set aside are set aside here too, and were counted there.
    told = named(tell, f"{modality} states")
    return encode_modality(states, dataset, modality, features, told, max_rejected=1.0).store
