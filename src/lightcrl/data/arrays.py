"""Arrays of vectors whose rows follow the rows of a table: the layout of clip-retrieval and embedding-reader.

    emb/img_emb/img_emb_0.npy         [N_0, D], and so on; a modality of kind "vectors" has such a folder, or one file
    emb/text_emb/text_emb_0.npy       [N_0, D]
    emb/metadata/metadata_0.parquet   N_0 rows: the columns of the other modalities, of the key and of the split

Files are read in the order of their names. Rows are matched by their place; without a table they are numbered.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightcrl.data.base import Rejection, Row
from lightcrl.data.columns import Cells, Columns
from lightcrl.data.files import existing, name_below, some, visible
from lightcrl.data.table import READERS
from lightcrl.data.vectors import ArrayRow, array_mark, open_array
from lightcrl.errors import DataError, ModalityError

SHORT = {"image": "img"}
"""Abbreviations of modalities in clip-retrieval's names of folders."""


@dataclass
class Feed:
    """The rows of a modality's arrays, handed out one after another.

    Attributes:
        files: the arrays' files, in order.
        starts: number of rows before each file, and of all.
        taken: number of rows handed out.
    """

    files: Sequence[Path]
    starts: Sequence[int]
    marks: Sequence[str]
    taken: int = 0
    _file: int = 0

    @classmethod
    def open(cls, files: Sequence[Path], base: Path) -> Feed:
        """Open the files of a modality; their names count relative to `base`."""
        starts = [0]
        for file in files:
            starts.append(starts[-1] + len(open_array(file)))
        return cls(files, starts, [array_mark(file, name_below(file, base)) for file in files])

    def __len__(self) -> int:
        return self.starts[-1]

    def take(self) -> ArrayRow | None:
        """Return the next row; None after the last."""
        while self._file < len(self.files) and self.taken >= self.starts[self._file + 1]:
            self._file += 1
        number, self.taken = self.taken - self.starts[min(self._file, len(self.files) - 1)], self.taken + 1
        if self._file == len(self.files):
            return None
        return ArrayRow(self.files[self._file], number, self.marks[self._file])


@dataclass(frozen=True)
class _Aligned(Columns):
    """The columns of a table, and columns of arrays beside it."""

    feeds: Mapping[str, Feed] = field(default_factory=dict)

    def check(self, present: Any, where: str) -> None:
        super().check([*present, *self.feeds], where)

    def read(
        self, values: Mapping[str, Any], source: str, stored: Cells | None = None, number: int = 0
    ) -> Iterator[Row | Rejection]:
        rows = {column: feed.take() for column, feed in self.feeds.items()}
        return super().read({**values, **rows}, source, stored, number)


