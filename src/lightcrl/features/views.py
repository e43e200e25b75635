"""Further views of training items: a store per view beside that of the plain items, and all of them as one store."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow.compute as pc
import torch

from lightcrl.data.base import Dataset, Item
from lightcrl.data.naming import digests, number_names
from lightcrl.encoders.base import EncoderSpec, fingerprint
from lightcrl.encoders.views import View, view_mark
from lightcrl.features.base import Store, WrappedStore
from lightcrl.features.reading import Excerpt
from lightcrl.features.store import FeatureStore
from lightcrl.tokens import TokenBatch

MARK = 17
"""Length of the end of a view's key: "+" and its mark; the rest is the key of its item."""
AUTO, AUTO_ITEMS = 3, 20_000
"""The number of views that `"auto"` stands for, and up to how many training pictures."""


def view_item(item: Item, number: int, spec: EncoderSpec) -> Item:
    """Return view `number` of an item; view 0 is the item."""
    if number == 0:
        return item
    return Item(f"{item.key}+{view_mark(number, spec)}", item.source, View(item.raw, number, spec))


def settled_views(
    specs: Mapping[str, EncoderSpec], dataset: Dataset, tuned: Collection[str] = ()
) -> dict[str, EncoderSpec]:
    """Return the tables of the encoders with a number of views in place of `"auto"`.

    It is `AUTO` for pictures of a model if the training split has at most `AUTO_ITEMS` of them: for more the encoding
    costs more than the gain is worth (docs/LOG.md). Otherwise it is 1, also for `tuned` modalities, whose encoders
    read every item anew, and for the user's own classes, which may read paths alone.
    """
    settled = dict(specs)
    for modality, spec in specs.items():
        if spec.views.count == "auto":
            viewed = spec.kind == "image" and not (spec.builtin or spec.own) and modality not in tuned
            few = viewed and len(np.unique(_training_links(dataset, modality)[:, 0])) <= AUTO_ITEMS
            count = AUTO if few else 1
            settled[modality] = spec.model_copy(update={"views": spec.views.model_copy(update={"count": count})})
    return settled


def view_dataset(dataset: Dataset, modality: str, number: int, spec: EncoderSpec) -> Dataset:
    """Return the training items of a modality as views of that number, with their training groups."""
    links = _training_links(dataset, modality)
    chosen, places = np.unique(links[:, 0], return_inverse=True)
    items = [view_item(dataset.items[modality][item], number, spec) for item in chosen.tolist()]
    return replace(dataset, items={modality: items}, links={modality: np.stack([places, links[:, 1]], 1)}, rejected=[])


def _training_links(dataset: Dataset, modality: str) -> np.ndarray:
    """Return the links [L, 2] (item, group) of a modality in the training split."""
    links = dataset.links[modality]
    training: np.ndarray = links[np.array([split == "train" for split in dataset.splits], bool)[links[:, 1]]]
    return training


class ViewedStore(WrappedStore):
    """The store of a modality's items, with further views of them as rows behind its own; a `features.Store`.

    Rows, tokens and metadata are those of the plain items, so that no evaluation meets a view. Training replaces rows
    by those of `addresses`.

    Attributes:
        plain: store of the items.
        views: stores of view 1, 2 and so on, of the same shape.
        stores: all stores, that of the plain items first.
    """

    def __init__(self, plain: FeatureStore, views: Sequence[FeatureStore]) -> None:
        super().__init__(plain)
        self.plain, self.views, self.stores = plain, tuple(views), (plain, *views)
        self.fingerprint = fingerprint([store.fingerprint for store in self.stores])
        self.memory = all(store.memory for store in self.stores)
        self.longest = max(store.longest for store in self.stores)
        self.nbytes = sum(store.nbytes for store in self.stores)

    @cached_property
    def addresses(self) -> np.ndarray:
        """Row of each view of each item, [V, rows]; an item without a view, as outside of training, has its own row."""
        rows, keys = _keys(self.plain)
        table = np.tile(np.arange(self.rows), (len(self.views) + 1, 1))
        for number, (first, store) in enumerate(zip(self._first[1:], self.views, strict=True), 1):
            places, names = _keys(store, MARK)
            (own, others), count = number_names([keys, names])
            row = np.full(count, -1)
            row[own] = rows
            table[number, row[others]] = first + places
        return table

    @cached_property
    def _first(self) -> np.ndarray:
        """First row of every store."""
        return np.cumsum([0, self.plain.rows, *(store.rows for store in self.views)])[:-1]

    def in_memory(self) -> Self:
        """Return the same stores, read into memory and checked."""
        return type(self)(self.plain.in_memory(), [store.in_memory() for store in self.views])

    def gather(self, rows: np.ndarray, *, sequence: bool = True) -> TokenBatch:
        """Return tokens of the items and views at `rows` [B] in that order, as `FeatureStore.gather`."""
        rows = np.asarray(rows)
        owners = np.searchsorted(self._first, rows, "right") - 1
        if not owners.any():
            return self.plain.gather(rows, sequence=sequence)
        places = [np.flatnonzero(owners == number) for number in range(len(self.stores))]
        parts = [
            (torch.from_numpy(at), store.gather(rows[at] - first, sequence=sequence))
            for at, first, store in zip(places, self._first, self.stores, strict=True)
            if len(at)
        ]
        most = max(tokens.mask.shape[1] for _, tokens in parts)
        values = parts[0][1].values.new_zeros(len(rows), most, self.dim)
        mask = torch.zeros(len(rows), most, dtype=torch.bool)
        for at, tokens in parts:
            count = tokens.mask.shape[1]
            values[:, :count][at], mask[:, :count][at] = tokens.values, tokens.mask
        return TokenBatch(values, mask)

    def read(self, rows: np.ndarray, *, sequence: bool = True) -> Excerpt:
        """Read items and views at `rows` [B], each once, as `FeatureStore.read`."""
        rows = np.unique(rows)
        cuts = np.searchsorted(rows, [*self._first, np.iinfo(np.int64).max])
        parts = [
            store.read(rows[low:high] - first, sequence=sequence)
            for store, first, low, high in zip(self.stores, self._first, cuts[:-1], cuts[1:], strict=True)
        ]
        ends = np.cumsum([0, *(part.offsets[-1] for part in parts)])
        offsets = [part.offsets[1:] + end for part, end in zip(parts, ends, strict=False)]
        values = np.concatenate([part.values for part in parts])
        return Excerpt(rows, values, np.concatenate([ends[:1], *offsets]), self.slots)


def view_addresses(stores: Mapping[str, Store]) -> dict[str, np.ndarray]:
    """Return `ViewedStore.addresses` by modality, of the modalities with views."""
    return {name: store.addresses for name, store in stores.items() if isinstance(store, ViewedStore)}


def _keys(store: FeatureStore, mark: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return row and digest [2] of the key, without its last `mark` characters, of every line of the metadata."""
    parts = [
        (lines["row"].to_numpy(), digests(pc.utf8_slice_codeunits(lines["item"].combine_chunks(), 0, -mark or None)))
        for lines in store.lines(("row", "item"))
    ]
    return np.concatenate([rows for rows, _ in parts]), np.concatenate([names for _, names in parts])
