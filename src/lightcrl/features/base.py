"""The interface of a modality's features for training and evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, Self

import numpy as np
import pyarrow as pa

from lightcrl.tokens import TokenBatch


class Store(Protocol):
    """Items of a modality by row: stored ones (`FeatureStore`), or items that a tower encodes on demand (`LiveStore`).

    Attributes:
        fingerprint: digest of encoder, tokens, dtype and data.
        rows: number of items.
        dim: D, width of a token.
        slots: see `Encoder.slots`.
        sequence: see `Encoder.sequence`.
        memory: true if nothing is read from files.
        longest: number of tokens of the longest item.
        tokens: number of tokens of all items.
        nbytes: size of the stored values in bytes.
        cut: rows of texts that exceeded the encoder's length, ascending.
    """

    @property
    def fingerprint(self) -> str: ...
    @property
    def rows(self) -> int: ...
    @property
    def dim(self) -> int: ...
    @property
    def slots(self) -> int: ...
    @property
    def sequence(self) -> bool: ...
    @property
    def memory(self) -> bool: ...
    @property
    def longest(self) -> int: ...
    @property
    def tokens(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def cut(self) -> np.ndarray: ...

    def gather(self, rows: np.ndarray, *, sequence: bool = True) -> TokenBatch:
        """Return tokens of the items at `rows` [B] in that order; without `sequence` only the slots."""

    def metadata(self) -> pa.Table:
        """Return columns row, item, group, split, source: a line per item and group, in order of rows."""

    def lines(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the named columns of the metadata, `row` the first of them, part by part."""

    def count_lines(self) -> int:
        """Return the number of lines of the metadata."""

    def in_memory(self) -> Store:
        """Return the same items, held in memory."""


class WrappedStore:
    """A `Store` over another one: what a subclass does not change is that of the other. It reads nothing from files.

    Attributes:
        wrapped: the other store.
    """

    memory: bool = True

    def __init__(self, wrapped: Store) -> None:
        self.wrapped = wrapped
        self.fingerprint, self.rows, self.cut = wrapped.fingerprint, wrapped.rows, wrapped.cut
        self.dim, self.slots, self.sequence = wrapped.dim, wrapped.slots, wrapped.sequence
        self.longest, self.tokens, self.nbytes = wrapped.longest, wrapped.tokens, wrapped.nbytes

    def metadata(self) -> pa.Table:
        """Return the metadata of the other store."""
        return self.wrapped.metadata()

    def lines(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the named columns of its metadata."""
        return self.wrapped.lines(columns)

    def count_lines(self) -> int:
        """Return the number of lines of its metadata."""
        return self.wrapped.count_lines()

    def in_memory(self) -> Self:
        """Return this store: there is nothing to read."""
        return self


def item_keys(store: Store) -> list[str]:
    """Return the keys of a store's items in order of rows, [rows]."""
    keys: dict[int, str] = {}
    for lines in store.lines(("row", "item")):
        keys.update(zip(lines["row"].to_pylist(), lines["item"].to_pylist(), strict=True))
    return [keys[row] for row in range(store.rows)]


def rows_by_item(store: Store) -> dict[str, int]:
    """Return the row of each item of a store by the item's key."""
    return {key: row for row, key in enumerate(item_keys(store))}
