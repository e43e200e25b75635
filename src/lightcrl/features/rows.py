"""A store without its tokens: for a modality whose raw items are read, and whose features are not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch

from lightcrl.features.base import Store
from lightcrl.tokens import TokenBatch, TokenSpec

BARE = TokenSpec(1)
"""Shape of the tokens of `Rows`: a single zero."""


@dataclass(frozen=True)
class Rows:
    """The rows and groups of a store; each item has a single token, zero, so that nothing is read or kept in memory.

    Attributes:
        whole: the store with its tokens.
    """

    whole: Store
    dim: int = BARE.dim
    slots: int = BARE.slots
    sequence: bool = BARE.sequence
    memory: bool = True
    longest: int = 1
    nbytes: int = 0

    @property
    def fingerprint(self) -> str:
        """Digest of encoder, tokens, dtype and data."""
        return self.whole.fingerprint

    @property
    def rows(self) -> int:
        """Number of items."""
        return self.whole.rows

    @property
    def tokens(self) -> int:
        """Number of tokens of all items."""
        return self.whole.rows

    @property
    def cut(self) -> np.ndarray:
        """Rows of texts that exceeded the encoder's length, ascending."""
        return self.whole.cut

    def gather(self, rows: np.ndarray, *, sequence: bool = True) -> TokenBatch:
        """Return zeros [B, 1, 1]."""
        return TokenBatch.full(torch.zeros(len(rows), 1, BARE.dim))

    def metadata(self) -> pa.Table:
        """Return the metadata of the store."""
        return self.whole.metadata()

    def lines(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the named columns of the metadata, part by part."""
        return self.whole.lines(columns)

    def count_lines(self) -> int:
        """Return the number of lines of the metadata."""
        return self.whole.count_lines()

    def in_memory(self) -> Store:
        """Return the store itself."""
        return self
