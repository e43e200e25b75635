"""Alignment of the spaces of two encoders, slot by slot, and the closed-form map between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightcrl.data.components import least_connected
from lightcrl.metrics.alignment import chance_knn, debiased_cka, mutual_knn, neighbours, u_centred
from lightcrl.metrics.cca import held_out_correlations, regularised_cca
from lightcrl.metrics.intervals import mean_interval
from lightcrl.metrics.ranks import first_shares
from lightcrl.studies.check.sample import Part
from lightcrl.studies.check.slots import group_recall, paired_rows

# Number of neighbours of a row (Huh et al. use 10), and of compared rows.
NEIGHBOURS = 10
ROWS = 500
# Number of random pairings that estimate the range of chance.
SHUFFLES = 50


@dataclass(frozen=True)
class Likeness:
    """The alignment of two spaces over the groups that have both modalities.

    Attributes:
        groups: number of compared groups.
        knn: mutual overlap of nearest neighbours of the recipe's slots.
        chance: expected overlap of independent spaces.
        highest_by_chance: highest overlap of the same spaces under random pairings.
        cka: debiased linear CKA of the recipe's slots.
        knn_by_slot: overlap of single slots, [S_a, S_b].
        cka_by_slot: CKA of single slots, [S_a, S_b].
    """

    groups: int
    knn: float
    chance: float
    highest_by_chance: float
    cka: float
    knn_by_slot: Tensor
    cka_by_slot: Tensor


@dataclass(frozen=True)
class Baseline:
    """The closed-form map, fitted on the train sample and evaluated on the dev sample.

    Attributes:
        recall: mean R@1 of both directions.
        interval: 95 % interval over groups.
        chance: recall of a random guess.
        groups: number of fitted train groups.
        gallery: number of dev groups in the gallery.
        smaller: R@1 among a quarter and among half of the gallery, by its size.
        correlations: held-out correlations of the canonical variates on dev, in the order of the fit.
    """

    recall: float
    interval: tuple[float, float]
    chance: float
    groups: int
    gallery: int
    smaller: dict[int, float]
    correlations: Tensor

    @property
    def near_chance(self) -> bool:
        """True if the interval reaches twice chance."""
        return self.interval[0] <= 2 * self.chance


class Scaler:
    """Concatenated slots, each centred and scaled to a mean variance of 1 by the train sample."""

    def __init__(self, train: Part, slots: Sequence[int]) -> None:
        self.slots = tuple(slots)
        values = [train.slots[number] for number in self.slots]
        self.means = [slot.mean(0) for slot in values]
        self.scales = [
            (slot - mean).square().mean().sqrt().clamp(min=1e-6) for slot, mean in zip(values, self.means, strict=True)
        ]

    def __call__(self, part: Part) -> Tensor:
        """Return the scaled features [N, D] of the items of `part`."""
        chosen = zip(self.slots, self.means, self.scales, strict=True)
        return torch.cat([(part.slots[number] - mean) / scale for number, mean, scale in chosen], 1)


def group_means(values: Tensor, groups: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean over the items of each wanted group, [G, D]."""
    size = int(max(groups.max(), wanted.max())) + 1
    sums = torch.zeros(size, values.shape[1]).index_add_(0, groups, values)
    counts = torch.bincount(groups, minlength=size).clamp(min=1)
    return (sums / counts[:, None])[wanted]


def compare(a: Part, b: Part, slots: tuple[Sequence[int], Sequence[int]], seed: int = 0) -> Likeness | None:
    """Compare two modalities over groups of train; None if fewer than 50 groups have both."""
    both = torch.from_numpy(np.intersect1d(a.groups.numpy(), b.groups.numpy()))[:ROWS]
    if len(both) < 50:
        return None
    near: list[Tensor] = []
    kernels: list[Tensor] = []
    whole: list[Tensor] = []
    for part, chosen in zip((a, b), slots, strict=True):
        means = [group_means(slot - slot.mean(0), part.groups, both) for slot in part.slots]
        near.append(torch.stack([neighbours(rows, NEIGHBOURS).float().flatten() for rows in means]))
        flat = torch.stack([u_centred(rows).float().flatten() for rows in means])
        kernels.append(flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-12))
        whole.append(group_means(Scaler(part, chosen)(part), part.groups, both))
    count = len(both)
    left, right = (neighbours(rows, NEIGHBOURS) for rows in whole)
    generator = torch.Generator().manual_seed(seed)
    shuffled = []
    for _ in range(SHUFFLES):
        order = torch.randperm(count, generator=generator)
        shuffled.append(float((left & right[order][:, order]).sum()) / (NEIGHBOURS * count))
    return Likeness(
        count,
        mutual_knn(whole[0], whole[1], NEIGHBOURS),
        chance_knn(count, NEIGHBOURS),
        max(shuffled),
        debiased_cka(whole[0], whole[1]),
        near[0] @ near[1].T / (NEIGHBOURS * count),
        kernels[0] @ kernels[1].T,
    )


