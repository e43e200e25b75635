"""Standalone items: a file, the files of a folder, the lines of a text file, a column of a table, rows of vectors."""

from __future__ import annotations

from pathlib import Path

from lightcrl.data.base import Item, Rejection, digest, file_item, vector_item
from lightcrl.data.files import MEDIA, existing
from lightcrl.data.joins import read_vectors
from lightcrl.data.spec import VectorsSpec
from lightcrl.data.table import TableFile
from lightcrl.data.vectors import ArrayRow, array_mark, open_array
from lightcrl.errors import EmptyDatasetError


def loose_items(path: Path, kind: str, column: str | None = None) -> tuple[list[Item], list[Rejection]]:
    """Return the items at `path`, in the order of their names or lines, and the rejected rows of a table.

    Texts are the non-empty lines of a file; pictures and sounds are a file, or all files of that kind below a folder.
    With a `column`, `path` is a table for `TableFile`, and every item of that column is taken.

    Raises:
        ModalityError: the table has no such column.
        DataError: the path does not exist.
        EmptyDatasetError: the path has no item of that kind.
    """
    existing(path, "a file or a folder")
    if column is not None:
        return _column(path, kind, column)
    if kind == "vectors":
        return vector_items(path), []
    if kind == "text":
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        items = [
            Item(digest("text", line), f"{path.name}:{number}", line)
            for number, line in enumerate(lines, 1)
            if line.strip()
        ]
    elif path.is_file():
        items = [file_item(path, path.parent)]
    else:
        items = [file_item(file, path) for file in sorted(path.rglob("*")) if MEDIA.get(file.suffix.lower()) == kind]
    if not items:
        expected = "a file with one text a line" if kind == "text" else f"{kind} files, or a folder of them"
        raise EmptyDatasetError(f"{path} has no {kind} items; expected {expected}.")
    return items, []


def vector_items(path: Path) -> list[Item]:
    """Return the vectors at `path`: rows of `.npy` files, or of Parquet with ids.

    A `.npy` file has the ids beside it, if there are any; of a folder, all such files below it are read.

    Raises:
        DataError: a file is unusable.
        EmptyDatasetError: the folder has no `.npy` files.
    """
    if path.is_dir():
        files = sorted(path.rglob("*.npy"))
        if not files:
            raise EmptyDatasetError(f"{path} has no vectors; expected .npy files.")
        return [item for file in files for item in vector_items(file)]
    if path.suffix != ".npy" or path.with_suffix(".json").is_file():
        file = read_vectors(VectorsSpec(path=str(path)))
        return [file.item(row) for row in range(len(file.ids))]
    mark = array_mark(path, path.name)
    return [vector_item(ArrayRow(path, row, mark), "") for row in range(len(open_array(path)))]


def _column(path: Path, kind: str, column: str) -> tuple[list[Item], list[Rejection]]:
    items: list[Item] = []
    rejected: list[Rejection] = []
    for row in TableFile({"item": kind}, path, {"item": column}).rows():
        if isinstance(row, Rejection):
            rejected.append(row)
        else:
            items += row.cells["item"]
    if not items:
        raise EmptyDatasetError(
            f"{path} has no {kind} items in column {column!r} ({len(rejected)} rows set aside); expected some."
        )
    return items, rejected
