"""Hubness: how near an item is to the items of another modality in general."""

from __future__ import annotations

from torch import Tensor


def nearness(vectors: Tensor, bank: Tensor, neighbours: int) -> Tensor:
    """Return the mean similarity [N] of vectors [N, d] to their nearest items of a bank [B, d]."""
    return (vectors @ bank.T).topk(min(neighbours, len(bank)), 1).values.mean(1)
