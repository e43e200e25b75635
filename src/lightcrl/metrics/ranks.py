"""Who is found before whom: counts of better and of equal items, exact, in blocks, blind to their size and order.

Who is right for whom is said by pairs [P, 2]: number of a query, number of an item of the gallery; each pair once, in
order of queries. Scores of right items are summed in float64, those of all others are float32 products.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lightcrl.errors import ShapeError
from lightcrl.metrics.scores import exact_scores

CHUNK = 256
"""Queries scored at once against the gallery's next part; their scores stay in the cache while they are counted."""

GALLERY_CHUNK = 4096

FEW = 32
"""Up to so many answers of a query are counted against one by one; for more of them scores are sorted."""

TIE = 1e-6
"""Scores this close are equal: how a float32 product is rounded depends on where in the gallery an item stands."""


def ranks(queries: Tensor, gallery: Tensor, pairs: np.ndarray) -> np.ndarray:
    """How each query's best right item fares: [Q, 3] counts of better wrong, equal wrong, equal right items.

    Equal right items counts the best one itself and others of the same score (within `TIE`). Together they give the
    exact expected recall if ties are broken at random, so that a constant embedding scores chance, not 1.

    Args:
        queries: unit vectors [Q, d].
        gallery: unit vectors [N, d], each item once.
        pairs: [P, 2] who is right for whom; every query has a right item.

    Raises:
        ShapeError: sizes disagree, or a query has no right item.
    """
    _check(queries, gallery, pairs)
    return _ranks(queries.float(), gallery.float(), pairs, 1)[0]


def mutual_ranks(left: Tensor, right: Tensor, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`ranks` of either side's items in the other, for the price of one product.

    Args:
        left: unit vectors [N, d], each item once.
        right: unit vectors [M, d], each item once.
        pairs: [P, 2] who is right for whom, left and right; there may be items that are in none.

    Returns:
        [N, 3] and [M, 3]; three zeros for an item without a right one.

    Raises:
        ShapeError: sizes disagree.
    """
    _check(left, right, pairs, every=False)
    of_left, of_right = _ranks(left.float(), right.float(), pairs, 2)
    return of_left, of_right


def answer_places(queries: Tensor, gallery: Tensor, pairs: np.ndarray) -> np.ndarray:
    """Where every right item of every query stands: [P, 3] number of its query, items better, items equal.

    Equal items are those within `TIE`, itself among them, right or wrong. From these follows how many right items are
    among the first k if ties are broken at random; see `intervals.found_within`.

    Args:
        queries: unit vectors [Q, d].
        gallery: unit vectors [N, d], each item once.
        pairs: [P, 2] who is right for whom; every query has a right item.

    Raises:
        ShapeError: as `ranks`.
    """
    _check(queries, gallery, pairs)
    queries, gallery = queries.float(), gallery.float()
    row, column = torch.from_numpy(pairs.T.copy())
    scores = exact_scores(queries, gallery, row, column)
    places = torch.stack([row, torch.zeros_like(row), torch.zeros_like(row)], 1)
    for start in range(0, len(queries), CHUNK):
        part = slice(*np.searchsorted(pairs[:, 0], [start, start + CHUNK]))
        own = row[part] - start
        lengths = torch.bincount(own)
        there = torch.arange(int(lengths.max())) < lengths[:, None]
        right = torch.full(there.shape, torch.inf)
        right[there] = scores[part]
        # Right items are counted by their own scores, wrong ones block by block.
        better, equal = _count_sorted(right.sort(1).values, right, lengths[:, None])
        for _, _, found in _blocks(queries[start : start + CHUNK], gallery, own, column[part]):
            if right.shape[1] > FEW:
                more = _count_sorted(found.sort(1).values, right, found.shape[1])
            else:
                each = [_count(found, score[:, None], 1) for score in right.T]
                more = torch.stack([above for above, _ in each], 1), torch.stack([equal for _, equal in each], 1)
            better, equal = better + more[0], equal + more[1]
        places[part, 1], places[part, 2] = better[there], equal[there]
    return places.numpy()


def _ranks(left: Tensor, right: Tensor, pairs: np.ndarray, sides: int) -> list[np.ndarray]:
    """Counts [N, 3] of the left's items, and with two sides [M, 3] of the right's."""
    row, column = torch.from_numpy(pairs.T.copy())
    scores = exact_scores(left, right, row, column)
    counts, best = [], []
    for size, of in ((len(left), row), (len(right), column))[:sides]:
        # Nothing is better than what is not a number, nor equal to it: so it stays for items without a right one.
        highest = torch.full((size,), torch.nan).scatter_reduce_(0, of, scores, "amax", include_self=False)
        count = torch.zeros(size, 3, dtype=torch.int64)
        count[:, 2] = torch.bincount(of[scores >= highest[of] - TIE], minlength=size)
        best.append(highest)
        counts.append(count)
    for rows, columns, found in _blocks(left, right, row, column):
        for count, highest, part, axis in zip(counts, best, (rows, columns), (1, 0), strict=False):
            above, equal = _count(found, highest[part].unsqueeze(axis), axis)
            count[part, 0] += above
            count[part, 1] += equal
    return [count.numpy() for count in counts]


def _blocks(left: Tensor, right: Tensor, row: Tensor, column: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, columns and scores of one block after another, minus infinity for the pairs of `row` [P] and `column` [P].

    Rows come in order.
    """
    for start in range(0, len(left), CHUNK):
        rows = slice(start, min(start + CHUNK, len(left)))
        here = slice(*torch.searchsorted(row, torch.tensor([rows.start, rows.stop])).tolist())
        for first in range(0, len(right), GALLERY_CHUNK):
            columns = slice(first, min(first + GALLERY_CHUNK, len(right)))
            scores = left[rows] @ right[columns].T
            inside = (column[here] >= columns.start) & (column[here] < columns.stop)
            scores[row[here][inside] - start, column[here][inside] - first] = -torch.inf
            yield rows, columns, scores


def _count(found: Tensor, scores: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Along an axis of a block, how many are better than `scores` and how many equal."""
    flags = torch.empty_like(found)  # numbers are compared and summed sooner than truth values
    above = torch.gt(found, scores + TIE, out=flags).sum(axis).long()
    return above, torch.ge(found, scores - TIE, out=flags).sum(axis).long() - above


def _count_sorted(rising: Tensor, scores: Tensor, size: Tensor | int) -> tuple[Tensor, Tensor]:
    """[C, T] how many of the first `size` of `rising` [C, n] are better than `scores` [C, T], how many equal."""
    above = size - torch.searchsorted(rising, scores + TIE, right=True)
    return above, size - torch.searchsorted(rising, scores - TIE) - above


def _check(queries: Tensor, gallery: Tensor, pairs: np.ndarray, *, every: bool = True) -> None:
    if queries.shape[1] != gallery.shape[1]:
        raise ShapeError(f"widths {queries.shape[1]} and {gallery.shape[1]}; expected vectors of one width.")
    if len(pairs) and ((pairs < 0).any() or (pairs.max(0) >= (len(queries), len(gallery))).any()):
        raise ShapeError(
            f"pairs name query {pairs[:, 0].max()} and item {pairs[:, 1].max()} of {len(queries)} queries and "
            f"{len(gallery)} items; expected numbers from 0."
        )
    if (np.diff(pairs[:, 0]) < 0).any():
        raise ShapeError("pairs are in no order; expected those of the first query first.")
    if every and len(np.unique(pairs[:, 0])) < len(queries):
        raise ShapeError("a query has no right item in the gallery; leave it out of the queries.")
