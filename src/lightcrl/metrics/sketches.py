"""Sketches: a few numbers of each vector, whose inner products are upper bounds of those of the vectors.

Let B [d, p - 1] be a basis of the directions in which the vectors are longest, and

    sketch(v) = [B^T v, (|v|^2 - |B^T v|^2)^(1/2)]

What B leaves of two vectors has an inner product of at most the product of their lengths (Cauchy and Schwarz), so

    <q, v> <= <sketch(q), sketch(v)>

Embeddings lie near few directions, so most vectors are ruled out by reading p of d numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from lightcrl.metrics.scores import CODE_WIDTH, Codes

LEAST = 256
"""Least width of vectors that get sketches: of narrower ones they would save little."""

GREATEST = 128
"""Greatest width of a sketch."""

BLOCK = 4096
"""Number of vectors sketched at a time, in float64."""


@final
@dataclass(frozen=True)
class Sketches:
    """The sketches of N vectors.

    Attributes:
        basis: B [d, p - 1] float32; no vector gets longer by it.
        codes: the sketches [N, p] in 8 bits.
    """

    basis: Tensor
    codes: Codes

    def __getitem__(self, rows: slice) -> Sketches:
        return Sketches(self.basis, self.codes[rows])


def sketch_width(dim: int) -> int:
    """Return p, the width of sketches of vectors of a width, about a quarter; 0 if they get none."""
    return min(GREATEST, dim // 4 // CODE_WIDTH * CODE_WIDTH) if dim >= LEAST else 0


def fit_basis(vectors: Tensor) -> Tensor:
    """Return the basis B [d, p - 1] float32 for vectors like those of a sample [N, d]."""
    values = vectors.double()
    directions: Tensor = torch.linalg.eigh(values.T @ values)[1].flip(1)[:, : sketch_width(vectors.shape[1]) - 1]
    # The bound holds for any B that makes no vector longer: rounding must not.
    return (directions * (1 - 1e-6)).float().contiguous()


def sketch(vectors: Tensor, basis: Tensor) -> Tensor:
    """Return the sketches [N, p] float64 of vectors [N, d]."""
    parts = [torch.zeros(0, basis.shape[1] + 1, dtype=torch.float64)]
    for start in range(0, len(vectors), BLOCK):
        values = vectors[start : start + BLOCK].double()
        inside = values @ basis.double()
        outside = (values.square().sum(1, keepdim=True) - inside.square().sum(1, keepdim=True)).clamp_min(0).sqrt()
        parts.append(torch.cat([inside, outside], 1))
    return torch.cat(parts)
