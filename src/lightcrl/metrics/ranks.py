"""Ranks: exact counts of better and of equal items, computed in blocks whose size and order have no effect.

The right items are given as pairs [P, 2]: number of a query, number of an item of the gallery; each pair once, in
order of queries. Scores of right items are summed in float64; all other scores are float32 products.

A gallery may be of float16 and mapped from a file: it is read and converted block by block. With `together`, which all
processes must call, each process scores its share of the blocks, and all of them return the counts of all blocks.
Blocks are those of a single process, so the counts are its counts to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from lightcrl.errors import ShapeError
from lightcrl.metrics.scores import exact_scores
from lightcrl.processes import launched, rank, share, sum_counts

CHUNK = 256
"""Number of queries that are scored at once against a part of the gallery; their scores stay in the cache."""

GALLERY_CHUNK = 4096

FEW = 32
"""Number of answers per query up to which each is counted separately; for more answers scores are sorted."""

TIE = 1e-6
"""Scores within this distance are equal: float32 rounding depends on the item's place in the gallery."""


def ranks(queries: Tensor, gallery: Tensor, pairs: np.ndarray) -> np.ndarray:
    """Return counts [Q, 3] for each query's best right item: better wrong, equal wrong, equal right items.

    Equal right items are the best one itself and others of the same score (within `TIE`). The three counts give the
    exact expected recall if ties are broken at random, so that a constant embedding scores chance, not 1.

    Args:
        queries: unit vectors [Q, d].
        gallery: unit vectors [N, d], each item once.
        pairs: right items [P, 2] of queries; every query has a right item.

    Raises:
        ShapeError: sizes disagree, or a query has no right item.
    """
    _check(queries, gallery, pairs)
    return _ranks(queries.float(), gallery, pairs, 1, False)[0]


