"""Evidence on pairs: features of a candidate, an item in the place of a judged one.

A candidate is a pair (by its number) and an item. With the pair's own item it is the pair itself; with an item of
another group it is a pair that is certainly wrong, a member of the null. Both are measured by the same function, so
that a feature may be anything: a similarity, the score of a matching head, the likelihood of a caption. A new kind of
evidence is a function and a line in `EVIDENCE`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

GALLERY = 4096
"""Greatest number of items that a candidate is compared with, in each direction."""
SIBLINGS = 16
"""Greatest number of siblings that a candidate is compared with."""
BLOCK = 512
SHARPNESS = 4.0
"""Sharpness of the posterior over the gallery, per standard deviation of the similarities there."""


@dataclass(frozen=True)
class Holdout:
    """The groups of a fold, embedded by a space that was not trained on them.

    Attributes:
        items: unit vectors [T, d] of the judged modality.
        own: the frozen encoder's vectors [T, D] of the same items.
        anchors: unit vectors [A, d] of the anchor modality.
        pairs: item and group of every judged pair, [P, 2], in order of groups; groups count from 0.
        links: item and group of every anchor, [L, 2], in order of groups.
        trust: probability that a pair is right, from the round before, [P].
    """

    items: Tensor
    own: Tensor
    anchors: Tensor
    pairs: np.ndarray
    links: np.ndarray
    trust: np.ndarray

    @property
    def groups(self) -> int:
        """Number of groups."""
        return int(max(self.pairs[:, 1].max(initial=-1), self.links[:, 1].max(initial=-1))) + 1


Evidence = Callable[[Holdout, np.ndarray, np.ndarray, int], dict[str, np.ndarray]]
"""A function from a holdout, numbers of pairs [N], items in their places [N] and a seed to features [N] by name."""


def contrast(holdout: Holdout, pairs: np.ndarray, items: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return the similarity of item and anchor, relative to other anchors and to other items.

    In both directions: deviations above the mean of the gallery, the logarithm of the share of the gallery that is
    nearer, and the logarithm of the posterior among the gallery. Items of the candidate's groups do not count.
    """
    generator = np.random.default_rng(seed)
    anchor = _best_anchor(holdout, pairs, items)
    similarity = (holdout.items[items] * holdout.anchors[anchor]).sum(1)
    sides = (
        ("to_anchor", holdout.items, items, holdout.anchors, anchor, _tied(holdout.pairs, holdout.links)),
        ("to_item", holdout.anchors, anchor, holdout.items, items, _tied(holdout.links, holdout.pairs)),
    )
    values: dict[str, np.ndarray] = {}
    for name, queries, places, gallery, targets, tied in sides:
        drawn = np.sort(generator.permutation(len(gallery))[:GALLERY])
        for measure, column in _relative(queries, places, gallery, targets, drawn, tied, similarity).items():
            values[f"{measure}_{name}"] = column
    return values


