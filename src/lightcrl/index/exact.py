"""The exact engine: all vectors in one file that only grows; `nearest` searches it.

    vectors-<n>.bin   [rows, d] float16 or float32, one after another
    numbers-<n>.bin   [rows] int64, the number of each, ascending

The token holds n and the number of rows that count. Rows after these come from a killed writer; the next writer
overwrites them. `compact` writes the files of the next n.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from lightcrl.errors import ShapeError
from lightcrl.files.local import clear_errors, make_folder
from lightcrl.index.base import Scope, Token
from lightcrl.index.search import nearest

BLOCK = 262_144
"""Number of rows searched at a time if the search excludes some rows."""

SPARED = 64
"""Greatest number of excluded rows of a block that the search includes first and drops afterwards."""

COPIED = 65_536
"""Number of rows rewritten at a time."""


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
        return {"file": 1, "rows": 0}

    def append(self, token: Token, numbers: np.ndarray, vectors: np.ndarray, modalities: Sequence[str]) -> Token:
        file, rows = token["file"], token["rows"]
        self._write(self._vectors(file), rows * self._dim * self._dtype.itemsize, vectors.astype(self._dtype))
        self._write(self._numbers(file), rows * 8, numbers.astype("<i8"))
        return {"file": file, "rows": rows + len(numbers)}

    def remove(self, token: Token, numbers: np.ndarray) -> Token:
        return token

    def settle(self, token: Token) -> Token:
        return token

    def compact(self, token: Token, gone: np.ndarray) -> Token:
        old, file = self.open(token, gone), token["file"] + 1
        kept = np.flatnonzero(old.live)
        fresh: Token = {"file": file, "rows": 0}
        for path in (self._vectors(file), self._numbers(file)):  # left by a killed compaction
            path.unlink(missing_ok=True)
        for start in range(0, len(kept), COPIED):
            part = kept[start : start + COPIED]
            fresh = self.append(fresh, old.numbers[part], old.stored[part], ())
        return fresh

    def sweep(self, token: Token) -> None:
        for path in self._folder.glob("*.bin"):
            if path not in (self._vectors(token["file"]), self._numbers(token["file"])):
                path.unlink(missing_ok=True)  # a process that has the file open can still read it

    def open(self, token: Token, gone: np.ndarray) -> ExactView:
        rows = token["rows"]
        if rows == 0:
            return ExactView(np.zeros((0, self._dim), self._dtype), np.zeros(0, np.int64), gone)
        # Nothing writes to these pages, but torch requires writable ones.
        stored = np.memmap(self._vectors(token["file"]), self._dtype, "c", shape=(rows, self._dim))
        return ExactView(stored, np.fromfile(self._numbers(token["file"]), "<i8", rows), gone)

    def _vectors(self, file: int) -> Path:
        return self._folder / f"vectors-{file:05d}.bin"

    def _numbers(self, file: int) -> Path:
        return self._folder / f"numbers-{file:05d}.bin"

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

    def __init__(self, stored: np.ndarray, numbers: np.ndarray, gone: np.ndarray) -> None:
        self.stored, self.numbers = stored, numbers
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
        rows, scores = search_rows(queries, self.stored, k, allowed)
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
    queries: np.ndarray, stored: np.ndarray, k: int, allowed: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the k nearest allowed rows, exactly; of equally near rows the first comes first.

    Args:
        queries: [Q, d] float32.
        stored: [R, d] float16 or float32.
        k: number of rows.
        allowed: [R] bool, or None for all rows.

    Returns:
        Rows [Q, K] int64, -1 where there is no further row, and scores [Q, K] float32.
    """
    asked = torch.from_numpy(np.ascontiguousarray(queries, dtype=np.float32))
    if allowed is None:
        places, values = nearest(asked, torch.from_numpy(stored), k)
        return places.numpy(), values.numpy()
    best_rows, best_scores = np.full((len(queries), 0), -1, np.int64), np.zeros((len(queries), 0), np.float32)
    for rows, scores in _search_blocks(asked, stored, k, allowed):
        best_rows = np.concatenate([best_rows, rows], 1)
        best_scores = np.concatenate([best_scores, scores], 1)
        order = np.argsort(-best_scores, axis=1, kind="stable")[:, :k]
        best_rows = np.take_along_axis(best_rows, order, 1)
        best_scores = np.take_along_axis(best_scores, order, 1)
    return best_rows, best_scores


def _search_blocks(
    asked: torch.Tensor, stored: np.ndarray, k: int, allowed: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the k nearest allowed rows of each block and their scores; -1 and minus infinity after the last."""
    for start in range(0, len(stored), BLOCK):
        block = np.flatnonzero(allowed[start : start + BLOCK]) + start
        if len(block) == 0:
            continue
        first, last = int(block[0]), int(block[-1]) + 1
        barred = last - first - len(block)
        if barred <= SPARED:
            places, scores = nearest(asked, torch.from_numpy(stored[first:last]), k + barred)
            rows, values = places.numpy() + first, scores.numpy()
            if barred:
                out = ~allowed[rows]
                rows[out], values[out] = -1, -np.inf
        else:
            places, scores = nearest(asked, torch.from_numpy(stored[block]), k)
            rows, values = block[places.numpy()], scores.numpy()
        yield rows, values
