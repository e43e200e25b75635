"""Content in several splits or in too many groups: equal content, near-duplicates, shared texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightcrl.data import Dataset, Item
from lightcrl.files.local import file_digest

# Number of robust deviations below the median log distance that makes a nearest neighbour a near-duplicate. Among
# normally distributed nearest neighbours, one in 30,000 is that close by chance.
DEVIATIONS = 4.0
# Below this cosine, whatever the spread, two pictures of a scene are as likely as duplicates.
LEAST_COSINE = 0.95
SHOWN = 5


@dataclass(frozen=True)
class Twin:
    """Two similar items in two splits.

    Attributes:
        train: source of the item in train.
        other: source of the item in dev or test.
        split: split of the other item.
        cosine: cosine of their features; 1 for equal content.
    """

    train: str
    other: str
    split: str
    cosine: float


@dataclass(frozen=True)
class Leaks:
    """The content of a modality in several splits.

    Attributes:
        exact: number of items of dev and test whose content is also in train, under any name.
        exact_first: the first of them.
        compared: number of items whose content could be compared.
        near: number of items of the dev sample with a near-duplicate in the train sample, except exact ones.
        near_first: the closest of them.
        near_within: share of the train sample with a near-duplicate in another group of train, for comparison.
        near_expected: expected number of near-duplicates between all of train and dev, extrapolated from the sample.
        threshold: cosine from which two items count as near-duplicates.
        typical: median cosine of an item of the train sample and its nearest neighbour in another group.
    """

    exact: int
    exact_first: list[Twin]
    compared: int
    near: int
    near_first: list[Twin]
    near_within: float
    near_expected: int
    threshold: float
    typical: float


def exact_twins(dataset: Dataset, modality: str) -> tuple[list[Twin], int]:
    """Return items of dev and test whose content is also in train, and the number of comparable items.

    Texts and bytes are compared by content, files by size first and then by content; items that are loaded on demand
    are not compared.
    """
    splits = np.array(dataset.splits)
    links = dataset.links[modality]
    where = {split: set(links[splits[links[:, 1]] == split, 0].tolist()) for split in ("train", "dev", "test")}
    items = dataset.items[modality]
    marks = content_marks(items)
    in_train = {mark: number for number in sorted(where["train"]) if (mark := marks[number]) is not None}
    twins = []
    for split in ("dev", "test"):
        for number in sorted(where[split]):
            if (first := in_train.get(marks[number])) is not None:
                twins.append(Twin(items[first].source, items[number].source, split, 1.0))
    return twins, sum(mark is not None for mark in marks)


def content_marks(items: Sequence[Item]) -> list[str | None]:
    """Return a digest of the content of each item; None if it would have to be loaded."""
    sizes: dict[int, list[int]] = {}
    marks: list[str | None] = []
    for number, item in enumerate(items):
        if isinstance(item.raw, Path):
            size = item.raw.stat().st_size if item.raw.is_file() else -1
            marks.append(f"size {size} of {number}")
            sizes.setdefault(size, []).append(number)
        else:
            marks.append(None if callable(item.raw) else item.key)
    for alike in sizes.values():
        if len(alike) > 1:
            for number in alike:
                path = items[number].raw
                marks[number] = file_digest(path) if path.is_file() else None
    return marks


def near_twins(
    train: tuple[Tensor, Tensor, Sequence[Item]], dev: tuple[Tensor, Sequence[Item]]
) -> tuple[list[Twin], float, float, float]:
    """Return pairs of train and dev closer than chance explains, closest first; the cosine from which a pair counts;
    the median cosine of a nearest neighbour within train; and the share of train with such a pair within train.

    Nearest neighbours within train, in other groups, show how close two different items come. Their log distances
    log(1 - cosine) have a median m and a robust deviation s (interquartile range / 1.349); a pair of train and dev
    below m - 4 s, and of cosine 0.95 or more, is called a near-duplicate.

    Args:
        train: features [N, D], groups [N] and the items.
        dev: features [M, D] and the items.
    """
    values, groups, items = train
    centre = values.mean(0)
    unit, other = normalize(values - centre, dim=1), normalize(dev[0] - centre, dim=1)
    inside = (unit @ unit.T).masked_fill(groups[:, None] == groups, -torch.inf).amax(1)
    logs = (1 - inside.double()).clamp(min=1e-6).log()
    low, middle, high = torch.quantile(logs, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
    bound = middle - DEVIATIONS * max((high - low) / 1.349, 1e-3)
    threshold, typical = max(LEAST_COSINE, 1 - float(np.exp(bound))), 1 - float(np.exp(middle))
    best, place = (other @ unit.T).max(1)
    close = torch.nonzero(best >= threshold)[:, 0].tolist()
    twins = [Twin(items[int(place[n])].source, dev[1][n].source, "dev", float(best[n])) for n in close]
    return sorted(twins, key=lambda twin: -twin.cosine), threshold, typical, float((inside >= threshold).float().mean())


def find_leaks(
    dataset: Dataset,
    modality: str,
    train: tuple[Tensor, Tensor, Sequence[Item]],
    dev: tuple[Tensor, Sequence[Item]],
    totals: tuple[int, int],
) -> Leaks:
    """Return all leaks of a modality; `totals` are its numbers of items in train and in dev, beyond the sample."""
    exact, compared = exact_twins(dataset, modality)
    near, threshold, typical, within = near_twins(train, dev)
    exact_pairs = {(twin.train, twin.other) for twin in exact}
    same = {twin.other for twin in exact}
    near = [twin for twin in near if (twin.train, twin.other) not in exact_pairs and twin.other not in same]
    scale = totals[0] * totals[1] / max(1, len(train[0]) * len(dev[0]))
    return Leaks(
        len(exact),
        exact[:SHOWN],
        compared,
        len(near),
        near[:SHOWN],
        within,
        min(totals[1], round(len(near) * scale)),
        threshold,
        typical,
    )


def shared_texts(dataset: Dataset, modality: str) -> list[tuple[str, int]]:
    """Return texts in more than one group, the most frequent first, with the number of their groups."""
    counts = np.bincount(dataset.links[modality][:, 0], minlength=len(dataset.items[modality]))
    order = np.argsort(-counts, kind="stable")
    return [(str(dataset.items[modality][n].raw), int(counts[n])) for n in order if counts[n] > 1]