def mutual_ranks(
    left: Tensor, right: Tensor, pairs: np.ndarray, *, together: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return `ranks` of each side's items in the other, at the cost of one product.

    Args:
        left: unit vectors [N, d], each item once.
        right: unit vectors [M, d], each item once.
        pairs: right pairs [P, 2], left and right; items without a pair are allowed.
        together: true to divide the work among all processes.

    Returns:
        Counts [N, 3] and [M, 3]; three zeros for an item without a right one.

    Raises:
        ShapeError: sizes disagree.
    """
    _check(left, right, pairs, every=False)
    of_left, of_right = _ranks(left.float(), right, pairs, 2, together)
    return of_left, of_right


def answer_places(queries: Tensor, gallery: Tensor, pairs: np.ndarray, *, together: bool = False) -> np.ndarray:
    """Return the place of every right item of every query, [P, 3]: number of its query, items better, items equal.

    Equal items are those within `TIE`, itself among them, right or wrong. They determine the expected number of right
    items among the first k if ties are broken at random; see `intervals.found_within`.

    Args:
        queries: unit vectors [Q, d].
        gallery: unit vectors [N, d], each item once.
        pairs: right items [P, 2] of queries; every query has a right item.
        together: true to divide the work among all processes.

    Raises:
        ShapeError: see `ranks`.
    """
    _check(queries, gallery, pairs)
    queries = queries.float()
    row, column = torch.from_numpy(pairs.T.copy())
    scores = exact_scores(queries, gallery, row, column)
    places = torch.stack([row, torch.zeros_like(row), torch.zeros_like(row)], 1)
    for start in _starts(len(queries), together):
        part = slice(*np.searchsorted(pairs[:, 0], [start, start + CHUNK]))
        own = row[part] - start
        lengths = torch.bincount(own)
        there = torch.arange(int(lengths.max())) < lengths[:, None]
        right = torch.full(there.shape, torch.inf)
        right[there] = scores[part]
        # Right items are counted by their own scores, wrong items block by block.
        better, equal = _count_sorted(right.sort(1).values, right, lengths[:, None])
        for _, _, block in _blocks(queries[start : start + CHUNK], gallery, own, column[part], range(1)):
            if right.shape[1] > FEW:
                more = _count_sorted(block.sort(1).values, right, block.shape[1])
            else:
                each = [_count(block, score[:, None], 1) for score in right.T]
                more = torch.stack([above for above, _ in each], 1), torch.stack([equal for _, equal in each], 1)
            better, equal = better + more[0], equal + more[1]
        places[part, 1], places[part, 2] = better[there], equal[there]
    if together and launched() > 1:
        places[:, 1:] = sum_counts(places[:, 1:])
    return places.numpy()


def listed_ranks(scores: np.ndarray, right: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return `ranks`' counts [Q, 3] from the best scores alone, and [Q] true where they decide hits within `most`.

    A query without a right item in its list has at least as many better items as the list is long.

    Args:
        scores: [Q, N] float32, falling; minus infinity where there is no further item.
        right: [Q, N] bool.
        most: greatest number of first hits of interest.
    """
    best = np.where(right, scores, -np.inf).max(1, keepdims=True, initial=-np.inf)
    above = scores > best + TIE
    equal = (scores >= best - TIE) & ~above
    counts = np.stack([(above & ~right).sum(1), (equal & ~right).sum(1), (equal & right).sum(1)], 1)
    # Items that tie with the last of interest may tie with others beyond.
    return counts, scores[:, -1] < scores[:, min(most, scores.shape[1]) - 1] - 2 * TIE


def first_shares(scores: Tensor, right: Tensor) -> Tensor:
    """[Q] probability that a right item comes first, ties broken at random: `ranks`' rule for scores of any size.

    >>> first_shares(torch.tensor([[0.5, 0.1, 0.1], [0.2, 0.2, 0.2]]), torch.tensor([[True, False, False]] * 2))
    tensor([1.0000, 0.3333])

    Args:
        scores: [Q, N], -inf for what does not count.
        right: [Q, N] bool.

    Returns:
        float32; 0 for a query without a right item. Scores are equal within `TIE` of the query's largest one.
    """
    best = scores.masked_fill(~right, -torch.inf).amax(1)
    wrong = scores.masked_fill(right, -torch.inf).amax(1)
    largest = scores.abs().masked_fill(scores == -torch.inf, 0).amax(1)
    close = TIE * largest
    shares = (best > wrong + close).float()
    # Few queries have ties, so that only these are counted.
    tied = ((best - wrong).abs() <= close).nonzero().flatten()
    equal = (scores[tied] - best[tied, None]).abs() <= close[tied, None]
    shares[tied] = (equal & right[tied]).sum(1) / equal.sum(1).float()
    return shares


def _ranks(left: Tensor, right: Tensor, pairs: np.ndarray, sides: int, together: bool) -> list[np.ndarray]:
    """Return counts [N, 3] for the left's items, and with two sides [M, 3] for the right's."""
    row, column = torch.from_numpy(pairs.T.copy())
    scores = exact_scores(left, right, row, column)
    counts, best = [], []
    for size, of in ((len(left), row), (len(right), column))[:sides]:
        # No score is better than NaN or equal to it, so NaN marks items without a right one.
        highest = torch.full((size,), torch.nan).scatter_reduce_(0, of, scores, "amax", include_self=False)
        count = torch.zeros(size, 3, dtype=torch.int64)
        count[:, 2] = torch.bincount(of[scores >= highest[of] - TIE], minlength=size)
        best.append(highest)
        counts.append(count)
    for rows, columns, block in _blocks(left, right, row, column, _starts(len(left), together)):
        for count, highest, part, axis in zip(counts, best, (rows, columns), (1, 0), strict=False):
            above, equal = _count(block, highest[part].unsqueeze(axis), axis)
            count[part, 0] += above
            count[part, 1] += equal
    if together and launched() > 1:
        for count in counts:
            count[:, :2] = sum_counts(count[:, :2])
    return [count.numpy() for count in counts]


def _starts(count: int, together: bool) -> range:
    """Return the first row of each chunk of `count` rows, or of this process's share of the chunks."""
    mine = share(count, rank(), launched(), CHUNK) if together else slice(0, count)
    return range(mine.start, mine.stop, CHUNK)


def _blocks(
    left: Tensor, right: Tensor, row: Tensor, column: Tensor, starts: range
) -> Iterator[tuple[slice, slice, Tensor]]:
    """Yield rows, columns and scores of each block, with -inf for the pairs of `row` [P] and `column` [P].

    Rows come in order, in chunks from each of `starts`.
    """
    for start in starts:
        rows = slice(start, min(start + CHUNK, len(left)))
        here = slice(*torch.searchsorted(row, torch.tensor([rows.start, rows.stop])).tolist())
        for first in range(0, len(right), GALLERY_CHUNK):
            columns = slice(first, min(first + GALLERY_CHUNK, len(right)))
            scores = left[rows] @ right[columns].float().T
            inside = (column[here] >= columns.start) & (column[here] < columns.stop)
            scores[row[here][inside] - start, column[here][inside] - first] = -torch.inf
            yield rows, columns, scores


def _count(block: Tensor, scores: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Count along an axis of a block the scores better than `scores` and those equal."""
    flags = torch.empty_like(block)  # numbers are compared and summed faster than booleans
    above = torch.gt(block, scores + TIE, out=flags).sum(axis).long()
    return above, torch.ge(block, scores - TIE, out=flags).sum(axis).long() - above


def _count_sorted(rising: Tensor, scores: Tensor, size: Tensor | int) -> tuple[Tensor, Tensor]:
    """Count, [C, T], the first `size` of `rising` [C, n] that are better than `scores` [C, T], and those equal."""
    above = size - torch.searchsorted(rising, scores + TIE, right=True)
    return above, size - torch.searchsorted(rising, scores - TIE) - above


def _check(queries: Tensor, gallery: Tensor, pairs: np.ndarray, *, every: bool = True) -> None:
    if queries.shape[1] != gallery.shape[1]:
        raise ShapeError(f"widths {queries.shape[1]} and {gallery.shape[1]}; expected vectors of equal width.")
    if len(pairs) and ((pairs < 0).any() or (pairs.max(0) >= (len(queries), len(gallery))).any()):
        raise ShapeError(
            f"pairs name query {pairs[:, 0].max()} and item {pairs[:, 1].max()} of {len(queries)} queries and "
            f"{len(gallery)} items; expected numbers from 0."
        )
    if (np.diff(pairs[:, 0]) < 0).any():
        raise ShapeError("pairs are in no order; expected those of the first query first.")
    if every and len(np.unique(pairs[:, 0])) < len(queries):
        raise ShapeError("a query has no right item in the gallery; leave it out of the queries.")
