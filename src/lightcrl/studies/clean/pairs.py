"""Judged pairs: an item and the group in which it stands, beside the group's anchors; and the folds of the groups.

In a group of a picture and five captions, the picture is the anchor and each caption is judged: five pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from lightcrl.data.components import least_connected
from lightcrl.errors import CleaningError
from lightcrl.features import Features
from lightcrl.features.table import SPLITS, Members, Split, make_members


@dataclass(frozen=True)
class Links:
    """Items of a modality in groups of all splits.

    Attributes:
        rows: rows of the feature store [L], split by split and in order of groups.
        groups: numbers of the groups over all splits [L].
    """

    rows: np.ndarray
    groups: np.ndarray

    def of(self, chosen: np.ndarray) -> Links:
        """Return the links for which `chosen` [L] is true."""
        return Links(self.rows[chosen], self.groups[chosen])


@dataclass(frozen=True)
class Layout:
    """Groups of all splits with one numbering: those of train, then of dev, then of test.

    Attributes:
        anchor: modality that stands for the group; it is not judged.
        judged: judged modalities.
        links: links by modality.
        splits: split of every group, its number in `SPLITS`, [G].
        starts: first group of each split, by name.
    """

    anchor: str
    judged: tuple[str, ...]
    links: Mapping[str, Links]
    splits: np.ndarray
    starts: Mapping[str, int]

    @property
    def count(self) -> int:
        """G, number of groups."""
        return len(self.splits)

    def paired(self, modality: str) -> np.ndarray:
        """Return a mask [L] of the links of a judged modality whose group has an anchor."""
        anchored = np.bincount(self.links[self.anchor].groups, minlength=self.count) > 0
        mask: np.ndarray = anchored[self.links[modality].groups]
        return mask


def choose_anchor(kinds: Mapping[str, str], anchor: str | None) -> str:
    """Return the modality that stands for a group: the given one, or the first that is not a text, or the first.

    Raises:
        CleaningError: there is a single modality, or none of this name.
    """
    if len(kinds) < 2:
        raise CleaningError(
            f"the recipe has one modality ({', '.join(kinds)}); pairs need two. Add a table [encoders.<name>]."
        )
    if anchor is not None and anchor not in kinds:
        raise CleaningError(f"the anchor is {anchor!r}; expected one of the recipe's modalities: {', '.join(kinds)}.")
    return anchor or next((name for name, kind in kinds.items() if kind != "text"), next(iter(kinds)))


def lay_out(features: Features, anchor: str) -> Layout:
    """Number the groups of all splits together."""
    links: dict[str, tuple[list[np.ndarray], list[np.ndarray]]] = {name: ([], []) for name in features.stores}
    starts: dict[str, int] = {}
    codes: list[np.ndarray] = []
    count = 0
    for code, name in enumerate(SPLITS):
        if name not in features.splits:
            continue
        split, starts[name] = features.split(name), count
        count += len(split)
        codes.append(np.full(len(split), code))
        for modality, members in split.members.items():
            links[modality][0].append(members.rows.astype(np.int64))
            links[modality][1].append(members.groups.astype(np.int64) + starts[name])
    joined = {name: Links(np.concatenate(rows), np.concatenate(groups)) for name, (rows, groups) in links.items()}
    judged = tuple(name for name in features.stores if name != anchor)
    return Layout(anchor, judged, joined, np.concatenate(codes), starts)


def draw_folds(layout: Layout, folds: int, same: np.ndarray, seed: int) -> np.ndarray:
    """Return the fold of every group, [G].

    Groups with a common anchor stand in one fold, so that no model judges a pair after training on its anchor. Folds
    are equally large within each split.

    Args:
        layout: groups and items.
        folds: K, number of folds.
        same: pairs [N, 2] of anchor rows with the same content.
        seed: seed of the draw.

    Raises:
        CleaningError: a fold would leave too few groups.
    """
    anchors = layout.links[layout.anchor]
    least = least_connected(int(anchors.rows.max(initial=-1)) + 1, same)[anchors.rows]
    order = np.argsort(least, kind="stable")
    alike = np.flatnonzero(least[order][1:] == least[order][:-1])
    chain = np.stack([anchors.groups[order][alike], anchors.groups[order][alike + 1]], 1)
    component = least_connected(layout.count, chain)
    roots = np.unique(component)
    shuffled = np.random.default_rng(seed).permutation(roots)
    shuffled = shuffled[np.argsort(layout.splits[shuffled], kind="stable")]
    place = np.empty(layout.count, np.int64)
    place[shuffled] = np.arange(len(shuffled)) % folds
    fold: np.ndarray = place[component]
    return fold


def training_features(
    features: Features, layout: Layout, kept: np.ndarray, dropped: Mapping[str, np.ndarray]
) -> Features:
    """Return features whose train and dev have only some groups and pairs.

    Args:
        features: features with all groups.
        layout: its layout.
        kept: mask of the groups [G].
        dropped: mask of the dropped links [L] by modality; modalities without an entry keep all.
    """
    for name in ("train", "dev"):
        split, start = features.split(name), layout.starts[name]
        thinner = replace(split, members={**split.members, **_thinned(split, layout, start, dropped)})
        features = features.replace_split(name, thinner.subset(np.flatnonzero(kept[start : start + len(split)])))
    return features


def _thinned(split: Split, layout: Layout, start: int, dropped: Mapping[str, np.ndarray]) -> dict[str, Members]:
    """Return the members of a split without dropped links."""
    thinned = {}
    for modality, mask in dropped.items():
        members, links = split.members[modality], layout.links[modality]
        first = int(np.searchsorted(links.groups, start))
        here = ~mask[first : first + len(members.rows)]
        thinned[modality] = make_members(members.rows[here], members.groups[here], len(split))
    return thinned
