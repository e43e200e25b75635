"""What a modality's features are to training and evaluation, wherever they come from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa

from lightcrl.tokens import TokenBatch


class Store(Protocol):
    """Items of one modality by row: stored ones (`FeatureStore`), or ones that a tower encodes now (`LiveStore`).

    Attributes:
        fingerprint: stands for encoder, tokens, dtype and data.
        rows: items in it.
        dim: D, width of a token.
        slots: see `Encoder.slots`.
        sequence: see `Encoder.sequence`.
        memory: whether nothing is read from files.
        longest: tokens of the longest item.
        tokens: tokens of all items.
        nbytes: size of the stored values in bytes.
        cut: rows of the texts whose end the encoder left out, ascending.
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
        """Tokens of the items at `rows` [B] in that order; without `sequence` the slots alone."""

    def metadata(self) -> pa.Table:
        """Columns row, item, group, split, source: one line per item and group, in order of rows."""

    def lines(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """The named columns of the metadata, `row` the first of them, part by part."""

    def count_lines(self) -> int:
        """How many lines the metadata has."""

    def in_memory(self) -> Store:
        """The same items, held in memory."""
