"""Crowding: the nearness of an item to the items of the other modality in general."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor, nn

from lightcrl.metrics.hubness import nearness

NEAREST = 32
"""Number of nearest ones that count."""


@final
class Crowding(nn.Module):
    """The mean cosine of an item and its nearest training items of the other modality, r(x).

    An item near to everything, a hub, is among the first hits of queries that it does not answer. Similarity less half
    of r of both items ranks it by its own standard: cross-domain similarity local scaling (arXiv 1710.04087), with
    training items as the bank of queries (arXiv 2112.12777).

    Attributes:
        bank: unit vectors of the training items, [M, d] float16; empty at first, and r is 0.
    """

    sized: ClassVar[tuple[str, ...]] = ("bank",)
    bank: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("bank", torch.zeros(0, dim, dtype=torch.float16))

    def take(self, vectors: Tensor) -> None:
        """Keep the unit vectors [M, d] of training items."""
        self.bank = vectors.to(self.bank)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return r [N] of unit vectors [N, d]."""
        if not len(self.bank):
            return vectors.new_zeros(vectors.shape[:1])
        return nearness(vectors, self.bank.to(vectors), NEAREST)
