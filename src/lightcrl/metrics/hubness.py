"""Hubness: how near an item is to the items of another modality in general."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 1024
"""Number of items that are compared with the bank at once: whole batches would take gigabytes of similarities."""


def nearness(vectors: Tensor, bank: Tensor, neighbours: int) -> Tensor:
    """Return the mean similarity [N] of vectors [N, d] to their nearest items of a bank [B, d]."""
    # A graph has no loop over a number of items that it does not know.
    parts = (vectors,) if torch.compiler.is_compiling() else torch.split(vectors, CHUNK)
    count = min(neighbours, len(bank))
    return torch.cat([(part @ bank.T).topk(count, 1).values.mean(1) for part in parts])
