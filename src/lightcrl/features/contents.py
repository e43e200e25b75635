"""The digest of the data that a model is trained on."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow.compute as pc

from lightcrl.data.naming import digests
from lightcrl.features.base import Store
from lightcrl.features.table import Features


def training_data(features: Features, split: str = "train") -> dict[str, Any]:
    """Return digest and size of a split: `digest` of its groups and items in any order, `groups`, and `items` by name.

    The items are identified as in the feature store: a text by its content, a file by its path below the data's root,
    its size and its modification time.
    """
    members = features.split(split)
    state = hashlib.blake2b(digest_size=16)
    for modality in sorted(features.stores):
        state.update(modality.encode() + b"\0")
        rows = members.members[modality].rows
        state.update(_lines(features.store(modality), split, rows).tobytes())
    items = {name: len(np.unique(each.rows)) for name, each in members.members.items()}
    return {"digest": state.hexdigest(), "groups": len(members), "items": items}


def _lines(store: Store, split: str, rows: np.ndarray) -> np.ndarray:
    """Return digests [N, 4] of the group and the item of every line of a split whose row is in `rows`, sorted."""
    parts = [np.empty((0, 4), np.uint64)]
    for lines in store.lines(("row", "group", "item", "split")):
        kept = lines.filter(pc.equal(lines["split"], split))
        kept = kept.filter(np.isin(kept["row"].to_numpy(), rows))
        parts.append(np.hstack([digests(kept[name].combine_chunks()) for name in ("group", "item")]))
    names = np.concatenate(parts)
    return np.ascontiguousarray(names[np.lexsort(names.T)])
