"""The feature store: outputs of a frozen encoder for every item, on disk, ragged and without padding.

        manifest.json            format, fingerprint, encoder, sizes and digests of all files; written last
        values-00000.npy         [tokens, D] floats, the tokens of all items, concatenated; int8: see `packing`
        offsets-00000.npy        [items + 1] int64, start of each item
        items-00000.parquet      row, item, group, split, source, content of files; a line per item and group
        shard-00000.json         the shard's entry of the manifest; written when the shard is complete

A store does not depend on encoders or data sets: `extract` fills it, training and evaluation read it. Values may be
links to files of the user (`features/linked.py`).
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lightcrl.errors import StaleStoreError, StoreError, TornStoreError
from lightcrl.features.packing import PACKED, row_width
from lightcrl.features.reading import Excerpt, pad, read_tokens
from lightcrl.files.local import file_digest, json_text
from lightcrl.files.mirror import STREAMS, local_copy
from lightcrl.files.remote import Folder, LocalFolder, folder_at
from lightcrl.tokens import TokenBatch

FORMAT = 1
# Format of a store in int8, whose rows a version without that dtype would misread.
PACKED_FORMAT = 2
# Number of files that are read in parallel: disks and networks are faster with several requests.
READERS = 8
ITEMS = "items-{:05d}.parquet"
METADATA = pa.schema(
    [
        ("row", pa.int64()),
        ("item", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
    ]
)
CONTENT = pa.field("content", pa.string())
"""A further column where items are files: `copies.content`. Stores of earlier versions lack it."""


@dataclass(frozen=True)
class Shard:
    """A complete shard, as in the manifest.

    Attributes:
        rows: number of items.
        tokens: number of tokens of all items.
        longest: number of tokens of the longest item.
        rejected: items that were set aside: source, reason, detail.
        files: bytes and digest by file name.
        cut: rows of the texts whose end the encoder left out, ascending; stores from before this was kept have none.
    """

    rows: int
    tokens: int
    longest: int
    rejected: list[dict[str, str]]
    files: dict[str, dict[str, Any]]
    cut: list[int] = field(default_factory=list)

    def entry(self) -> dict[str, Any]:
        """Return the shard as JSON values; `cut` only if it is not empty."""
        return {name: value for name, value in vars(self).items() if name != "cut" or value}


def write_shard(
    folder: Folder | Path,
    number: int,
    fingerprint: str,
    sequences: Sequence[np.ndarray],
    metadata: Mapping[str, list[Any]],
    rejected: list[dict[str, str]],
    dim: int,
    dtype: str,
    cut: Sequence[int] = (),
) -> Shard:
    """Write a shard of items' tokens, each [T_i, W] as stored (`pack`); its entry is written last and completes it.

    `cut` are the rows of texts whose end is not in their tokens. `metadata` has the columns of `METADATA`, and
    `content` if there are files.
    """
    offsets = np.zeros(len(sequences) + 1, dtype=np.int64)
    np.cumsum([len(sequence) for sequence in sequences], out=offsets[1:])
    values = np.concatenate([np.zeros((0, row_width(dim, dtype)), dtype), *sequences]).astype(dtype, copy=False)
    folder, files = folder_at(folder), {}
    for name, array in ((f"values-{number:05d}.npy", values), (f"offsets-{number:05d}.npy", offsets)):
        with folder.whole(name) as temporary:
            with temporary.open("wb") as stream:
                np.save(stream, array)
            files[name] = _stamp(temporary)
    name = ITEMS.format(number)
    with folder.whole(name) as temporary:
        schema = METADATA.append(CONTENT) if CONTENT.name in metadata else METADATA
        pq.write_table(pa.table(metadata, schema=schema), temporary)
        files[name] = _stamp(temporary)
    longest = int(np.diff(offsets).max(initial=0))
    shard = Shard(len(sequences), int(offsets[-1]), longest, rejected, files, list(cut))
    _write_json(folder, _entry(number), {"format": FORMAT, "fingerprint": fingerprint, **shard.entry()})
    return shard


def write_linked(
    folder: LocalFolder, number: int, fingerprint: str, file: Path, array: np.ndarray, metadata: Mapping[str, list[Any]]
) -> Shard:
    """Write a shard whose values are a link to `file`, a `.npy` of `array` [N, D] or [N, T, D] in C order."""
    tokens = array.shape[1] if array.ndim == 3 else 1
    values, offsets, items = (name.format(number) for name in ("values-{:05d}.npy", "offsets-{:05d}.npy", ITEMS))
    with folder.whole(values) as temporary:
        temporary.symlink_to(file.absolute())
    with folder.whole(offsets) as temporary, temporary.open("wb") as stream:
        np.save(stream, np.arange(len(array) + 1, dtype=np.int64) * tokens)
    with folder.whole(items) as temporary:
        pq.write_table(pa.table(metadata, schema=METADATA), temporary)
    files = {name: _stamp(folder.path / name) for name in (values, offsets, items)}
    shard = Shard(len(array), len(array) * tokens, tokens if len(array) else 0, [], files)
    _write_json(folder, _entry(number), {"format": FORMAT, "fingerprint": fingerprint, **shard.entry()})
    return shard


def complete_shards(folder: Folder | Path, count: int, fingerprint: str) -> dict[int, Shard]:
    """Return the complete shards from an earlier run, by number, out of `count` shards."""
    folder = folder_at(folder)
    sizes = folder.sizes()

    def read(number: int) -> Shard | None:
        try:
            entry = json.loads(folder.read(_entry(number)))
        except (OSError, ValueError):
            return None
        if entry.pop("format", None) != FORMAT or entry.pop("fingerprint", None) != fingerprint:
            return None
        shard = Shard(**entry)
        # Objects appear only when complete, and their digests would require a download.
        whole = all(
            sizes.get(name) == stamp["bytes"] and folder.digest(name) in (None, stamp["digest"])
            for name, stamp in shard.files.items()
        )
        return shard if whole else None

    there = [number for number in range(count) if _entry(number) in sizes]
    with ThreadPoolExecutor(STREAMS) as pool:
        return {number: shard for number, shard in zip(there, pool.map(read, there), strict=True) if shard}


def write_manifest(folder: Folder | Path, fingerprint: str, header: Mapping[str, Any], shards: Sequence[Shard]) -> None:
    """Declare a store complete. `header` holds modality, kind, encoder, dim, slots, sequence, dtype,
    and `equal` if there is an equal store."""
    entries = [shard.entry() for shard in shards]
    content = {"format": format_of(header["dtype"]), "fingerprint": fingerprint, **header, "shards": entries}
    _write_json(folder_at(folder), "manifest.json", content)


def format_of(dtype: str) -> int:
    """Return the format of a store's manifest."""
    return PACKED_FORMAT if dtype == PACKED else FORMAT