def fit_baseline(
    parts: tuple[Mapping[str, Part], Mapping[str, Part]],
    slots: tuple[Sequence[int], Sequence[int]],
    ridge: float,
) -> Baseline | None:
    """Fit CSA: regularised CCA of train, its variates weighted by their correlations, R@1 on dev; None without pairs.

    Args:
        parts: items of both modalities, by split.
        slots: slots of both modalities.
        ridge: ridge of the CCA.
    """
    first, second = parts
    scale, rescale = Scaler(first["train"], slots[0]), Scaler(second["train"], slots[1])
    rows = paired_rows(first["train"].groups, second["train"].groups)
    tried = paired_rows(first["dev"].groups, second["dev"].groups)
    both = np.intersect1d(first["dev"].groups.numpy(), second["dev"].groups.numpy())
    if len(rows[0]) < 50 or len(both) < 10:
        return None
    cca = regularised_cca(scale(first["train"])[rows[0]], rescale(second["train"])[rows[1]], ridge)
    x, y = scale(first["dev"]), rescale(second["dev"])
    left, right = cca.variates(0, x) * cca.correlations, cca.variates(1, y)
    lengths = (right * cca.correlations).norm(dim=1)

    alike = torch.from_numpy(shared_groups([first["dev"], second["dev"]]))

    def recalls(kept: np.ndarray) -> np.ndarray:
        mine, theirs = (torch.isin(part["dev"].groups, torch.from_numpy(kept)) for part in parts)
        shares = group_recall(
            left[mine],
            right[theirs],
            lengths[theirs],
            first["dev"].groups[mine],
            second["dev"].groups[theirs],
            int(both.max()) + 1,
            alike,
        )
        return shares[~shares.isnan()].double().numpy()

    generator = np.random.default_rng(0)
    recall = recalls(both)
    smaller = {
        len(both) // share: float(
            np.mean([recalls(generator.permutation(both)[: len(both) // share]).mean() for _ in range(4 * share)])
        )
        for share in (4, 2)
    }
    return Baseline(
        float(recall.mean()),
        mean_interval(recall, np.arange(len(recall))),
        1 / len(both),
        len(np.unique(first["train"].groups[rows[0]].numpy())),
        len(both),
        smaller,
        held_out_correlations(cca, x[tried[0]], y[tried[1]]),
    )


def shared_groups(parts: Sequence[Part]) -> np.ndarray:
    """Return labels of groups, [G]: groups that share an item have the same, as sounds with the name of one class.

    An evaluation counts such an item once, and every item of its groups as a right answer.
    """
    links = []
    for part in parts:
        _, first, numbers = np.unique(part.items, return_index=True, return_inverse=True)
        groups = part.groups.numpy()
        links.append(np.stack([groups[first[numbers]], groups], 1))
    every = np.concatenate(links)
    return least_connected(int(every.max(initial=-1)) + 1, every)


def effective_dimensions(values: Tensor) -> float:
    """Return the participation ratio of the covariance's eigenvalues, (sum l)^2 / sum l^2: d for d equal directions.

    >>> effective_dimensions(torch.eye(3) * 2)
    2.0
    """
    centred = (values - values.mean(0)).double()
    kernel = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    return round(float(kernel.trace() ** 2 / kernel.square().sum().clamp(min=1e-300)), 6)


def sibling_recall(values: Tensor, groups: Tensor) -> float | None:
    """Return the share of items whose nearest other item, by cosine, is in their own group, among groups with several.

    Ties count as in `metrics.ranks`. The result is None if fewer than 20 groups have several items: two captions of a
    picture that do not retrieve each other will not retrieve the picture either.
    """
    counts = torch.bincount(groups)
    several = counts[groups] > 1
    if int((counts > 1).sum()) < 20:
        return None
    unit = torch.nn.functional.normalize(values - values.mean(0), dim=1)
    scores = (unit @ unit.T).fill_diagonal_(-torch.inf)[several]
    own = (groups[several][:, None] == groups) & scores.isfinite()
    return float(first_shares(scores, own).mean())
