"""Features of several modalities side by side, with their groups, split by split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightcrl.data.base import Item
from lightcrl.data.naming import digests, number_names
from lightcrl.errors import EmptyDatasetError, ModalityError
from lightcrl.features.base import Store
from lightcrl.features.store import FeatureStore
from lightcrl.tokens import TokenSpec

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Members:
    """The items of a modality in a split, by group.

    Attributes:
        rows: rows of the feature store [L], ordered by group.
        groups: group of each row [L], numbers within the split, ascending.
        starts: start of each group in `rows`, [G + 1].
    """

    rows: np.ndarray
    groups: np.ndarray
    starts: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Return the number of items of each group, [G]."""
        return np.diff(self.starts)


@dataclass(frozen=True)
class Split:
    """The groups of a split.

    Attributes:
        count: G, number of groups.
        members: items by modality.
    """

    count: int
    members: dict[str, Members]

    def __len__(self) -> int:
        return self.count

    @property
    def usable(self) -> np.ndarray:
        """Return the numbers [U] of the groups that training can use.

        A contrastive loss needs items of two modalities; in a split with a single modality, the items have labels.
        """
        present = np.zeros(len(self), np.int8)
        for members in self.members.values():
            present += members.counts > 0
        return np.flatnonzero(present >= min(2, len(self.members)))

    def subset(self, groups: np.ndarray) -> Split:
        """Return the split restricted to groups [S], renumbered in ascending order; rows stay those of the stores."""
        chosen = np.unique(groups)
        members = {}
        for modality, items in self.members.items():
            kept = np.isin(items.groups, chosen)
            members[modality] = make_members(items.rows[kept], np.searchsorted(chosen, items.groups[kept]), len(chosen))
        return Split(len(chosen), members)


class Features:
    """Open feature stores by modality, and the groups that tie their items together.

    Attributes:
        stores: stores by modality.
        splits: `"train"`, `"dev"`, `"test"`, as far as there are groups.
        items: raw items of the modalities whose encoders are trained.
        states: stores of the states that their towers read, as far as there are any (`features/states.py`).
    """

    def __init__(
        self,
        stores: Mapping[str, Store],
        items: Mapping[str, Sequence[Item]] | None = None,
        states: Mapping[str, FeatureStore] | None = None,
    ) -> None:
        """Read the groups of all items from the stores' own metadata."""
        self.stores: dict[str, Store] = dict(stores)
        self.items, self.states = dict(items or {}), dict(states or {})
        rows, numbers, belongs = _read_groups(list(self.stores.values()))
        count = len(belongs)
        self.splits: dict[str, Split] = {}
        for code, split in enumerate(SPLITS):
            chosen = belongs == code
            if not chosen.any():
                continue
            local = np.cumsum(chosen, dtype=np.int32 if count < 2**31 else np.int64) - 1
            members = {}
            for modality, store_rows, groups in zip(self.stores, rows, numbers, strict=True):
                here = chosen[groups]
                members[modality] = make_members(store_rows[here], local[groups[here]], int(chosen.sum()))
            self.splits[split] = Split(int(chosen.sum()), members)

    def names(self, split: str) -> list[str]:
        """Return the names of the groups of a split of the stores, read from their metadata."""
        seen: dict[str, None] = {}
        for store in self.stores.values():
            for lines in store.lines(("row", "group", "split")):
                seen.update(dict.fromkeys(lines.filter(pc.equal(lines["split"], split))["group"].to_pylist()))
        return list(seen)

    @property
    def specs(self) -> dict[str, TokenSpec]:
        """The shape of the tokens, by modality."""
        return {modality: TokenSpec(store.dim, store.slots, store.sequence) for modality, store in self.stores.items()}

    def split(self, name: str) -> Split:
        """Return the groups of a split.

        Raises:
            EmptyDatasetError: the split has no groups.
        """
        if name not in self.splits:
            raise EmptyDatasetError(
                f"the data has no groups in split {name!r}; it has {', '.join(self.splits) or 'none'}. Give "
                f"data.{name}, or data.{name}_fraction above 0."
            )
        return self.splits[name]

    def store(self, modality: str) -> Store:
        """Return the store of a modality.

        Raises:
            ModalityError: there is no such modality.
        """
        if modality not in self.stores:
            raise ModalityError(f"no modality {modality!r} in the features; they have {', '.join(self.stores)}.")
        return self.stores[modality]

    def in_memory(self, limit: float) -> Features:
        """Return the features, read into memory and checked if they have at most `limit` bytes in total."""
        if sum(store.nbytes for store in self.stores.values()) > limit:
            return self
        return self.replace_stores({modality: store.in_memory() for modality, store in self.stores.items()})

    def replace_stores(self, stores: Mapping[str, Store]) -> Features:
        """Return features with the same groups, and other stores of the same rows for some modalities."""
        return self._with({**self.stores, **stores}, self.splits)

    def replace_split(self, name: str, split: Split) -> Features:
        """Return features with the same stores, and other groups in a split."""
        return self._with(self.stores, {**self.splits, name: split})

    @classmethod
    def of(
        cls,
        stores: Mapping[str, Store],
        splits: Mapping[str, Split],
        items: Mapping[str, Sequence[Item]] | None = None,
        states: Mapping[str, FeatureStore] | None = None,
    ) -> Features:
        """Make features from stores and given groups, in place of the groups in the stores' metadata."""
        made = object.__new__(cls)
        made.stores, made.splits = dict(stores), dict(splits)
        made.items, made.states = dict(items or {}), dict(states or {})
        return made

    def _with(self, stores: Mapping[str, Store], splits: Mapping[str, Split]) -> Features:
        """Return a copy without reading the groups again."""
        return Features.of(stores, splits, self.items, self.states)


