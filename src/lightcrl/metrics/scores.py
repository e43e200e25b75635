"""Scores of queries and vectors: exact ones of pairs, and quick ones of whole blocks with a bound of their error."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from lightcrl.machine import multiplies_bfloat16

BLOCK = 4096
"""Vectors scored at once, so that they and their scores are still in the cache when they are read again."""

ALONE = 3
"""Up to so many queries are multiplied one by one with the vectors as they are stored: reading those takes the time."""

BLOCK_ALONE = 1_048_576

LONGEST = 1.01
"""Greatest length of a vector: 1, with room for its rounding to float16."""

PAIRS = 4096
"""Pairs scored exactly at a time."""

ROUNDING = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""How far a number moves at most when it is rounded, as a share of it."""


def exact_scores(queries: Tensor, vectors: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """[P] float32 <queries_r, vectors_p> of pairs, summed in float64 and rounded once.

    A score depends on its pair alone, not on what is scored beside it.

    Args:
        queries: [Q, d] float64.
        vectors: [N, d].
        rows: [P] numbers of queries.
        places: [P] numbers of vectors.
    """
    found = torch.empty(len(rows), device=vectors.device)
    for start in range(0, len(rows), PAIRS):
        part = slice(start, start + PAIRS)
        # float16 becomes float64 sooner by way of float32.
        products = vectors[places[part]].float().double().mul_(queries[rows[part]])
        found[part] = products.sum(1).float()
    return found


@final
class QuickScores:
    """Scores of some queries with one block of vectors after another, in the precision that is quickest here.

    With q' and v' what a query and a vector of at most `LONGEST` are rounded to, Cauchy and Schwarz give

        |<q, v> - <q', v'>| <= |q - q'| |v| + |q'| |v - v'|

    and a sum of d products in float32 errs by d roundings at most. `error` is both together.

    Attributes:
        dtype: of the product and of the scores. These are rounded to it after all, which `error` leaves out.
        error: [Q] float32.
        step: vectors of a block.
    """

    def __init__(self, queries: Tensor, vectors: Tensor) -> None:
        """Prepare queries [Q, d] float64 for vectors [N, d] float16 or float32 on the same device."""
        self._alone = len(queries) <= ALONE and vectors.device.type == "cpu"
        self._vectors = vectors
        self.dtype = vectors.dtype if self._alone else quickest(vectors.device.type)
        self.step = BLOCK_ALONE if self._alone else BLOCK
        self._queries = queries.to(self.dtype)
        rounded = self._queries.double()
        of_vectors = ROUNDING[self.dtype] if ROUNDING[self.dtype] > ROUNDING[vectors.dtype] else 0.0
        if self.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
            of_vectors += 2 * ROUNDING[torch.bfloat16]  # what the processor may round both to on the way
        of_sum = 2 * vectors.shape[1] * ROUNDING[torch.float32]
        error = (queries - rounded).norm(dim=1) + rounded.norm(dim=1) * (of_vectors + of_sum)
        self.error = (LONGEST * error + 1e-6).float()

    def __call__(self, start: int) -> Tensor:
        """[Q, n] of the block of vectors that begins at `start`."""
        block = self._vectors[start : start + self.step]
        if self._alone:
            scores = block.new_empty(len(self._queries), len(block))
            for query, row in zip(self._queries, scores, strict=True):
                torch.mv(block, query, out=row)
            return scores
        if self.dtype != block.dtype:
            block = block.float().to(self.dtype)  # float16 becomes bfloat16 sooner by way of float32
        return self._queries @ block.T


def quickest(device: str) -> torch.dtype:
    """What a device multiplies quickest: bfloat16 where a CPU has it, else float32.

    Graphics processors stay with float32: they may round partial sums of bfloat16 to bfloat16.
    """
    return torch.bfloat16 if device == "cpu" and multiplies_bfloat16(device) else torch.float32
