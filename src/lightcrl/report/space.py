"""Figures of the embedding space: two axes, and the distances between the modalities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from torch import Tensor

# Greatest number of points of a modality; more only blacken a page.
POINTS = 400


@dataclass(frozen=True)
class Space:
    """A view of the space of several modalities.

    Attributes:
        points: positions of up to `POINTS` items on the first two principal axes of all, [n, 2], by modality.
        variance: share of the variance of each axis.
        label: attribute of `labels`, or "" if none is known.
        labels: label of each point, by modality.
        gaps: distance between the means of a pair of modalities; unit vectors are at most 2 apart.
        partners: mean distance between items of different modalities in the same group.
        strangers: mean distance between random items.
    """

    points: Mapping[str, np.ndarray]
    variance: tuple[float, float]
    label: str
    labels: Mapping[str, tuple[str, ...]]
    gaps: Mapping[tuple[str, str], float]
    partners: float
    strangers: float


def look(
    vectors: Mapping[str, Tensor],
    links: Mapping[str, np.ndarray],
    labels: Mapping[str, Mapping[int, str]] | None = None,
    seed: int = 0,
) -> Space:
    """Compute principal axes, gaps and distances.

    Args:
        vectors: unit vectors [N_m, d] by modality.
        links: int64 [L, 2] by modality: item number, group number.
        labels: label of each group, by attribute; the attribute that the two axes separate best is taken.
        seed: seed of the random choice.
    """
    rng = np.random.default_rng(seed)
    chosen = {name: np.sort(rng.permutation(len(array))[:POINTS]) for name, array in vectors.items()}
    arrays = {name: array.numpy().astype(np.float64) for name, array in vectors.items()}
    drawn = np.concatenate([arrays[name][rows] for name, rows in chosen.items()])
    centre = drawn.mean(0)
    _, strength, axes = np.linalg.svd(drawn - centre, full_matrices=False)
    points = {name: (arrays[name][rows] - centre) @ axes[:2].T for name, rows in chosen.items()}
    share = strength[:2] ** 2 / (strength**2).sum()

    best = ""
    taken: dict[str, tuple[str, ...]] = {}
    for label, of_group in (labels or {}).items():
        named = {
            name: tuple(of_group.get(group, "") for group in _groups(links[name], rows))
            for name, rows in chosen.items()
        }
        if not best or _told_apart(points, named) > _told_apart(points, taken):
            best, taken = label, named

    partners, strangers = [], []
    for a, b in combinations(vectors, 2):
        group_of = dict(links[b][:, ::-1].tolist())
        pairs = np.array([(item, group_of[group]) for item, group in links[a].tolist() if group in group_of])
        if len(pairs):
            partners.append(_distance(arrays[a][pairs[:, 0]], arrays[b][pairs[:, 1]]))
            strangers.append(_distance(arrays[a][pairs[:, 0]], arrays[b][rng.permutation(pairs[:, 1])]))
    return Space(
        points,
        (float(share[0]), float(share[1])),
        best,
        taken,
        {(a, b): float(np.linalg.norm(arrays[a].mean(0) - arrays[b].mean(0))) for a, b in combinations(vectors, 2)},
        float(np.mean(partners)),
        float(np.mean(strangers)),
    )


def _groups(links: np.ndarray, rows: np.ndarray) -> list[int]:
    """Return the (first) group of each of `rows`."""
    first = dict(reversed(links.tolist()))
    return [first[row] for row in rows.tolist()]


def _told_apart(points: Mapping[str, np.ndarray], labels: Mapping[str, tuple[str, ...]]) -> float:
    """Return the share of the points' variance between the labels."""
    places = np.concatenate(list(points.values()))
    names = np.concatenate([np.array(labels[name]) for name in points])
    between = sum(
        (names == name).sum() * ((places[names == name].mean(0) - places.mean(0)) ** 2).sum()
        for name in np.unique(names)
    )
    return float(between / ((places - places.mean(0)) ** 2).sum())


def _distance(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.linalg.norm(left - right, axis=1).mean())
