"""Exact search for the nearest vectors, without an exact score for every vector and without sorting.

Blocks of vectors get quick scores, with a bound of the error (`QuickScores`). Vectors that may be among the k best by
that bound get exact scores; no other vector can be among them. The result equals that of exact scores alone, for any
block size. Where vectors have sketches, most are ruled out before they are read.
"""

from __future__ import annotations

from typing import final

import numpy as np
import torch
from torch import Tensor

from lightcrl.errors import ShapeError
from lightcrl.metrics.scores import BLOCK, ROUNDING, Codes, QuickScores, exact_scores
from lightcrl.metrics.sketches import sketch

QUERIES = 1024
"""Number of queries searched at once."""

PIECE = 512
"""Number of quick scores that are compared one by one only if the greatest of them is great enough."""

BOUNDED = 524_288
"""Greatest number of vectors per block of sketches: each block raises the score that the next must reach."""

SHARE = 0.3
"""Share of a block's vectors that sketches may leave; beyond, all are read."""

SEEN = 1 / 16
"""Share of the first block whose best vectors get exact scores before all others are compared with them."""

SEEN_BOUNDED = 1 / 4
"""The same share of a block of sketches: their bounds exclude few vectors unless the score to reach is high."""

MANY = 8
"""Multiple of k: a query with more candidates in one block gets exact scores of the k best of them first."""


