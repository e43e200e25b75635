"""Equal files: their content identifies them where names and modification times differ, as after a fresh checkout."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    alike: dict[Any, list[Item]] = {}
    for item in items:
        if (part := extent(item.raw)) is not None:
            alike.setdefault(part.size, []).append(item)
    for mark in (_middle, content):
        narrowed: dict[Any, list[Item]] = {}
        for size, members in alike.items():
            for item in members if len(members) > 1 else ():
                narrowed.setdefault((size, mark(item)), []).append(item)
        alike = narrowed
    return [members[0] for (_, mark), members in alike.items() if mark is not None and len(members) > 1]


def _middle(item: Item) -> bytes | None:
    """Return some bytes from the middle of an item's file."""
    part = extent(item.raw)
    if part is None:
        return None
    try:
        return TarSlice(part.path, part.offset + part.size // 2, min(SAMPLE, part.size - part.size // 2))()
    except ItemError:
        return None
