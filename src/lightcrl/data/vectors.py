"""Vectors and token sequences that another program has computed, as items of kind `"vectors"`.

| form of an item | tokens |
|---|---|
| a list of numbers, an array [D] | [1, D] |
| a list of such lists, an array [T, D] | [T, D] |
| the text of a list, in JSON or as NumPy prints it (a cell of CSV) | the same |
| a `.npy` file by its path or its bytes | the same |
| `ArrayRow`: a row of a `.npy` file [N, D] or [N, T, D] | the same, mapped from the file |

A cell with lists in three levels holds several items.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from lightcrl.errors import DataError, ItemError, first_line

NESTED = (list, tuple, np.ndarray)


@dataclass(frozen=True, slots=True)
class ArrayRow:
    """A reader of a row of a `.npy` file, which is mapped into memory.

    Attributes:
        path: the file.
        row: number of the row, from 0.
        mark: text that identifies the file's content: its name, size and modification time.
    """

    path: Path
    row: int
    mark: str

    def __call__(self) -> np.ndarray:
        """Return the row, [D] or [T, D], without a copy.

        Raises:
            ItemError: the file is gone, or shorter than it was.
        """
        try:
            row: np.ndarray = np.asarray(open_array(self.path)[self.row])
            return row
        except (DataError, IndexError) as error:
            raise ItemError("missing row", f"{self.path}, row {self.row + 1}: {first_line(error)}") from None


Raw: TypeAlias = "np.ndarray | ArrayRow | str | bytes | Mapping[str, Any]"
"""An item of a cell: numbers, a row of a file, a path, or a file's content."""


def open_array(path: Path) -> np.ndarray:
    """Return the array of a `.npy` file, mapped into memory: [N, D] or [N, T, D] of numbers.

    Raises:
        DataError: the file is missing, is not `.npy`, or has another shape.
    """
    try:
        stat = path.stat()
        array = _mapped(path, stat.st_size, stat.st_mtime_ns)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"cannot read {path}: {first_line(error)} Expected a .npy file of numbers.") from None
    if array.ndim not in (2, 3) or array.dtype.kind not in "fiu" or 0 in array.shape[1:]:
        raise DataError(
            f"{path} has {array.dtype} of shape {list(array.shape)}; expected numbers [N, D], or tokens [N, T, D]."
        )
    return array


@lru_cache(maxsize=64)
def _mapped(path: Path, size: int, modified: int) -> np.ndarray:
    """Map a file that has this size and time; a changed file is mapped anew."""
    array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def array_mark(path: Path, name: str) -> str:
    """Return a text that identifies the content of a file by name, size and modification time."""
    stat = os.stat(path)  # noqa: PTH116 - symbolic links are followed either way
    return f"{name}\n{stat.st_size}\n{stat.st_mtime_ns}"


def cell_vectors(value: Any) -> Iterator[Raw]:
    """Yield the items of a cell.

    Raises:
        ItemError: the cell has neither numbers nor paths.
    """
    if value is None:
        return
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _from_text(value.strip())
    if not isinstance(value, NESTED):
        yield value
    elif _is_many(value):
        for entry in value:
            yield from cell_vectors(entry)
    else:
        yield _numbers(value)


def read_tokens(raw: Any) -> np.ndarray:
    """Return the tokens [T, D] of an item in float32.

    Raises:
        ItemError: the item is not an array of numbers [D] or [T, D], or is not finite.
    """
    values = _numbers(_content(raw))
    if values.ndim not in (1, 2) or not values.size:
        raise ItemError("not a vector", f"found shape {list(values.shape)}; expected [D], or tokens [T, D]")
    if not np.isfinite(values).all():
        raise ItemError("not finite", "the vector has values that are infinite or no numbers")
    return values.reshape(-1, values.shape[-1])


def _is_many(value: Any) -> bool:
    """Return true for a list of items: of paths, of rows of files, or of lists in two more levels."""
    first = value[0] if len(value) else None
    if isinstance(first, (str, Path, bytes, Mapping, ArrayRow)):
        return True
    return isinstance(first, NESTED) and len(first) > 0 and isinstance(first[0], NESTED)


def _numbers(value: Any) -> np.ndarray:
    with np.errstate(over="ignore"):
        try:
            array: np.ndarray = np.asarray(value)
            if array.dtype.kind not in "fiu":
                array = np.asarray(value, np.float32) if array.dtype.kind == "O" else _refuse(value, array)
            return array.astype(np.float32, copy=False)
        except (TypeError, ValueError) as error:
            raise ItemError("not a vector", f"found {type(value).__name__}: {first_line(error)}") from None


def _refuse(value: Any, array: np.ndarray) -> np.ndarray:
    raise ItemError("not a vector", f"found {type(value).__name__} with {array.dtype}; expected numbers")


def _content(raw: Any) -> Any:
    """Return the array of a file or of its bytes; other items as they are."""
    if isinstance(raw, Mapping):
        raw = raw.get("bytes") or raw.get("path")
    if isinstance(raw, str) and raw.lstrip().startswith("["):
        return _from_text(raw.strip())
    try:
        if isinstance(raw, (str, Path)):
            return np.load(Path(raw), allow_pickle=False)
        if isinstance(raw, bytes):
            return np.load(io.BytesIO(raw), allow_pickle=False)
    except FileNotFoundError:
        raise ItemError("missing file", str(raw)) from None
    except (OSError, ValueError, EOFError) as error:
        raise ItemError("unreadable vector", f"{first_line(error)} Expected a .npy file of numbers") from None
    return raw() if callable(raw) else raw


def _from_text(text: str) -> Any:
    """Return the list in a text, in JSON or as NumPy prints an array."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    if "..." in text:
        raise ItemError(
            "shortened vector", f"{text[:40]!r} is an array as NumPy shows it to people; write lists (array.tolist())"
        )
    rows = [row.strip(" []\n") for row in text.strip().strip("[]").split("]")]
    try:
        parsed = [[float(number) for number in row.replace(",", " ").split()] for row in rows if row]
    except ValueError:
        raise ItemError("not a vector", f"{text[:40]!r}; expected a list of numbers, or the path of a .npy") from None
    return parsed if len(parsed) > 1 else (parsed[0] if parsed else [])
