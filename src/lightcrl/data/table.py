"""Tables in a file: CSV and its variants, JSON lines, JSON documents (also gzipped), Parquet, detected by content."""

from __future__ import annotations

import codecs
import gzip
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

from lightcrl.data.base import Rejection, Row
from lightcrl.data.columns import Cells, Columns
from lightcrl.data.delimited import TORN, read_delimited
from lightcrl.data.documents import read_document, read_records
from lightcrl.data.files import existing, name_below, some, visible
from lightcrl.data.parquet import read_parquet
from lightcrl.errors import DataError

Rows = Iterator[Row | Rejection]
Reader = Callable[[Path, str, Columns, str], Rows]


@dataclass(frozen=True)
class TableFile:
    """The rows of a file; its extension and content determine the reader.

    Attributes:
        kinds: `"text"`, `"image"`, `"audio"` or `"vectors"` by modality.
        path: the file.
        columns: column by modality, where the names differ.
        key: column of the group's name; None for the first picture or sound.
        split_column: column with `train`, `dev` (`val`, `validation`) or `test`.
        root: base folder of relative paths in the table; the file's own if None.
        base: folder to which file names are relative; two tables with files of the same name need a common base.
        notes: further columns that rows carry along, if present; `columns.ALL` for all columns.
        encoding: Python's name of the encoding of text files.
        one_split: true if all rows are in the same split, whatever the file contains.
    """

    kinds: Mapping[str, str]
    path: str | Path
    columns: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    split_column: str | None = None
    root: str | Path | None = None
    base: str | Path | None = None
    notes: Sequence[str] = ()
    encoding: str = "utf-8"
    one_split: bool = False

    def rows(self) -> Rows:
        """Yield every row, in the file's order, named like `train.jsonl:17` (in Parquet: the 17th row).

        Raises:
            DataError: there is no such file, or it is not a table.
            ModalityError: a column is missing.
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
            self.one_split,
        )
        return _reader(path)(path, name_below(path, base), layout, _encoding(self.encoding))


@dataclass(frozen=True)
class _Raw(Columns):
    """A layout that takes every row as it is."""

    def check(self, present: Iterable[str], where: str) -> None:
        return

    def wanted(self, present: Collection[str]) -> list[str]:
        return list(present)

    def read(self, values: Mapping[str, Any], source: str, stored: Cells | None = None, number: int = 0) -> Rows:
        yield Row(source, {}, None, dict(values))


def raw_rows(path: Path, encoding: str = "utf-8") -> Rows:
    """Yield every row of a table with its cells by column in `notes`, and without items.

    Raises:
        DataError: there is no such file, or it is not a table.
    """
    path = existing(path, f"a table ({', '.join(READERS)})")
    return _reader(path)(path, path.name, _Raw({}, {}), _encoding(encoding))


def is_table_file(path: Path) -> bool:
    """Return true if a file has the extension of a table, other than that of lines of text."""
    return path.is_file() and _suffix(path) in READERS and not (_suffix(path) == ".txt" and path.suffix != ".gz")


def read_json(path: Path, name: str, layout: Columns, encoding: str) -> Rows:
    """Yield a row for each JSON object, one per line; an invalid line is set aside, and blank lines are skipped.

    `read_document` reads a file with a single document.
    """
    if _is_document(path):
        with _open(path) as file:
            try:
                content = file.read()
                yield from read_document(content if encoding == "utf-8" else content.decode(encoding), name, layout)
            except TORN as error:
                yield Rejection(f"{name}:1", "torn file", str(error))
            except UnicodeDecodeError as error:
                raise DataError(f"{name}: {error}. Say in data.encoding which encoding it has.") from None
        return
    with _open(path) as file:
        yield from read_records(_json_lines(file, name, encoding), name, layout)


def _json_lines(file: BinaryIO, name: str, encoding: str) -> Iterator[tuple[str, dict[str, Any]] | Rejection]:
    """Yield the location of each object, and the object; a torn file ends in a `Rejection`."""
    for number, line in _numbered(file, name):
        source = f"{name}:{number}"
        if isinstance(line, Rejection):
            yield line
            return
        if not line.strip():
            continue
        try:
            values = json.loads(line if encoding == "utf-8" else line.decode(encoding))
        except (ValueError, RecursionError) as error:
            hint = "; data.encoding names another encoding" if isinstance(error, UnicodeDecodeError) else ""
            yield Rejection(source, "broken JSON line", f"{error}{hint}")
            continue
        if isinstance(values, dict):
            yield source, values
        else:
            yield Rejection(source, "broken JSON line", f"expected an object, found {type(values).__name__}")


def read_text_table(path: Path, name: str, layout: Columns, encoding: str) -> Rows:
    """Yield the rows of cells with a delimiter; see `read_delimited`."""
    with _open(path) as file:
        yield from read_delimited(file, name, layout, encoding, "\t" if _suffix(path) == ".tsv" else ",")


def read_parquet_file(path: Path, name: str, layout: Columns, encoding: str) -> Rows:
    """Yield the rows of a Parquet file, whose encoding is fixed."""
    return read_parquet(path, name, layout)


READERS: Mapping[str, Reader] = {
    ".csv": read_text_table,
    ".tsv": read_text_table,
    ".txt": read_text_table,
    ".token": read_text_table,
    ".jsonl": read_json,
    ".ndjson": read_json,
    ".json": read_json,
    ".parquet": read_parquet_file,
}


def _is_document(path: Path) -> bool:
    """Return true for a JSON file with a single document: an array, a multi-line object, or an only line."""
    try:
        with _open(path) as file:
            start = file.read(1 << 20)
    except TORN:
        return False
    start = start.removeprefix(codecs.BOM_UTF8).lstrip()
    if start[:1] == b"[":
        return True
    named = _suffix(path) == ".json"
    line, end, rest = start.partition(b"\n")
    if rest.strip():
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            # The first line of a multi-line object is not JSON; nor is a broken first line of many.
            return line.strip() == b"{" or (start[:1] == b"{" and named)
        return False
    return named and (b'"images"' in start[:4096] or not end)


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
    """Yield lines, numbered from 1; a truncated gzip file ends in a `Rejection`."""
    number = 0
    try:
        for number, line in enumerate(file, 1):
            yield number, line
    except TORN as error:
        yield number + 1, Rejection(f"{name}:{number + 1}", "torn file", str(error))


def _encoding(name: str) -> str:
    """Return the standard name of an encoding.

    Raises:
        DataError: the encoding is unknown.
    """
    try:
        return codecs.lookup(name).name
    except LookupError:
        raise DataError(f"data.encoding is {name!r}, which is unknown; expected such as latin-1.") from None
