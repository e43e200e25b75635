"""Adding: compare entries with the items of the index, and store new and changed ones in one commit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from lightcrl.data.base import Item, Rejection, digest
from lightcrl.embedder import Embedder
from lightcrl.errors import DataError, ShapeError
from lightcrl.files.local import file_digest
from lightcrl.index.base import Added, Engine, Entry, Token
from lightcrl.index.catalog import Catalog, Kept
from lightcrl.index.previews import Preview, make_preview, needs_preview
from lightcrl.index.schema import OWN

READERS = 4
"""Number of files read at a time for their digests."""


@dataclass(frozen=True)
class Arrival:
    """An entry with the matching item of the index.

    Attributes:
        entry: the entry.
        digest: digest of its content.
        kept: the matching item of the index, if there is one.
    """

    entry: Entry
    digest: str
    kept: Kept | None

    @property
    def changed(self) -> bool:
        """True if the item is new or its content has changed."""
        return self.kept is None or self.kept.digest != self.digest


def add_batch(
    catalog: Catalog,
    engine: Engine,
    embedder: Callable[[], Embedder],
    dim: int,
    kinds: Mapping[str, str],
    entries: Sequence[Entry | Rejection],
    check: Callable[[], None] = lambda: None,
) -> Added:
    """Add entries in one commit.

    Args:
        catalog: catalog of the index.
        engine: engine of the index.
        embedder: function that returns the index's model; only called if an item has to be encoded.
        dim: d, width of a vector.
        kinds: kind of item by modality.
        entries: entries to add, of which the last of one name counts; rejections stay set aside.
        check: function called right before the first write.

    Raises:
        DataError: an entry has an unusable id.
        ShapeError: the embedding of an entry is not a unit vector of the index's width.
    """
    arrivals, rejected = _place(catalog, [entry for entry in entries if isinstance(entry, Entry)])
    rejected += [entry for entry in entries if isinstance(entry, Rejection)]
    stored = [arrival for arrival in arrivals if arrival.changed]
    vectors, encoded, more = _embed(catalog, engine, embedder, stored, dim)
    rejected += more
    whole = ~np.isnan(vectors).any(1)
    stored, vectors = [arrival for arrival, good in zip(stored, whole, strict=True) if good], vectors[whole]
    present = [arrival for arrival in arrivals if not arrival.changed]
    previews = [_preview(arrival, kinds) for arrival in stored]
    late = _late_previews(catalog, present, kinds)
    check()
    state = catalog.state()
    token: Token = state.token
    numbers = np.arange(state.next, state.next + len(stored))
    if len(stored):
        token = engine.append(token, numbers, vectors, [arrival.entry.modality for arrival in stored])
    old = [arrival.kept.number for arrival in stored if arrival.kept is not None]
    if old:
        token = engine.remove(token, np.array(sorted(old)))
    taken = _Names(catalog, [arrival.entry for arrival in stored])
    with catalog.change() as change:
        change.drop(old)
        change.insert(
            [_row(arrival, int(number), taken(arrival)) for arrival, number in zip(stored, numbers, strict=True)]
        )
        shown = {int(n): preview for n, preview in zip(numbers, previews, strict=True) if preview is not None}
        if shown or late:
            change.preview({**shown, **late})
        for arrival in present:
            if arrival.kept is not None:
                change.update(arrival.kept.number, {"_key": arrival.entry.item.key, **_cells(arrival.entry)})
        change.token(token, state.next + len(stored))
        change.set_aside(rejected, [(arrival.entry.item.source, arrival.entry.modality) for arrival in arrivals])
    return Added(len(stored) - len(old), len(old), len(present), encoded, tuple(rejected))


def _place(catalog: Catalog, entries: Sequence[Entry]) -> tuple[list[Arrival], list[Rejection]]:
    """Return entries with their matching items, and rejections; of entries of one name the last counts."""
    unique: dict[tuple[str, str | None], Entry] = {}
    for entry in entries:
        if entry.id is not None and (not entry.id or "\0" in entry.id):
            raise DataError(f"{entry.item.source}: the id is {entry.id!r}; expected a text.")
        unique[("", entry.id) if entry.id is not None else (entry.modality, place(entry))] = entry
    ids = [entry.id for entry in unique.values() if entry.id is not None]
    of_modality = {kept.id: (modality, kept) for modality, kept in catalog.kept("id", ids)}
    at_id = {
        entry.id: kept if modality == entry.modality else replace(kept, digest="", key="")
        for entry in unique.values()
        if entry.id is not None and entry.id in of_modality
        for modality, kept in [of_modality[entry.id]]
    }
    places = [place(entry) for entry in unique.values() if entry.id is None]
    at_place = {(modality, kept.place): kept for modality, kept in catalog.kept("_place", places)}
    pairs = [
        (entry, at_id.get(entry.id) if entry.id is not None else at_place.get((entry.modality, place(entry))))
        for entry in unique.values()
    ]
    digests = _digests(pairs)
    arrivals, rejected = [], []
    for (entry, kept), content in zip(pairs, digests, strict=True):
        if isinstance(content, Rejection):
            rejected.append(content)
        else:
            arrivals.append(Arrival(entry, content, kept))
    return arrivals, rejected


def place(entry: Entry) -> str:
    """Return the place of an entry: its file, or its line of a table."""
    return entry.path or entry.place or entry.item.source


def _digests(pairs: Sequence[tuple[Entry, Kept | None]]) -> list[str | Rejection]:
    """Return the digests of the contents; files are read several at a time."""
    if all(entry.path is None for entry, _ in pairs):
        return [_digest(entry, kept) for entry, kept in pairs]
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(_digest, *zip(*pairs, strict=True)))


def _digest(entry: Entry, kept: Kept | None) -> str | Rejection:
    """Return the digest of the content; a file is only read if it may have changed."""
    if kept is not None and kept.key == entry.item.key:
        return kept.digest
    if entry.path is None or entry.vector is not None:
        return entry.item.key
    try:
        return file_digest(Path(entry.path))
    except OSError as error:
        return Rejection(entry.item.source, "unreadable", str(error.strerror or error), entry.modality)


def _embed(
    catalog: Catalog, engine: Engine, embedder: Callable[[], Embedder], stored: Sequence[Arrival], dim: int
) -> tuple[np.ndarray, int, list[Rejection]]:
    """Return embeddings [N, d], NaN for unreadable items; the number of encoded items; and the rejections.

    The entry's own embedding, or that of an item with the same content, is used without encoding.
    """
    state, gone = catalog.opened()
    rejected: list[Rejection] = []
    rows: list[np.ndarray | None] = [arrival.entry.vector for arrival in stored]
    twins: dict[tuple[str, str], int] = {}
    contents = [(arrival.entry.modality, arrival.digest) for arrival in stored]
    missing = [digest for (_, digest), row in zip(contents, rows, strict=True) if row is None]
    for modality, kept in catalog.kept("digest", missing):
        twins[modality, kept.digest] = kept.number
    at = [n for n, content in enumerate(contents) if rows[n] is None and content in twins]
    if at:
        view = engine.open(state.token, gone)
        held = view.vectors(np.array([twins[contents[n]] for n in at]))
        for n, vector in zip(at, held, strict=True):
            rows[n] = vector
    encoded = 0
    wanted: dict[str, dict[str, list[int]]] = {}
    for n, arrival in enumerate(stored):
        if rows[n] is None:
            wanted.setdefault(arrival.entry.modality, {}).setdefault(arrival.digest, []).append(n)
    for modality, by_digest in wanted.items():
        items = [stored[same[0]].entry.item for same in by_digest.values()]
        vectors, aside = embedder().encode_some(items, modality)
        rejected += aside
        encoded += len(items) - len(aside)
        for same, vector in zip(by_digest.values(), vectors, strict=True):
            for n in same:
                rows[n] = vector
    matrix = np.full((len(stored), dim), np.nan, dtype=np.float32)
    for n, row in enumerate(rows):
        if row is not None:
            matrix[n] = row
    return matrix, encoded, rejected


def _preview(arrival: Arrival, kinds: Mapping[str, str]) -> Preview | None:
    entry = arrival.entry
    return make_preview(entry, kinds.get(entry.modality, "")) if needs_preview(entry) else None


def _late_previews(catalog: Catalog, present: Sequence[Arrival], kinds: Mapping[str, str]) -> dict[int, Preview]:
    """Return previews, by number, of items that an earlier version has added without one."""
    bare = {arrival.kept.number: arrival for arrival in present if arrival.kept and needs_preview(arrival.entry)}
    missing = [number for number, record in catalog.records(bare).items() if not record.preview]
    made = {number: _preview(bare[number], kinds) for number in missing}
    return {number: preview for number, preview in made.items() if preview is not None}


class _Names:
    """Ids of items: the entry's own id, the id in the index, or else a short free one."""

    def __init__(self, catalog: Catalog, entries: Sequence[Entry]) -> None:
        self._catalog = catalog
        self._given = {entry.id for entry in entries if entry.id is not None}
        wanted = [name for entry in entries if entry.id is None for name in short_names(entry)]
        self._taken = {kept.id for _, kept in catalog.kept("id", wanted)} | self._given

    def __call__(self, arrival: Arrival) -> str:
        if arrival.entry.id is not None:
            return arrival.entry.id
        if arrival.kept is not None:
            return arrival.kept.id
        name = next(name for name in short_names(arrival.entry) if name not in self._taken)
        self._taken.add(name)
        return name