def nearest(
    queries: Tensor, vectors: Tensor, k: int, codes: Codes | None = None, allowed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the k vectors of the greatest inner product with each query, best first; of equal ones the first.

    Scores are inner products summed in float64 and rounded to float32. The memory used does not grow with the number
    of vectors.

    Args:
        queries: [Q, d], any floating-point precision.
        vectors: unit vectors [N, d], float16 or float32, in memory or mapped from a file.
        k: number of vectors; all of them if there are fewer.
        codes: the vectors in 8 bits, which speed up some queries on a CPU and change no result; so do their sketches,
            for one or two queries.
        allowed: [N] bool, the vectors that may be found; by default all.

    Returns:
        Places [Q, k] int64 and scores [Q, k] float32, minus infinity where there is no further allowed vector.

    Raises:
        ShapeError: widths differ, k is below 1, or a number is not finite.

    >>> places, scores = nearest(torch.tensor([[0.6, 0.8]]), torch.eye(2), k=2)
    >>> places.tolist(), scores.tolist() == [[torch.tensor(0.8).item(), torch.tensor(0.6).item()]]
    ([[1, 0]], True)
    """
    if queries.ndim != 2 or vectors.ndim != 2 or queries.shape[1] != vectors.shape[1] or k < 1:
        raise ShapeError(
            f"queries {list(queries.shape)} against vectors {list(vectors.shape)}, the best {k}; expected two matrices "
            "of one width, and at least the best 1."
        )
    if not torch.isfinite(queries).all():
        raise ShapeError("a query holds a number that is not finite; expected unit vectors.")
    asked, k = queries.to(vectors.device, torch.float64), min(k, len(vectors))
    parts = [asked[start : start + QUERIES] for start in range(0, max(1, len(asked)), QUERIES)]
    best = [_nearest(part, vectors, k, codes, allowed) for part in parts]
    return torch.cat([part.places for part in best]), torch.cat([part.scores for part in best])


def _nearest(queries: Tensor, vectors: Tensor, k: int, codes: Codes | None, allowed: Tensor | None) -> _Best:
    best, quick, bounds = _Best(queries, vectors, k), QuickScores(queries, vectors, codes), None
    if codes is not None and (sketches := codes.sketches) is not None and quick.coded_alone:
        bounds = QuickScores(sketch(queries, sketches.basis), sketches.codes.codes, sketches.codes)
        bounds.step = min(bounds.step, BOUNDED)
    start = 0
    while start < len(vectors) and len(queries):
        if bounds is not None:
            if _admit_bounded(best, bounds, start, quick, allowed):
                start += bounds.step
                continue
            bounds = None
        scores = _allowed(quick(start), start, allowed)
        floor = best.scores[:, -1].clone()
        if start == 0:
            best.raise_floors(floor, scores, SEEN)
        low = _low(floor, quick)
        rows, columns = _at_least(scores, low, start)
        many = (torch.bincount(rows, minlength=len(queries)) > MANY * k).nonzero().squeeze(1)
        if len(many) and start > 0:
            best.raise_floor(floor, many, scores, start)
            still = scores[rows, columns].float() >= _low(floor, quick)[rows]
            rows, columns = rows[still], columns[still]
        best.admit(rows, start + columns)
        start += quick.step
    return best


def _admit_bounded(best: _Best, bounds: QuickScores, start: int, quick: QuickScores, allowed: Tensor | None) -> bool:
    """Admit the vectors of a block by upper bounds of their scores; return false, and admit none, if too many remain.

    Where many remain for a query, their quick scores decide which of them get exact scores.
    """
    queries, k = best.queries, best.scores.shape[1]
    scores, floor = _allowed(bounds(start), start, allowed), best.scores[:, -1].clone()
    if start == 0:
        best.raise_floors(floor, scores, SEEN_BOUNDED, MANY * k)
    # NumPy finds the few true ones of a million several times as fast as torch.
    places = torch.from_numpy(np.flatnonzero(scores.float().numpy() >= _low(floor, bounds).numpy()[:, None]))
    rows, columns = places // scores.shape[1], places % scores.shape[1]
    if len(rows) > max(SHARE * scores.numel(), MANY * k * len(queries)):
        return False
    places = start + columns
    counts = torch.bincount(rows, minlength=len(queries))
    kept = torch.ones(len(rows), dtype=torch.bool)
    ends, low = counts.cumsum(0).tolist(), _low(floor, quick)
    for row in (counts > MANY * k).nonzero().squeeze(1).tolist():
        own = slice(ends[row] - int(counts[row]), ends[row])
        kept[own] = quick.at(row, places[own]).float() >= low[row]
    best.admit(rows[kept], places[kept])
    return True


def _low(floor: Tensor, quick: QuickScores) -> Tensor:
    """Return [Q] the least rounded quick score that an allowed vector with an exact score of `floor` [Q] can have."""
    low: Tensor = (floor - quick.error).clamp_min(torch.finfo(torch.float32).min / 2)
    return low.sub(low.abs(), alpha=2 * ROUNDING[quick.dtype])


def _allowed(scores: Tensor, start: int, allowed: Tensor | None) -> Tensor:
    """Return quick scores [Q, n] of the vectors from `start` on, minus infinity for those that are not allowed."""
    return scores if allowed is None else scores.masked_fill_(~allowed[start : start + scores.shape[1]], -torch.inf)


def _at_least(scores: Tensor, low: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Return rows and columns, in order, of the quick scores [Q, n] that reach `low` [Q]."""
    width = PIECE if scores.shape[1] % PIECE == 0 else scores.shape[1]
    each = scores.shape[1] // width
    pieces, low = scores.reshape(-1, width), low.repeat_interleave(each)
    highest = pieces.amax(1).float()
    if not (highest < torch.inf).all():
        raise ShapeError(f"a vector from number {start} on holds a number that is not finite; expected unit vectors.")
    chosen = (highest >= low).nonzero().squeeze(1)
    piece, column = (pieces[chosen].float() >= low[chosen, None]).nonzero(as_tuple=True)
    piece = chosen[piece]
    return piece // each, piece % each * width + column


@final
class _Best:
    """The k best vectors of each query among those searched so far.

    Attributes:
        queries: [Q, d] float64.
        vectors: [N, d].
        places: [Q, k] int64.
        scores: [Q, k] float32, falling, exact; minus infinity where there is no vector yet.
    """

    def __init__(self, queries: Tensor, vectors: Tensor, k: int) -> None:
        self.queries, self.vectors = queries, vectors
        self.places = torch.zeros(len(queries), k, dtype=torch.int64, device=vectors.device)
        self.scores = torch.full((len(queries), k), -torch.inf, device=vectors.device)

    def raise_floors(self, floor: Tensor, scores: Tensor, seen: float, candidates: int | None = None) -> None:
        """Raise `floor` [Q] of all queries by a share of the first block, or by all of it where too few are allowed."""
        rows = torch.arange(len(floor), device=floor.device)
        part = max(BLOCK, int(seen * scores.shape[1]))
        self.raise_floor(floor, rows, scores[:, :part], 0, candidates)
        few = floor.isneginf().nonzero().squeeze(1)
        if len(few) and scores.shape[1] > part:
            self.raise_floor(floor, few, scores, 0, candidates)

    def raise_floor(
        self, floor: Tensor, rows: Tensor, scores: Tensor, start: int, candidates: int | None = None
    ) -> None:
        """Raise `floor` [Q] of the queries `rows` to the k-th best exact score of their best candidates in a block.

        The k-th best score of all vectors is no less, so fewer vectors need exact scores. There are k candidates by
        default.
        """
        k = self.scores.shape[1]
        if k > scores.shape[1]:
            return
        count = min(candidates or k, scores.shape[1])
        quick, columns = scores[rows].float().topk(count, 1, sorted=False)
        exact = exact_scores(self.queries, self.vectors, rows.repeat_interleave(count), start + columns.flatten())
        exact = exact.reshape(-1, count).masked_fill(quick.isneginf(), -torch.inf)
        floor[rows] = torch.maximum(floor[rows], exact.topk(k, 1).values[:, -1])

    def admit(self, rows: Tensor, places: Tensor) -> None:
        """Score pairs exactly and keep each query's k best.

        Pairs come in order of rows, then of places; the places lie after all those admitted before. The sort is stable,
        so of equal scores the first place comes first.
        """
        scores = exact_scores(self.queries, self.vectors, rows, places)
        better = scores > self.scores[rows, -1]
        rows, places, scores = rows[better], places[better], scores[better]
        if len(rows) == 0:
            return
        owners, counts = torch.unique_consecutive(rows, return_counts=True)
        line = torch.arange(len(owners), device=rows.device).repeat_interleave(counts)
        column = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[line]
        shape = len(owners), int(counts.max())
        more_scores = scores.new_full(shape, -torch.inf).index_put_((line, column), scores)
        more_places = places.new_zeros(shape).index_put_((line, column), places)
        order = torch.cat([self.scores[owners], more_scores], 1).sort(dim=1, descending=True, stable=True)
        chosen = order.indices[:, : self.scores.shape[1]]
        self.scores[owners] = order.values[:, : self.scores.shape[1]]
        self.places[owners] = torch.cat([self.places[owners], more_places], 1).gather(1, chosen)
