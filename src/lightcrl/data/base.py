"""A table of groups: a row is a group of items that belong together, a column is a modality.

Sources yield rows (and rejections). `groups.collect` merges rows of the same key into groups, gives every group its
split and makes items unique, so that each is encoded once, however many pairs contain it.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from lightcrl.data.files import name_below
from lightcrl.data.vectors import ArrayRow, cell_vectors
from lightcrl.errors import ItemError, TooManyRejectedError
from lightcrl.files.local import write_text


def digest(*parts: bytes | str) -> str:
    """Return 16 bytes in hexadecimal that identify `parts`, in order.

    >>> digest("a", "b") == digest("ab")
    False
    """
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little") + data)
    return state.hexdigest()


@dataclass(frozen=True, slots=True)
class Item:
    """A text, picture or sound.

    Attributes:
        key: digest of the content: items of equal key are the same item.
        source: origin of the item, for people.
        raw: input of an encoder's `prepare`, or a function without arguments that loads it.
    """

    key: str
    source: str
    raw: Any

    def read(self) -> Any:
        """Return the raw item, loaded if necessary."""
        return self.raw() if callable(self.raw) else self.raw


@dataclass(frozen=True, slots=True)
class Rejection:
    """An item or row that was set aside: its source, modality and reason."""

    source: str
    reason: str
    detail: str = ""
    modality: str | None = None

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a source; rows of the same `key` are a group.

    Attributes:
        key: name of the group.
        cells: items by modality; a modality may be missing or have many.
        split: `"train"`, `"dev"`, `"test"`, or None for a drawn split.
        notes: raw cells of further requested columns, by column.
    """

    key: str
    cells: Mapping[str, list[Item]]
    split: str | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


class Source(Protocol):
    """The interface of sources of rows."""

    def rows(self) -> Iterator[Row | Rejection]:
        """Yield every row once, in a fixed order; an unreadable row is a `Rejection`."""
        ...


@dataclass(frozen=True)
class Dataset:
    """Groups and their unique items. Those that `collect` has read are on disk, and made when they are read.

    Attributes:
        groups: names of the groups, in order of first appearance.
        splits: split of each group.
        items: unique items by modality.
        links: integers [L, 2] by modality: item number, group number; sorted by item, each pair once.
        rejected: items and rows that were set aside.
    """

    groups: Sequence[str]
    splits: list[str]
    items: Mapping[str, Sequence[Item]]
    links: dict[str, np.ndarray]
    rejected: list[Rejection] = field(default_factory=list)

    def named_links(self, modality: str, first: int, last: int) -> list[tuple[int, str, str]]:
        """Return the item, the group's name and its split, for every link of the items from `first` up to `last`."""
        links = self.links[modality]
        low, high = (bisect_left(links[:, 0], item) for item in (first, last))
        items, groups = links[low:high].T.tolist()
        start, stop = min(groups, default=0), max(groups, default=-1) + 1
        if stop - start <= 2 * len(groups):  # groups of neighbouring items are mostly neighbours, and read together
            near = self.groups[start:stop]
            names = [near[group - start] for group in groups]
        else:
            names = [self.groups[group] for group in groups]
        return list(zip(items, names, [self.splits[group] for group in groups], strict=True))


def text_item(text: str, source: str) -> Item:
    """Make an item from a text.

    Raises:
        ItemError: the text is empty, or has half of a UTF-16 pair, which tokenizers reject.
    """
    if not text.strip():
        raise ItemError("empty text")
    try:
        return Item(digest("text", text.encode()), source, text)
    except UnicodeEncodeError:
        raise ItemError("text that is not Unicode", f"{text!a}; data.encoding names the file's encoding") from None


def file_item(path: Path, root: Path, source: str | None = None) -> Item:
    """Make an item from a file, identified by its path below `root`, its size and its modification time.

    Raises:
        ItemError: there is no such file.
    """
    try:
        stat = path.stat()
    except (OSError, ValueError):  # ValueError: a path with a zero byte
        raise ItemError("missing file", str(path)) from None
    name = name_below(path, root)
    return Item(digest("file", name, str(stat.st_size), str(stat.st_mtime_ns)), source or name, path)


