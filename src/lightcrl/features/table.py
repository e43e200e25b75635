"""Features of several modalities side by side: who belongs to whom, split by split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lightcrl.data.base import Item
from lightcrl.errors import EmptyDatasetError, ModalityError
from lightcrl.features.base import Store
from lightcrl.features.naming import digests, number_names
from lightcrl.tokens import TokenSpec

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Members:
    """The items of one modality in one split, by group.

    Attributes:
        rows: [L] rows of the feature store, ordered by group.
        groups: [L] the group of each, numbers within the split, ascending.
        starts: [G + 1] where each group begins in `rows`.
    """

    rows: np.ndarray
    groups: np.ndarray
    starts: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """[G] items of each group."""
        return np.diff(self.starts)


@dataclass(frozen=True)
class Split:
    """The groups of one split.

    Attributes:
        count: G, how many there are.
        members: by modality.
    """

    count: int
    members: dict[str, Members]

    def __len__(self) -> int:
        return self.count

    @property
    def usable(self) -> np.ndarray:
        """[U] numbers of the groups that training can use.

        A contrastive loss needs items of two modalities; where the split has a single one, its items have labels.
        """
        present = np.zeros(len(self), np.int8)
        for members in self.members.values():
            present += members.counts > 0
        return np.flatnonzero(present >= min(2, len(self.members)))

    def subset(self, groups: np.ndarray) -> Split:
        """The split of these groups [S] alone, numbered anew in ascending order; rows stay those of the stores."""
        chosen = np.unique(groups)
        members = {}
        for modality, found in self.members.items():
            kept = np.isin(found.groups, chosen)
            members[modality] = make_members(found.rows[kept], np.searchsorted(chosen, found.groups[kept]), len(chosen))
        return Split(len(chosen), members)


class Features:
    """Open feature stores by modality, and the groups that tie their items together.

    Attributes:
        stores: by modality.
        splits: `"train"`, `"dev"`, `"test"`, as far as there are groups.
        items: raw items of the modalities whose encoders are to be trained.
    """

    def __init__(self, stores: Mapping[str, Store], items: Mapping[str, Sequence[Item]] | None = None) -> None:
        """Read who belongs to whom from the stores' own metadata."""
        self.stores: dict[str, Store] = dict(stores)
        self.items = dict(items or {})
        rows, numbers, belongs = _read_groups(list(self.stores.values()))
        count = len(belongs)
        self.splits: dict[str, Split] = {}
        for code, split in enumerate(SPLITS):
            chosen = belongs == code
            if not chosen.any():
                continue
            local = np.cumsum(chosen, dtype=np.int32 if count < 2**31 else np.int64) - 1
            members = {}
            for modality, found, groups in zip(self.stores, rows, numbers, strict=True):
                here = chosen[groups]
                members[modality] = make_members(found[here], local[groups[here]], int(chosen.sum()))
            self.splits[split] = Split(int(chosen.sum()), members)

    def names(self, split: str) -> list[str]:
        """Names of the groups of one of the stores' own splits, read from their metadata."""
        seen: dict[str, None] = {}
        for store in self.stores.values():
            for lines in store.lines(("row", "group", "split")):
                seen.update(dict.fromkeys(lines.filter(pc.equal(lines["split"], split))["group"].to_pylist()))
        return list(seen)

    @property
    def specs(self) -> dict[str, TokenSpec]:
        """By modality, the shape of its tokens."""
        return {modality: TokenSpec(store.dim, store.slots, store.sequence) for modality, store in self.stores.items()}

    def split(self, name: str) -> Split:
        """The groups of a split.

        Raises:
            EmptyDatasetError: there are none.
        """
        if name not in self.splits:
            raise EmptyDatasetError(
                f"the data has no groups in split {name!r}; it has {', '.join(self.splits) or 'none'}. Give "
                f"data.{name}, or data.{name}_fraction above 0."
            )
        return self.splits[name]

    def store(self, modality: str) -> Store:
        """The store of a modality.

        Raises:
            ModalityError: there is none.
        """
        if modality not in self.stores:
            raise ModalityError(f"no modality {modality!r} in the features; they have {', '.join(self.stores)}.")
        return self.stores[modality]

    def in_memory(self, limit: float) -> Features:
        """The same features, read into memory and checked if all of them together have at most `limit` bytes."""
        if sum(store.nbytes for store in self.stores.values()) > limit:
            return self
        return self.replace_stores({modality: store.in_memory() for modality, store in self.stores.items()})

    def replace_stores(self, stores: Mapping[str, Store]) -> Features:
        """The same groups, with other stores of the same rows for some modalities."""
        return self._with({**self.stores, **stores}, self.splits)

    def replace_split(self, name: str, split: Split) -> Features:
        """The same stores with other groups in one split."""
        return self._with(self.stores, {**self.splits, name: split})

    @classmethod
    def of(
        cls,
        stores: Mapping[str, Store],
        splits: Mapping[str, Split],
        items: Mapping[str, Sequence[Item]] | None = None,
    ) -> Features:
        """Stores with groups of one's own in the place of those that the stores' metadata tell."""
        made = object.__new__(cls)
        made.stores, made.splits, made.items = dict(stores), dict(splits), dict(items or {})
        return made

    def _with(self, stores: Mapping[str, Store], splits: Mapping[str, Split]) -> Features:
        """Without reading who belongs to whom again."""
        return Features.of(stores, splits, self.items)


def make_members(rows: np.ndarray, groups: np.ndarray, count: int) -> Members:
    """Members from rows and their groups in any order; `count` groups in all."""
    later, equal = groups[1:] > groups[:-1], groups[1:] == groups[:-1]
    if not (later | (equal & (rows[1:] >= rows[:-1]))).all():
        order = np.lexsort((rows, groups))
        rows, groups = rows[order], groups[order]
    starts = np.searchsorted(groups, np.arange(count + 1, dtype=groups.dtype))
    small = max(int(rows.max(initial=0)), len(rows), count) < 2**31
    kind = np.int32 if small else np.int64
    return Members(rows.astype(kind, copy=False), groups.astype(kind, copy=False), starts.astype(kind))


def _read_groups(stores: Sequence[Store]) -> tuple[list[np.ndarray], list[np.ndarray], np.ndarray]:
    """By store the row and the group's number of every line of metadata, and the number of every group's split."""
    rows: list[np.ndarray] = []
    names: list[np.ndarray] = []
    splits: list[np.ndarray] = []
    for store in stores:
        found, digest, split = _lines(store)
        rows.append(found)
        # Modalities mostly name the same groups line by line; then one array does for all.
        names.append(next((other for other in names if np.array_equal(other, digest)), digest))
        splits.append(split)
        del digest
    numbers, count = number_names(names)
    belongs = np.zeros(count, np.int8)
    for groups, split in zip(numbers, splits, strict=True):
        belongs[groups] = split
    return rows, numbers, belongs


def _lines(store: Store) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every line of a store's metadata its row, the digest [2] of its group's name, and its split's number."""
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
