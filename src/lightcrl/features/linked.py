"""Stores without a copy: vectors that lie in `.npy` files as a store would have them are linked, not written again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl.data.base import Dataset, Item
from lightcrl.data.vectors import ArrayRow, open_array
from lightcrl.encoders.base import Encoder
from lightcrl.encoders.vectors import GivenVectors
from lightcrl.errors import DataError
from lightcrl.features.store import Shard, write_linked
from lightcrl.files.remote import Folder, LocalFolder

PART = 65_536
"""Number of rows whose values are checked at a time."""


@dataclass(frozen=True)
class Linked:
    """The shards of a store that are links.

    Attributes:
        shards: the shards, one per file.
        dtype: dtype of the files.
    """

    shards: list[Shard]
    dtype: str


def link_shards(folder: Folder, mark: str, encoder: Encoder, dataset: Dataset, modality: str) -> Linked | None:
    """Write the shards of a store around existing files; None if their layout does not allow it.

    Required are: every row of each file is an item, in order; values are float16 or float32 in C order, and finite;
    the store is on this machine's disk. The store then has the precision of the files.

    Args:
        folder: folder of the store.
        mark: fingerprint of the store.
        encoder: encoder of the modality.
        dataset: groups and items.
        modality: the modality.
    """
    files = linkable_files(folder, encoder, dataset.items[modality])
    if not files or not isinstance(folder, LocalFolder):
        return None
    shards, first = [], 0
    for number, file in enumerate(files):
        array = open_array(file)
        lines = metadata_lines(dataset, modality, first, first + len(array))
        shards.append(write_linked(folder, number, mark, file, array, lines))
        first += len(array)
    return Linked(shards, open_array(files[0]).dtype.name)


def linkable_files(folder: Folder, encoder: Encoder, items: Sequence[Item]) -> list[Path]:
    """Return the files that a store in `folder` can link to; none if it has to copy."""
    if not isinstance(encoder, GivenVectors) or not isinstance(folder, LocalFolder):
        return []
    files = whole_files(items)
    return files if files and _alike([open_array(file) for file in files], encoder) else []


def metadata_lines(dataset: Dataset, modality: str, first: int, last: int) -> dict[str, list[Any]]:
    """Return the metadata of the items from `first` up to `last` of a modality, a line per item and group."""
    items = dataset.items[modality][first:last]
    links = [(item - first, group, split) for item, group, split in dataset.named_links(modality, first, last)]
    return {
        "row": [row for row, _, _ in links],
        "item": [items[row].key for row, _, _ in links],
        "group": [group for _, group, _ in links],
        "split": [split for _, _, split in links],
        "source": [items[row].source for row, _, _ in links],
    }


def whole_files(items: Sequence[Item]) -> list[Path]:
    """Return the files whose rows are exactly the items, in order; none otherwise."""
    if not all(isinstance(item.raw, ArrayRow) for item in items):
        return []
    files = []
    for path, members in groupby(items, key=lambda item: item.raw.path):
        rows = [item.raw.row for item in members]
        try:
            whole = path not in files and rows == list(range(len(open_array(path))))
        except DataError:
            whole = False
        if not whole:
            return []
        files.append(path)
    return files


def _alike(arrays: Sequence[np.ndarray], encoder: GivenVectors) -> bool:
    """Return true if all arrays have one layout, that of a store of this encoder."""
    first = arrays[0]
    layout = {(array.dtype.str, array.ndim, array.shape[1:]) for array in arrays}
    if len(layout) > 1 or first.dtype.str not in ("<f2", "<f4") or first.shape[-1] != encoder.dim:
        return False
    tokens = first.shape[1] if first.ndim == 3 else 1
    shaped = tokens > encoder.slots if encoder.sequence else encoder.slots in (1, tokens)
    return shaped and all(array.flags.c_contiguous and _finite(array) for array in arrays)


def _finite(array: np.ndarray) -> bool:
    return all(np.isfinite(array[start : start + PART]).all() for start in range(0, len(array), PART))
