"""Tables in a file: CSV, TSV, JSON lines (also gzipped) and Parquet."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from lightcrl.data.base import Rejection, Row
from lightcrl.data.columns import Columns
from lightcrl.data.files import existing, name_below, some, visible
from lightcrl.data.parquet import read_parquet
from lightcrl.errors import DataError

Rows = Iterator[Row | Rejection]
Reader = Callable[[Path, str, Columns], Rows]
TORN = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class TableFile:
    """The rows of one file; its extension says how it is read.

    Attributes:
        kinds: modality to `"text"`, `"image"` or `"audio"`.
        path: the file.
        columns: modality to column, where the names differ.
        key: column whose equal values make rows one group; None goes by the first picture or sound.
        split_column: column with `train`, `dev` (`val`, `validation`) or `test`.
        root: folder that relative paths in the table are below; the file's own if None.
        base: folder below which files are named; two tables with files of the same name need a common one.
        notes: further columns that rows carry along, where they are there.
    """

    kinds: Mapping[str, str]
    path: str | Path
    columns: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    split_column: str | None = None
    root: str | Path | None = None
    base: str | Path | None = None
    notes: Sequence[str] = ()

    def rows(self) -> Rows:
        """Every row, in the file's order, known as `train.jsonl:17` (in Parquet: the 17th row).

        Raises:
            DataError: there is no such file, or it is no table.
            ModalityError: a column is not there.
        """
        path = existing(self.path, f"a table ({', '.join(READERS)}, all but .parquet also with .gz)")
        root, base = Path(self.root or path.parent), Path(self.base or path.parent)
        layout = Columns(
            self.kinds,
            self.columns,
            self.key,
            self.split_column,
            root,
            None if self.root else base,
            tuple(self.notes),
        )
        return _reader(path)(path, name_below(path, base), layout)


def read_json_lines(path: Path, name: str, layout: Columns) -> Rows:
    """One JSON object a line; a line that is not one is set aside, blank ones are passed over."""
    found: dict[str, None] = {}
    with _open(path) as file:
        for number, line in _numbered(file, name):
            source = f"{name}:{number}"
            if isinstance(line, Rejection):
                yield line
                break
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Rejection(source, "broken JSON line", str(error))
                continue
            if not isinstance(values, dict):
                yield Rejection(source, "broken JSON line", f"expected an object, found {type(values).__name__}")
                continue
            found.update(dict.fromkeys(values))
            yield from layout.read(values, source)
    if found:
        layout.check(found, name)


def read_delimited(path: Path, name: str, layout: Columns, delimiter: str) -> Rows:
    """A header, then one row a line (or several, within quotes); an empty cell is a missing one."""
    with _open(path) as file:
        # What is not UTF-8 becomes half a pair, and the text that holds it is set aside.
        lines = io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="")
        reader = csv.reader(lines, delimiter=delimiter)
        header: list[str] | None = None
        while True:
            source = f"{name}:{reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield Rejection(source, "broken CSV line", str(error))
                continue
            except TORN as error:
                yield Rejection(source, "torn file", str(error))
                return
            if header is None:
                header = [cell.strip() for cell in cells]
                layout.check(header, name)
            elif cells and len(cells) != len(header):
                yield Rejection(source, "broken CSV line", f"{len(cells)} cells under a header of {len(header)}")
            elif cells:
                yield from layout.read(dict(zip(header, (cell or None for cell in cells), strict=True)), source)


READERS: Mapping[str, Reader] = {
    ".csv": partial(read_delimited, delimiter=","),
    ".tsv": partial(read_delimited, delimiter="\t"),
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".parquet": read_parquet,
}


def _reader(path: Path) -> Reader:
    if path.is_dir():
        tables = [entry.name for entry in visible(path) if _suffix(entry) in READERS]
        raise DataError(
            f"{path} is a folder with {some(tables)}; expected one table. Name the file, or one per split under "
            'data.train, data.dev and data.test; pictures in class folders are source = "folder".'
        )
    if _suffix(path) not in READERS or (path.suffix == ".gz" and _suffix(path) == ".parquet"):
        raise DataError(f"{path} is no table: found {path.suffix or 'no extension'}, expected {', '.join(READERS)}.")
    return READERS[_suffix(path)]


def _suffix(path: Path) -> str:
    return Path(path.stem).suffix.lower() if path.suffix == ".gz" else path.suffix.lower()


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _numbered(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes | Rejection]]:
    """Lines from 1; a gzip file that ends too early ends in a `Rejection`."""
    number = 0
    try:
        for number, line in enumerate(file, 1):
            yield number, line
    except TORN as error:
        yield number + 1, Rejection(f"{name}:{number + 1}", "torn file", str(error))
