"""Groups from the rows of a source: merged by name, split, freed of leaks, with items that are unique.

Names, keys, sources and raw items go to disk while the source is read (`spool`). Groups and items are then numbered by
16-byte digests of their names (`naming`), in arrays: 110 bytes a pair of texts while they are sorted, 27 afterwards.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from lightcrl.data.base import Dataset, Rejection, Row, check_rejected, draw_split
from lightcrl.data.components import least_connected
from lightcrl.data.naming import number_names
from lightcrl.data.spool import Items, Names, Spool
from lightcrl.errors import DataError, EmptyDatasetError
from lightcrl.machine import release_memory

DRAWN = -1
"""Code of the split of a row whose split is drawn."""


def collect(
    source: Iterable[Row | Rejection],
    kinds: Mapping[str, str],
    *,
    fractions: Mapping[str, float] | None = None,
    strict: bool = False,
    max_rejected: float = 0.2,
) -> Dataset:
    """Read a source to its end: merge rows into groups, draw splits, set leaks aside.

    A group has a single split. If the source gives none, it is drawn from the group's name; groups that share a picture
    or a sound are drawn together. A group, picture or sound that the source itself puts both into `train` and into
    another split is a leak: its group leaves `train`. An item in several groups has the source and the raw item of its
    last row in the first of them.

    Args:
        source: rows and rejections.
        kinds: modality to `"text"`, `"image"`, `"audio"` or `"vectors"`.
        fractions: shares of `"dev"` and `"test"` where splits are drawn; the rest is `"train"`.
        strict: stop at the first thing that would be set aside.
        max_rejected: greatest share of all items that may be set aside.

    Raises:
        DataError: `strict`, and something would be set aside.
        TooManyRejectedError: more than `max_rejected`.
        EmptyDatasetError: no group is left.
    """
    rejected: list[Rejection] = []

    def set_aside(rejection: Rejection) -> None:
        if strict:
            raise DataError(f"{rejection}. strict = true stops at the first such item; strict = false sets it aside.")
        rejected.append(rejection)

    read = _Read.empty(kinds, fractions or {})
    for row in source:
        if isinstance(row, Rejection):
            set_aside(row)
        elif any(row.cells.values()):
            read.add(row)
    groups = _place(read, kinds)
    for leak in _leaks(read, groups):
        set_aside(leak)
    kept = np.flatnonzero(~groups.leaking)
    number = np.cumsum(~groups.leaking, dtype=np.int32) - np.int32(1)
    items, links = {}, {}
    for modality in kinds:
        items[modality], links[modality] = _items(read, groups, modality, number)
    names = Names(read.names, _unless_trivial(groups.rows[kept], len(read.names)), len(kept))
    splits = [read.splits[code] for code in groups.splits[kept].tolist()]
    del read, groups
    release_memory()
    check_rejected(rejected, sum(map(len, items.values())), max_rejected)
    if not len(names):
        raise EmptyDatasetError("the data has no groups: expected rows with at least one item each.")
    return Dataset(names, splits, items, links, rejected)


@dataclass
class _Read:
    """All rows of a source.

    Attributes:
        fractions: shares of drawn splits.
        splits: names of the splits by code.
        names: table of the names of the groups, a line per row.
        given: code of the split of each row, or `DRAWN`.
        drawn: code of the split that a row without one draws from its own name.
        items: table of the items of each modality.
        rows: number of the row of each item, by modality.
    """

    fractions: Mapping[str, float]
    splits: list[str]
    names: Spool
    items: dict[str, Spool]
    rows: dict[str, array[int]]
    given: array[int] = field(default_factory=lambda: array("b"))
    drawn: array[int] = field(default_factory=lambda: array("b"))
    _last: tuple[str, int] = ("", 0)

    @classmethod
    def empty(cls, kinds: Iterable[str], fractions: Mapping[str, float]) -> _Read:
        tables = {modality: Spool("key", "source", "raw") for modality in kinds}
        return cls(fractions, ["train"], Spool("name"), tables, {modality: array("i") for modality in kinds})

    def code(self, split: str) -> int:
        if split not in self.splits:
            self.splits.append(split)
        return self.splits.index(split)

    def draw(self, name: str) -> int:
        if not self.fractions:
            return 0
        if name != self._last[0]:
            self._last = name, self.code(draw_split(name, self.fractions))
        return self._last[1]

    def add(self, row: Row) -> None:
        number = len(self.given)
        for modality, added in row.cells.items():
            table, rows = self.items[modality], self.rows[modality]
            for item in added:
                table.append(item.key, item.source, item.raw)
                rows.append(number)
        self.names.append(row.key)
        self.given.append(DRAWN if row.split is None else self.code(row.split))
        self.drawn.append(self.draw(row.key) if row.split is None else 0)


@dataclass(frozen=True)
class _Groups:
    """Groups by number, in order of first appearance.

    Attributes:
        of_rows: group of each row [R].
        members: part of a group of each row [R]: rows of the name with and without a given split may form one group.
        rows: first row of each group [G], whose name is that of the group.
        splits: code of the split of each group [G].
        leaking: true for groups of train that have their name or a picture or sound in common with another split, [G].
        held_out: true for names, and for keys of pictures and sounds, that stand outside train.
        names: number of the name of each row [R], as in `held_out`.
        media: number of the key of each item of pictures and sounds, as in `held_out`, by modality.
        digests: digests of the keys of pictures and sounds, by modality.
    """

    of_rows: np.ndarray
    members: np.ndarray
    rows: np.ndarray
    splits: np.ndarray
    leaking: np.ndarray
    held_out: np.ndarray
    names: np.ndarray
    media: dict[str, np.ndarray]
    digests: dict[str, np.ndarray]


def _place(read: _Read, kinds: Mapping[str, str]) -> _Groups:
    """Merge rows into groups of one split each, and mark leaks."""
    # Texts repeat by chance ("a dog runs"), files do not. Vectors may be those of texts, and count only if there are
    # neither pictures nor sounds.
    kinds_of_media = {"image", "audio"} & set(kinds.values()) or {"vectors"}
    shared = [modality for modality, kind in kinds.items() if kind in kinds_of_media]
    digests = {modality: read.items[modality].take_digests() for modality in shared}
    (names, *numbers), count = number_names([read.names.take_digests(), *(digests[modality] for modality in shared)])
    media = dict(zip(shared, numbers, strict=True))
    given = np.frombuffer(read.given, np.int8) if read.given else np.zeros(0, np.int8)
    drawn = np.frombuffer(read.drawn, np.int8) if read.drawn else np.zeros(0, np.int8)
    rows_of = {modality: _integers(read.rows[modality]) for modality in shared}
    members = _number_pairs(names, given)
    codes = np.where(given == DRAWN, _redraw(read, names, drawn, given, media, rows_of), given)
    # A group has the split of its first row.
    first = _first(members)
    of_members = _number_pairs(names[first], codes[first])
    groups = of_members[members]
    rows = first[_first(of_members)]
    splits = codes[rows]
    held_out, leaking = np.zeros(count, bool), np.zeros(len(rows), bool)
    outside = splits[groups] != 0
    if outside.any():
        held_out[names[outside]] = True
        for modality, keys in media.items():
            held_out[keys[outside[rows_of[modality]]]] = True
        leaking[groups[held_out[names]]] = True
        for modality, keys in media.items():
            leaking[groups[rows_of[modality][held_out[keys]]]] = True
        leaking &= splits == 0
    return _Groups(groups, members, rows, splits, leaking, held_out, names, media, digests)


def _redraw(
    read: _Read,
    names: np.ndarray,
    drawn: np.ndarray,
    given: np.ndarray,
    media: Mapping[str, np.ndarray],
    rows_of: Mapping[str, np.ndarray],
) -> np.ndarray:
    """Return the drawn split of each row [R]: that of the least name connected with its own by pictures and sounds."""
    pairs = [np.zeros((0, 2), np.int64)]
    for modality, keys in media.items():
        free = given[rows_of[modality]] == DRAWN
        pairs.append(np.stack([keys[free], names[rows_of[modality][free]]], 1).astype(np.int64))
    links = np.concatenate(pairs)
    links = links[np.lexsort(links.T[::-1])]
    apart = (links[1:, 0] == links[:-1, 0]) & (links[1:, 1] != links[:-1, 1])
    edges = np.stack([links[:-1, 1][apart], links[1:, 1][apart]], 1)
    if not len(edges):
        return drawn
    nodes = np.unique(edges)
    rows = np.flatnonzero(np.isin(names, nodes) & (given == DRAWN))
    strings = dict(zip(names[rows].tolist(), Names(read.names, rows, len(rows)), strict=True))
    ordered = np.array(sorted(nodes.tolist(), key=strings.__getitem__))
    rank = np.empty(len(nodes), np.int64)
    rank[np.searchsorted(nodes, ordered)] = np.arange(len(nodes))
    least = least_connected(len(nodes), rank[np.searchsorted(nodes, edges)])
    changed = drawn.copy()
    code = np.array([read.draw(strings[name]) for name in ordered[least].tolist()], np.int8)
    changed[rows] = code[rank[np.searchsorted(nodes, names[rows])]]
    return changed


def _leaks(read: _Read, groups: _Groups) -> list[Rejection]:
    """Return a rejection for each leaking group, in order."""
    causes: dict[int, list[str]] = {}
    for modality, keys in groups.media.items():
        rows = _integers(read.rows[modality])
        lines = np.flatnonzero(groups.held_out[keys] & groups.leaking[groups.of_rows[rows]])
        for line, item in zip(lines.tolist(), Items(read.items[modality], lines, len(lines)), strict=True):
            causes.setdefault(int(groups.of_rows[rows[line]]), []).append(item.key)
    leaks = []
    for group in np.flatnonzero(groups.leaking).tolist():
        row = int(groups.rows[group])
        name = Names(read.names, None, len(read.names))[row]
        cause = name if groups.held_out[groups.names[row]] else min(causes[group])
        leaks.append(Rejection(name, "leak", f"{cause} is also in another split"))
    return leaks


def _items(read: _Read, groups: _Groups, modality: str, number: np.ndarray) -> tuple[Items, np.ndarray]:
    """Return the unique items of a modality and their links; `number` [G] renumbers the groups that are kept."""
    table, rows = read.items[modality], _integers(read.rows[modality])
    keys = groups.digests.pop(modality, None)
    keys = table.take_digests() if keys is None else keys
    lines, of_lines = np.arange(len(rows), dtype=np.int32), groups.of_rows[rows]
    if groups.leaking.any():
        lines = lines[~groups.leaking[of_lines]]
    if (np.diff(of_lines[lines]) < 0).any() or len(groups.rows) <= groups.members.max(initial=0):
        lines = lines[np.lexsort((groups.members[rows[lines]], of_lines[lines]))]
    of_lines = number[of_lines[lines]]
    trivial = _unless_trivial(lines, len(table)) is None
    (items,), count = number_names([keys if trivial else keys[lines]])
    links = np.stack([items, of_lines], 1)
    if count < len(lines):  # an item in several lines
        order = np.lexsort((of_lines, items))
        links, lines = links[order], lines[order]
        last = (links[1:] != links[:-1]).any(1)
        ends = np.flatnonzero(np.append(last, True))
        links, lines = links[ends], lines[ends]
        lines = lines[np.flatnonzero(np.diff(links[:, 0], prepend=-1))]
    return Items(table, _unless_trivial(lines, len(table)), count), links


def _integers(values: array[int]) -> np.ndarray:
    return np.frombuffer(values, np.int32) if values else np.zeros(0, np.int32)


def _unless_trivial(places: np.ndarray, count: int) -> np.ndarray | None:
    """Return places [N], or None if they are all `count` places in order."""
    return None if len(places) == count and (np.diff(places) == 1).all() else places


def _first(numbers: np.ndarray) -> np.ndarray:
    """Return the place where each number appears first; numbers are given by first appearance."""
    if numbers.max(initial=-1) + 1 == len(numbers):  # all differ
        return numbers
    return np.flatnonzero(np.diff(np.maximum.accumulate(numbers), prepend=-1) > 0).astype(np.int32)


def _number_pairs(names: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Number pairs of a name and a code [N] by first appearance; names are numbered so already."""
    if names.max(initial=-1) + 1 == len(names) or (codes == codes[0]).all():
        return names
    _, first, numbers = np.unique(names.astype(np.int64) * 256 + codes, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    ordered: np.ndarray = rank[numbers]
    return ordered
