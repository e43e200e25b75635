"""Equal files: their content identifies them where names and modification times differ, as after a fresh checkout."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl.data.base import Item
from lightcrl.data.webdataset import TarSlice
from lightcrl.encoders.views import View, view_mark
from lightcrl.errors import ItemError

SAMPLE = 4096
"""Number of bytes from the middle of a file; files that differ there are not read as a whole."""


def extent(raw: Any) -> TarSlice | None:
    """Return the part of a file that a raw item or its view is read from; None if it is in memory or is missing."""
    if isinstance(raw, View):
        return extent(raw.raw)
    if isinstance(raw, Path):
        try:
            return TarSlice(raw, 0, raw.stat().st_size)
        except OSError:
            return None
    return raw if isinstance(raw, TarSlice) else None


def content(item: Item) -> str | None:
    """Return size and digest of the bytes of an item's file, and the mark of its view; None if there is no file."""
    part = extent(item.raw)
    try:
        data = part() if part else None
    except ItemError:
        return None
    if data is None:
        return None
    mark = f" {view_mark(item.raw.number, item.raw.spec)}" if isinstance(item.raw, View) else ""
    return f"{len(data)} {hashlib.blake2b(data, digest_size=16).hexdigest()}{mark}"


def repeated(items: Sequence[Item]) -> list[Item]:
    """Return the first item of each content that several items have; few files are read as a whole to find them."""
    places = np.arange(len(items))
    for mark in (_size, _middle):
        # A few bytes an item: equal marks have equal hashes, and the rare others are told apart by the next mark.
        marks = (mark(items[place]) for place in places.tolist())
        hashes = np.fromiter((-1 if each is None else hash(each) for each in marks), np.int64, len(places))
        _, numbers, counts = np.unique(hashes, return_inverse=True, return_counts=True)
        places = places[(counts[numbers] > 1) & (hashes != -1)]
    first: dict[str | None, int] = {None: -1}
    several: dict[int, None] = {}
    for place in places.tolist():
        if (at := first.setdefault(content(items[place]), place)) not in (place, -1):
            several[at] = None
    return [items[place] for place in sorted(several)]


def _size(item: Item) -> int | None:
    part = extent(item.raw)
    return part.size if part else None


def _middle(item: Item) -> tuple[int, bytes] | None:
    """Return the size of an item's file, and some bytes from its middle."""
    part = extent(item.raw)
    if part is None:
        return None
    try:
        data = TarSlice(part.path, part.offset + part.size // 2, min(SAMPLE, part.size - part.size // 2))()
    except ItemError:
        return None
    return part.size, data