class FeatureStore:
    """A complete store, opened for reading: item by item from its files, or in memory if `memory` is true.

    Attributes:
        folder: local folder of the store.
        manifest: its JSON manifest.
        fingerprint: digest of encoder, tokens, dtype and data; that of the first of several equal stores, so that what
            was trained on one is found again by the others.
        rows: number of items.
        dim: D, width of a token.
        slots: see `Encoder.slots`.
        sequence: see `Encoder.sequence`.
        memory: true if the whole store is held in memory.
    """

    def __init__(self, folder: Path | str, fingerprint: str | None = None, *, memory: bool = False) -> None:
        """Open the store in `folder`, a local folder or a URI (see `local_copy`).

        Raises:
            StoreError: there is no complete store, or its format is too new for this version.
            StaleStoreError: its fingerprint is not the expected one.
            TornStoreError: a file is missing or has another size; with `memory`, or another content.
        """
        self.folder = local_copy(folder)
        try:
            self.manifest: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StoreError(
                f"no feature store in {self.folder}: expected manifest.json, which is written when all shards are "
                "complete. Run the recipe again; complete shards are kept."
            ) from None
        except ValueError as error:
            raise TornStoreError(
                f"{self.folder / 'manifest.json'} is not JSON ({error}). Remove it and run again."
            ) from None
        if (form := self.manifest["format"]) > PACKED_FORMAT:
            raise StoreError(f"{self.folder} has format {form}, this version reads up to {PACKED_FORMAT}.")
        self.fingerprint: str = self.manifest.get("equal", self.manifest["fingerprint"])
        if fingerprint is not None and (its := self.manifest["fingerprint"]) != fingerprint:
            raise StaleStoreError(
                f"the store in {self.folder} has fingerprint {its}, expected {fingerprint}: it was made "
                "by another encoder, other settings or from other data. Remove the folder, or choose another."
            )
        self.dim: int = self.manifest["dim"]
        self.slots: int = self.manifest["slots"]
        self.sequence: bool = self.manifest.get("sequence", False)
        self._shards = [Shard(**entry) for entry in self.manifest["shards"]]
        self._check_sizes()
        self._first_row = np.cumsum([0, *(shard.rows for shard in self._shards)])
        self.rows = int(self._first_row[-1])
        self._offsets: dict[int, np.ndarray] = {}
        self._held: tuple[np.ndarray, np.ndarray] | None = None
        self.memory = memory
        if memory:
            self.verify()
            whole = self.read(np.arange(self.rows))
            self._held = whole.values, whole.offsets

    @property
    def longest(self) -> int:
        """Number of tokens of the longest item."""
        return max((shard.longest for shard in self._shards), default=0)

    @property
    def tokens(self) -> int:
        """Number of tokens of all items."""
        return sum(shard.tokens for shard in self._shards)

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return int(self.tokens * self._width * np.dtype(self.manifest["dtype"]).itemsize)

    @property
    def _width(self) -> int:
        """Number of stored values of a token."""
        return row_width(self.dim, self.manifest["dtype"])

    @property
    def cut(self) -> np.ndarray:
        """Rows of the texts whose end the encoder left out, ascending."""
        parts = [first + np.array(shard.cut, int) for first, shard in zip(self._first_row, self._shards, strict=False)]
        return np.concatenate([np.zeros(0, int), *parts])

    @property
    def rejected(self) -> list[dict[str, str]]:
        """Items that were set aside when the store was made."""
        return [entry for shard in self._shards for entry in shard.rejected]

    def metadata(self) -> pa.Table:
        """Return columns row, item, group, split, source: a line per item and group, in order of rows."""
        parts = list(self.lines(METADATA.names))
        return pa.concat_tables(parts) if parts else METADATA.empty_table()

    def lines(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the named columns of the metadata, `row` the first of them, shard by shard."""
        for number, first in enumerate(self._first_row[:-1]):
            with pq.ParquetFile(self.folder / f"items-{number:05d}.parquet") as file:
                table = file.read(list(columns), use_threads=False)
            yield table.set_column(0, "row", pa.array(table["row"].to_numpy() + first))

    def contents(self, rows: np.ndarray) -> dict[int, str]:
        """Return the contents of the files at `rows` [N], ascending, by row, as far as they are known."""
        marks: dict[int, str] = {}
        cuts = np.searchsorted(rows, self._first_row)
        for number in np.flatnonzero(np.diff(cuts)).tolist():
            with pq.ParquetFile(self.folder / ITEMS.format(number)) as file:
                if CONTENT.name in file.schema_arrow.names:
                    lines = file.read(["row", CONTENT.name], use_threads=False).drop_null()
                    local = lines["row"].to_numpy() + self._first_row[number]
                    marks.update(zip(local.tolist(), lines[CONTENT.name].to_pylist(), strict=True))
        return {row: marks[row] for row in rows.tolist() if row in marks}

    def count_lines(self) -> int:
        """Return the number of lines of the metadata: an item has a line for each of its groups."""
        files = (self.folder / f"items-{number:05d}.parquet" for number in range(len(self._shards)))
        return sum(pq.read_metadata(file).num_rows for file in files)

    def in_memory(self) -> FeatureStore:
        """The same store, read into memory and checked.

        Raises:
            TornStoreError: a file is missing or has another content.
        """
        return self if self.memory else FeatureStore(self.folder, memory=True)

    def gather(self, rows: np.ndarray, *, sequence: bool = True) -> TokenBatch:
        """Return tokens of the items at `rows` [B] in that order, padded to the longest of them.

        They have the stored dtype, or float32 if that is int8. Without `sequence`, tokens after the slots are not read.
        """
        rows = np.asarray(rows)
        if self._held is None:
            return self.read(rows, sequence=sequence).gather(rows)
        return pad(*self._held, rows, self.slots, self._most(sequence))

    def read(self, rows: np.ndarray, *, sequence: bool = True) -> Excerpt:
        """Read the items at `rows` [B], each once, in order of the store; neighbours are read together.

        Raises:
            TornStoreError: a file was truncated after the store was opened.
        """
        rows = np.unique(rows)
        most = self._most(sequence)
        cuts = np.searchsorted(rows, self._first_row)
        spans = []
        for number in np.flatnonzero(np.diff(cuts)).tolist():
            local = rows[cuts[number] : cuts[number + 1]] - self._first_row[number]
            starts, counts = self._span(number, local)
            spans.append((number, starts, counts if most is None else np.minimum(counts, most)))
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(np.concatenate([offsets[:0], *(counts for _, _, counts in spans)]), out=offsets[1:])
        values = np.empty((offsets[-1], self._width), self.manifest["dtype"])

        def fill(span: tuple[int, np.ndarray, np.ndarray]) -> None:
            number, starts, counts = span
            name = f"values-{number:05d}.npy"
            whole = self._shards[number].tokens * self._width * values.itemsize
            header = self._shards[number].files[name]["bytes"] - whole
            out = values[offsets[cuts[number]] : offsets[cuts[number + 1]]]
            read_tokens(self.folder / name, header, starts, counts, out)

        if len(spans) <= READERS:
            deque(map(fill, spans), 0)
        else:
            with ThreadPoolExecutor(READERS, "reading") as readers:
                deque(readers.map(fill, spans), 0)
        return Excerpt(rows, values, offsets, self.slots)

    def item(self, row: int) -> np.ndarray:
        """Return the tokens [T, D] of an item."""
        return self.read(np.array([row])).tokens

    def verify(self) -> None:
        """Read every file and compare its digest with the manifest's.

        Raises:
            TornStoreError: names the file and both digests.
        """
        for shard in self._shards:
            for name, stamp in shard.files.items():
                if (digest := file_digest(self.folder / name)) != stamp["digest"]:
                    raise TornStoreError(
                        f"{self.folder / name} has digest {digest}, expected {stamp['digest']}. Remove the file and "
                        "manifest.json and run the recipe again: only that shard is made again."
                    )

    def _check_sizes(self) -> None:
        for shard in self._shards:
            for name, stamp in shard.files.items():
                try:
                    size = os.stat(f"{self.folder}/{name}").st_size  # noqa: PTH116 - twice as fast, thousands of times
                except FileNotFoundError:
                    size = None
                if size != stamp["bytes"]:
                    path = self.folder / name
                    state = "is missing" if size is None else f"has {size} bytes (digest {file_digest(path)})"
                    raise TornStoreError(
                        f"{path} {state}, expected {stamp['bytes']} bytes (digest {stamp['digest']}). Remove "
                        "manifest.json and run the recipe again: only that shard is made again."
                    )

    def _span(self, number: int, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first token of each of a shard's `items` [N], and their numbers of tokens."""
        shard = self._shards[number]
        if shard.tokens == shard.rows * shard.longest:
            return items * shard.longest, np.full(len(items), shard.longest)
        if number not in self._offsets:
            self._offsets[number] = np.load(self.folder / f"offsets-{number:05d}.npy", "r", allow_pickle=False)
        starts = np.asarray(self._offsets[number][items])
        return starts, np.asarray(self._offsets[number][items + 1]) - starts

    def _most(self, sequence: bool) -> int | None:
        """Return the number of tokens to read per item, or None for all."""
        return self.slots if self.sequence and not sequence else None


def _entry(number: int) -> str:
    return f"shard-{number:05d}.json"


def _write_json(folder: Folder, name: str, content: Mapping[str, Any]) -> None:
    with folder.whole(name) as temporary:
        temporary.write_text(json_text(content), encoding="utf-8")


def _stamp(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "digest": file_digest(path)}
