"""A store without its tokens: for a modality whose raw items are read, and whose features are not."""

from __future__ import annotations

import numpy as np
import torch

from lightcrl.features.base import Store, WrappedStore
from lightcrl.tokens import TokenBatch, TokenSpec

BARE = TokenSpec(1)
"""Shape of the tokens of `Rows`: a single zero."""


class Rows(WrappedStore):
    """The rows and groups of a store; each item has a single token, zero, so that nothing is read or kept in memory."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.dim, self.slots, self.sequence = BARE.dim, BARE.slots, BARE.sequence
        self.longest, self.tokens, self.nbytes = 1, self.rows, 0

    def gather(self, rows: np.ndarray, *, sequence: bool = True) -> TokenBatch:
        """Return zeros [B, 1, 1]."""
        return TokenBatch.full(torch.zeros(len(rows), 1, BARE.dim))