def make_members(rows: np.ndarray, groups: np.ndarray, count: int) -> Members:
    """Make members from rows and their groups in any order; `count` groups in total."""
    later, equal = groups[1:] > groups[:-1], groups[1:] == groups[:-1]
    if not (later | (equal & (rows[1:] >= rows[:-1]))).all():
        order = np.lexsort((rows, groups))
        rows, groups = rows[order], groups[order]
    starts = np.searchsorted(groups, np.arange(count + 1, dtype=groups.dtype))
    small = max(int(rows.max(initial=0)), len(rows), count) < 2**31
    kind = np.int32 if small else np.int64
    return Members(rows.astype(kind, copy=False), groups.astype(kind, copy=False), starts.astype(kind))


def _read_groups(stores: Sequence[Store]) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """Read by store the row and the group's number of every line of metadata, and the number of every group's split."""
    rows: list[np.ndarray] = []
    names: list[np.ndarray] = []
    splits: list[np.ndarray] = []
    for store in stores:
        store_rows, digest, split = _lines(store)
        rows.append(store_rows)
        # Modalities mostly have the same groups line by line; a single array then serves all.
        names.append(next((other for other in names if np.array_equal(other, digest)), digest))
        splits.append(split)
        del digest
    numbers, count = number_names(names)
    belongs = np.zeros(count, np.int8)
    for groups, split in zip(numbers, splits, strict=True):
        belongs[groups] = split
    return rows, numbers, belongs


def _lines(store: Store) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the row, the digest [2] of the group's name and the split's number of every line of a store's metadata."""
    count = store.count_lines()
    rows = np.empty(count, np.int32 if store.rows < 2**31 else np.int64)
    names, splits = np.empty((count, 2), np.uint64), np.empty(count, np.int8)
    first = 0
    for lines in store.lines(("row", "group", "split")):
        here = slice(first, first := first + len(lines))
        rows[here] = lines["row"].to_numpy()
        names[here] = digests(lines["group"].combine_chunks())
        splits[here] = pc.index_in(lines["split"], pa.array(SPLITS)).fill_null(-1).to_numpy()
    return rows, names, splits