@dataclass(frozen=True)
class AlignedArrays:
    """Folders or files of arrays, row by row, with an optional table of as many rows.

    Attributes:
        kinds: `"text"`, `"image"`, `"audio"` or `"vectors"` by modality.
        path: folder of the arrays, or the table; its folder then has the arrays.
        columns: folder of `.npy` files, or a single one, relative to `path`, by modality of kind `"vectors"`; a column
            of the table for other modalities. By default `<modality>`, `<modality>_emb` (`img_emb` for `image`) or
            `<modality>.npy`.
        key: column of the group's name; None for a group per row, or per picture or sound.
        split_column: column of the split.
        root: base folder of relative paths in the table; the table's own if None.
        base: folder to which names are relative.
        metadata: table or folder of tables; by default `metadata`, else the tables directly in `path`.
        notes: further columns that rows carry along, if present.
        encoding: Python's name of the encoding of text files.
        one_split: true if all rows are in the same split, whatever the table contains.
    """

    kinds: Mapping[str, str]
    path: str | Path
    columns: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    split_column: str | None = None
    root: str | Path | None = None
    base: str | Path | None = None
    metadata: str | Path | None = None
    notes: Sequence[str] = ()
    encoding: str = "utf-8"
    one_split: bool = False

    def rows(self) -> Iterator[Row | Rejection]:
        """Yield every row, named like `metadata_0.parquet:17`, or `emb:17` without a table.

        Raises:
            DataError: arrays and table differ in their numbers of rows, or cannot be read.
            ModalityError: a modality has neither an array nor a column.
        """
        path = existing(self.path, "a folder of .npy files, or a table with .npy files beside it")
        folder = path if path.is_dir() else path.parent
        base = Path(self.base or folder)
        tables = [path] if path.is_file() else find_tables(folder, self.metadata)
        feeds = self._feeds(folder, base, bool(tables))
        count = self._count(feeds)
        layout = _Aligned(
            self.kinds,
            self.columns,
            self.key,
            self.split_column,
            Path(self.root or (tables[0].parent if tables else folder)),
            None if self.root else base,
            tuple(self.notes),
            self.one_split,
            feeds,
        )
        for table in tables:
            reader = READERS.get(table.suffix.lower(), READERS[".csv"])
            yield from reader(table, name_below(table, base), layout, self.encoding)
        if not tables:
            layout.check((), str(path))
            name = folder.name if folder == base else name_below(folder, base)
            for number in range(count):
                yield from layout.read({}, f"{name}:{number + 1}")
        self._check_ends(feeds, tables)

    def _feeds(self, folder: Path, base: Path, table: bool) -> dict[str, Feed]:
        feeds = {}
        for modality in (name for name, kind in self.kinds.items() if kind == "vectors"):
            files = find_arrays(folder, modality, self.columns.get(modality))
            if files:
                feeds[self.columns.get(modality, modality)] = Feed.open(files, base)
            elif not table:
                raise ModalityError(
                    f"{folder} has no arrays of modality {modality!r}: found "
                    f"{some([entry.name for entry in visible(folder)])}. Expected a folder of .npy files or one such "
                    f'file: name it under data.columns, {modality} = "<folder or file>".'
                )
        return feeds

    def _count(self, feeds: Mapping[str, Feed]) -> int:
        """Return the number of rows, which all arrays share."""
        counts = {column: len(feed) for column, feed in feeds.items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{column} {count:,}" for column, count in counts.items())
            raise DataError(
                f"{self.path}: arrays of different lengths ({listed}); expected a row of each for the same thing."
            )
        return next(iter(counts.values()), 0)

    def _check_ends(self, feeds: Mapping[str, Feed], tables: Sequence[Path]) -> None:
        for column, feed in feeds.items():
            if tables and feed.taken != len(feed):
                raise DataError(
                    f"{self.path}: {feed.taken:,} readable rows in {some([table.name for table in tables])}, and "
                    f"{len(feed):,} in {column!r}; expected a row of the table for each row of the arrays, without "
                    "broken lines between them."
                )


def find_arrays(folder: Path, modality: str, given: str | None = None) -> list[Path]:
    """Return the `.npy` files of a modality in a folder, in order; none if there are none.

    Args:
        folder: folder of the arrays.
        modality: modality, whose name leads to its files.
        given: their folder or file, if it has another name.
    """
    usual = (f"{modality}_emb", f"{SHORT.get(modality, modality)}_emb", modality, f"{modality}.npy")
    for name in usual if given is None else (given,):
        place = folder / name
        if place.is_dir() and (files := sorted(place.rglob("*.npy"))):
            return files
        if place.suffix == ".npy" and place.is_file():
            return [place]
    return []


def find_tables(folder: Path, given: str | Path | None = None) -> list[Path]:
    """Return the tables of a folder of arrays, in order: those in `metadata`, else those directly in the folder."""
    place = folder / given if given is not None else folder / "metadata"
    if given is not None and not place.exists():
        raise DataError(f"{place} is not there. Expected a table, or a folder of tables; check options.metadata.")
    if place.is_file():
        return [place]
    inside = place if place.is_dir() else folder
    return [entry for entry in visible(inside) if entry.is_file() and entry.suffix.lower() in READERS]
