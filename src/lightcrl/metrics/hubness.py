"""Hubness: items that are near to everything, and similarities that are corrected for it by a bank of known items."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor

NEIGHBOURS = 10
"""Number of nearest items of the bank, as in the paper."""
CHUNK = 1024
"""Number of items that are compared with the bank at once."""


def without_hubs(
    vectors: Mapping[str, Tensor], bank: Mapping[str, Tensor], neighbours: int = NEIGHBOURS
) -> dict[str, Tensor]:
    """Return vectors whose products between modalities m and n are corrected for hubs.

        <x', y'> = <x, y> - (r_n(x) + r_m(y)) / 2

    r_n(x) is the mean similarity of x to its nearest items of modality n in the bank: half of CSLS (Conneau et al.,
    arXiv 1710.04087, equation 4), whose order of items is the same. Each pair of modalities has two more columns, and
    products within a modality have no meaning.

    Args:
        vectors: unit vectors [N_m, d] by modality.
        bank: unit vectors [B_m, d] of the same modalities, of items that are neither queries nor searched.
        neighbours: number of nearest items; all of a smaller bank.
    """
    columns = {name: [values.float()] for name, values in vectors.items()}
    for left, right in combinations(vectors, 2):
        for name, other, place in ((left, right, 0), (right, left, 1)):
            parts = torch.split(vectors[name].float(), CHUNK)
            halves = -torch.cat([nearness(part, bank[other].float(), neighbours) for part in parts]) / 2
            pair = [halves, torch.ones_like(halves)]
            columns[name] += [torch.stack(pair[::-1] if place else pair, 1)]
        for name in vectors.keys() - {left, right}:
            columns[name] += [vectors[name].new_zeros(len(vectors[name]), 2, dtype=torch.float32)]
    return {name: torch.cat(parts, 1) for name, parts in columns.items()}


def nearness(vectors: Tensor, bank: Tensor, neighbours: int) -> Tensor:
    """Return the mean similarity [N] of vectors [N, d] to their nearest items of a bank [B, d]."""
    return (vectors @ bank.T).topk(min(neighbours, len(bank)), 1).values.mean(1)