def siblings(holdout: Holdout, pairs: np.ndarray, items: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return the similarity to the other items of the group, in the space and for the frozen encoder: mean and largest.

    Siblings count by the probability that they are right. The features of pairs without siblings are NaN.
    """
    other, weight = _siblings_of(holdout, np.random.default_rng(seed))
    place, weight = other[pairs], weight[pairs]
    present = weight > 0
    values: dict[str, np.ndarray] = {}
    for name, vectors in (("space", holdout.items), ("encoder", _centred(holdout.own))):
        near = np.empty(place.shape, np.float32)
        for start in range(0, len(items), BLOCK):
            rows = slice(start, start + BLOCK)
            near[rows] = torch.einsum("nd,nsd->ns", vectors[items[rows]], vectors[place[rows]]).numpy()
        total = weight.sum(1)
        mean = np.where(total > 0, (near * weight).sum(1) / np.maximum(total, 1e-9), np.nan)
        largest = np.where(total > 0, np.where(present, near * np.sqrt(weight), -np.inf).max(1, initial=-1), np.nan)
        values |= {f"mean_sibling_{name}": mean, f"nearest_sibling_{name}": largest}
    return values


EVIDENCE: Mapping[str, Evidence] = {"contrast": contrast, "siblings": siblings}


def draw_null(holdout: Holdout, generator: np.random.Generator) -> np.ndarray:
    """Return pairs and items [M, 2] that are certainly wrong: each pair with the item of a pair of another group."""
    pairs = np.arange(len(holdout.pairs))
    other = generator.permutation(pairs)
    apart = holdout.pairs[other, 1] != holdout.pairs[:, 1]
    return np.stack([pairs[apart], holdout.pairs[other[apart], 0]], 1)


def evidence_on(holdout: Holdout, pairs: np.ndarray, items: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Return all features [N] of candidates by name; those of `EVIDENCE`."""
    return {
        name: column for measure in EVIDENCE.values() for name, column in measure(holdout, pairs, items, seed).items()
    }


def _best_anchor(holdout: Holdout, pairs: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return the anchor [N] of each candidate's group that is nearest to its item."""
    group = holdout.pairs[pairs, 1]
    starts = np.searchsorted(holdout.links[:, 1], np.arange(holdout.groups + 1))
    best: np.ndarray = holdout.links[starts[group], 0]
    for candidate in np.flatnonzero(np.diff(starts)[group] > 1):
        own = holdout.links[starts[group[candidate]] : starts[group[candidate] + 1], 0]
        best[candidate] = own[int((holdout.anchors[own] @ holdout.items[items[candidate]]).argmax())]
    return best


def _tied(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the items of `right` in a group with each item of `left`: starts [N + 1], and items one after another."""
    order = np.argsort(left[:, 0], kind="stable")
    starts = np.searchsorted(right[:, 1], left[order, 1])
    ends = np.searchsorted(right[:, 1], left[order, 1], side="right")
    count = ends - starts
    index = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + np.repeat(starts, count)
    size = int(left[:, 0].max(initial=-1)) + 1
    sizes = np.bincount(left[order, 0], weights=count, minlength=size).astype(np.int64)
    return np.concatenate([[0], np.cumsum(sizes)]), right[index, 0]


def _relative(
    queries: Tensor,
    places: np.ndarray,
    gallery: Tensor,
    targets: np.ndarray,
    drawn: np.ndarray,
    tied: tuple[np.ndarray, np.ndarray],
    similarity: Tensor,
) -> dict[str, np.ndarray]:
    """Return the measures [N] of `similarity` among the similarities of query and gallery.

    Items that share a group with the query do not count, nor does the candidate's own: otherwise pairs would differ
    from the null, whose own item is no item of the query's groups.

    Args:
        queries: unit vectors.
        places: query of each candidate, [N].
        gallery: unit vectors [M, d].
        targets: item of the gallery in each candidate, [N].
        drawn: items of the gallery that are compared, ascending.
        tied: items of the gallery that share a group with each query.
        similarity: similarity of the candidates, [N].
    """
    position = np.full(len(gallery), -1)
    position[drawn] = np.arange(len(drawn))
    compared = gallery[drawn].T.contiguous()
    columns = {name: np.empty(len(places), np.float64) for name in ("deviations", "rank", "posterior")}
    order = np.argsort(places, kind="stable")
    for start in range(0, len(order), BLOCK):
        block = order[start : start + BLOCK]
        asked, inverse = np.unique(places[block], return_inverse=True)
        row = np.repeat(np.arange(len(asked)), tied[0][asked + 1] - tied[0][asked])
        column = position[np.concatenate([tied[1][tied[0][n] : tied[0][n + 1]] for n in asked])]
        counted = torch.ones(len(asked), len(drawn), dtype=torch.bool)
        counted[row[column >= 0], column[column >= 0]] = False
        counted, scores = counted[inverse], (queries[asked] @ compared)[inverse]
        own = position[targets[block]]
        counted[np.flatnonzero(own >= 0), own[own >= 0]] = False
        number = counted.sum(1).clamp(min=2)
        mean = (scores * counted).sum(1) / number
        spread = (((scores - mean[:, None]) * counted).square().sum(1) / number).sqrt().clamp(min=1e-6)
        standard = ((scores - mean[:, None]) / spread[:, None]).masked_fill_(~counted, -torch.inf)
        deviations = (similarity[block] - mean) / spread
        above = (standard > deviations[:, None]).sum(1)
        rest = torch.logsumexp(standard * SHARPNESS, 1)
        columns["deviations"][block] = deviations
        columns["rank"][block] = -((above + 0.5) / (number + 1)).log()
        columns["posterior"][block] = -torch.nn.functional.softplus(rest - deviations * SHARPNESS)
    return columns


def _siblings_of(holdout: Holdout, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the items and weights [P, S] of the other pairs of each pair's group; weight 0 pads."""
    group = holdout.pairs[:, 1]
    starts = np.searchsorted(group, np.arange(holdout.groups + 1))
    width = min(SIBLINGS, int(np.diff(starts).max(initial=1)) - 1)
    other = np.zeros((len(group), max(width, 1)), np.int64)
    weight = np.zeros(other.shape)
    for number in np.flatnonzero(np.diff(starts) > 1):
        members = np.arange(starts[number], starts[number + 1])
        for pair in members:
            rest = members[members != pair]
            if len(rest) > width:
                rest = generator.permutation(rest)[:width]
            other[pair, : len(rest)] = holdout.pairs[rest, 0]
            weight[pair, : len(rest)] = holdout.trust[rest]
    return other, weight


def _centred(vectors: Tensor) -> Tensor:
    return normalize(vectors - vectors.mean(0), dim=1)
