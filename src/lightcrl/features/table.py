"""Features of several modalities side by side: who belongs to whom, split by split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from lightcrl.data.base import Item
from lightcrl.errors import EmptyDatasetError, ModalityError
from lightcrl.features.store import FeatureStore
from lightcrl.methods.base import TokenSpec

# Stores up to this size are held in memory.
MEMORY_LIMIT = 4 * 2**30


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
        names: [G] names of the groups.
        members: by modality.
    """

    names: np.ndarray
    members: dict[str, Members]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def usable(self) -> np.ndarray:
        """[U] numbers of the groups that training can use.

        A contrastive loss needs items of two modalities; where the split has a single one, its items have labels.
        """
        present = np.stack([members.counts > 0 for members in self.members.values()])
        return np.flatnonzero(present.sum(0) >= min(2, len(present)))

    def subset(self, groups: np.ndarray) -> Split:
        """The split of these groups [S] alone, numbered anew in ascending order; rows stay those of the stores."""
        chosen = np.unique(groups)
        members = {}
        for modality, found in self.members.items():
            kept = np.isin(found.groups, chosen)
            members[modality] = make_members(found.rows[kept], np.searchsorted(chosen, found.groups[kept]), len(chosen))
        return Split(self.names[chosen], members)


class Features:
    """Open feature stores by modality, and the groups that tie their items together.

    Attributes:
        stores: by modality.
        splits: `"train"`, `"dev"`, `"test"`, as far as there are groups.
        items: raw items of the modalities whose encoders are to be trained.
    """

    def __init__(self, stores: Mapping[str, FeatureStore], items: Mapping[str, Sequence[Item]] | None = None) -> None:
        """Read who belongs to whom from the stores' own metadata."""
        self.stores = dict(stores)
        self.items = dict(items or {})
        tables = {modality: store.metadata() for modality, store in self.stores.items()}
        seen: dict[str, str] = {}
        for table in tables.values():
            seen.update(zip(table["group"].to_pylist(), table["split"].to_pylist(), strict=True))
        self.splits: dict[str, Split] = {}
        for split in ("train", "dev", "test"):
            names = np.array([name for name, found in seen.items() if found == split], dtype=object)
            numbers = {name: number for number, name in enumerate(names)}
            if not numbers:
                continue
            members = {}
            for modality, table in tables.items():
                here = table.filter(pc.equal(table["split"], split))
                groups = np.array([numbers[name] for name in here["group"].to_pylist()], dtype=np.int64)
                members[modality] = make_members(here["row"].to_numpy(), groups, len(names))
            self.splits[split] = Split(names, members)

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

    def store(self, modality: str) -> FeatureStore:
        """The store of a modality.

        Raises:
            ModalityError: there is none.
        """
        if modality not in self.stores:
            raise ModalityError(f"no modality {modality!r} in the features; they have {', '.join(self.stores)}.")
        return self.stores[modality]

    def in_memory(self) -> Features:
        """The same features, those up to `MEMORY_LIMIT` bytes read into memory and checked."""
        return self._with(
            {
                modality: FeatureStore(store.folder, store.fingerprint, memory=True)
                if store.nbytes <= MEMORY_LIMIT and not store.memory
                else store
                for modality, store in self.stores.items()
            },
            self.splits,
        )

    def replace_stores(self, stores: Mapping[str, FeatureStore]) -> Features:
        """The same groups, with other stores of the same rows for some modalities."""
        return self._with({**self.stores, **stores}, self.splits)

    def replace_split(self, name: str, split: Split) -> Features:
        """The same stores with other groups in one split."""
        return self._with(self.stores, {**self.splits, name: split})

    @classmethod
    def of(
        cls,
        stores: Mapping[str, FeatureStore],
        splits: Mapping[str, Split],
        items: Mapping[str, Sequence[Item]] | None = None,
    ) -> Features:
        """Stores with groups of one's own in the place of those that the stores' metadata tell."""
        made = object.__new__(cls)
        made.stores, made.splits, made.items = dict(stores), dict(splits), dict(items or {})
        return made

    def _with(self, stores: Mapping[str, FeatureStore], splits: Mapping[str, Split]) -> Features:
        """Without reading who belongs to whom again."""
        return Features.of(stores, splits, self.items)


def make_members(rows: np.ndarray, groups: np.ndarray, count: int) -> Members:
    """Members from rows and their groups in any order; `count` groups in all."""
    order = np.lexsort((rows, groups))
    starts = np.searchsorted(groups[order], np.arange(count + 1))
    return Members(rows[order], groups[order], starts)