def short_names(entry: Entry) -> list[str]:
    """Return ids for an entry, the best one first: the source's name of the item, then longer and longer paths."""
    names = [entry.item.source]
    if entry.path is not None:
        parts = Path(entry.path).parts
        names += ["/".join(parts[-count:]) for count in range(2, len(parts))] + [entry.path]
    return [*names, f"{place(entry)} ({entry.modality})", digest(place(entry), entry.modality)]


def _row(arrival: Arrival, number: int, name: str) -> dict[str, Any]:
    entry = arrival.entry
    return {
        "_number": number,
        "id": name,
        "modality": entry.modality,
        "digest": arrival.digest,
        "_key": entry.item.key,
        **_cells(entry),
    }


def _cells(entry: Entry) -> dict[str, Any]:
    """Return the cells that may change while the content stays the same."""
    metadata = {(f"{name}_" if name.lower() in OWN else name): cell(value) for name, value in entry.metadata.items()}
    return {
        "path": entry.path,
        "text": entry.text,
        "group_name": entry.group,
        "_place": place(entry) if entry.id is None else None,
        **metadata,
    }


def cell(value: Any) -> int | float | str | None:
    """Return a value as SQLite stores it: numbers, texts and None unchanged, anything else as text.

    >>> cell(True), cell(2.5), cell(["a", 1]), cell(np.int64(3))
    (1, 2.5, "['a', 1]", 3)
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return int(value)
    if value is None or isinstance(value, (float, str)):
        return value
    return value if isinstance(value, int) and abs(value) < 2**63 else str(value)


def vector_entries(
    ids: Sequence[str],
    vectors: np.ndarray,
    modality: str,
    metadata: Sequence[Mapping[str, Any]] | None,
    dim: int,
) -> Iterator[Entry]:
    """Yield entries of embeddings; see `Index.add_vectors`."""
    vectors = unit_rows(vectors, dim)
    if len(vectors) != len(ids) or (metadata is not None and len(metadata) != len(ids)):
        raise ShapeError(f"{len(vectors)} vectors and {len(ids)} ids; expected as many, and as many metadata.")
    for id, vector, given in zip(ids, vectors, metadata or [{}] * len(ids), strict=True):
        item = Item(digest("vector", vector.tobytes()), id, None)
        yield Entry(modality, item, id, metadata=given, vector=vector)


def unit_rows(vectors: np.ndarray, dim: int) -> np.ndarray:
    """Return vectors as [N, d] float32 after a check of width and length.

    Raises:
        ShapeError: the vectors have another width, or are not unit vectors.
    """
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise ShapeError(f"vectors {list(vectors.shape)}; expected [N, {dim}], the width of the index.")
    lengths = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(~(np.abs(lengths - 1) <= 0.01))
    if len(wrong):
        raise ShapeError(f"vector {wrong[0]} has length {lengths[wrong[0]]:.3g}, expected 1. Normalise the vectors.")
    return vectors
