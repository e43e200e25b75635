"""Hubs, the items near to everything, and coordinates of an embedding that lower their similarities."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from lightcrl.metrics.hubness import nearness

# Models on disk rely on these numbers.
WEIGHT = 0.5
"""w, the weight of crowding: that of the paper."""
SPREAD = 0.5
"""s, the value of a coordinate that belongs to another modality."""
FLOOR = 1.0
"""Standard deviations below the mean from which less crowding counts no less."""
BANK_PER_NEIGHBOUR = 64
"""Number of items of a bank for each nearest item that counts."""
NEIGHBOURS = (5, 64)
"""Least and greatest number of nearest items."""


class Hubs(nn.Module):
    """Coordinates that correct the similarities between modalities for hubs.

    A hub is among the first hits of queries that it does not answer. Each item is therefore judged by its own standard:

        <x', y'> ~ <x, y> - w (h(x) + h(y)),  h(x) = max(r(x) - c_m, f_m)

    The crowding r(x) is the mean cosine of x and its nearest training items of the other modalities, which the bank
    holds; c_m is its mean over training items of modality m. With w = 1/2 and no floor f_m, hits are ranked as in
    cross-domain similarity local scaling (arXiv 1710.04087, equation 4), with training items in place of the test
    queries (arXiv 2112.12777). The floor is there because an item far from all training items, such as the name of a
    class that they lack, is no better answer than an ordinary one (docs/LOG.md).

    The correction is part of the vectors, which keep their width and unit length, so every search by cosine has it. The
    coordinates that carry least are given up, one for each modality n of the bank; in an item of modality m the
    coordinate of n is

        s for n != m,  -(w / s) h(x) for n = m

    A modality without a bank, which was added later, has s - (w / s) h(x) / (M - 1) in all M of them, so that no older
    vector changes.

    Attributes:
        places: [M] the coordinates given up.
        centres: [M] c, by modality in the order of their names.
        floors: [M] f, `FLOOR` standard deviations below zero.
    """

    places: Tensor
    centres: Tensor
    floors: Tensor

    def __init__(self, sizes: Mapping[str, int], dim: int) -> None:
        """Make empty banks of `sizes` items by modality for embeddings of width `dim`."""
        super().__init__()
        self.names = tuple(sorted(sizes))
        for name in self.names:
            self.register_buffer(f"bank_{name}", torch.zeros(sizes[name], dim, dtype=torch.float16))
        self.register_buffer("places", torch.zeros(len(sizes), dtype=torch.int64))
        self.register_buffer("centres", torch.zeros(len(sizes)))
        self.register_buffer("floors", torch.zeros(len(sizes)))

    @classmethod
    def of(cls, leaves: Mapping[str, Tensor]) -> Self:
        """Return empty banks of the shapes of saved leaves, whose names begin with `bank_`."""
        banks = {leaf.removeprefix("bank_"): bank for leaf, bank in leaves.items() if leaf.startswith("bank_")}
        return cls({name: len(bank) for name, bank in banks.items()}, next(iter(banks.values())).shape[1])

    @classmethod
    @torch.no_grad()
    def measured(cls, banks: Mapping[str, Tensor]) -> Self:
        """Return the hubs of training items, unit vectors [B_m, d] by modality; two modalities or more."""
        dim = next(iter(banks.values())).shape[1]
        hubs = cls({name: len(vectors) for name, vectors in banks.items()}, dim)
        energy = torch.stack([banks[name].float().square().mean(0) for name in hubs.names]).sum(0)
        hubs.places.copy_(energy.argsort(stable=True)[: len(hubs.names)])
        for name in hubs.names:
            hubs.bank(name).copy_(banks[name])
        for number, name in enumerate(hubs.names):
            crowding = hubs.crowding(name, hubs.bank(name).float())
            hubs.centres[number], hubs.floors[number] = crowding.mean(), -FLOOR * crowding.std(correction=0)
        return hubs

    def bank(self, name: str) -> Tensor:
        """Return the bank [B, d] of a modality, float16."""
        bank: Tensor = getattr(self, f"bank_{name}")
        return bank

    def crowding(self, modality: str, vectors: Tensor) -> Tensor:
        """Return r [N] of unit vectors [N, d]: the mean over the other modalities of the nearness to their banks."""
        banks = [self.bank(name).to(vectors.dtype) for name in self.names if name != modality]
        return torch.stack([nearness(vectors, bank, neighbours(len(bank))) for bank in banks]).mean(0)

    def forward(self, modality: str, vectors: Tensor) -> Tensor:
        """Return corrected unit vectors [N, d] of the unit vectors [N, d] of a modality."""
        crowding, count = self.crowding(modality, vectors), len(self.names)
        if modality in self.names:
            number = self.names.index(modality)
            excess = torch.maximum(crowding - self.centres[number], self.floors[number])
            own = torch.arange(count, device=vectors.device) == number
            columns = torch.where(own, -(WEIGHT / SPREAD) * excess[:, None], SPREAD)
        else:
            excess = torch.maximum(crowding - self.centres.mean(), self.floors.mean())
            columns = (SPREAD - (WEIGHT / SPREAD) * excess / (count - 1))[:, None].expand(-1, count)
        return normalize(vectors.index_copy(1, self.places, columns.to(vectors.dtype)), dim=-1)


def neighbours(size: int) -> int:
    """Return the number of nearest items that count in a bank of `size` items."""
    least, most = NEIGHBOURS
    return min(size, most, max(least, round(size / BANK_PER_NEIGHBOUR)))
