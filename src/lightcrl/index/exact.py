"""The exact engine: all vectors in one file that only grows; `nearest` searches it.

    vectors-<n>.bin   [rows, d] float16 or float32, one after another
    numbers-<n>.bin   [rows] int64, the number of each, ascending
    codes-<n>.bin     [rows, d] int8, the vectors rounded, for some queries
    scales-<n>.bin    [rows] bfloat16, the scale of each vector's codes

and for `SKETCHED` rows or more their sketches (`metrics/sketches.py`), for one or two queries

    basis-<n>-<m>.bin           [d, p - 1] float32
    sketches-<n>-<m>.bin        [rows, p] int8
    sketch-scales-<n>-<m>.bin   [rows] bfloat16

The token holds n, the number of rows that count, the error of the codes, and m, the error of the sketches and the
number of rows that their basis was fitted to. In indexes older than the codes there is no such error until they are
compacted. Rows after these come from a killed writer; the next writer overwrites them. `compact` writes the files of
the next n. All rows are sketched again, as the next m, when there are twice as many as the basis was fitted to.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from lightcrl.errors import ShapeError
from lightcrl.files.local import clear_errors, make_folder
from lightcrl.index.base import Scope, Token
from lightcrl.index.search import nearest
from lightcrl.metrics.scores import CODE_WIDTH, Codes
from lightcrl.metrics.sketches import Sketches, fit_basis, sketch, sketch_width

SPARSE = 8, 3
"""Rows are copied before the search if fewer than one in this number is allowed: for two queries, and for more."""

BLOCK = 262_144
"""Number of rows copied at a time."""

COPIED = 65_536
"""Number of rows rewritten at a time."""

SKETCHED = 65_536
"""Number of rows from which on they are sketched: among fewer, a query takes some milliseconds without."""

SAMPLE = 16_384
"""Number of rows that a basis is fitted to, evenly spread over all."""


@final
class Exact:
    """Vectors in a file beside the catalog.

    Attributes:
        options: always empty.
    """

    def __init__(self, folder: Path, dim: int, dtype: str, options: Mapping[str, Any]) -> None:
        """Take the folder of the index.

        Raises:
            ShapeError: an option is given; the engine has none.
        """
        if options:
            raise ShapeError(f"engine 'exact' has no options; found {', '.join(options)}.")
        self.options: Mapping[str, Any] = {}
        self._folder, self._dim, self._dtype = folder / "exact", dim, np.dtype(dtype)

    def create(self) -> Token:
        make_folder(self._folder)
        return self._empty(1)

    def append(self, token: Token, numbers: np.ndarray, vectors: np.ndarray, modalities: Sequence[str]) -> Token:
        file, rows = token["file"], token["rows"]
        stored = np.ascontiguousarray(vectors, self._dtype)
        self._write(self._vectors(file), rows * self._dim * self._dtype.itemsize, stored)
        self._write(self._numbers(file), rows * 8, numbers.astype("<i8"))
        grown: dict[str, Any] = {"file": file, "rows": rows + len(numbers)}
        if "error" in token:
            codes = Codes.of(torch.from_numpy(stored))
            self._write_codes(self._codes(file), self._scales(file), rows, codes)
            grown["error"] = max(token["error"], codes.error)
            grown |= self._sketched(token.get("sketch"), grown, stored)
        return grown

    def _sketched(self, before: Token | None, grown: Token, added: np.ndarray) -> Token:
        """Write the sketches of the rows `added` last, or of all, and return their part of the token."""
        rows = grown["rows"]
        if rows < SKETCHED or not sketch_width(self._dim):
            return {}
        if before is not None and rows < 2 * before["fitted"]:
            basis = self._read_basis(grown["file"], before["file"])
            error = self._sketch(grown, before, basis, rows - len(added), added, before["error"])
            return {"sketch": {**before, "error": error}}
        state: dict[str, Any] = {"file": before["file"] + 1 if before else 1, "fitted": rows}
        error = 0.0
        stored = np.memmap(self._vectors(grown["file"]), self._dtype, "r", shape=(rows, self._dim))
        basis = fit_basis(torch.from_numpy(stored[:: -(-rows // SAMPLE)].copy()))
        self._write(self._basis(grown["file"], state["file"]), 0, basis.numpy())
        for start in range(0, rows, COPIED):
            error = self._sketch(grown, state, basis, start, np.array(stored[start : start + COPIED]), error)
        return {"sketch": state | {"error": error}}

    def _sketch(
        self, grown: Token, state: Token, basis: torch.Tensor, start: int, vectors: np.ndarray, error: float
    ) -> float:
        """Write the sketches of the vectors from row `start` on, and return their greatest error, at least `error`."""
        codes = Codes.of(sketch(torch.from_numpy(vectors), basis).float())
        self._write_codes(*self._sketches(grown["file"], state["file"]), start, codes)
        return max(error, codes.error)

    def _write_codes(self, codes: Path, scales: Path, start: int, written: Codes) -> None:
        self._write(codes, start * written.codes.shape[1], written.codes.numpy())
        self._write(scales, start * 2, written.scales.view(torch.int16).numpy())

    def remove(self, token: Token, numbers: np.ndarray) -> Token:
        return token

    def settle(self, token: Token) -> Token:
        return token

    def compact(self, token: Token, gone: np.ndarray) -> Token:
        old, file = self.open(token, gone), token["file"] + 1
        kept = np.flatnonzero(old.live)
        fresh = self._empty(file)
        for path in self._files(fresh):  # left by a killed compaction
            path.unlink(missing_ok=True)
        for start in range(0, len(kept), COPIED):
            part = kept[start : start + COPIED]
            fresh = self.append(fresh, old.numbers[part], old.stored[part], ())
        return fresh

    def sweep(self, token: Token) -> None:
        for path in self._folder.glob("*.bin"):
            if path not in self._files(token):
                path.unlink(missing_ok=True)  # a process that has the file open can still read it

    def open(self, token: Token, gone: np.ndarray) -> ExactView:
        rows = token["rows"]
        if rows == 0:
            return ExactView(np.zeros((0, self._dim), self._dtype), np.zeros(0, np.int64), gone)
        file, codes, sketches = token["file"], None, None
        # Nothing writes to these pages, but torch requires writable ones.
        stored = np.memmap(self._vectors(file), self._dtype, "c", shape=(rows, self._dim))
        if (state := token.get("sketch")) is not None:
            basis = self._read_basis(file, state["file"])
            paths = self._sketches(file, state["file"])
            sketches = Sketches(basis, self._read_codes(*paths, rows, basis.shape[1] + 1, state["error"]))
        if "error" in token:
            codes = self._read_codes(self._codes(file), self._scales(file), rows, self._dim, token["error"], sketches)
        return ExactView(stored, np.fromfile(self._numbers(file), "<i8", rows), gone, codes)

    def _read_basis(self, file: int, number: int) -> torch.Tensor:
        return torch.from_numpy(np.fromfile(self._basis(file, number), "<f4")).view(self._dim, -1)

    def _read_codes(
        self, codes: Path, scales: Path, rows: int, width: int, error: float, sketches: Sketches | None = None
    ) -> Codes:
        rounded = np.memmap(codes, np.int8, "c", shape=(rows, width))
        read = torch.from_numpy(np.fromfile(scales, "<i2", rows)).view(torch.bfloat16)
        return Codes(torch.from_numpy(rounded), read, error, sketches)

    def _empty(self, file: int) -> Token:
        """Return the token of no rows; vectors of a width whose codes no search reads get none."""
        return {"file": file, "rows": 0} | ({"error": 0.0} if self._dim % CODE_WIDTH == 0 else {})

    def _vectors(self, file: int) -> Path:
        return self._folder / f"vectors-{file:05d}.bin"

    def _numbers(self, file: int) -> Path:
        return self._folder / f"numbers-{file:05d}.bin"

    def _codes(self, file: int) -> Path:
        return self._folder / f"codes-{file:05d}.bin"

    def _scales(self, file: int) -> Path:
        return self._folder / f"scales-{file:05d}.bin"

    def _basis(self, file: int, number: int) -> Path:
        return self._folder / f"basis-{file:05d}-{number:05d}.bin"

    def _sketches(self, file: int, number: int) -> tuple[Path, Path]:
        """Return the files of the sketches and of their scales."""
        names = (f"{name}-{file:05d}-{number:05d}.bin" for name in ("sketches", "sketch-scales"))
        first, second = (self._folder / name for name in names)
        return first, second

    def _files(self, token: Token) -> tuple[Path, ...]:
        file, state = token["file"], token.get("sketch")
        sketches = (self._basis(file, state["file"]), *self._sketches(file, state["file"])) if state else ()
        return self._vectors(file), self._numbers(file), self._codes(file), self._scales(file), *sketches

    def _write(self, path: Path, place: int, values: np.ndarray) -> None:
        with clear_errors(path), path.open("r+b" if path.exists() else "w+b") as stream:
            stream.truncate(place)
            stream.seek(place)
            stream.write(np.ascontiguousarray(values).data)
            stream.flush()
            os.fsync(stream.fileno())


@final
class ExactView:
    """The rows of one state of the engine.

    Attributes:
        stored: vectors [R, d] as stored, mapped from the file.
        numbers: numbers of the items [R] int64, ascending.
        live: [R] bool, true for items that are not removed.
    """

    def __init__(self, stored: np.ndarray, numbers: np.ndarray, gone: np.ndarray, codes: Codes | None = None) -> None:
        self.stored, self.numbers, self._codes = stored, numbers, codes
        self.live = np.ones(len(numbers), dtype=bool)
        self.live[self._rows(gone)] = False
        self._all = bool(self.live.all())

    def search(self, queries: np.ndarray, k: int, scope: Scope | None) -> tuple[np.ndarray, np.ndarray]:
        if scope is None:
            allowed = None if self._all else self.live
        else:
            allowed = np.zeros(len(self.numbers), dtype=bool)
            allowed[self._rows(scope.numbers())] = True
            allowed &= self.live
        rows, scores = search_rows(queries, self.stored, k, allowed, self._codes)
        numbers = np.full(rows.shape, -1, dtype=np.int64)
        numbers[rows >= 0] = self.numbers[rows[rows >= 0]]
        return numbers, scores

    def vectors(self, numbers: np.ndarray) -> np.ndarray:
        vectors: np.ndarray = self.stored[self._rows(numbers)].astype(np.float32)
        return vectors

    def _rows(self, numbers: np.ndarray) -> np.ndarray:
        """Return the rows of those `numbers` that are there."""
        if len(self.numbers) == 0:
            return np.zeros(0, dtype=np.int64)
        rows = np.searchsorted(self.numbers, numbers).clip(max=len(self.numbers) - 1)
        present: np.ndarray = rows[self.numbers[rows] == numbers]
        return present


def search_rows(
    queries: np.ndarray, stored: np.ndarray, k: int, allowed: np.ndarray | None, codes: Codes | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest allowed rows, exactly; of equally near rows the first comes first.

    Args:
        queries: [Q, d] float32.
        stored: [R, d] float16 or float32.
        k: number of rows.
        allowed: [R] bool, or None for all rows.
        codes: the rows in 8 bits, which change no result.

    Returns:
        Rows [Q, K] int64, -1 where there is no further row, and scores [Q, K] float32.
    """
    asked, vectors = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32)), torch.from_numpy(stored)
    if allowed is None:
        places, values = nearest(asked, vectors, k, codes)
        return places.numpy(), values.numpy()
    chosen = np.flatnonzero(allowed)
    if len(chosen) == 0:
        return np.full((len(queries), 0), -1, np.int64), np.zeros((len(queries), 0), np.float32)
    first, last = int(chosen[0]), int(chosen[-1]) + 1
    if len(chosen) * SPARSE[len(queries) > 2] >= last - first:
        part = None if codes is None else codes[first:last]
        mask = torch.from_numpy(allowed[first:last])
        places, values = nearest(asked, vectors[first:last], min(k, len(chosen)), part, mask)
        return places.numpy() + first, values.numpy()
    return _search_chosen(asked, stored, k, chosen)


def _search_chosen(
    asked: torch.Tensor, stored: np.ndarray, k: int, chosen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return what `search_rows` does for the rows `chosen`, which are copied block by block."""
    best_rows, best_scores = np.full((len(asked), 0), -1, np.int64), np.zeros((len(asked), 0), np.float32)
    for start in range(0, len(chosen), BLOCK):
        block = chosen[start : start + BLOCK]
        places, scores = nearest(asked, torch.from_numpy(stored[block]), k)
        best_rows = np.concatenate([best_rows, block[places.numpy()]], 1)
        best_scores = np.concatenate([best_scores, scores.numpy()], 1)
        order = np.argsort(-best_scores, axis=1, kind="stable")[:, :k]
        best_rows = np.take_along_axis(best_rows, order, 1)
        best_scores = np.take_along_axis(best_scores, order, 1)
    return best_rows, best_scores
