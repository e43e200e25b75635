"""Scores of queries and vectors: exact scores of pairs, and quick scores of whole blocks with an error bound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor

from lightcrl.machine import multiplies_bfloat16, multiplies_int8

if TYPE_CHECKING:
    from lightcrl.metrics.sketches import Sketches

BLOCK = 4096
"""Number of vectors per block, so that they and their scores stay in the cache until they are read again."""

ALONE = 3
"""Number of queries up to which each is multiplied with the stored vectors separately: reading those dominates."""

CODED = 7
"""The same number for vectors with codes: at eight queries, one product of all takes as long."""

CODED_INT8 = 2
"""The same number where the processor has products in 8 bits: one of all takes as long at three queries."""

CODE_WIDTH = 16
"""Number that the width of vectors with codes is a multiple of."""

BLOCK_ALONE = 1_048_576

BLOCK_INT8 = 16_384
"""Number of vectors per block of a product in 8 bits."""

INT8 = 64
"""Number of queries up to which a product in 8 bits is quicker than one in bfloat16, whose error is smaller."""

LONGEST = 1.01
"""Greatest length of a vector: 1, with room for rounding to float16."""

PAIRS = 4096
"""Number of pairs that are scored exactly at a time."""

ROUNDING = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""Greatest relative error of rounding a number."""


def exact_scores(queries: Tensor, vectors: Tensor, rows: Tensor, places: Tensor) -> Tensor:
    """Return scores [P] float32 <queries_r, vectors_p> of pairs, summed in float64 and rounded once.

    A score depends only on its pair, not on other pairs.

    Args:
        queries: queries [Q, d] float64.
        vectors: vectors [N, d].
        rows: numbers of queries [P].
        places: numbers of vectors [P].
    """
    scores = torch.empty(len(rows), device=vectors.device)
    for start in range(0, len(rows), PAIRS):
        part = slice(start, start + PAIRS)
        # The conversion of float16 to float64 is faster through float32.
        products = vectors.index_select(0, places[part]).float().double().mul_(queries.index_select(0, rows[part]))
        scores[part] = products.sum(1).float()
    return scores


@final
@dataclass(frozen=True)
class Codes:
    """Vectors rounded to 8 bits: a vector is about its codes times its scale.

    Reading them takes half the time of reading float16, and reading is what a single query waits for. Products of some
    queries in 8 bits take less than half the time of bfloat16 where the processor has instructions for them.

    Attributes:
        codes: [N, d] int8.
        scales: [N] bfloat16.
        error: greatest distance of a vector to its codes times its scale.
        sketches: the sketches of the vectors, if there are any.
    """

    codes: Tensor
    scales: Tensor
    error: float
    sketches: Sketches | None = None

    @classmethod
    def of(cls, vectors: Tensor) -> Codes:
        """Round finite vectors [N, d], each to 255 steps between its greatest number and the negative of it."""
        values = vectors.float()
        # A scale that bfloat16 rounded down would need codes beyond 127: the factor exceeds that rounding.
        scales = (values.abs().amax(1) * (1.005 / 127)).clamp_min(torch.finfo(torch.bfloat16).tiny).bfloat16()
        codes = (values / scales.float()[:, None]).round().to(torch.int8)
        error = (values - codes.float() * scales.float()[:, None]).double().norm(dim=1)
        return cls(codes, scales, float(error.max()) if len(values) else 0.0)

    def __getitem__(self, rows: slice) -> Codes:
        return Codes(self.codes[rows], self.scales[rows], self.error, self.sketches and self.sketches[rows])


