"""The share of wrong pairs in a sample: `lightcrl clean` in small, with closed-form spaces and two folds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightcrl.metrics.cca import regularised_cca
from lightcrl.metrics.mixture import fit_mixture, share_interval
from lightcrl.studies.check.sample import Part
from lightcrl.studies.check.slots import paired_rows
from lightcrl.studies.clean.evidence import Holdout, draw_null, evidence_on

FOLDS = 2
LEAST = 400
"""Least number of pairs for an estimate; with fewer the interval spans most rates."""


@dataclass(frozen=True)
class Noise:
    """The estimated share of wrong pairs.

    Attributes:
        pairs: number of pairs.
        share: share of pairs that are no better than random ones.
        interval: its 95 % interval over groups.
    """

    pairs: int
    share: float
    interval: tuple[float, float]


def estimate_noise(
    anchors: tuple[Part, Tensor], judged: tuple[Part, Tensor], ridge: float, seed: int = 0
) -> Noise | None:
    """Return the noise rate of the judged items beside their anchors; None with too few pairs.

    Args:
        anchors: items of train that stand for their groups, and their scaled features [A, D].
        judged: other items of train, and their scaled features [T, D'].
        ridge: ridge of the closed form.
        seed: seed of folds and null.
    """
    both = np.intersect1d(anchors[0].groups.numpy(), judged[0].groups.numpy())
    fold_of = np.full(int(max(anchors[0].groups.max(), judged[0].groups.max())) + 1, -1)
    fold_of[np.random.default_rng(seed).permutation(both)] = np.arange(len(both)) % FOLDS
    if int((fold_of[judged[0].groups.numpy()] >= 0).sum()) < LEAST:
        return None
    parts = [_measure(anchors, judged, fold_of, fold, ridge, seed) for fold in range(FOLDS)]
    ratios, null_ratios = [], []
    for own, other in (parts, parts[::-1]):
        mixture = fit_mixture(other[0], other[1])
        ratios.append(mixture.log_ratio(own[0]))
        null_ratios.append(mixture.log_ratio(own[1]))
    groups = tuple(np.concatenate([part[place] for part in parts]) for place in (2, 3))
    share, interval = share_interval(np.concatenate(ratios), np.concatenate(null_ratios), (groups[0], groups[1]))
    return Noise(sum(map(len, ratios)), share, interval)


def _measure(
    anchors: tuple[Part, Tensor], judged: tuple[Part, Tensor], fold_of: np.ndarray, fold: int, ridge: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return features of the fold's pairs and of their null, and the groups of both."""
    held, kept = (
        [torch.from_numpy(np.flatnonzero(fold_of[part.groups.numpy()] == number)) for part, _ in (anchors, judged)]
        for number in (fold, 1 - fold)
    )
    groups = [part.groups[rows] for (part, _), rows in zip((anchors, judged), kept, strict=True)]
    rows = paired_rows(groups[0], groups[1])
    cca = regularised_cca(anchors[1][kept[0]][rows[0]], judged[1][kept[1]][rows[1]], ridge)
    vectors = [
        normalize(cca.variates(side, values[rows]).float() * cca.correlations.float(), dim=1)
        for side, ((_, values), rows) in enumerate(zip((anchors, judged), held, strict=True))
    ]
    numbers = [part.groups[rows].numpy() for (part, _), rows in zip((anchors, judged), held, strict=True)]
    names = np.unique(numbers[1])
    links, pairs = (np.stack([np.arange(len(each)), np.searchsorted(names, each)], 1) for each in numbers)
    own = normalize(judged[1][held[1]], dim=1)
    holdout = Holdout(vectors[1], own, vectors[0], pairs, links, np.ones(len(pairs)))
    null = draw_null(holdout, np.random.default_rng([seed, fold]))
    mine = evidence_on(holdout, np.arange(len(pairs)), pairs[:, 0], seed)
    other = evidence_on(holdout, null[:, 0], null[:, 1], seed)
    tables = [np.stack(list(each.values()), 1) for each in (mine, other)]
    return tables[0], tables[1], numbers[1], numbers[1][null[:, 0]]