def bytes_item(data: bytes, source: str) -> Item:
    """Make an item from a file's content in memory.

    Raises:
        ItemError: the content is empty.
    """
    if not data:
        raise ItemError("empty file")
    return Item(digest("bytes", data), source, data)


def vector_item(raw: np.ndarray | ArrayRow, source: str) -> Item:
    """Make an item from numbers [D] or [T, D], or from a row of a file."""
    if isinstance(raw, ArrayRow):
        return Item(digest("row", raw.mark, str(raw.row)), f"{raw.path.name}:{raw.row + 1}", raw)
    return Item(digest("vector", str(raw.shape), np.ascontiguousarray(raw).tobytes()), source, raw)


def cell_items(value: Any, kind: str, root: Path, source: str, base: Path | None = None) -> Iterator[Item | ItemError]:
    """Yield the items of a cell: None has none, a list has many, any other value is a single item.

    Texts are strings; pictures and sounds are paths (relative ones below `root`), bytes, or the
    `{"bytes": ..., "path": ...}` of Hugging Face `datasets`; vectors have the forms of `lightcrl.data.vectors`. Files
    are named by their path below `base`, which distinguishes files called `1.jpg` in two roots; without it, below
    `root`.
    """
    try:
        entries = list(cell_vectors(value)) if kind == "vectors" else value
    except ItemError as error:
        yield error
        return
    for entry in entries if isinstance(entries, (list, tuple)) else [entries]:
        if entry is None:
            continue
        try:
            if isinstance(entry, (np.ndarray, ArrayRow)) and kind == "vectors":
                yield vector_item(entry, source)
            elif kind == "text":
                if not isinstance(entry, str):
                    raise ItemError("not a text", f"found {type(entry).__name__}")
                yield text_item(entry, source)
            elif isinstance(entry, bytes):
                yield bytes_item(entry, source)
            elif isinstance(entry, dict) and entry.get("bytes"):
                yield bytes_item(entry["bytes"], source)
            elif isinstance(entry, dict) and entry.get("path"):
                yield file_item(root / entry["path"], base or root)
            elif isinstance(entry, (str, Path)) and str(entry):
                yield file_item(root / entry, base or root)
            elif isinstance(entry, str):
                raise ItemError("missing file", "the path is empty")
            else:
                raise ItemError(f"not a path or {kind}", f"found {type(entry).__name__}")
        except ItemError as error:
            yield error


def read_cells(
    cells: Mapping[str, Any], kinds: Mapping[str, str], root: Path, source: str, base: Path | None = None
) -> tuple[dict[str, list[Item]], list[Rejection]]:
    """Return items by modality from raw cells by modality, and the rejections."""
    items: dict[str, list[Item]] = {}
    rejected = []
    for modality, kind in kinds.items():
        for item in cell_items(cells.get(modality), kind, root, source, base):
            if isinstance(item, Item):
                items.setdefault(modality, []).append(item)
            else:
                rejected.append(Rejection(source, item.reason, item.detail, modality))
    return items, rejected


def draw_split(key: str, fractions: Mapping[str, float]) -> str:
    """Draw the split of a group from its name: the same on every machine and for any other data.

    >>> draw_split("667626.jpg", {"dev": 0.1, "test": 0.1})
    'dev'
    """
    point = int(digest("split", key)[:13], 16) / 16**13
    for split, fraction in fractions.items():
        if point < fraction:
            return split
        point -= fraction
    return "train"


def check_rejected(rejected: list[Rejection], kept: int, limit: float) -> None:
    """Raise `TooManyRejectedError` with the reasons counted if the share set aside is above `limit`."""
    total = len(rejected) + kept
    if total and len(rejected) > limit * total:
        reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(r.reason for r in rejected).most_common())
        raise TooManyRejectedError(
            f"{len(rejected)} of {total} items were set aside ({len(rejected) / total:.0%}; at most {limit:.0%} are "
            f"allowed by data.max_rejected): {reasons}. First: {rejected[0]}."
        )


def write_rejected(rejected: Iterable[Rejection], path: Path) -> None:
    """One JSON object a line: source, modality, reason, detail."""
    lines = [
        json.dumps({"source": r.source, "modality": r.modality, "reason": r.reason, "detail": r.detail})
        for r in rejected
    ]
    write_text(path, "".join(f"{line}\n" for line in lines))
