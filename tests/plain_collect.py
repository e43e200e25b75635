"""Groups from rows in dictionaries, as the library read them first: the oracle of `collect` in tests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from lightcrl.data.base import Dataset, Item, Rejection, Row, check_rejected, draw_split
from lightcrl.data.components import least_connected
from lightcrl.errors import DataError, EmptyDatasetError

Cells = Mapping[str, Mapping[str, Item]]


def _media(cells: Cells, kinds: Mapping[str, str]) -> Iterator[str]:
    """Keys of a group's pictures and sounds: texts repeat by chance ("a dog runs"), files do not.

    Vectors may be those of texts, and count only if there are neither pictures nor sounds.
    """
    media = {"image", "audio"} & set(kinds.values()) or {"vectors"}
    for modality, kind in kinds.items():
        if kind in media:
            yield from cells.get(modality, {})


def _names(key: str, cells: Cells, kinds: Mapping[str, str]) -> set[str]:
    return {key, *_media(cells, kinds)}


def _anchors(members: Mapping[str, Cells], kinds: Mapping[str, str]) -> dict[str, str]:
    """Return for each group the least name among the groups connected to it by shared pictures and sounds."""
    keys = sorted(members)
    first_with: dict[str, int] = {}
    links = [
        (number, first_with.setdefault(medium, number))
        for number, key in enumerate(keys)
        for medium in _media(members[key], kinds)
    ]
    least = least_connected(len(keys), np.array(links, dtype=np.int64).reshape(-1, 2))
    return {key: keys[anchor] for key, anchor in zip(keys, least.tolist(), strict=True)}


def _held_out_names(placed: Mapping[tuple[str, str], Cells], kinds: Mapping[str, str]) -> set[str]:
    """Names of all groups, pictures and sounds that stand outside `train`."""
    return {name for (split, key), cells in placed.items() if split != "train" for name in _names(key, cells, kinds)}


def collect(
    source: Iterable[Row | Rejection],
    kinds: Mapping[str, str],
    *,
    fractions: Mapping[str, float] | None = None,
    strict: bool = False,
    max_rejected: float = 0.2,
) -> Dataset:
    rejected: list[Rejection] = []

    def set_aside(rejection: Rejection) -> None:
        if strict:
            raise DataError(f"{rejection}. strict = true stops at the first such item; strict = false sets it aside.")
        rejected.append(rejection)

    members: dict[tuple[str | None, str], dict[str, dict[str, Item]]] = {}
    for row in source:
        if isinstance(row, Rejection):
            set_aside(row)
        elif any(row.cells.values()):
            cells = members.setdefault((row.split, row.key), {})
            for modality, added in row.cells.items():
                cells.setdefault(modality, {}).update((item.key, item) for item in added)

    anchors = _anchors({key: cells for (given, key), cells in members.items() if given is None}, kinds)
    placed: dict[tuple[str, str], dict[str, dict[str, Item]]] = {}
    for (given, key), cells in members.items():
        there = placed.setdefault((given or draw_split(anchors[key], fractions or {}), key), cells)
        if there is not cells:  # rows with and without a split of their own
            for modality, unique in cells.items():
                there.setdefault(modality, {}).update(unique)

    held_out = _held_out_names(placed, kinds)
    groups: list[str] = []
    splits: list[str] = []
    items: dict[str, dict[str, tuple[int, Item]]] = {modality: {} for modality in kinds}
    links: dict[str, list[tuple[int, int]]] = {modality: [] for modality in kinds}
    for (split, key), cells in placed.items():
        if split == "train" and (leak := _names(key, cells, kinds) & held_out):
            set_aside(Rejection(key, "leak", f"{key if key in leak else min(leak)} is also in another split"))
            continue
        for modality, unique in cells.items():
            for item in unique.values():
                number, _ = items[modality].setdefault(item.key, (len(items[modality]), item))
                links[modality].append((number, len(groups)))
        groups.append(key)
        splits.append(split)

    dataset = Dataset(
        groups,
        splits,
        {modality: [item for _, item in numbered.values()] for modality, numbered in items.items()},
        {modality: np.array(sorted(set(pairs)), dtype=np.int64).reshape(-1, 2) for modality, pairs in links.items()},
        rejected,
    )
    check_rejected(rejected, sum(map(len, dataset.items.values())), max_rejected)
    if not groups:
        raise EmptyDatasetError("the data has no groups: expected rows with at least one item each.")
    return dataset