@final
class QuickScores:
    """Scores of some queries with one block of vectors after another, in the fastest precision of the device.

    With q' and v' the rounded values of a query and a vector of at most `LONGEST`, the Cauchy-Schwarz inequality gives

        |<q, v> - <q', v'>| <= |q - q'| |v| + |q'| |v - v'|

    and a sum of d products in float32 errs by at most d roundings. `error` is the sum of both. On a CPU, vectors with
    codes are multiplied as those: v' is then the codes times their scale, and |v - v'| at most the error of the codes.
    One or two queries are multiplied one by one, up to `INT8` together and in 8 bits too.

    Attributes:
        dtype: dtype of the scores, in which their final rounding is no part of `error`.
        error: error bound of each query, [Q] float32.
        step: number of vectors per block.
    """

    def __init__(self, queries: Tensor, vectors: Tensor, codes: Codes | None = None) -> None:
        """Prepare queries [Q, d] float64 for vectors [N, d] float16 or float32 on the same device, and their codes."""
        device, count = vectors.device.type, len(queries)
        coded = codes is not None and device == "cpu" and multiplies_codes(vectors.shape[1])
        int8 = coded and count <= INT8 and multiplies_int8()
        self._alone = device == "cpu" and count <= (CODED_INT8 if int8 else CODED if coded else ALONE)
        self._vectors, self._codes = vectors, codes if int8 or (coded and self._alone) else None
        self.step = BLOCK_ALONE if self._alone else BLOCK_INT8 if int8 else BLOCK
        self.dtype = vectors.dtype if self._alone else quickest(device)
        self._scales: Tensor | None = None
        of_vectors = 0.0
        if self._codes is not None:
            self.dtype, of_vectors = torch.bfloat16 if self._alone else torch.float32, self._codes.error
        elif ROUNDING[self.dtype] > ROUNDING[vectors.dtype]:
            of_vectors = ROUNDING[self.dtype]
        elif self.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
            of_vectors = 2 * ROUNDING[torch.bfloat16]  # the processor may round both operands
        if self._codes is None or self._alone:
            self._queries = queries.to(self.dtype)
            rounded = self._queries.double()
        else:
            self._scales = (
                (queries.abs().amax(1, keepdim=True) / 127).float().clamp_min(torch.finfo(torch.float32).tiny)
            )
            self._queries = (queries / self._scales).round().to(torch.int8)
            rounded = self._queries * self._scales.double()
        of_sum = 2 * vectors.shape[1] * ROUNDING[torch.float32]
        error = (queries - rounded).norm(dim=1) + rounded.norm(dim=1) * (of_vectors + of_sum)
        self.error = (LONGEST * error + 1e-6).float()

    @property
    def coded_alone(self) -> bool:
        """True if each query is multiplied by itself, with the codes of the vectors."""
        return self._alone and self._codes is not None

    def at(self, row: int, places: Tensor) -> Tensor:
        """Return scores [P] of the query `row` and the vectors at `places` [P], if `coded_alone`."""
        assert self._codes is not None
        # `index_select` copies rows; indexing copies number by number.
        picked = Codes(self._codes.codes.index_select(0, places), self._codes.scales[places], self._codes.error)
        return multiply_codes(self._queries[row : row + 1], picked)[0]

    def __call__(self, start: int) -> Tensor:
        """Return scores [Q, n] of the block of vectors that begins at `start`."""
        if self._codes is not None:
            coded = self._codes[start : start + self.step]
            if self._scales is None:
                return torch.cat([multiply_codes(query[None], coded) for query in self._queries])
            products = torch._int_mm(self._queries, coded.codes.T).float()
            return products.mul_(coded.scales.float()).mul_(self._scales)
        block = self._vectors[start : start + self.step]
        if self._alone:
            scores = block.new_empty(len(self._queries), len(block))
            for query, row in zip(self._queries, scores, strict=True):
                torch.mv(block, query, out=row)
            return scores
        if self.dtype != block.dtype:
            block = block.float().to(self.dtype)  # float16 to bfloat16 is faster through float32
        return self._queries @ block.T


def quickest(device: str) -> torch.dtype:
    """Return the dtype of a device's fastest products: bfloat16 on a CPU that supports it, otherwise float32.

    GPUs stay with float32: they may round partial sums of bfloat16 to bfloat16.
    """
    return torch.bfloat16 if device == "cpu" and multiplies_bfloat16(device) else torch.float32


def multiply_codes(query: Tensor, coded: Codes) -> Tensor:
    """Return scores [1, N] bfloat16, summed in float32, of a query [1, d] bfloat16 and coded vectors."""
    scores: Tensor = torch.ops.aten._weight_int8pack_mm(query, coded.codes, coded.scales)
    return scores


def multiplies_codes(dim: int) -> bool:
    """Return True if torch has vector instructions of this processor for codes of a width.

    At a width that is no multiple of `CODE_WIDTH` its kernel reads beyond the end of a row.
    """
    return dim % CODE_WIDTH == 0 and torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
